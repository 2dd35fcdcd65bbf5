"Answers to the exercises of 09_convolutions"
from itertools import pairwise

import torch

def count_conv_params(nfs, ks, bias):
    return sum(nf*(ni*ks*ks + bias) for ni, nf in pairwise(nfs))

def pointwise_conv(x, w): return torch.einsum('nchw,fc->nfhw', x, w)

def depthwise_conv(x, w):
    kh, kw = w.shape[1:]
    windows = x.unfold(2, kh, 1).unfold(3, kw, 1)                           # (n, c, oh, ow, kh, kw)
    return torch.einsum('nchwkl,ckl->nchw', windows, w)

def batch_norm_train(x, weight, bias, eps):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)     # (1, c, 1, 1)
    return (x - mean)/(var + eps).sqrt()*weight[:, None, None] + bias[:, None, None]

def receptive_field_size(layers):
    size = jump = 1                                                         # pixels that are seen; pixels from one number to its neighbor
    for ks, stride, dilation in layers: size, jump = size + (ks-1)*dilation*jump, jump*stride
    return size

def batch_norm_backward(x, weight, g, eps):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    root = (var + eps).sqrt()
    y = (x - mean)/root
    through_mean, through_var = g.mean((0, 2, 3), keepdim=True), y*(g*y).mean((0, 2, 3), keepdim=True)
    return (g - through_mean - through_var)/root*weight[:, None, None]
