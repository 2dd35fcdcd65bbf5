"""Time every way of writing a convolution against `F.conv2d`, and print the ratios as a Markdown table.

    python benchmarks/conv.py                   # 1 and 2 threads, all shapes
    python benchmarks/conv.py --threads 1 --rounds 15 --json conv.json

The variants take turns, so that whatever else the machine does hits all of them alike. A ratio is the median, over all rounds, of a variant's
time divided by that of `F.conv2d` in the same round. Each thread count gets a process of its own, with the limit set for torch, numba and BLAS.
Exits with 1 if `conv2d_im2col` takes more than four times as long as `F.conv2d` at one of the two middle shapes.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from time import perf_counter

SHAPES = {  # name -> images, kernels
    '(1,1,28,28)→4':     ((1, 1, 28, 28), (4, 1, 3, 3)),
    '(64,1,28,28)→4':    ((64, 1, 28, 28), (4, 1, 3, 3)),
    '(256,8,14,14)→16':  ((256, 8, 14, 14), (16, 8, 3, 3)),
    '(64,64,28,28)→64':  ((64, 64, 28, 28), (64, 64, 3, 3))}
MIDDLE = list(SHAPES)[1:3]
LIMIT = 4.              # what conv2d_im2col may take, in times of F.conv2d
TOO_LONG = 4.           # seconds for one call that is still worth waiting for
SLOW = .2               # seconds for one call after which three rounds have to do
THREAD_VARIABLES = 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMBA_NUM_THREADS'


def seconds(f, x, w, number=1):
    "Time of one call of `f(x, w)`, over `number` calls"
    start = perf_counter()
    for _ in range(number): f(x, w)
    return (perf_counter()-start)/number


def measure(x, w, variants, reference, expected, rounds, costs):
    "Median time and median ratio for each variant that is quick enough; `costs` collects seconds per product from the smaller shapes"
    from miniai.testing import test_close
    products, todo = expected.numel()*w[0].numel(), {'F.conv2d': reference}
    for name, f in variants.items():
        if costs.get(name, 0)*products > TOO_LONG: continue
        test_close(f(x, w), expected, eps=1e-3)         # also compiles what wants to be compiled
        costs[name] = min(seconds(f, x, w), seconds(f, x, w))/products
        todo[name] = f
    number = {name: max(1, int(5e-3/max(seconds(f, x, w), 1e-7))) for name, f in todo.items()}
    times = {name: [] for name in todo}
    for i in range(rounds):
        for name, f in todo.items():
            if i < 3 or times[name][0] < SLOW: times[name].append(seconds(f, x, w, number[name]))
    ratios = {name: [t/r for t, r in zip(ts, times['F.conv2d'], strict=False)] for name, ts in times.items()}      # slow ones have fewer rounds
    return {name: {'ms': statistics.median(times[name])*1e3, 'ratio': statistics.median(ratios[name])} for name in todo}


def run_here(threads, rounds):
    "All shapes with this many threads, in this process"
    import torch
    import torch.nn.functional as F

    from miniai.im2col import CONV2DS
    res, costs = {}, {}
    for shape, (images, kernels) in SHAPES.items():
        torch.set_num_threads(threads)                  # numba's first parallel call may reset it
        torch.manual_seed(0)
        x, w = torch.randn(images), torch.randn(kernels)
        with torch.no_grad(): res[shape] = measure(x, w, CONV2DS, F.conv2d, F.conv2d(x, w), rounds, costs)
    return res


def run_apart(threads, rounds):
    "The same in a fresh process whose libraries all see the limit"
    env = os.environ | {name: str(threads) for name in THREAD_VARIABLES}
    cmd = [sys.executable, __file__, '--child', '--threads', str(threads), '--rounds', str(rounds)]
    return json.loads(subprocess.run(cmd, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def table(res, threads):
    "Ratios as Markdown; the last row has the time of F.conv2d itself"
    names = list(dict.fromkeys(name for shape in res.values() for name in shape if name != 'F.conv2d'))
    lines = [f'| time ÷ `F.conv2d`, {threads} thread{"s"*(threads > 1)} | ' + ' | '.join(res) + ' |', '|---' + '|---:'*len(res) + '|']
    for name in names: lines.append(f'| `{name}` | ' + ' | '.join(f'{r[name]["ratio"]:,.2f}' if name in r else '–' for r in res.values()) + ' |')
    lines.append('| `F.conv2d` itself | ' + ' | '.join(f'{r["F.conv2d"]["ms"]:.3g} ms' for r in res.values()) + ' |')
    return '\n'.join(lines)


def verdict(results):
    "True if conv2d_im2col keeps its promise; says so"
    worst = max(res[shape]['conv2d_im2col']['ratio'] for res in results.values() for shape in MIDDLE)
    print(f'conv2d_im2col takes at most {worst:.2f} times as long as F.conv2d at the two middle shapes (limit {LIMIT:g}): {"kept" if worst <= LIMIT else "BROKEN"}')
    return worst <= LIMIT


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='thread counts to measure')
    p.add_argument('--rounds', type=int, default=9, help='turns that every variant takes')
    p.add_argument('--json', help='also write the numbers to this file')
    p.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child: return print(json.dumps(run_here(args.threads[0], args.rounds)))
    results = {}
    for threads in args.threads:
        results[threads] = run_apart(threads, args.rounds)
        print(table(results[threads], threads), end='\n\n', flush=True)
    if args.json:
        with open(args.json, 'w') as f: json.dump(results, f, indent=1)
    print('– : one call would take more than', f'{TOO_LONG:g} s.', 'Numbers below 1 are faster than F.conv2d.')
    sys.exit(0 if verdict(results) else 1)


if __name__ == '__main__': main()
