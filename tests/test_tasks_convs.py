"Tests of miniai.tasks_convs: every exercise of the chapters 08 to 10, with right and wrong answers"
import math
import time
import types
from itertools import product

import numpy as np
import pytest
import torch
import torch.fx.experimental.symbolic_shapes  # noqa: F401  autograd.grad imports it at its first call, which takes longer than a judged answer may
import torch.nn.functional as F
from exercise_checks import check_calls, check_exercise, check_judges, solutions, tasks_of

from miniai.judge import judge

TASKS = tasks_of('tasks_convs')
RIGHT = solutions('08_im2col', '09_convolutions', '09b_fastconv', '10_autoencoder')
each = pytest.mark.parametrize('name', TASKS)

def forever(*args):
    while True: time.sleep(.01)

def doubled(name): return lambda *args: RIGHT[name](*args).double()

def damages(name):
    "Right numbers, and an argument that is not what it was"
    def answer(*args):
        out = RIGHT[name](*args).clone()
        args[0].add_(1)
        return out
    return answer

# -- 08

def index_columns(x, ks, stride, shift=0):
    "im2col by grids of indices, counted in one number"
    (n, c, h, w), (kh, kw), (sh, sw) = x.shape, ks, stride
    oh, ow = (h-kh)//sh + 1, (w-kw)//sw + 1
    place = (np.arange(oh)*sh*w)[:, None] + np.arange(ow)*sw
    inside = (np.arange(c)*h*w)[:, None, None] + (np.arange(kh)*w)[:, None] + np.arange(kw)
    return x.reshape(n, c*h*w)[:, inside.reshape(-1, 1) + place.reshape(1, -1)]

def by_column(x, ks, stride):
    places = [(q, r) for q in range(0, x.shape[3]-ks[1]+1, stride[1]) for r in range(0, x.shape[2]-ks[0]+1, stride[0])]
    return np.stack([x[:, :, r:r+ks[0], q:q+ks[1]].reshape(len(x), x.shape[1]*ks[0]*ks[1]) for q, r in places], 2)

def strided_columns(x, ks, stride, dilation, steps=None, swap=False):
    n, c, h, w = x.shape
    oh, ow = (h + stride[0] - dilation[0]*(ks[0]-1) - 1)//stride[0], (w + stride[1] - dilation[1]*(ks[1]-1) - 1)//stride[1]
    a, b, r, q = steps or x.stride()
    within, between = (stride, dilation) if swap else (dilation, stride)
    six = torch.as_strided(x, [n, c, ks[0], ks[1], oh, ow], [a, b, r*within[0], q*within[1], r*between[0], q*between[1]])
    return six.reshape(n, c*ks[0]*ks[1], oh*ow)

def flat_steps(x): return math.prod(x.shape[1:]), x.shape[2]*x.shape[3], x.shape[3], 1

def add_windows(cols, size, ks, stride, op):
    out = torch.zeros(len(cols), cols.shape[1]//(ks[0]*ks[1]), *size)
    ow = (size[1]-ks[1])//stride[1] + 1
    for p in range(cols.shape[2]):
        r, q = p//ow*stride[0], p % ow*stride[1]
        window = out[:, :, r:r+ks[0], q:q+ks[1]]
        window.copy_(op(window, cols[:, :, p].unflatten(1, (-1, *ks))))
    return out

def add_by_index(cols, size, ks, stride):
    "col2im as an `index_add_` on flat images"
    where = torch.from_numpy(index_columns(np.arange(size[0]*size[1]).reshape(1, 1, *size), ks, stride))[0].flatten()
    flat = cols.reshape(len(cols), cols.shape[1]//(ks[0]*ks[1]), len(where)) if len(cols) else cols.new_zeros(0, cols.shape[1]//(ks[0]*ks[1]), len(where))
    return cols.new_zeros(*flat.shape[:2], size[0]*size[1]).index_add_(2, where, flat).reshape(*flat.shape[:2], *size)

def by_product(x, w, bias, stride, padding, layout='nfp'):
    x = F.pad(x, [padding]*4)
    v = x.unfold(2, w.shape[2], stride).unfold(3, w.shape[3], stride)          # (n, c, oh, ow, kh, kw)
    out = torch.tensordot(w, v, ([1, 2, 3], [1, 4, 5])).transpose(0, 1)
    return out + bias.reshape(-1, 1, 1)

def winners(x, g, ks, stride, pick):
    "Max pooling backward, a place of the window at a time"
    out, best, at = torch.zeros(x.shape), torch.full(g.shape, -math.inf), torch.zeros(g.shape, dtype=torch.long)
    def view(t, k, l): return t[:, :, k:k+(g.shape[2]-1)*stride+1:stride, l:l+(g.shape[3]-1)*stride+1:stride]
    for k, l in product(range(ks), range(ks)):
        better = pick(view(x, k, l), best)
        best, at = torch.where(better, view(x, k, l), best), torch.where(better, k*ks + l, at)
    for k, l in product(range(ks), range(ks)): view(out, k, l).add_(g*(at == k*ks + l))
    return out

def spread_by_fold(x, w, stride):
    columns = torch.einsum('cfkl,ncp->nfklp', w, x.flatten(2)).flatten(1, 3)
    return F.fold(columns, ((x.shape[2]-1)*stride + w.shape[2], (x.shape[3]-1)*stride + w.shape[3]), w.shape[2:], stride=stride)

def spread_last(x, w, stride):
    out = torch.zeros(len(x), w.shape[1], (x.shape[2]-1)*stride + w.shape[2], (x.shape[3]-1)*stride + w.shape[3])
    for i, j in product(range(x.shape[2]), range(x.shape[3])):
        out[..., i*stride:i*stride+w.shape[2], j*stride:j*stride+w.shape[3]] = torch.tensordot(x[..., i, j], w, 1)
    return out

# -- 09 to 10

def norm_by_rows(x, weight, bias, eps, correction=0, root=True):
    rows = x.transpose(0, 1).flatten(1)                                        # (c, n*h*w)
    var = ((rows - rows.mean(1, True))**2).sum(1, True)/(rows.shape[1] - correction) + eps
    rows = (rows - rows.mean(1, True))/(var**.5 if root else var)*weight[:, None] + bias[:, None]
    return rows.reshape(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)

def norm_back_by_rows(x, weight, g, eps, drop=()):
    rows, gs = x.transpose(0, 1).flatten(1), g.transpose(0, 1).flatten(1)
    inverse = (rows.var(1, correction=0, keepdim=True) + eps)**-.5
    y = (rows - rows.mean(1, True))*inverse
    res = gs.clone()
    if 'mean' not in drop: res = res - gs.mean(1, True)
    if 'var' not in drop: res = res - y*(gs*y).mean(1, True)
    res = res*inverse*(1 if 'weight' in drop else weight[:, None])
    return res.reshape(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)

def field_backward(layers, order='right'):
    size = 1
    for k, s, d in reversed(layers): size = (size-1)*(1 if order == 'no stride' else s) + (k if order == 'ks' else k-1)*(1 if order == 'no dilation' else d) + 1
    return size

def taps(x, w, stride, sign=1, step=True):
    kh, kw = w.shape[2:]
    oh, ow = (x.shape[2]-kh)//stride + 1, (x.shape[3]-kw)//stride + 1
    out, s = torch.zeros(len(x), len(w), oh, ow), stride if step else 1
    for k, l in product(range(kh), range(kw)):
        a, b = (k, l) if sign > 0 else (kh-1-k, kw-1-l)
        out += torch.tensordot(x[:, :, a:a+(oh-1)*s+1:s, b:b+(ow-1)*s+1:s], w[:, :, k, l], ([1], [1])).movedim(-1, 1)
    return out

def weights_by_columns(x, g, ks, stride):
    columns = F.unfold(x, ks, stride=stride)                                   # (n, c*kh*kw, oh*ow)
    return torch.einsum('nfp,nkp->fk', g.flatten(2), columns).unflatten(1, (x.shape[1], *ks))

def images_by_columns(g, w, size, stride):
    columns = w.flatten(1).T @ g.flatten(2)
    return F.fold(columns, size, w.shape[2:], stride=stride)

def images_last(g, w, size, stride):
    out = torch.zeros(len(g), w.shape[1], *size)
    for i, j in product(range(g.shape[2]), range(g.shape[3])):
        out[..., i*stride:i*stride+w.shape[2], j*stride:j*stride+w.shape[3]] = torch.tensordot(g[..., i, j], w, 1)
    return out

def depth_by_taps(x, w, kernels=None, sum_up=False):
    kh, kw = w.shape[1:]
    h, wide = x.shape[2]-kh+1, x.shape[3]-kw+1
    out = sum(x[:, :, k:k+h, l:l+wide]*(w if kernels is None else kernels(w))[:, k, l, None, None] for k in range(kh) for l in range(kw))
    return out.sum(1, True) if sum_up else out

def svd_redraw(x, k, center=True, first=True, back=True):
    mean = x.mean(0, keepdim=True) if center else 0
    v = torch.linalg.svd(x - mean, full_matrices=True)[2]
    v = v[:k] if first else v[-k:]
    return (x - mean) @ v.T @ v + (mean if back else 0)

def autograd(f, make, *, pick):
    "The gradient that PyTorch finds"
    def answer(*args):
        with torch.enable_grad():
            x = make(*args).requires_grad_()
            return torch.autograd.grad(f(x, *args), x, args[pick])[0]
    return answer

ALSO_RIGHT = {
    'window_count': lambda size, ks, stride, padding, dilation: len(range(0, size + 2*padding - dilation*(ks-1), stride)),
    'pool_out_size': lambda size, ks, stride, padding, ceil_mode: min(math.ceil((size + 2*padding - ks)/stride), (size + padding - 1)//stride) + 1
        if ceil_mode else (size + 2*padding - ks + stride)//stride,
    'conv_transpose_size': lambda size, ks, stride, padding, output_padding: stride*size - stride + ks - padding - padding + output_padding,
    'im2col_index': index_columns, 'im2col_strides': strided_columns, 'col2im_add': add_by_index, 'conv2d_columns': by_product,
    'maxpool_backward': lambda x, g, ks, stride: winners(x, g, ks, stride, torch.gt), 'conv_transpose_add': spread_by_fold,
    'count_conv_params': lambda nfs, ks, bias: sum(a*b for a, b in zip(nfs, nfs[1:], strict=False))*ks**2 + (sum(nfs[1:]) if bias else 0),
    'pointwise_conv': lambda x, w: (w @ x.flatten(2)).unflatten(2, x.shape[2:]), 'depthwise_conv': depth_by_taps,
    'batch_norm_train': norm_by_rows, 'receptive_field_size': field_backward, 'batch_norm_backward': norm_back_by_rows,
    'conv_grad_bias': lambda g: g.transpose(0, 1).flatten(1).sum(1), 'conv2d_shifted': taps,
    'split_phases': lambda x, stride: x.unflatten(1, (-1, stride)).unflatten(0, (-1, stride)).movedim((1, 3), (0, 1)).flatten(0, 1),
    'conv_grad_weights': weights_by_columns, 'conv_grad_images': images_by_columns,
    'upsample_repeat': lambda x, scale: x[:, :, torch.arange(x.shape[2]*scale)//scale][..., torch.arange(x.shape[3]*scale)//scale],
    'kaiming_weights': lambda noise: noise*math.sqrt(2/math.prod(noise.shape[1:])),
    'halving_pads': lambda size, times: ((-(-size//2**times)*2**times - size)//2, (-(-size//2**times)*2**times - size + 1)//2),
    'deconv_forward': lambda x, w, bias: F.relu(by_product(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, bias, 1, w.shape[2]//2)),
    'pca_redraw': svd_redraw}

WRONG = {
    'window_count': [
        (lambda size, ks, stride, padding, dilation: len(range(0, size + padding - dilation*(ks-1), stride)), 'at one end only'),
        (lambda size, ks, stride, padding, dilation: len(range(0, size + 2*padding - ks + 1, stride)), 'the dilation is left out'),
        (lambda size, ks, stride, padding, dilation: len(range(0, size + 2*padding - dilation*(ks-1), stride)) - 1, 'off by one'),
        (lambda size, ks, stride, padding, dilation: len(range(0, size + 2*padding - dilation*(ks-1), stride)) + 1, 'off by one the other way'),
        (lambda size, ks, stride, padding, dilation: math.ceil((size + 2*padding - dilation*(ks-1) - 1)/stride) + 1, 'has to round down'),
        (lambda size, ks, stride, padding, dilation: (size + 2*padding - dilation*(ks-1) - 1)/stride + 1, 'wanted'),
        (lambda size, ks, stride, padding, dilation: F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, ks), None, stride, padding, dilation).shape[2], 'it calls `conv1d`'),
        (lambda size, ks, stride: 1, 'the number of parameters differs'), (forever, 'an endless loop')],
    'pool_out_size': [
        (lambda size, ks, stride, padding, ceil_mode: len(range(0, size + 2*padding - ks + 1, stride)), '`ceil_mode` is forgotten'),
        (lambda size, ks, stride, padding, ceil_mode: 1 + min(math.ceil((size + 2*padding - ks)/stride), (size + padding - 1)//stride), 'it rounds up always'),
        (lambda size, ks, stride, padding, ceil_mode: 1 + (math.ceil if ceil_mode else math.floor)((size + 2*padding - ks)/stride), 'begins behind the last pixel'),
        (lambda *args: F.max_pool1d(torch.zeros(1, 1, args[0]), *args[1:4], ceil_mode=args[4]).shape[2], 'it calls `max_pool1d`')],
    'conv_transpose_size': [
        (lambda size, ks, stride, padding, output_padding: size*stride + ks - 2*padding + output_padding, 'off by one window'),
        (lambda size, ks, stride, padding, output_padding: size*stride - stride + ks + 2*padding + output_padding, 'the padding makes the result larger'),
        (lambda size, ks, stride, padding, output_padding: size*stride - stride + ks - 2*padding, '`output_padding` is forgotten'),
        (lambda size, ks, stride, padding, output_padding: math.floor((size - ks + 2*padding)/stride) + 1, 'after a convolution')],
    'im2col_index': [
        (lambda x, ks, stride: index_columns(x, ks, stride).transpose(0, 2, 1), 'the windows are the rows'),
        (lambda x, ks, stride: by_column(x, ks, stride), 'the windows come column by column'),
        (lambda x, ks, stride: index_columns(x, ks, stride).reshape(len(x), x.shape[1], ks[0]*ks[1], -1).swapaxes(1, 2).reshape(index_columns(x, ks, stride).shape)
            if len(x) else index_columns(x, ks, stride), 'the channels change fastest'),
        (lambda x, ks, stride: index_columns(x, ks, stride).astype(np.float64), 'float64'),
        (lambda x, ks, stride: F.unfold(torch.from_numpy(x), ks, stride=stride).numpy(), 'it calls `unfold`'),
        (lambda x, ks, stride: torch.from_numpy(index_columns(x, ks, stride)), 'wanted a ndarray'),
        (lambda x, ks, stride: np.stack([i for i in index_columns(x, ks, stride)]) if len(x) else index_columns(x, ks, stride), 'there is a loop')],
    'im2col_strides': [
        (lambda x, ks, stride, dilation: strided_columns(x, ks, stride, dilation, flat_steps(x)), 'row by row in memory'),
        (lambda x, ks, stride, dilation: strided_columns(x, ks, stride, dilation, swap=True), 'stride and dilation are exchanged'),
        (lambda x, ks, stride, dilation: F.unfold(x, ks, dilation, 0, stride), 'there is no `as_strided`'),
        (lambda x, ks, stride, dilation: strided_columns(x, ks, stride, dilation).transpose(1, 2), 'wanted shape'),
        (doubled('im2col_strides'), 'float64'), (damages('im2col_strides'), 'it works in place')],
    'col2im_add': [
        (lambda *args: add_windows(*args, op=lambda old, new: new), 'the last one wins'),
        (lambda cols, size, ks, stride: torch.nan_to_num(add_by_index(cols, size, ks, stride)/add_by_index(torch.ones_like(cols), size, ks, stride)), 'the mean is taken'),
        (lambda *args: -RIGHT['col2im_add'](*args), 'the sign'), (doubled('col2im_add'), 'float64'),
        (lambda cols, size, ks, stride: F.fold(cols, size, ks, stride=stride), 'it calls `fold`')],
    'conv2d_columns': [
        (lambda x, w, bias, stride, padding: by_product(x, w, 0*bias, stride, padding), 'the bias is forgotten'),
        (lambda x, w, bias, stride, padding: by_product(x, torch.flip(w, (-1, -2)), bias, stride, padding), 'the kernels are turned around'),
        (lambda x, w, bias, stride, padding: by_product(x, w, bias, stride, max(padding-1, 0)), 'one short on each side'),
        (lambda x, w, bias, stride, padding: by_product(F.pad(x, (0, 2*padding, 0, 2*padding)), w, bias, stride, 0), 'at the bottom and at the right'),
        (lambda x, w, bias, stride, padding: by_product(x, w, bias, stride+1, padding), 'off by one in the stride'),
        (lambda x, w, bias, stride, padding: torch.conv2d(x, w, bias, stride, padding), 'it calls `conv2d`'),
        (lambda x, w, bias, stride, padding: by_product(x, w, bias, stride, padding).transpose(2, 3), 'wanted shape'),
        (damages('conv2d_columns'), 'it works in place')],
    'maxpool_backward': [
        (lambda x, g, ks, stride: winners(x, g, ks, stride, torch.ge), 'the last pixel gets the gradient'),
        (lambda x, g, ks, stride: F.fold((torch.ones(len(x), x.shape[1], ks*ks, 1)*g.flatten(2)[:, :, None]).flatten(1, 2), x.shape[2:], ks, stride=stride),
            'every pixel of a window'),
        (lambda x, g, ks, stride: F.fold((torch.ones(len(x), x.shape[1], ks*ks, 1)*g.flatten(2)[:, :, None]/ks**2).flatten(1, 2), x.shape[2:], ks, stride=stride),
            'the way back of a mean'),
        (autograd(lambda v, x, g, ks, stride: F.max_pool2d(v, ks, stride), lambda x, *_: x.clone(), pick=1), 'it calls `grad`'), (damages('maxpool_backward'), 'it works in place')],
    'conv_transpose_add': [
        (spread_last, 'the last one wins'), (lambda x, w, stride: spread_by_fold(x, w.flip(-1, -2), stride), 'the kernels are turned around'),
        (lambda x, w, stride: spread_by_fold(x, w, 1), 'the stride is left out'),
        (lambda x, w, stride: F.conv_transpose2d(x, w, stride=stride), 'it calls `conv_transpose2d`'), (doubled('conv_transpose_add'), 'float64')],
    'count_conv_params': [
        (lambda nfs, ks, bias: sum(nfs[i]*nfs[i+1] for i in range(len(nfs)-1))*ks**2, 'the biases are forgotten'),
        (lambda nfs, ks, bias: sum(nfs[i]*nfs[i+1] for i in range(len(nfs)-1))*ks**2 + sum(nfs[1:]), 'although `bias` says'),
        (lambda nfs, ks, bias: sum(nfs[1:])*(ks**2 + bias), 'here it has one for all'),
        (lambda nfs, ks, bias: sum(nfs[i]*nfs[i+1] for i in range(len(nfs)))*ks**2, 'an index runs past the end')],
    'pointwise_conv': [
        (lambda x, w: x.movedim(1, -1) @ w.T, 'the channels stand at the end'), (lambda x, w: RIGHT['pointwise_conv'](x, w).mean((2, 3)), 'wanted shape'),
        (lambda x, w: (x.movedim(1, -1) @ w.T).movedim(-1, 1)/len(w.T), 'the mean over the channels'),
        (lambda x, w: F.conv2d(x, w[..., None, None]), 'it calls `conv2d`'), (doubled('pointwise_conv'), 'float64')],
    'depthwise_conv': [
        (lambda x, w: depth_by_taps(x, w, sum_up=True), 'the channels are added up'),
        (lambda x, w: depth_by_taps(x, w, lambda w: w[0].expand_as(w)), 'the kernel of the first'),
        (lambda x, w: depth_by_taps(x, w, lambda w: w.flip(-1, -2)), 'the kernels are turned around'),
        (lambda x, w: F.conv2d(x, w[:, None], groups=len(w)), 'it calls `conv2d`'), (damages('depthwise_conv'), 'it works in place')],
    'batch_norm_train': [
        (lambda *args: norm_by_rows(*args, correction=1), 'divided by n - 1'), (lambda *args: norm_by_rows(*args, root=False), 'it divides by the variance'),
        (lambda x, weight, bias, eps: ((x - x.mean(0))/(x.var(0, correction=0) + eps)**.5)*weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1), 'each pixel has its own mean'),
        (lambda x, weight, bias, eps: norm_by_rows(x, weight/weight, bias*0, eps), 'weight and bias are forgotten'),
        (lambda x, weight, bias, eps: F.batch_norm(x, None, None, weight, bias, True, eps=eps), 'it calls `batch_norm`')],
    'receptive_field_size': [
        (lambda layers: field_backward(layers, 'no stride'), 'the strides are left out'), (lambda layers: field_backward(layers, 'ks'), 'off by one'),
        (lambda layers: field_backward(layers, 'no dilation'), 'the dilation is left out'),
        (lambda layers: field_backward([layer for layer in layers]), 'loops in it')],
    'batch_norm_backward': [
        (lambda *args: norm_back_by_rows(*args, drop=('mean', 'var')), 'mean and variance are treated as constants'),
        (lambda *args: norm_back_by_rows(*args, drop=('var',)), 'the variance is treated as a constant'),
        (lambda *args: norm_back_by_rows(*args, drop=('weight',)), '`weight` is forgotten'), (lambda *args: -norm_back_by_rows(*args), 'the sign is the other way round'),
        (autograd(lambda v, x, w, g, eps: norm_by_rows(v, w, w, eps), lambda x, *_: x.clone(), pick=2), 'it calls `grad`')],
    'conv_grad_bias': [
        (lambda g: torch.einsum('nfij->f', g)/g[:, 0].numel(), 'the mean is taken instead of the sum'),
        (lambda g: torch.einsum('nfij->fij', g), 'over the images only'), (lambda g: g.flatten(2).sum(2), 'over the places only'),
        (lambda g: torch.stack([g[:, f].sum() for f in range(g.shape[1])]), 'there is a loop'), (doubled('conv_grad_bias'), 'float64')],
    'conv2d_shifted': [
        (lambda *args: taps(*args, sign=-1), 'the shifts go the wrong way'), (lambda *args: taps(*args, step=False), 'not taken in steps'),
        (lambda x, w, stride: taps(x, w, stride)/w[0, 0].numel(), 'the mean over the taps'),
        (lambda x, w, stride: F.conv2d(x, w, None, stride), 'it calls `conv2d`'), (doubled('conv2d_shifted'), 'float64')],
    'split_phases': [
        (lambda x, stride: torch.stack([t for r in x.chunk(stride, 0) for t in r.chunk(stride, 1)]), 'these are tiles'),
        (lambda x, stride: torch.stack([x[r::stride, c::stride] for c in range(stride) for r in range(stride)]), 'in the wrong order'),
        (lambda x, stride: torch.stack([x[r::stride, c::stride] for r in range(stride) for c in range(stride)], -1), 'at the end'),
        (lambda x, stride: torch.stack([x[r::stride, c::stride] for r in range(stride) for c in range(stride)]), 'there is a loop'),
        (lambda x, stride: F.pixel_unshuffle(x[None], stride), 'it calls `pixel_unshuffle`')],
    'conv_grad_weights': [
        (lambda *args: weights_by_columns(*args).flip(-1, -2), 'turned around'), (lambda *args: weights_by_columns(*args).swapaxes(0, 1), 'filters and channels are exchanged'),
        (lambda x, *args: weights_by_columns(x, *args)/x.shape[0], 'the mean over the images'), (autograd(lambda w, x, g, ks, stride: taps(x, w, stride), lambda x, g, ks, stride: x.new_zeros(g.shape[1], x.shape[1], *ks), pick=1), 'it calls `grad`'),
        (damages('conv_grad_weights'), 'it works in place')],
    'conv_grad_images': [
        (lambda g, w, size, stride: images_by_columns(g, w.flip(-1, -2), size, stride), 'turned around once too often'), (images_last, 'the last one wins'),
        (lambda g, w, size, stride: images_by_columns(g, w, [(n-1)*stride + k for n, k in zip(g.shape[2:], w.shape[2:], strict=True)], stride), 'no window saw are missing'),
        (lambda g, w, size, stride: torch.nn.grad.conv2d_input((len(g), w.shape[1], *size), w, g, stride), 'it calls `conv'), (doubled('conv_grad_images'), 'float64')],
    'upsample_repeat': [
        (lambda x, scale: torch.cat([torch.cat([x]*scale, 2)]*scale, 3), 'like tiles'), (lambda x, scale: x[:, :, torch.arange(x.shape[2]*scale)//scale], 'only the rows'),
        (lambda x, scale: x[..., torch.arange(x.shape[3]*scale)//scale], 'only the columns'), (lambda x, scale: F.interpolate(x, scale_factor=scale), 'it calls `interpolate`')],
    'kaiming_weights': [
        (lambda noise: noise*(2/math.prod(noise.shape[1:])), 'multiplied by the variance'), (lambda noise: noise*math.sqrt(2/math.prod(noise.shape[2:])), 'the kernel alone'),
        (lambda noise: noise/math.sqrt(math.prod(noise.shape[1:])), 'the variance is 1/n'), (lambda noise: noise.mul_(math.sqrt(2/noise[0].numel())), 'it works in place'),
        (doubled('kaiming_weights'), 'float64')],
    'halving_pads': [
        (lambda size, times: divmod(2**times - size % 2**times, 2) and ((2**times - size % 2**times)//2, -(-(2**times - size % 2**times)//2)), 'needs no zeros'),
        (lambda size, times: RIGHT['halving_pads'](size, times)[::-1], 'the odd zero stands before'), (lambda size, times: (sum(RIGHT['halving_pads'](size, times)),)*2, 'each side gets all'),
        (lambda size, times: sum(RIGHT['halving_pads'](size, times)), 'wanted a tuple')],
    'deconv_forward': [
        (lambda x, w, bias: by_product(x, w, bias, 1, w.shape[2]//2).relu().repeat_interleave(2, 2).repeat_interleave(2, 3), 'the convolution comes before'),
        (lambda x, w, bias: by_product(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, bias, 1, w.shape[2]//2), 'the ReLU is forgotten'),
        (lambda x, w, bias: by_product(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, bias, 1, 0).relu(), 'no zeros around'),
        (lambda x, w, bias: by_product(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, bias*0, 1, w.shape[2]//2).relu(), 'the bias is forgotten'),
        (doubled('deconv_forward'), 'float64')],
    'pca_redraw': [
        (lambda x, k: svd_redraw(x, k, back=False), 'not added again'), (lambda x, k: svd_redraw(x, k, center=False), 'not taken away first'),
        (lambda x, k: svd_redraw(x, k, first=False), 'differ least'), (lambda x, k: x - x.mean(0), 'wanted'), (doubled('pca_redraw'), 'float64'),
        (lambda x, k: x.sub_(x.mean(0)), 'differ')]}

@each
def test_exercise(name): check_exercise(TASKS[name], RIGHT[name], ALSO_RIGHT[name], WRONG[name])

@each
def test_the_answer_is_what_is_called(name): check_calls(TASKS[name], RIGHT[name])

@each
def test_specification_and_torch_agree(name): check_judges(TASKS[name])

@each
def test_each_mistake_has_its_own_words(name):
    "No mistake passes, and none of them is taken for another"
    for words, mistake in TASKS[name].mistakes.items():
        verdict = judge(TASKS[name], lambda *args, mistake=mistake: mistake(*args))
        assert not verdict.passed and verdict.diagnosis == words, f'{name}: wanted {words!r}, got {verdict}'

@each
def test_the_specification_is_no_answer(name):
    "Copied into one's own file, it breaks a rule (where it is not shown, it could not be copied)"
    task = TASKS[name]
    copied = types.FunctionType(task.spec.__code__.replace(co_filename='mine.py'), task.spec.__globals__)
    copied.__module__ = 'mine'
    verdict = judge(task, copied)
    assert verdict.passed == bool(task.formula), verdict

def test_tasks_are_complete():
    assert set(TASKS) == set(ALSO_RIGHT) == set(WRONG)
    chapters = {t.chapter for t in TASKS.values()}
    assert chapters == {'08_im2col', '09_convolutions', '09b_fastconv', '10_autoencoder'}
    for c in chapters: assert {t.level for t in TASKS.values() if t.chapter == c} == {1, 2, 3} and sum(t.chapter == c for t in TASKS.values()) >= 4
