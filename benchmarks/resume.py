"""Does a run that is killed end with the same bits as one that is not? Kills real processes at random moments.

    python benchmarks/resume.py                # 500 kills: about 5 minutes on 2 cores
    python benchmarks/resume.py --kills 40     # fewer

Trains a net with dropout and batch normalization on the digits, shuffled, with random noise added to the images where they are loaded, and a
one-cycle schedule, for four kinds of runs: SGD with momentum and Adam, each with 0 and with 2 workers. Each run is first done without a
disturbance. Then it is started, killed by SIGKILL after a random time, started again from its newest checkpoint, killed again, and so on, until
it gets to its end. After each kill, every file under the name of a checkpoint is read and checked.

Prints for each kind: kills; runs that got to their end; runs whose weights, optimizer, history and batch losses are those of the undisturbed
run, to the last bit; kills after which there was no checkpoint to load, and files that did not load; processes left over.
Exits with 1 if anything of that is not as it should be.
"""
import argparse
import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn, optim
from torch.nn import functional as F

from miniai.checkpoint import BatchSchedCB, CheckpointCB, CheckpointError, checkpoints, read_checkpoint
from miniai.datasets import DataLoaders, load_decoded, to_float
from miniai.learner import Accuracy, HistoryCB, TrainLearner
from miniai.training import set_seed

EPOCHS, BS, EVERY = 3, 64, 4
OPTIMIZERS = dict(sgd=partial(optim.SGD, momentum=0.9), adam=optim.Adam)


def noisy(b):
    "A transform that needs random numbers wherever the images are loaded"
    b = to_float(b)
    b['image'] += 0.1*torch.randn_like(b['image'])
    return b


def train(data, out, optimizer, workers):
    "One run, from the newest checkpoint if there is one; leaves a digest of all that it has computed"
    set_seed(42)
    torch.set_num_threads(1)
    dls = DataLoaders.from_dd({k: ds.with_transform(noisy) for k, ds in data.items()}, BS, num_workers=workers)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    one_cycle = BatchSchedCB(partial(optim.lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=EPOCHS*len(dls.train)))
    learn = TrainLearner(net, dls, F.cross_entropy, 0.02, [HistoryCB(accuracy=Accuracy()), one_cycle, CheckpointCB(out/'run', every=EVERY)],
                         OPTIMIZERS[optimizer])
    learn.fit(EPOCHS, resume=out/'run' if checkpoints(out/'run') else None)
    (out/'result').write_text(digest(learn))


def digest(learn):
    "A SHA-256 of the weights, the optimizer's state, the history without its times, and the losses of all batches"
    sha = hashlib.sha256()
    for state in (learn.model.state_dict(), *learn.opt.state_dict()['state'].values()):
        for k, v in state.items(): sha.update(k.encode() + (v.numpy().tobytes() if isinstance(v, torch.Tensor) else str(v).encode()))
    rows = [{k: v for k, v in row.items() if k != 'time'} for row in learn.history]
    sha.update(repr((rows, learn.history.losses, learn.history.ends)).encode())
    return sha.hexdigest()


def start(data, out, optimizer, workers):
    "A process of its own, in a session of its own, that trains; returns its number"
    if pid := os.fork(): return pid
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2): os.dup2(null, stream)     # its workers complain when they are orphaned
        train(data, out, optimizer, workers)
        status = 0
    except BaseException as e: (out/'error').write_text(f'{type(e).__name__}: {e}')
    finally: os._exit(status)


def ended(pid, seconds):
    "Wait for a process for so long; its exit status, or None"
    stop = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if time.monotonic() > stop: return None
        time.sleep(0.002)


def left_over(sessions):
    "Processes that still run in one of the sessions"
    found = []
    for p in Path('/proc').glob('[0-9]*/stat'):
        try: fields = p.read_text().rpartition(')')[2].split()
        except OSError: continue
        if int(fields[3]) in sessions and fields[0] != 'Z': found.append(p.parent.name)
    return found


def broken_files(folder):
    "Checkpoints under their final name that do not load"
    bad = []
    for path in checkpoints(folder):
        try: read_checkpoint(path)
        except (CheckpointError, OSError) as e: bad.append(str(e))
    return bad


def one_run(data, folder, kind, reference, span, rng, report):
    "Kill and restart until the run gets to its end; compare"
    begun = False
    while True:
        pid = start(data, folder, *kind)
        report['sessions'].add(pid)
        status = ended(pid, rng.uniform(0, span))
        if status is not None: break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        report['kills'] += 1
        report['broken'] += len(bad := broken_files(folder/'run'))
        for text in bad: print(text, file=sys.stderr)
        report['none'] += begun and not checkpoints(folder/'run')
        begun = begun or bool(checkpoints(folder/'run'))
    report['runs'] += 1
    report['failed'] += status != 0
    if status: print((folder/'error').read_text(), file=sys.stderr)
    report['same'] += status == 0 and (folder/'result').read_text() == reference


def try_kind(data, kind, kills, rng, folder):
    "All runs of one kind"
    report = dict(kills=0, runs=0, same=0, failed=0, none=0, broken=0, sessions=set())
    for out in (folder, folder/'again'):       # the second time is not slowed down by what is new to the disk and the cache
        out.mkdir()
        begin = time.monotonic()
        pid = start(data, out, *kind)
        if ended(pid, 120) != 0: raise SystemExit(f'the undisturbed run failed: {(out/"error").read_text()}')
        span = time.monotonic() - begin
    reference = (folder/'result').read_text()
    if (folder/'again'/'result').read_text() != reference: raise SystemExit('two undisturbed runs differ')
    while report['kills'] < kills:
        shutil.rmtree(folder)
        folder.mkdir()
        one_run(data, folder, kind, reference, span, rng, report)
    return report


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=500, help='all together')
    p.add_argument('--seed', type=int, default=0, help='of the moments')
    args = p.parse_args()
    torch.set_num_threads(1)
    data, rng = load_decoded('digits', say=None), random.Random(args.seed)
    kinds = [(o, w) for o in OPTIMIZERS for w in (0, 2)]
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(io.StringIO()):
        for optimizer in OPTIMIZERS: train(data, Path(d)/optimizer, optimizer, 0)      # loads what PyTorch loads late, so that no child has to
    print(f'{"kind":<18}{"kills":>7}{"runs":>7}{"same bits":>11}{"failed":>8}{"no checkpoint":>15}{"broken files":>14}')
    sessions, good = set(), True
    for kind in kinds:
        with tempfile.TemporaryDirectory() as d:
            r = try_kind(data, kind, -(-args.kills//len(kinds)), rng, Path(d)/'out')
        sessions |= r['sessions']
        good &= r['same'] == r['runs'] and not (r['failed'] or r['none'] or r['broken'])
        print(f'{f"{kind[0]}, {kind[1]} workers":<18}{r["kills"]:>7}{r["runs"]:>7}{r["same"]:>11}{r["failed"]:>8}{r["none"]:>15}{r["broken"]:>14}', flush=True)
    stop = time.monotonic() + 15     # a worker looks every 5 seconds whether its parent is still there
    while (left := left_over(sessions)) and time.monotonic() < stop: time.sleep(0.2)
    print(f'processes left over: {len(left)}')
    sys.exit(0 if good and not left else 1)


if __name__ == '__main__': main()
