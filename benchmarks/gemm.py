"""The kernels of chapter 03 beside torch.matmul, and those of chapter 09b beside F.conv2d, in one process, called in turns.

python benchmarks/gemm.py [--threads 1 2] [--rounds 9] [--dtype float32] [--limit-256] [--mkl-256] [--quick]

Prints what the libraries run on, then for each shape the median time of torch.matmul and the ratio of the two medians
for each kernel: 2.00 takes half of torch's time, 0.50 twice. How fast torch.matmul is depends on the vectors that its
library, MKL, chooses for a processor. So the products are then measured again in a new process in which MKL is told to
stay with AVX2, 256 bits, as it does on many machines. --mkl-256 measures only that, --limit-256 limits numba's vectors
to 256 bits and 16 registers.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
from time import perf_counter

import torch
import torch.nn.functional as F

from miniai.fastconv import conv2d_fast
from miniai.gemm import matmul_blocked, matmul_fast, matmul_ikj, vector_registers
from miniai.im2col import conv2d_im2col
from miniai.matmul import human_time
from miniai.testing import test_close

SQUARES = [(n, n, n) for n in (256, 500, 512, 1024, 2048)]
SKINNY = [(60_000, 784, 10), (64, 784, 50), (5, 784, 10), (60_000, 25, 8), (1000, 784, 64), (5, 784, 1000)]
CONVS = [((64, 64, 28, 28), 64, 1), ((64, 64, 28, 28), 64, 2), ((16, 64, 28, 28), 128, 1), ((16, 64, 28, 28), 128, 2),       # images, filters, stride
         ((256, 8, 14, 14), 16, 1), ((256, 8, 14, 14), 16, 2), ((64, 1, 28, 28), 4, 1)]
NARROW = dict(NUMBA_CPU_NAME='haswell', NUMBA_CPU_FEATURES='+avx,+avx2,+fma,+bmi,+bmi2,+sse4.2,+popcnt')


def interleaved(fs, rounds):
    "Median seconds of each function; each round calls all of them, fast ones several times, after a call that is not timed"
    calls = {}
    for name, f in fs.items():
        f()
        start = perf_counter()
        f()
        calls[name] = max(1, int(5e-3/(perf_counter()-start)))
    times = {name: [] for name in fs}
    for _ in range(rounds):
        for name, f in fs.items():
            f()
            start = perf_counter()
            for _ in range(calls[name]): f()
            times[name].append((perf_counter()-start)/calls[name])
    return {name: statistics.median(t) for name, t in times.items()}

def matmul_row(shape, dtype, rounds):
    "Print one row of the table of products"
    m, k, n = shape
    a, b = torch.rand(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    fs = {'torch': lambda: torch.matmul(a, b)}
    kernels = [matmul_fast] + [matmul_blocked]*(m*k*n < 1e10) + [matmul_ikj]*(m*k*n < 2e8)
    for f in kernels:
        test_close(f(a, b), a @ b, eps=1e-2, rtol=1e-3)
        fs[f.__name__] = lambda f=f: f(a, b)
    t = interleaved(fs, rounds)
    rates = [2*m*k*n/t[name]/1e9 for name in ('torch', 'matmul_fast')]
    ratios = ''.join(f'{t["torch"]/t[f.__name__]:>10.2f}' for f in kernels)
    print(f'{f"{m}x{k}x{n}":<16}{human_time(t["torch"]):>10}{rates[0]:>10.0f}{rates[1]:>10.0f}{ratios}', flush=True)

def matmul_table(dtype, rounds, threads, shapes):
    print(f'\nmatmul, {dtype}, {threads} thread{"s"[:threads > 1]}, medians of {rounds}; ratio of torch.matmul\'s time to each kernel\'s')
    print(f'{"":<16}{"torch":>10}{"GFLOP/s":>10}{"ours":>10}{"fast":>10}{"blocked":>10}{"ikj":>10}')
    for shape in shapes: matmul_row(shape, dtype, rounds)

def conv_row(shape, nf, stride, dtype, rounds):
    "Print one row of the table of convolutions: forward, and forward with all gradients"
    x, w = torch.randn(shape, dtype=dtype), torch.randn(nf, shape[1], 3, 3, dtype=dtype)
    kernels = {'torch': F.conv2d, 'fast': conv2d_fast, 'im2col': conv2d_im2col}
    forward = {name: lambda f=f: f(x, w, None, stride, 1) for name, f in kernels.items()}
    g = torch.ones_like(forward['torch']())
    xg, wg = x.clone().requires_grad_(), w.clone().requires_grad_()
    both = {name: lambda f=f: torch.autograd.grad(f(xg, wg, None, stride, 1), (xg, wg), g) for name, f in kernels.items()}
    for name in ('fast', 'im2col'): test_close(forward[name](), forward['torch'](), eps=1e-2)
    columns = []
    for fs in (forward, both):
        t = interleaved(fs, rounds)
        columns.append(f'{human_time(t["torch"]):>10}{t["torch"]/t["fast"]:>8.2f}{t["torch"]/t["im2col"]:>8.2f}')
    print(f'{f"{shape}→{nf} /{stride}":<26}' + '   '.join(columns), flush=True)

def conv_table(dtype, rounds, threads, shapes):
    print(f'\nconvolution 3x3, padding 1, {dtype}, {threads} thread{"s"[:threads > 1]}, medians of {rounds}; ratio of F.conv2d\'s time to each kernel\'s')
    print(f'{"images→filters /stride":<26}{"F.conv2d":>10}{"fast":>8}{"im2col":>8}   {"with grads":>10}{"fast":>8}{"im2col":>8}')
    for shape, nf, stride in shapes: conv_row(shape, nf, stride, dtype, rounds)

def describe():
    size, number = vector_registers()
    print(f'numba: {number} vector registers of {8*size} bits')
    print(f'torch {torch.__version__}: {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} processors, OMP_WAIT_POLICY={os.environ.get("OMP_WAIT_POLICY")}')
    for line in torch.__config__.show().splitlines():
        if re.search('MKL|OpenMP', line) and 'Build settings' not in line: print(' ', line.strip())
    print(f'  MKL_ENABLE_INSTRUCTIONS={os.environ.get("MKL_ENABLE_INSTRUCTIONS")}; {dispatched()}')

def dispatched():
    "What MKL says about itself when it multiplies"
    code = 'import torch; torch.rand(64, 64) @ torch.rand(64, 64)'
    lines = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(MKL_VERBOSE='1'), capture_output=True, text=True).stdout.splitlines()
    return next((line.removeprefix('MKL_VERBOSE ') for line in lines if line.startswith('MKL_VERBOSE oneMKL')), 'MKL says nothing: torch multiplies with something else')

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='thread counts to measure')
    parser.add_argument('--rounds', type=int, default=9, help='rounds')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float64'])
    parser.add_argument('--limit-256', action='store_true', help="limit numba's vectors to 256 bits")
    parser.add_argument('--mkl-256', action='store_true', help="limit MKL's vectors to 256 bits")
    parser.add_argument('--quick', action='store_true', help='fewer shapes and rounds')
    args = parser.parse_args()
    wanted = (NARROW if args.limit_256 else {}) | (dict(MKL_ENABLE_INSTRUCTIONS='AVX2') if args.mkl_256 else {})
    if any(os.environ.get(k) != v for k, v in wanted.items()): os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    print(f'\n== {", ".join(f"{k}={v}" for k, v in wanted.items()) or "as the libraries choose"}')
    describe()
    torch.manual_seed(0)
    shapes, rounds = (SQUARES[:3] + SKINNY[:3], 5) if args.quick else (SQUARES + SKINNY, args.rounds)
    for threads in args.threads:
        torch.set_num_threads(threads)
        matmul_table(getattr(torch, args.dtype), rounds, threads, shapes)
        if not args.mkl_256: conv_table(getattr(torch, args.dtype), rounds, threads, CONVS)
    if not args.mkl_256 and torch.backends.mkl.is_available(): subprocess.run([sys.executable, *sys.argv, '--mkl-256'], check=True)

if __name__ == '__main__': main()
