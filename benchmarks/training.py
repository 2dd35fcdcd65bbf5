"""How much does a training loop cost, beside the bare one? One epoch of Fashion-MNIST with each, interleaved in one process.

    python -m pip install -e '.[bench]'
    python benchmarks/training.py                          # all of them: about 4 minutes on 2 cores
    python benchmarks/training.py --only bare ours         # those that need no other packages
    python benchmarks/training.py --rows 6000 --repeats 5  # fewer images, for a quick look

Each contestant trains the same `simple_cnn` (five convolutions) with SGD on 60,000 images in batches of 256, then validates on 10,000 in batches of
512, calculates loss and accuracy on both sets, and shows its progress, on a terminal that this program makes for it. What is timed is its whole
`fit`. A ratio is the median, over all rounds, of a contestant's time divided by that of the bare loop in the same round.

Then each callback that is present but has nothing to do: what it adds to a batch is measured on its own, over thousands of batches of a model
that does nothing, and set against the time of a batch of the bare loop.

Then a checkpoint: what `CheckpointCB` takes at the end of an epoch, the wait for the disk included, against the time of the bare epoch.

Exits with 1 if ours takes more than 1.05 of the bare loop, an idle callback more than 0.5 % of a batch, or a checkpoint more than 1 % of an epoch.
"""
import argparse
import contextlib
import io
import json
import logging
import os
import platform
import pty
import statistics
import sys
import tempfile
import threading
import time
import warnings

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from miniai.callbacks import EVENTS, STEPS, Callback
from miniai.checkpoint import CheckpointCB
from miniai.conv import simple_cnn
from miniai.datasets import DataLoaders, load_decoded
from miniai.learner import Accuracy, DeviceCB, Learner, MetricsCB, ProgressCB, TrainCB

BS, LR, LIMIT, IDLE_LIMIT, CHECKPOINT_LIMIT = 256, 0.2, 1.05, 0.005, 0.01


class Data:
    "The images in the forms that the contestants want, made before anything is timed"
    def __init__(self, rows):
        self.decoded = {k: ds for k, ds in load_decoded('fashion_mnist', say=None).items()}
        if rows:
            for k, n in (('train', rows), ('test', rows//6)):
                ds = self.decoded[k]
                self.decoded[k] = type(ds)({c: t[:n] for c, t in ds.columns.items()}, ds.features, ds.transform)
        (self.x, self.y), (self.xv, self.yv) = [(d['image'].float()/255, d['label']) for d in self.decoded.values()]
    def sets(self): return TensorDataset(self.x, self.y), TensorDataset(self.xv, self.yv)
    def loaders(self):
        train, valid = self.sets()
        return DataLoader(train, BS, shuffle=True), DataLoader(valid, BS*2)


def loop(train, valid):
    "The loop that everybody writes by hand; `train()` and `valid()` give batches. Returns the last line that it prints"
    model = simple_cnn()
    opt = optim.SGD(model.parameters(), LR)
    def one_pass(batches, training):
        model.train(training)
        loss_sum, right, n = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        with torch.set_grad_enabled(training):
            for xb, yb in batches:
                preds = model(xb)
                loss = F.cross_entropy(preds, yb)
                if training:
                    loss.backward()
                    opt.step()
                    opt.zero_grad()
                loss_sum += loss.detach()*len(xb)
                right += (preds.argmax(1) == yb).sum()
                n += len(xb)
        return loss_sum.item()/n, right.item()/n
    print('epoch 0', results := (one_pass(train(), True), one_pass(valid(), False)))
    return results[1][1]


def bare(data):
    "Slices of tensors in memory"
    def train():
        order = torch.randperm(len(data.x))
        return ((data.x[i], data.y[i]) for i in order.split(BS))
    def valid(): return zip(data.xv.split(BS*2), data.yv.split(BS*2), strict=True)
    return lambda: loop(train, valid)


def dataloader(data):
    "The same loop over PyTorch's loaders"
    train, valid = data.loaders()
    return lambda: loop(lambda: train, lambda: valid)


def ours(data, cbs=(), progress=True):
    "miniai"
    dls = DataLoaders.from_dd(data.decoded, BS)
    def run():
        learn = Learner(simple_cnn(), dls, F.cross_entropy, LR, [TrainCB(), DeviceCB('cpu'), MetricsCB(accuracy=Accuracy()), ProgressCB(), *cbs])
        learn.fit(1)
        return learn.history[-1]['valid_accuracy']
    return run


def skorch(data):
    from skorch import NeuralNetClassifier
    from skorch.callbacks import EpochScoring, ProgressBar
    from skorch.helper import predefined_split
    train, valid = data.sets()
    def run():
        net = NeuralNetClassifier(simple_cnn, criterion=nn.CrossEntropyLoss, optimizer=optim.SGD, lr=LR, max_epochs=1, batch_size=BS,
                                  iterator_train__shuffle=True, iterator_valid__batch_size=BS*2, train_split=predefined_split(valid),
                                  callbacks=[EpochScoring('accuracy', name='train_acc', on_train=True, lower_is_better=False), ProgressBar()])
        net.fit(train, None)
        return net.history[-1, 'valid_acc']
    return run


def lightning(data):
    import lightning as L
    from torchmetrics.classification import MulticlassAccuracy
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = simple_cnn()
            self.train_acc, self.valid_acc = [MulticlassAccuracy(10, average='micro') for _ in range(2)]
        def forward(self, x): return self.model(x)
        def both(self, batch, name, acc):
            preds = self.model(batch[0])
            loss = F.cross_entropy(preds, batch[1])
            acc(preds, batch[1])
            self.log(f'{name}_loss', loss, on_step=False, on_epoch=True, prog_bar=True)
            self.log(f'{name}_acc', acc, on_step=False, on_epoch=True, prog_bar=True)
            return loss
        def training_step(self, batch, i): return self.both(batch, 'train', self.train_acc)
        def validation_step(self, batch, i): return self.both(batch, 'valid', self.valid_acc)
        def configure_optimizers(self): return optim.SGD(self.parameters(), LR)
    train, valid = data.loaders()
    def run():
        trainer = L.Trainer(max_epochs=1, accelerator='cpu', devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
                            num_sanity_val_steps=0, enable_progress_bar=True)
        trainer.fit(Module(), train, valid)
        return trainer.callback_metrics['valid_acc'].item()
    return run


CONTESTANTS = {'bare': bare, 'ours': ours, 'dataloader': dataloader, 'skorch': skorch, 'lightning': lightning}
NAMES = {'bare': 'bare loop over tensors', 'ours': 'miniai', 'dataloader': 'bare loop over a DataLoader', 'skorch': 'skorch', 'lightning': 'Lightning'}


@contextlib.contextmanager
def terminal():
    "Within the block, standard output and error are a terminal, so that progress bars show; what they show is thrown away"
    parent, child = pty.openpty()
    def drain():
        with contextlib.suppress(OSError):
            while os.read(parent, 65536): pass
    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    with open(child, 'w', buffering=1) as f:
        with contextlib.redirect_stdout(f), contextlib.redirect_stderr(f): yield
    thread.join(5)
    os.close(parent)


def seconds(run, seed):
    "The time of one epoch, and the accuracy that it reached"
    torch.manual_seed(seed)
    with terminal():
        start = time.perf_counter()
        accuracy = run()
        return time.perf_counter() - start, accuracy


def race(names, rows, repeats):
    "For each contestant the times and accuracies of all rounds"
    small, data = Data(2560), Data(rows)
    for name in names: seconds(CONTESTANTS[name](small), 0)     # warm-up: imports, threads, memory
    runs = {name: CONTESTANTS[name](data) for name in names}
    results = {name: [] for name in names}
    for i in range(repeats):
        for name, run in runs.items():
            results[name].append(seconds(run, i))
            print(f'round {i + 1}: {NAMES[name]:28} {results[name][-1][0]:6.2f} s, accuracy {results[name][-1][1]:.3f}', file=sys.stderr, flush=True)
    return results


class Listens(Callback):
    "Hears every event, and does nothing"
for _event in EVENTS:
    if _event not in STEPS: setattr(Listens, _event, lambda self, learn: None)

class Nothing(Callback): "Hears nothing"


class NoStep(Learner):
    "A Learner for which predictions, loss and gradients are there already"
    def predict(self): self.preds = self.batch[0]
    def get_loss(self): self.loss = self.zero
    def backward(self): pass
    def step(self): pass
    def zero_grad(self): pass
    zero = torch.zeros(())


def per_batch(make, dl, repeats):
    "Seconds per batch of a Learner whose model does nothing, the smallest of several"
    times = []
    for _ in range(repeats):
        learn = NoStep(nn.Linear(1, 1), (dl, dl), cbs=make())
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            learn.fit(1, valid=False)
        times.append((time.perf_counter() - start)/len(dl))
    return min(times)


def idle(repeats=15, n=2000):
    "What each idle callback adds to a batch, in seconds"
    dl = [(torch.zeros(1), torch.zeros(1))]*n
    todo = {'one that hears nothing': lambda: [Nothing()], 'one that hears all events': lambda: [Listens()],
            'ten that hear all events': lambda: [Listens() for _ in range(10)],
            'DeviceCB, already there': lambda: [DeviceCB('cpu')], 'ProgressCB, no terminal': lambda: [ProgressCB()]}
    found = {}
    for name, make in todo.items(): found[name] = per_batch(make, dl, repeats) - per_batch(lambda: [], dl, repeats)
    return found


class Timed(CheckpointCB):
    "Notes how long each checkpoint takes"
    def before_fit(self, learn):
        self.times = []
        super().before_fit(learn)
    def _save(self, learn):
        start = time.perf_counter()
        state = super()._save(learn)
        self.times.append(time.perf_counter() - start)
        return state


def checkpoint(epochs=20):
    "Seconds for the checkpoint at the end of an epoch, the median of several; few images, as their number does not matter"
    dls = DataLoaders.from_dd(Data(2560).decoded, BS)
    with tempfile.TemporaryDirectory() as folder:
        cb = Timed(folder)
        learn = Learner(simple_cnn(), dls, F.cross_entropy, LR, [TrainCB(), DeviceCB('cpu'), MetricsCB(accuracy=Accuracy()), cb])
        with contextlib.redirect_stdout(io.StringIO()): learn.fit(epochs)
    return statistics.median(cb.times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=CONTESTANTS, default=list(CONTESTANTS), help='contestants; the bare loop always takes part')
    parser.add_argument('--repeats', type=int, default=3, help='rounds')
    parser.add_argument('--rows', type=int, default=0, help='training images; all 60,000 by default')
    parser.add_argument('--json', help='write the numbers to this file')
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    names = ['bare', *(o for o in args.only if o != 'bare')]

    results = race(names, args.rows, args.repeats)
    base = [t for t, _ in results['bare']]
    print(f'\nOne epoch, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, '
          f'medians of {args.repeats} rounds\n\n| | seconds | times the bare loop | accuracy |\n|---|---:|---:|---:|')
    table = {}
    for name, rounds in results.items():
        ratio = statistics.median(t/b for (t, _), b in zip(rounds, base, strict=True))
        table[name] = dict(seconds=statistics.median(t for t, _ in rounds), ratio=ratio, accuracy=statistics.median(a for _, a in rounds))
        print(f'| {NAMES[name]} | {table[name]["seconds"]:.2f} | {ratio:.3f} | {table[name]["accuracy"]:.3f} |')

    steps = -(-(args.rows or 60_000)//BS) + -(-(args.rows//6 if args.rows else 10_000)//(2*BS))
    batch = statistics.median(base)/steps
    print(f'\n| idle callback | microseconds per batch | share of a batch ({batch*1e3:.1f} ms) |\n|---|---:|---:|')
    shares = {name: t/batch for name, t in idle().items()}
    for name, share in shares.items(): print(f'| {name} | {share*batch*1e6:.1f} | {share:.3%} |')
    took = checkpoint()
    saving = took/statistics.median(base)
    print(f'\nA checkpoint at the end of each epoch takes {took*1e3:.1f} ms, {saving:.2%} of a bare epoch.')
    if args.json:
        with open(args.json, 'w') as f: json.dump(dict(epoch=table, idle=shares, checkpoint=saving, raw=results), f, indent=1)

    failed = [f'ours takes {table["ours"]["ratio"]:.3f} of the bare loop, more than {LIMIT}'] if table.get('ours', {'ratio': 0})['ratio'] > LIMIT else []
    failed += [f'an idle callback ({name}) takes {share:.2%} of a batch, more than {IDLE_LIMIT:.1%}' for name, share in shares.items()
               if share > IDLE_LIMIT and not name.startswith('ten')]
    failed += [f'a checkpoint takes {saving:.2%} of an epoch, more than {CHECKPOINT_LIMIT:.0%}'] if saving > CHECKPOINT_LIMIT else []
    for line in failed: print(f'FAILED: {line}')
    sys.exit(bool(failed))


if __name__ == '__main__': main()
