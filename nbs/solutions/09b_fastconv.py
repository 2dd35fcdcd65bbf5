"Answers to the exercises of 09b_fastconv"
from itertools import product

import torch

def conv_grad_bias(g): return g.sum((0, 2, 3))

def _view(x, k, l, places, stride):
    "What the tap at row k and column l sees of images: a pixel for each place"
    oh, ow = places
    return x[:, :, k:k + oh*stride:stride, l:l + ow*stride:stride]

def conv2d_shifted(x, w, stride):
    kh, kw = w.shape[2:]
    places = (x.shape[2]-kh)//stride + 1, (x.shape[3]-kw)//stride + 1
    return sum(torch.einsum('nchw,fc->nfhw', _view(x, k, l, places, stride), w[:, :, k, l]) for k, l in product(range(kh), range(kw)))

def split_phases(x, stride):
    h, w = x.shape
    blocks = x.reshape(h//stride, stride, w//stride, stride)
    return blocks.permute(1, 3, 0, 2).flatten(0, 1)

def conv_grad_weights(x, g, ks, stride):
    out = x.new_zeros(g.shape[1], x.shape[1], *ks)
    for k, l in product(*map(range, ks)): out[:, :, k, l] = torch.einsum('nfhw,nchw->fc', g, _view(x, k, l, g.shape[2:], stride))
    return out

def conv_grad_images(g, w, size, stride):
    out = g.new_zeros(len(g), w.shape[1], *size)
    for k, l in product(*map(range, w.shape[2:])): _view(out, k, l, g.shape[2:], stride).add_(torch.einsum('nfhw,fc->nchw', g, w[:, :, k, l]))
    return out
