"Answers to the exercises of 01_matmul"
import torch
from numba import njit


def matmul_of_lists(a, b):
    c = [[0.]*len(b[0]) for _ in a]
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)): c[i][j] += a[i][k]*b[k][j]
    return c

def frobenius_norm(x): return x.square().sum().sqrt()

def trace(x): return x.diagonal().sum()

def outer_product(a, b): return a[:, None]*b

def einsum_product(): return 'ik,kj->ij'

@njit
def dot_compiled(a, b):
    total = 0.
    for i in range(len(a)): total += a[i]*b[i]
    return total

def matmul_one_loop(a, b):
    c = torch.zeros(a.shape[0], b.shape[1])
    for i in range(len(a)): c[i] = (a[i, :, None]*b).sum(0)     # (k, 1) times (k, n), summed over k
    return c

def batch_product(a, b): return (a[..., None]*b[:, None]).sum(2)    # (bs, m, k, 1) times (bs, 1, k, n)

def einsum_scores(): return 'bid,bjd->bij'
