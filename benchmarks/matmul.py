"""Every way to write a matrix product, beside torch.matmul and numpy, interleaved in one process.

python benchmarks/matmul.py [--quick] [--threads 1 2] [--repeats 7]

Prints the median time of torch.matmul, and for each variant the ratio of its median time to that: 1.00 is as fast,
2.00 takes twice as long. Variants that would take longer than 0.7 seconds a product, or more than a gibibyte of
working memory, are left out ("-").
"""
import argparse
import statistics
from time import perf_counter

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from miniai.matmul import MATMULS, human_time
from miniai.testing import test_close

SHAPES = [(5, 784, 10), (64, 784, 50), (60_000, 784, 10), *((n, n, n) for n in (64, 128, 256, 512, 1024))]


def seconds(f, *args):
    start = perf_counter()
    f(*args)
    return perf_counter() - start

def feasible(v, a, b, limit=.7, max_bytes=2**30):
    "Can `v` multiply these within `limit` seconds and a gibibyte? Judged by its first rows, then by more"
    if v.scratch and v.scratch(a, b) > max_bytes: return False
    rows = 1
    v(a[:rows], b)
    while rows < len(a):
        took = seconds(v, a[:rows], b)
        if took*len(a)/rows <= limit: return True
        if took > limit/20: return False
        rows = min(len(a), rows*4)
    return seconds(v, a, b) <= limit

def interleaved(fs, repeats):
    "Median seconds of each function; each round calls all of them, fast ones several times"
    number = {name: max(1, int(2e-3/max(seconds(f), 1e-6))) for name, f in fs.items()}
    times = {name: [] for name in fs}
    for _ in range(repeats):
        for name, f in fs.items():
            start = perf_counter()
            for _ in range(number[name]): f()
            times[name].append((perf_counter()-start)/number[name])
    return {name: statistics.median(t) for name, t in times.items()}

def column(shape, repeats):
    "Median seconds by variant for one shape"
    m, n, p = shape
    a, b = torch.rand(m, n), torch.randn(n, p)
    x, y, expected = a.numpy(), b.numpy(), a@b
    fs = {'torch.matmul': lambda: torch.matmul(a, b), 'numpy': lambda: np.matmul(x, y)}
    for name, v in MATMULS.items():
        if not feasible(v, a, b): continue
        test_close(v(a, b), expected, eps=1e-3, rtol=1e-4)
        fs[name] = lambda v=v: v(a, b)
    return interleaved(fs, repeats)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='fewer shapes and repeats')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='thread counts to measure')
    parser.add_argument('--repeats', type=int, default=7, help='rounds')
    args = parser.parse_args()
    shapes, repeats = (SHAPES[:2], 3) if args.quick else (SHAPES, args.repeats)
    torch.manual_seed(0)
    for threads in args.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads): table(shapes, repeats, threads)

def table(shapes, repeats, threads):
    cols = {shape: column(shape, repeats) for shape in shapes}
    names = ['{}x{}x{}'.format(*s) for s in shapes]
    print(f'\n{threads} thread{"s"[:threads > 1]}; medians of {repeats}; ratio of times to torch.matmul')
    print(f'{"":<20}' + ''.join(f'{n:>15}' for n in names))
    print(f'{"torch.matmul":<20}' + ''.join(f'{human_time(c["torch.matmul"]):>15}' for c in cols.values()))
    for name in ['numpy', *MATMULS]:
        print(f'{name:<20}' + ''.join(f'{c[name]/c["torch.matmul"]:>15,.2f}' if name in c else f'{"-":>15}' for c in cols.values()))

if __name__ == '__main__': main()
