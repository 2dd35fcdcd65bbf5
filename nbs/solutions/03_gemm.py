"Answers to the exercises of 03_gemm"
import torch
import torch.nn.functional as F


def arithmetic_intensity(m, k, n, size): return 2*m*k*n/(size*(m*k + k*n + m*n))

def block_ranges(n, size): return [(i, min(i + size, n)) for i in range(0, n, size)]

def ikj_product(a, b, c):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]): c[i,j] += a[i,k]*b[k,j]

def blocked_product(a, b, size):
    (m, depth), n = a.shape, b.shape[1]
    c = torch.zeros(m, n)
    for i in range(0, m, size):
        for j in range(0, n, size):
            for k in range(0, depth, size): c[i:i+size, j:j+size] += a[i:i+size, k:k+size] @ b[k:k+size, j:j+size]
    return c

def pack_panel(b, w):
    full = F.pad(b, (0, -b.shape[1] % w))                       # (k, strips*w)
    return full.reshape(len(b), -1, w).permute(1, 0, 2)         # (k, strips, w), then (strips, k, w)
