"""How long does one pass through a training set take, from picture files and from memory?

    python benchmarks/loading.py                   # Fashion-MNIST, 60,000 images
    python benchmarks/loading.py --name digits     # on every machine, 1,437 images

Three loaders in one process, interleaved, medians. All shuffle, all give batches of floats from 0 to 1, and all turn bytes into
floats in the same way: the whole batch at once, with `to_float`, after it has been put together.
"""
import argparse
import platform
import subprocess
import sys
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from miniai.datasets import DataLoaders, collate_dict, dataset_dict, decode_once, inplace, to_float
from miniai.idx import load_raw

TARGETS = {'picture files': ('at least', 15.), 'TensorDataset': ('at least', 1/0.8)}

@inplace
def to_bytes(b): b['image'] = [torch.from_numpy(np.array(im))[None] for im in b['image']]

def one_pass(dl):
    "Seconds for one pass; every batch ends as floats"
    start, n = perf_counter(), 0
    for xb, _ in dl:
        if xb.dtype == torch.uint8: xb = to_float({'x': xb})['x']
        n += len(xb)
    assert n == len(dl.dataset) and xb.dtype == torch.float32
    return perf_counter() - start

def interleaved(loaders, repeats):
    "Median seconds of each loader, after one pass that is not timed"
    times = {name: [] for name in loaders}
    for i in range(repeats + 1):
        for name, dl in loaders.items():
            t = one_pass(dl)
            if i: times[name].append(t)
    return {name: median(ts) for name, ts in times.items()}

def import_seconds(module):
    "Seconds that a fresh process needs to import `module`"
    code = f'from time import perf_counter as t; s = t(); import {module}; print(t() - s)'
    return float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--name', default='fashion_mnist', choices=['fashion_mnist', 'digits'])
    parser.add_argument('--bs', type=int, default=256, help='batch size')
    parser.add_argument('--repeats', type=int, default=5, help='timed passes of each loader')
    parser.add_argument('--imports', type=int, default=5, help='timed imports of each module; 0 to leave them out')
    args = parser.parse_args()

    print(f'{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}')
    raw = load_raw(args.name)
    dd = dataset_dict(raw)
    start = perf_counter()
    decoded = decode_once({'train': dd['train']}, progress=False)['train']
    print(f'decode_once, {len(decoded):,} images: {perf_counter() - start:.2f} s, once')
    stored = sum(t.untyped_storage().nbytes() for t in decoded.columns.values())
    print(f'memory: {stored/1e6:.2f} MB, {stored/raw.x_train.nbytes - 1:.1%} more than the pixels (target: at most 5%)')

    x, y = decoded['image'], decoded['label']
    files = dd['train'].with_transform(to_bytes)
    how = dict(batch_size=args.bs, shuffle=True)
    loaders = {'picture files': DataLoader(files, collate_fn=collate_dict(files), **how),
               'TensorDataset': DataLoader(TensorDataset(x, y), **how),
               'decode_once': DataLoaders.from_dd({'train': decoded, 'valid': decoded}, args.bs).train}
    times = interleaved(loaders, args.repeats)
    print(f'\none pass, batch size {args.bs}, median of {args.repeats}:')
    for name, t in times.items():
        ratio, (word, target) = t/times['decode_once'], TARGETS.get(name, ('', 0))
        print(f'  {name:<14} {t:8.3f} s   {ratio:6.1f} times decode_once' + (f'   (target: {word} {target:g})' if word else ''))
    print(f'  decode_once takes {times["decode_once"]/times["TensorDataset"]:.2f} of the time of TensorDataset (target: at most 0.8)')

    if args.imports:
        pairs = [(import_seconds('torch'), import_seconds('miniai.training')) for _ in range(args.imports)]
        base, ours = (median(ts) for ts in zip(*pairs, strict=True))
        print(f'\nimport torch: {base:.2f} s, import miniai.training: {ours:.2f} s, {ours/base - 1:+.1%} (target: at most +15%)')

if __name__ == '__main__': main()
