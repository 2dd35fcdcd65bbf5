"Answers to the exercises of 02_broadcasting"
import math
from itertools import zip_longest

import torch


def center_rows(x): return x - x.mean(1, keepdim=True)

def memory_position(index, strides): return sum(i*s for i, s in zip(index, strides, strict=True))

def row_major_strides(shape): return tuple(math.prod(shape[i+1:]) for i in range(len(shape)))

def broadcast_rule(a, b):
    pairs = [*zip_longest(reversed(a), reversed(b), fillvalue=1)]       # from the right
    return tuple(y if x == 1 else x if y in (1, x) else None for x, y in reversed(pairs))

def pairwise_distances(a, b): return (a[:, None] - b).square().sum(-1).sqrt()       # (n, 1, d) minus (m, d)

def one_hot(labels, n_classes): return (labels[:, None] == torch.arange(n_classes)).long()

def cumulative_sum(x): return (x*(torch.arange(len(x))[:, None] >= torch.arange(len(x)))).sum(1)

def sliding_windows(x, k): return x[torch.arange(len(x) - k + 1)[:, None] + torch.arange(k)]
