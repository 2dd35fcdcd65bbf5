"Tests of miniai.tasks_tensors: every exercise of the chapters 00 to 05, with right and wrong answers"
import functools
import itertools
import math
import operator
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercise_checks import check_calls, check_exercise, check_judges, solutions, tasks_of
from numba import njit

from miniai.judge import judge

TASKS = tasks_of('tasks_tensors')
RIGHT = solutions('00_testing', '01_matmul', '02_broadcasting', '03_gemm', '04_idx', '05_plots')
each = pytest.mark.parametrize('name', TASKS)

# -- 00_testing

def shape_by_loop(x):
    sizes = []
    while isinstance(x, list):
        sizes.append(len(x))
        if not x: break
        x = x[-1]
    return tuple(sizes)

def shape_deepest_first(x): return (*(shape_deepest_first(x[0]) if x else ()), len(x)) if isinstance(x, list) else ()

def shape_with_one(x):
    if not isinstance(x, list): return (1,)
    return (len(x), *shape_with_one(x[0])) if x else (0,)

def shape_endless(x):
    sizes = []
    while isinstance(x, list): sizes.append(len(x))
    return tuple(sizes)

def close_counting(a, b, eps): return list(a.shape) == list(b.shape) and int(((b - a).abs() > eps).sum()) == 0

def close_somewhere(a, b, eps):
    if a.shape != b.shape: return False
    for x, y in zip(a.flatten(), b.flatten(), strict=True):
        if abs(x - y) <= eps: return True
    return False

def bytes_in_int32(a, b): return torch.abs(a.to(torch.int32) - b.to(torch.int32)).to(torch.int64)

def worst_by_loop(a, b):
    best, place = -1., None
    for i in itertools.product(*map(range, a.shape)):
        if (off := abs(float(a[i]) - float(b[i]))) > best: best, place = off, i
    return place

# -- 01_matmul

def lists_by_zip(a, b): return [[sum(map(operator.mul, row, col)) for col in zip(*b, strict=True)] for row in a]

def lists_shared_rows(a, b):
    row = [0.]*len(b[0])
    c = [row for _ in a]
    for i, left in enumerate(a):
        for j in range(len(row)):
            for k, v in enumerate(left): c[i][j] = c[i][j] + v*b[k][j]
    return c

def lists_assigned(a, b):
    c = [[None]*len(b[0]) for _ in a]
    for i, row in enumerate(a):
        for k, v in enumerate(row):
            for j, w in enumerate(b[k]): c[i][j] = v*w
    return c

def lists_short(a, b): return [[sum((row[k]*b[k][j] for k in range(len(b) - 1)), 0.) for j in range(len(b[0]))] for row in a]

@njit
def dot_vectorized(a, b): return (a*b).sum()

@njit
def dot_short(a, b):
    total = 0.
    for i in range(1, len(a)): total += a[i-1]*b[i-1]
    return total

@njit
def dot_assigned(a, b):
    total = 0.
    for i in range(len(a)): total = a[i]*b[i]
    return total

@njit
def dot_ready(a, b): return np.dot(a, b)

def rows_with(f): return lambda a, b: torch.stack([f(row, b) for row in a])

def two_loops(a, b):
    c = torch.zeros(len(a), b.shape[1])
    for i in range(len(a)):
        for j in range(b.shape[1]): c[i, j] = (a[i]*b[:, j]).sum()
    return c

def first_of_batch(a, b): return (a.unsqueeze(-1)*b[0]).sum(-2) if len(a) else (a.unsqueeze(-1)*b.unsqueeze(1)).sum(-2)

# -- 02_broadcasting

def centered_in_place(x): x -= x.mean(1, keepdim=True); return x

def strides_by_accumulate(shape): return tuple(itertools.accumulate(reversed(shape[1:]), operator.mul, initial=1))[::-1] if shape else ()

def column_strides(shape):
    out, step = (), 1
    for n in shape: out, step = (*out, step), step*n
    return out

def inclusive_strides(shape):
    out, step = (), 1
    for n in shape[::-1]:
        step *= n
        out = (step, *out)
    return out

def fit(x, y): return x if x == y or y == 1 else y if x == 1 else None

def rule_padded(a, b):
    while len(a) < len(b): a = (1, *a)
    while len(b) < len(a): b = (1, *b)
    return tuple(map(fit, a, b))

def rule_left(a, b):
    while len(a) < len(b): a = (*a, 1)
    while len(b) < len(a): b = (*b, 1)
    return tuple(map(fit, a, b))

def rule_cut(a, b):
    n = min(len(a), len(b))
    return tuple(map(fit, a[len(a)-n:], b[len(b)-n:]))

def rule_largest(a, b):
    a, b = ((1,)*(max(len(a), len(b)) - len(s)) + s for s in (a, b))
    return tuple(map(max, a, b))

def rule_zero(a, b):
    a, b = ((1,)*(max(len(a), len(b)) - len(s)) + s for s in (a, b))
    return tuple(None if x != y and 1 not in (x, y) else max(x, y) for x, y in zip(a, b, strict=True))

def rule_zero_fits(a, b):
    a, b = ((1,)*(max(len(a), len(b)) - len(s)) + s for s in (a, b))
    return tuple(0 if 0 in pair and 1 in pair else fit(*pair) if 0 not in pair else max(pair) for pair in zip(a, b, strict=True))

def one_hot_filled(labels, n):
    out = torch.zeros(len(labels), n, dtype=torch.int64)
    out[torch.arange(len(labels)), labels] = 1
    return out

# -- 03_gemm

def blocks_counted(n, size):
    out, first = [], 0
    while first < n:
        out.append((first, first + min(size, n - first)))
        first += size
    return out

def ikj_slices(a, b, c):
    for i in range(len(a)):
        for k in range(a.shape[1]): c[i] += a[i, k]*b[k]

def order_ijk(a, b, c):
    for i, row in enumerate(a):
        for j in range(b.shape[1]): c[i, j] = sum(row[k]*b[k, j] for k in range(len(row)))

def order_kij(a, b, c):
    for k in range(len(b)):
        for i in range(len(a)): c[i] += a[i, k]*b[k]

def order_jik(a, b, c):
    for j in range(b.shape[1]):
        for i in range(len(a)):
            for k in range(len(b)): c[i, j] += a[i, k]*b[k, j]

def ikj_overwritten(a, b, c):
    for i in range(len(a)):
        for k in range(a.shape[1]): c[i] = a[i, k]*b[k]

def blocked_by_lists(a, b, s):
    at = lambda n: range(0, n, s)
    return torch.cat([torch.cat([sum(a[i:i+s, k:k+s] @ b[k:k+s, j:j+s] for k in at(a.shape[1])) for j in at(b.shape[1])], 1) for i in at(a.shape[0])])

def blocked(steps, sums=True):
    def product(a, b, s):
        c = torch.zeros(a.shape[0], b.shape[1])
        for i in steps(a.shape[0], s):
            for j in steps(b.shape[1], s):
                for k in steps(a.shape[1], s):
                    part = a[i:i+s, k:k+s] @ b[k:k+s, j:j+s]
                    if sums: c[i:i+s, j:j+s] += part
                    else: c[i:i+s, j:j+s] = part
        return c
    return product

def one_by_one(a, b, s):
    c = torch.zeros(a.shape[0], b.shape[1])
    for i, j, k in itertools.product(range(a.shape[0]), range(b.shape[1]), range(a.shape[1])): c[i, j] += a[i, k]*b[k, j]
    return c

def packed_by_unfold(b, w):
    b = torch.cat([b, b.new_zeros(len(b), -b.shape[1] % w)], 1)
    return b.unfold(1, w, w).transpose(0, 1)

# -- 04_idx

KINDS = {8: np.uint8, 9: np.int8, 11: np.int16, 12: np.int32, 13: np.float32, 14: np.float64}

def big_endian(x): return x.byteswap().tobytes() if x.dtype.itemsize > 1 else x.tobytes()

def written(x, numbers=big_endian, order='big', code=None):
    code = code or {np.dtype(v): k for k, v in KINDS.items()}[x.dtype]
    return bytes([0, 0, code, x.ndim]) + b''.join(n.to_bytes(4, order) for n in x.shape) + numbers(x)

def sizes_of(data, order='big'): return tuple(int.from_bytes(data[i:i+4], order) for i in range(4, 4 + 4*data[3], 4))

def parsed(data, swap=True):
    x = np.frombuffer(data[4 + 4*data[3]:], KINDS[data[2]])
    return torch.tensor(x.byteswap() if swap else x.copy()).reshape(sizes_of(data))

def not_turned(data): return torch.from_numpy(np.frombuffer(bytearray(data), np.dtype(KINDS[data[2]]).newbyteorder('>'), offset=4 + 4*data[3])).reshape(sizes_of(data))

def reversed_number(data):
    total = 0
    for byte in data[::-1]: total = total*256 + byte
    return total

# -- 05_plots

def grid_search(n): return max((r, -(-n//r)) for r in range(1, n + 1) if r*r <= n)

def montage_by_cat(ims, ncols):
    rows = ims.split(ncols)
    return torch.cat([F.pad(torch.cat([*row], 1), (0, (ncols - len(row))*ims.shape[2])) for row in rows])

def montage_free(ims, ncols):
    full = torch.cat([ims, ims.new_zeros(-len(ims) % ncols, *ims.shape[1:])])
    return torch.cat(full.unflatten(0, (-1, ncols)).unbind(1), 2).flatten(0, 1)

def montage_filled(ims, ncols):
    n, h, w = ims.shape
    full = torch.zeros(-(-n//ncols)*ncols, h, w)
    full[:n] = ims
    return full.unflatten(0, (-1, ncols)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)

def montage_down(ims, ncols):
    rows = -(-len(ims)//ncols)
    full = torch.cat([ims, ims.new_zeros(rows*ncols - len(ims), *ims.shape[1:])])
    return torch.cat([torch.cat([full[c*rows + r] for c in range(ncols)], 1) for r in range(rows)])

ALSO_RIGHT = {
    'nested_shape': shape_by_loop,
    'tensors_close': close_counting,
    'byte_difference': bytes_in_int32,
    'worst_place': worst_by_loop,
    'matmul_of_lists': lists_by_zip,
    'frobenius_norm': lambda x: (x.flatten()*x.flatten()).sum()**.5,
    'trace': lambda x: x[torch.arange(len(x)), torch.arange(len(x))].sum(),
    'outer_product': lambda a, b: a.unsqueeze(1).mul(b.unsqueeze(0)),
    'einsum_product': lambda: 'mk,kn',
    'dot_compiled': dot_vectorized,
    'matmul_one_loop': rows_with(lambda row, b: (row*b.T).sum(1)),
    'batch_product': lambda a, b: (a[:, :, None]*b.mT[:, None]).sum(-1),
    'einsum_scores': lambda: 'zqd, zkd -> zqk',
    'center_rows': lambda x: (x.T - x.mean(1)).T,
    'memory_position': lambda index, strides: int(np.dot(index, strides)),
    'row_major_strides': strides_by_accumulate,
    'broadcast_rule': rule_padded,
    'pairwise_distances': lambda a, b: (a.unsqueeze(1) - b.unsqueeze(0)).norm(dim=2),
    'one_hot': lambda labels, n: torch.eye(n, dtype=torch.int64)[labels],
    'cumulative_sum': lambda x: torch.ones(len(x), len(x)).tril() @ x,
    'sliding_windows': lambda x, k: x[torch.arange(k) + torch.arange(len(x) - k + 1).unsqueeze(1)],
    'arithmetic_intensity': lambda m, k, n, size: 2/size/(1/m + 1/k + 1/n),
    'block_ranges': blocks_counted,
    'ikj_product': ikj_slices,
    'blocked_product': blocked_by_lists,
    'pack_panel': packed_by_unfold,
    'number_from_bytes': lambda data: functools.reduce(lambda total, byte: total*256 + byte, data, 0),
    'idx_header': lambda data: (data[2], list(sizes_of(data))),
    'idx_bytes': written,
    'idx_tensor': parsed,
    'image_grid': grid_search,
    'channels_last': lambda x: x.movedim(0, 2),
    'min_max_scale': lambda x: torch.nan_to_num((x - x.min())/(x.max() - x.min())),
    'montage': montage_filled}

WRONG = {
    'nested_shape': [(lambda x: [len(x)] if type(x) is list else [], 'only the outermost list'), (shape_deepest_first, 'the order is reversed'),
                     (shape_with_one, 'a single number counts'), (shape_endless, 'an endless loop'), (lambda x: tuple(np.array(x).shape), 'it calls `array`')],
    'tensors_close': [(lambda a, b, eps: not ((a - b).abs() > eps).any().item(), 'the shapes are not compared'), (close_somewhere, 'one close value is enough'),
                      (lambda a, b, eps: a.shape == b.shape and not bool((a - b > eps).any()), 'the absolute value is missing'),
                      (lambda a, b, eps: a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=eps), 'it calls `allclose`')],
    'byte_difference': [(lambda a, b: torch.sub(a, b).to(torch.int64), 'wrap around at 256'), (lambda a, b: b.long() - a.long(), 'differ'),
                        (lambda a, b: a.long() - b.int(), 'the sign was kept'), (lambda a, b: (a.long() - b.long()).abs().double(), 'became torch.float64'),
                        (lambda a, b: torch.tensor([[abs(x - y) for x, y in zip(p, q, strict=True)] for p, q in zip(a.tolist(), b.tolist(), strict=True)], dtype=torch.int64).reshape(a.shape), 'there is a loop')],
    'worst_place': [(lambda a, b: [int((b - a).abs().flatten().argmax())], 'counts through all values'), (lambda a, b: worst_by_loop(a, torch.full_like(a, -99.)), 'where `a` is largest'),
                    (lambda a, b: tuple(int(i) for i in torch.unravel_index((a - b).argmax(), a.shape)), 'the absolute value is missing'),
                    (lambda a, b: tuple(int(i) for i in torch.unravel_index((a - b).square().argmin(), a.shape)), 'smallest'), (lambda a, b: int((a - b).abs().argmax()), 'wanted a tuple')],
    'matmul_of_lists': [(lists_shared_rows, 'one and the same list'), (lists_assigned, 'only the last product'), (lists_short, 'the range ends one too early'),
                        (lambda a, b: [[sum(a[i][k]*b[j][k] for k in range(len(a[0]))) for j in range(len(b))] for i in range(len(a))], 'transposed'),
                        (lambda a, b: (np.array(a) @ np.array(b)).tolist(), 'it uses the operator `@`'), (lambda a, b: (np.array(a)[..., None]*np.array(b)).sum(1).tolist(), 'it calls `array`')],
    'frobenius_norm': [(lambda x: torch.einsum('ij,ij->', x, x), 'the root is missing'), (lambda x: (x.square().sum()/max(x.numel(), 1))**.5 if x.numel() else x.square().mean(), 'the mean of the squares'),
                       (lambda x: x.abs().sum(), 'without being squared'), (lambda x: torch.linalg.norm(x), 'it calls `linalg_norm`'), (lambda x: x.mul_(x).sum().sqrt(), 'works in place')],
    'trace': [(lambda x: sum(x[i, j] for i in range(len(x)) for j in range(len(x))) if len(x) else x.sum(), 'everything was added up'),
              (lambda x: x[range(len(x)), range(len(x) - 1, -1, -1)].sum(), 'the other diagonal'),
              (lambda x: torch.diag(x).mean(), 'the mean of the diagonal'), (lambda x: torch.einsum('ii->', x), 'it calls `einsum`')],
    'outer_product': [(lambda a, b: torch.outer(b, a), 'rows and columns are exchanged'), (lambda a, b: a.reshape(-1, 1) + b.reshape(1, -1), 'added in pairs'),
                      (lambda a, b: a[:, None] @ b[None], 'it calls `matmul`'), (lambda a, b: a[:, None]*b*2, 'every number is 2 times'), (lambda a, b: (a[:, None]*b)[None], 'an axis of length 1 is left over')],
    'einsum_product': [(lambda: 'ab,bc->ca', 'the result is transposed'), (lambda: 'ab,bc->abc', 'nothing is summed'), (lambda: 'ab,bc->a', 'too much is summed'), (lambda: 'ij,jk->', 'wanted')],
    'dot_compiled': [(dot_short, 'the last product is left out'), (dot_assigned, 'only the last product'), (dot_ready, 'it calls `dot`'), (lambda a, b: sum(x*y for x, y in zip(a, b, strict=True)), 'it was not compiled')],
    'matmul_one_loop': [(rows_with(lambda row, b: (b*row).sum(0)), 'has to stand as a column'), (rows_with(lambda row, b: (row.unsqueeze(1)*b).sum(-1)), 'the wrong axis'),
                        (two_loops, 'there are 2 loops'), (rows_with(lambda row, b: row @ b), 'it calls `matmul`'), (lambda a, b: torch.stack([(row*b.T).sum(1) for row in a]).T, 'the result is transposed')],
    'batch_product': [(first_of_batch, 'multiplied by the first'), (lambda a, b: (b.mT[:, :, None]*a[:, None]).sum(-1), 'are exchanged'), (lambda a, b: torch.einsum('bmk,bkn->mn', a, b), 'the batch was summed away'),
                      (lambda a, b: torch.bmm(a, b), 'it calls `bmm`'), (lambda a, b: torch.stack([(p[..., None]*q).sum(1) for p, q in zip(a, b, strict=True)]) if len(a) else torch.bmm(a, b), 'there is a loop')],
    'einsum_scores': [(lambda: 'ntc,nsc->nst', 'the last two axes'), (lambda: 'ntc,nsc->ts', 'the batches were added up'), (lambda: 'ntc,msc->nts', 'every batch of `k`'), (lambda: 'ntc,nsc', 'wanted')],
    'center_rows': [(lambda x: x - x.sum(1)/x.shape[1], 'along the columns'), (lambda x: x - x.mean(dim=0, keepdim=True), 'means of the columns'), (centered_in_place, 'in place'),
                    (lambda x: x - x.sum()/x.numel() if x.numel() else x, 'one mean of all numbers'), (lambda x: x.double() - x.double().mean(1, keepdim=True), 'became torch.float64'),
                    (lambda x: torch.stack([row - row.mean() for row in x]) if len(x) else x.clone(), 'there is a loop')],
    'memory_position': [(lambda index, strides: int(np.dot(index[::-1], strides)), 'reverse order'), (lambda index, strides: sum(map(sum, zip(index, strides, strict=True))), 'were added'),
                        (lambda index, strides: functools.reduce(operator.mul, (*index, *strides), 1), 'multiplied with each other')],
    'row_major_strides': [(column_strides, 'columns lie one after the other'), (inclusive_strides, 'the size of its own axis'), (lambda shape: tuple(4*s for s in strides_by_accumulate(shape)), 'these are bytes'),
                          (lambda shape: torch.zeros(shape).stride(), 'it calls `')],
    'broadcast_rule': [(rule_left, 'lined up at the left'), (rule_cut, 'cut to the length'), (rule_largest, 'the larger size wins'), (rule_zero, '1 stretches to 0'), (rule_zero_fits, '0 does not stretch'),
                       (lambda a, b: tuple(torch.broadcast_shapes(a, b)), 'RuntimeError')],
    'pairwise_distances': [(lambda a, b: ((a[:, None] - b)**2).sum(2), 'the root is missing'), (lambda a, b: torch.cdist(a, b, p=1), 'absolute differences'), (lambda a, b: torch.cdist(b, a), 'rows and columns are exchanged'),
                           (torch.cdist, 'it calls `cdist`'), (lambda a, b: ((a[:, None] - b)**2).mean(2)**.5, 'the mean of the squares')],
    'one_hot': [(lambda labels, n: one_hot_filled(labels, n).T, 'rows and columns are exchanged'), (lambda labels, n: one_hot_filled(labels, n).bool(), 'truth values'), (one_hot_filled, 'it keeps `out`'),
                (lambda labels, n: torch.eye(n)[labels], 'these are floats'), (lambda labels, n: F.one_hot(labels, n), 'it calls `one_hot`')],
    'cumulative_sum': [(lambda x: torch.ones(len(x), len(x)).tril(-1) @ x, 'the number itself is left out'), (lambda x: torch.ones(len(x), len(x)).triu() @ x, 'run from the end'), (lambda x: torch.cumsum(x, 0), 'it calls `cumsum`'),
                       (lambda x: x.sum().repeat(len(x)), 'the sum of all'), (lambda x: np.cumsum(x.numpy()), 'wanted a Tensor')],
    'sliding_windows': [(lambda x, k: x.unfold(0, k, 1).mT, 'rows and columns are exchanged'), (lambda x, k: x.unfold(0, k, 1)[:-1], 'the last window is missing'), (lambda x, k: x.unfold(0, k, k), 'do not overlap'),
                        (lambda x, k: x.unfold(0, k, 1), 'it calls `unfold`'), (lambda x, k: x[torch.arange(len(x) - k + 2)[:, None] + torch.arange(k)], 'runs past the end')],
    'arithmetic_intensity': [(lambda m, k, n, size: 1/size/(1/m + 1/k + 1/n), 'are two operations'), (lambda m, k, n, size: 2/size/(1/m + 1/n), 'the result has to be written'),
                             (lambda m, k, n, size: 2/(1/m + 1/k + 1/n), 'operations for each number'), (lambda m, k, n: 0, 'the number of parameters')],
    'block_ranges': [(lambda n, size: [(size*i, size*i + size) for i in range(n//size)], 'the last block is missing'), (lambda n, size: [(size*i, size*(i + 1)) for i in range(-(-n//size))], 'runs past the end'),
                     (lambda n, size: [(a, b - 1) for a, b in blocks_counted(n, size)], 'the end is included'), (lambda n, size: [(size*i, min(n, size*i + size)) for i in range(n//size + 1)], 'an empty block')],
    'ikj_product': [(order_ijk, 'runs down the columns'), (order_kij, 'the outer loop runs over k'), (order_jik, 'over the columns of `b`'), (ikj_overwritten, 'only the last product'), (lambda a, b, c: np.copyto(c, a @ b[:]), 'wanted')],
    'blocked_product': [(blocked(lambda n, s: range(0, n, s), sums=False), 'its last product only'), (blocked(lambda n, s: [s*i for i in range(n//s)]), 'the edges are left out'), (lambda a, b, s: a[:] @ b[:], 'have room'),
                        (one_by_one, 'more blocks were asked for')],
    'pack_panel': [(lambda b, w: F.pad(b, (0, -b.shape[1] % w)).view(-1, len(b), w), 'only cut anew'), (lambda b, w: b[:, :b.shape[1] - b.shape[1] % w].unfold(1, w, w).transpose(0, 1), 'narrower strip is left out'),
                   (lambda b, w: F.pad(b, (-b.shape[1] % w, 0)).unfold(1, w, w).transpose(0, 1), 'the zeros are at the left'), (lambda b, w: torch.stack([*packed_by_unfold(b, w)]), 'row by row'),
                   (lambda b, w: packed_by_unfold(b, w).transpose(0, 1), 'in another order')],
    'number_from_bytes': [(reversed_number, 'little-endian'), (lambda data: int(np.sum([*data])), 'only added'), (lambda data: int.from_bytes(data, 'big'), 'it calls `from_bytes`'),
                          (lambda data: functools.reduce(lambda total, byte: total*255 + byte, data, 0), 'not 255')],
    'idx_header': [(lambda data: (data[2], sizes_of(data, 'little')), 'little-endian'), (lambda data: (data[3], sizes_of(data)), 'as the type'), (lambda data: (data[2], tuple(reversed(sizes_of(data)))), 'reverse order'),
                   (lambda data: (data[2], sizes_of(data)[:1]), 'only the first size')],
    'idx_bytes': [(lambda x: written(x, lambda x: x.tobytes()), 'the numbers are little-endian'), (lambda x: written(x, order='little'), 'the sizes are little-endian'), (big_endian, 'the header is missing'),
                  (lambda x: written(x, code=8), 'always that of bytes')],
    'idx_tensor': [(lambda data: parsed(data, swap=False), 'little-endian'), (lambda data: parsed(data).flatten(), 'in one row'), (not_turned, 'byte order'), (lambda data: parsed(data).double(), 'became torch.float64'),
                   (lambda data: parsed(data).float(), 'everything became float32'), (lambda data: parsed(data).numpy(), 'wanted a')],
    'image_grid': [(lambda n: (int(n**.5), n//int(n**.5)), 'rounded down'), (lambda n: (-int(-n**.5//1), -int(-n**.5//1)), 'is a square'), (lambda n: (-(-n//math.isqrt(n)), math.isqrt(n)), 'exchanged'),
                   (lambda n: (n, 1), 'wanted')],
    'channels_last': [(lambda x: x.contiguous().view(x.shape[1], x.shape[2], x.shape[0]), 'only cut anew'), (lambda x: x.mT.movedim(0, 2), 'exchanged'), (lambda x: x.movedim(2, 0), 'the other way'),
                      (lambda x: torch.stack([*x], -1), 'row by row'), (lambda x: x.movedim(0, 1), 'in the middle')],
    'min_max_scale': [(lambda x: x.sub(x.min()).div(x.max().sub(x.min())), '0 is divided by 0'), (lambda x: x*(1/x.max()), 'only the largest value'), (lambda x: 1 - torch.nan_to_num((x - x.min())/(x.max() - x.min())), 'differ'),
                      (lambda x: torch.stack([torch.nan_to_num((r - r.min())/(r.max() - r.min())) for r in x]), 'each row was scaled'), (lambda x: x.sub_(x.min()).div_((x.max() - x.min()) or 1), 'works in place')],
    'montage': [(lambda ims, ncols: F.pad(ims.flatten(), (0, -len(ims) % ncols*ims[0].numel())).reshape(-1, ncols*ims.shape[2]), 'only cut anew'), (montage_down, 'from top to bottom'), (montage_by_cat, 'there is a loop'),
                (lambda ims, ncols: montage_filled(ims.mT.contiguous(), ncols), 'lie on their sides'), (lambda ims, ncols: montage_filled(ims[:len(ims) - len(ims) % ncols], ncols), 'incomplete row')]}

@each
def test_exercise(name): check_exercise(TASKS[name], RIGHT[name], ALSO_RIGHT[name], WRONG[name])

@each
def test_the_answer_is_what_is_called(name): check_calls(TASKS[name], RIGHT[name])

@each
def test_specification_and_torch_agree(name): check_judges(TASKS[name])

@each
def test_each_mistake_is_named(name):
    assert len(TASKS[name].mistakes) >= 3
    for words, mistake in TASKS[name].mistakes.items():
        verdict = judge(TASKS[name], lambda *args, mistake=mistake: mistake(*args))
        assert not verdict and verdict.diagnosis == words, f'{name}: {words}: {verdict}'

def test_the_specifications_of_wrapped_matrices_are_no_answers():
    for name in ('ikj_product', 'blocked_product'):
        spec = TASKS[name].spec
        assert 'calls the specification' in judge(TASKS[name], lambda *args, spec=spec: spec(*args)).problem

def test_idx_numbers_against_struct():
    data = RIGHT['idx_bytes'](np.array([[1.5, -2.], [3., 4.]], np.float32))
    assert data == bytes([0, 0, 13, 2]) + struct.pack('>II4f', 2, 2, 1.5, -2., 3., 4.)
