"Answers to the exercises of 08_im2col"
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

def window_count(size, ks, stride, padding, dilation):
    room = size + 2*padding - (dilation*(ks-1) + 1)
    return room//stride + 1

def pool_out_size(size, ks, stride, padding, ceil_mode):
    room = size + 2*padding - ks
    steps = -(-room//stride) if ceil_mode else room//stride
    begins_outside = steps*stride - padding >= size
    return steps + 1 - (ceil_mode and begins_outside)

def conv_transpose_size(size, ks, stride, padding, output_padding):
    return (size-1)*stride + ks - 2*padding + output_padding

def im2col_index(x, ks, stride):
    (_, c, h, w), (kh, kw), (sh, sw) = x.shape, ks, stride
    oh, ow = (h-kh)//sh + 1, (w-kw)//sw + 1
    channel = np.repeat(np.arange(c), kh*kw)                                # 0 0 0 0 1 1 1 1
    down, across = np.tile(np.repeat(np.arange(kh), kw), c), np.tile(np.arange(kw), kh*c)
    row = down[:, None] + sh*np.repeat(np.arange(oh), ow)                   # (c*kh*kw, oh*ow)
    col = across[:, None] + sw*np.tile(np.arange(ow), oh)
    return x[:, channel[:, None], row, col]

def im2col_strides(x, ks, stride, dilation):
    (n, c, h, w), (kh, kw), (sh, sw), (dh, dw) = x.shape, ks, stride, dilation
    oh, ow = (h - dh*(kh-1) - 1)//sh + 1, (w - dw*(kw-1) - 1)//sw + 1
    image, channel, row, col = x.stride()
    windows = x.as_strided((n, c, kh, kw, oh, ow), (image, channel, row*dh, col*dw, row*sh, col*sw))
    return windows.flatten(4).flatten(1, 3)

def col2im_add(cols, size, ks, stride):
    (h, w), (kh, kw), (sh, sw) = size, ks, stride
    oh, ow = (h-kh)//sh + 1, (w-kw)//sw + 1
    cols = cols.unflatten(1, (-1, kh, kw)).unflatten(4, (oh, ow))           # (n, c, kh, kw, oh, ow)
    out = cols.new_zeros(*cols.shape[:2], h, w)
    for k, l in product(range(kh), range(kw)): out[:, :, k:k + oh*sh:sh, l:l + ow*sw:sw] += cols[:, :, k, l]
    return out

def conv2d_columns(x, w, bias, stride, padding):
    (h, wide), (kh, kw) = x.shape[2:], w.shape[2:]
    oh, ow = (h + 2*padding - kh)//stride + 1, (wide + 2*padding - kw)//stride + 1
    columns = F.unfold(x, (kh, kw), stride=stride, padding=padding)         # (n, c*kh*kw, oh*ow)
    return (w.flatten(1) @ columns + bias[:, None]).unflatten(2, (oh, ow))

def maxpool_backward(x, g, ks, stride):
    columns = F.unfold(x, ks, stride=stride).unflatten(1, (-1, ks*ks))      # (n, c, ks*ks, oh*ow)
    winners = columns.argmax(2, keepdim=True)
    grads = torch.zeros_like(columns).scatter(2, winners, g.flatten(2)[:, :, None])
    return F.fold(grads.flatten(1, 2), x.shape[2:], ks, stride=stride)

def conv_transpose_add(x, w, stride):
    (n, _, h, wide), (_, nf, kh, kw) = x.shape, w.shape
    out = x.new_zeros(n, nf, (h-1)*stride + kh, (wide-1)*stride + kw)
    for k, l in product(range(kh), range(kw)):
        out[:, :, k:k + h*stride:stride, l:l + wide*stride:stride] += torch.einsum('nchw,cf->nfhw', x, w[:, :, k, l])
    return out
