"What if the machine stops? Nothing is lost, nothing is silently wrong, and the bits are the same"
import errno
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from miniai import checkpoint
from miniai.callbacks import EVENTS, Callback, CancelEpochException
from miniai.checkpoint import (
    BatchSchedCB,
    CheckpointCB,
    CheckpointError,
    CSVLoggerCB,
    EarlyStoppingCB,
    EpochSchedCB,
    TensorBoardCB,
    checkpoints,
    read_checkpoint,
)
from miniai.learner import Accuracy, GradAccumCB, GradClipCB, History, HistoryCB, Learner, MetricsCB, MomentumLearner, TrainCB, TrainLearner
from miniai.metrics import ConfusionMatrix, Mean
from miniai.testing import test_close, test_eq
from miniai.training import BatchSampler, Dataset, MiniDataLoader, Sampler, set_seed

ROOT = Path(__file__).parents[1]
linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs Linux')

@pytest.fixture(autouse=True)
def one_thread():
    "One thread: sums that several threads share can differ in their last digit, and tiny nets are faster without"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

# -- a small run with everything in it

N, BS, EPOCHS = 40, 8, 3
X = torch.randn(N + 16, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()

class Noisy(torch.utils.data.Dataset):
    "Needs random numbers of all three kinds for each item, in whatever process that is loaded"
    def __init__(self, x, y): self.x, self.y = x, y
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i] + 0.1*torch.randn(6) + 0.1*random.random() + 0.1*np.random.rand(), self.y[i]

def reseed(_):
    "Python's and NumPy's random numbers in a worker"
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)

def loaders(workers=0, shuffle=True, ds=Noisy):
    kw = dict(num_workers=workers, worker_init_fn=reseed if workers else None)
    return DataLoader(ds(X[:N], Y[:N]), BS, shuffle=shuffle, **kw), DataLoader(ds(X[N:], Y[N:]), BS, **kw)

def mini_loaders():
    "Chapter 06's own loaders, with a generator of their own"
    ds, g = Dataset(X[:N], Y[:N]), torch.Generator().manual_seed(3)
    class WithGenerator(MiniDataLoader): sampler = None
    dl = WithGenerator(ds, BatchSampler(Sampler(ds, shuffle=True, generator=g), BS))
    return dl, MiniDataLoader(Dataset(X[N:], Y[N:]), BatchSampler(Sampler(range(16)), BS))

def net():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))

sgd = partial(optim.SGD, momentum=0.9)
def one_cycle(): return BatchSchedCB(partial(optim.lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=100))

def make(cbs=(), opt=optim.Adam, kind=TrainLearner, dls=None, metrics=None, **kw):
    set_seed(7)
    return kind(net(), dls or loaders(), F.cross_entropy, 0.05, cbs=[*cbs, metrics or HistoryCB(accuracy=Accuracy())], opt_func=opt, **kw)

def numbers(learn): return [{k: v for k, v in row.items() if k != 'time'} for row in learn.history]

def everything(learn):
    "All that a run has computed, to the last bit, and the random numbers that come next"
    tensors = {k: v.numpy().tobytes() for k, v in learn.model.state_dict().items()}
    opt = [(k, v.numpy().tobytes() if isinstance(v, torch.Tensor) else v) for s in learn.opt.state_dict()['state'].values() for k, v in s.items()]
    grads = [None if p.grad is None else p.grad.numpy().tobytes() for p in learn.model.parameters()]
    return (tensors, opt, grads, learn.opt.param_groups[0]['lr'], repr(numbers(learn)), learn.history.losses, learn.history.ends,
            torch.rand(3).tolist(), np.random.rand(), random.random())

def run(path, builder, resume=None, epochs=EPOCHS, **kw):
    learn = builder(CheckpointCB(path, **kw))
    learn.fit(epochs, resume=resume)
    return learn

class Stumble(Callback):
    "Fail at an event, in one epoch and batch"
    def __init__(self, event, epoch=1, batch=2, training=True, order=0):
        self.at, self.order = (epoch, batch, training), order
        if event in ('before_epoch', 'after_epoch'): self.at = (epoch, None, training)
        setattr(self, event, self._fail)
    def _fail(self, learn):
        epoch, batch, training = self.at
        if learn.epoch == epoch and learn.training == training and batch in (None, learn.iter): raise RuntimeError('stumbled')

# -- from every checkpoint to the same end

CASES = dict(
    adam_onecycle=lambda cb: make([one_cycle(), cb]),
    sgd_momentum=lambda cb: make([one_cycle(), cb], sgd),
    amsgrad=lambda cb: make([cb], partial(optim.AdamW, amsgrad=True)),
    rmsprop=lambda cb: make([cb], partial(optim.RMSprop, momentum=0.5, centered=True)),
    two_schedules=lambda cb: make([one_cycle(), EpochSchedCB(partial(optim.lr_scheduler.StepLR, step_size=1)), cb]),
    same_schedule_twice=lambda cb: make([EpochSchedCB(partial(optim.lr_scheduler.StepLR, step_size=1)),
                                         EpochSchedCB(partial(optim.lr_scheduler.MultiStepLR, milestones=[1, 2])), cb]),
    nested_schedule=lambda cb: make([BatchSchedCB(lambda opt: optim.lr_scheduler.SequentialLR(
        opt, [optim.lr_scheduler.LinearLR(opt, 0.1), optim.lr_scheduler.CosineAnnealingLR(opt, 8)], [5])), cb]),
    accumulated=lambda cb: make([GradAccumCB(2), GradClipCB(0.1), cb]),
    momentum_learner=lambda cb: make([cb], kind=MomentumLearner, opt=optim.SGD),
    callbacks_do_it=lambda cb: make([TrainCB(), cb], kind=Learner),
    metrics=lambda cb: make([cb], metrics=MetricsCB(accuracy=Accuracy(), mean=Named(), matrix=ConfusionMatrix(3))),
    workers=lambda cb: make([one_cycle(), cb], dls=loaders(2)),
    own_loader=lambda cb: make([cb], dls=mini_loaders()),
    generator=lambda cb: make([cb], dls=(DataLoader(Noisy(X[:N], Y[:N]), BS, shuffle=True, generator=torch.Generator().manual_seed(5)), loaders()[1])),
)

class Named(Mean):
    "A metric that is called as metrics are"
    def update(self, preds, targ): self.add(preds.mean(), n=len(targ))

@pytest.mark.parametrize('case', [pytest.param(c, marks=pytest.mark.slow) if c == 'workers' else c for c in CASES])
def test_every_checkpoint_leads_to_the_same_end(case, tmp_path, capsys):
    whole = CASES[case](Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    recorded = run(tmp_path/'all', CASES[case], every=1, keep=None)
    test_eq(everything(recorded), want)      # writing changes nothing
    found = checkpoints(tmp_path/'all')
    assert len(found) == 1 + EPOCHS*(N//BS + 1)
    for path in found[::4] if case == 'workers' else found:
        resumed = run(tmp_path/'next'/path.stem, CASES[case], resume=path)
        test_eq(everything(resumed), want)

def test_without_state_it_would_not_be_the_same(tmp_path, monkeypatch):
    "The check above can fail: leave out one part of the state at a time"
    whole = CASES['accumulated'](Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    run(tmp_path/'all', CASES['accumulated'], every=1, keep=None)
    def is_it(p): return p['epoch'] == 1 and p['done'] == 3
    path = next(p for p in checkpoints(tmp_path/'all') if is_it(read_checkpoint(p)['position']))
    for part in ('opt', 'history', 'callbacks', 'grads', 'random', 'start'):
        damaged = read_checkpoint(path)
        if part == 'opt': damaged['opt'] = None
        elif part == 'history': damaged['history']['losses'] = damaged['history']['losses'][:-1]
        elif part == 'callbacks': damaged['callbacks']['GradAccumCB'] = dict(count=0)
        elif part == 'grads': damaged['model']['grads'] = {}
        elif part == 'random': damaged['random']['cpu'] = damaged['position']['start']['cpu']
        else: damaged['position']['start'] = damaged['random']
        checkpoint._write(tmp_path/f'{part}.pt', damaged)
        resumed = run(tmp_path/part, CASES['accumulated'], resume=tmp_path/f'{part}.pt')
        assert everything(resumed) != want, part

@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('event', [e for e in EVENTS if not e.startswith('cleanup') and e not in ('before_fit', 'after_fit')])
def test_a_failure_at_any_event(event, training, tmp_path):
    if not training and event in ('backward', 'after_backward', 'step', 'after_step', 'zero_grad'): pytest.skip('does not happen in validation')
    build = CASES['callbacks_do_it']
    whole = build(Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    learn = build(CheckpointCB(tmp_path/'run', every=2))
    if event in ('predict', 'get_loss', 'backward', 'step', 'zero_grad'):
        cb = next(cb for cb in learn.cbs if isinstance(cb, TrainCB))
        old = getattr(cb, event)
        def fail(learn, old=old):
            if (learn.epoch, learn.iter, learn.training) == (1, 1, training): raise RuntimeError('stumbled')
            old(learn)
        setattr(cb, event, fail)
    else: learn.add_cbs(Stumble(event, 1, 1, training))
    with pytest.raises(RuntimeError, match='stumbled'): learn.fit(EPOCHS)
    test_eq(everything(run(tmp_path/'run', build, resume=tmp_path/'run')), want)

def test_torchmetrics(tmp_path):
    torchmetrics = pytest.importorskip('torchmetrics')
    tc = torchmetrics.classification
    def build(cb):
        both = torchmetrics.MetricCollection([tc.MulticlassPrecision(3), tc.MulticlassRecall(3)])
        return make([cb], metrics=MetricsCB(acc=tc.MulticlassAccuracy(3), both=both, auroc=tc.MulticlassAUROC(3)))
    whole = build(Callback())
    whole.fit(EPOCHS)
    run(tmp_path/'all', build, every=1, keep=None)
    for path in checkpoints(tmp_path/'all')[1:-1:2]: test_eq(numbers(run(tmp_path/'next'/path.stem, build, resume=path)), numbers(whole))

def test_a_metric_without_state_dict_is_kept_by_its_attributes(tmp_path):
    class Count:
        def __init__(self): self.reset()
        def reset(self): self.n = 0
        def update(self, preds, targ): self.n += len(targ)
        def compute(self): return float(self.n)
    def build(cb): return make([cb], metrics=HistoryCB(count=Count()))
    run(tmp_path/'all', build, every=1, keep=None)
    for path in checkpoints(tmp_path/'all'): test_eq({row['train_count'] for row in run(tmp_path/'next'/path.stem, build, resume=path).history}, {float(N)})

# -- where a fit can be

def test_second_fit_and_longer_fit(tmp_path):
    "A fit after other fits; and one that is resumed to go on for longer than was planned"
    def build(cb): return make([cb], sgd)
    whole = build(Callback())
    whole.fit(5)
    want = everything(whole)
    run(tmp_path/'a', build, epochs=3)
    test_eq(everything(run(tmp_path/'a', build, resume=tmp_path/'a', epochs=5)), want)
    learn = build(CheckpointCB(tmp_path/'b'))
    learn.fit(1)
    learn.fit(2)                    # its own checkpoints are no obstacle
    test_eq(len(learn.history), 3)
    done = build(CheckpointCB(tmp_path/'b'))
    done.fit(2, resume=tmp_path/'b')
    test_eq(numbers(done), numbers(learn))

def test_nothing_left_to_do(tmp_path, capsys):
    first = run(tmp_path/'a', CASES['sgd_momentum'])
    want = everything(first)
    again = run(tmp_path/'a', CASES['sgd_momentum'], resume=tmp_path/'a')
    test_eq(everything(again), want)
    assert 'resumed from checkpoint-' in capsys.readouterr().out

@pytest.mark.parametrize('train, valid', [(True, False), (False, True)])
def test_passes(train, valid, tmp_path):
    learn = make([CheckpointCB(tmp_path)])
    learn.fit(2, train=train, valid=valid)
    other = make([CheckpointCB(tmp_path)])
    with pytest.raises(CheckpointError, match=f'train={train}, valid={valid}'): other.fit(3, resume=tmp_path)
    other = make([CheckpointCB(tmp_path)])
    other.fit(3, train=train, valid=valid, resume=tmp_path)
    test_eq(len(other.history), 3)

def test_persistent_workers_are_named(tmp_path):
    dls = (DataLoader(Noisy(X[:N], Y[:N]), BS, num_workers=1, persistent_workers=True), loaders()[1])
    with pytest.warns(UserWarning, match='persistent_workers'): make([CheckpointCB(tmp_path)], dls=dls).fit(1)

def test_loaders_of_unknown_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(X[i], Y[i]) for i in torch.randperm(N).tolist()])
    def build(cb): return make([cb], dls=(DataLoader(Stream(), BS), loaders()[1]))
    whole = build(Callback())
    whole.fit(2)
    run(tmp_path/'all', build, every=2, keep=None, epochs=2)
    want = everything(whole)
    for path in checkpoints(tmp_path/'all'): test_eq(everything(run(tmp_path/'next'/path.stem, build, resume=path, epochs=2)), want)

def test_a_list_of_batches_and_get_preds(tmp_path):
    batches = [(X[i:i+8], Y[i:i+8]) for i in range(0, 40, 8)]
    def build(cb): return make([cb], dls=(batches, batches[:1]))
    run(tmp_path/'all', build, every=2, keep=None)
    whole = build(Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    for path in checkpoints(tmp_path/'all'):
        resumed = run(tmp_path/'next'/path.stem, build, resume=path)
        test_eq(everything(resumed), want)
    assert resumed.get_preds()[0].shape == (8, 3)      # a trial run leaves the checkpoints alone

# -- the file

@pytest.fixture
def saved(tmp_path):
    learn = make()
    learn.fit(1)
    learn.save(tmp_path/'run.pt')
    return learn, tmp_path/'run.pt'

def test_plain():
    class Odd: pass
    x = torch.arange(6.).view(2, 3)
    got = checkpoint._plain(dict(a=x[:, 1], b=(1, True, None), c=np.float32(2.5), d=np.arange(3), e=Counter('aab'), f=nn.Parameter(x)))
    test_eq(got['a'], x[:, 1])
    assert got['a'].untyped_storage().nbytes() == 8 and got['a'].data_ptr() != x.data_ptr()       # a copy, and of no more than is needed
    assert [type(o) for o in got['b']] == [int, bool, type(None)] and type(got['c']) is float and type(got['e']) is Counter
    assert type(got['f']) is torch.Tensor and not got['f'].requires_grad
    for bad, where in ((dict(a=[1, Odd()]), "state['a'][1] is a Odd"), (dict(f=len), "state['f'] is a builtin_function_or_method"),
                       ({(1, Odd()): 2}, 'a key of state'), (dict(b=b'x'), "state['b'] is a bytes"), (dict(s={1}), "state['s'] is a set")):
        with pytest.raises(TypeError) as e: checkpoint._plain(bad)
        assert where in str(e.value)

def test_state_that_is_not_plain_is_refused_before_the_first_batch(tmp_path):
    class Keeps(Callback):
        batches = 0
        def after_batch(self, learn): self.batches += 1
        def state_dict(self): return dict(function=len)
        def load_state_dict(self, state): pass
    cb = Keeps()
    with pytest.raises(TypeError, match=r"state\['callbacks'\]\['Keeps'\]\['function'\]"): make([cb, CheckpointCB(tmp_path)]).fit(1)
    test_eq(cb.batches, 0)

def test_every_cut_and_every_flip_is_found(saved):
    path = saved[1]
    data = path.read_bytes()
    checkpoint._open_sealed(data, path)
    rng = random.Random(0)
    for n in [*range(200), *rng.sample(range(len(data)), 300), *range(len(data) - 200, len(data))]:
        with pytest.raises(CheckpointError): checkpoint._open_sealed(data[:n], path)
    bits = [*rng.sample(range(8*len(data)), 600), *range(8*(len(data) - 100), 8*len(data))]
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit//8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError): checkpoint._open_sealed(bytes(damaged), path)
    for more in (b'\0', data, b'miniai'):
        with pytest.raises(CheckpointError): checkpoint._open_sealed(data + more, path)

def test_foreign_files(saved, tmp_path):
    learn, path = saved
    torch.save(learn.model.state_dict(), tmp_path/'plain.pt')
    (tmp_path/'text.pt').write_text('hello')
    (tmp_path/'empty.pt').write_bytes(b'')
    for name in ('plain', 'text', 'empty'):
        with pytest.raises(CheckpointError, match=f'{name}.pt does not end with the seal'): read_checkpoint(tmp_path/f'{name}.pt')
    with pytest.raises(FileNotFoundError): read_checkpoint(tmp_path/'nowhere.pt')
    with pytest.raises(CheckpointError, match='CheckpointCB'): make().fit(1, resume=path)     # between two fits
    learn.save_weights(tmp_path/'w.pt')
    with pytest.raises(CheckpointError, match='use load_weights'): learn.load(tmp_path/'w.pt')

ran = []
def attack(*args): ran.append(args)
class Attack:
    def __reduce__(self): return attack, ('unpickled',)

@pytest.mark.parametrize('how', ['whole', 'inside', 'raw', 'weights'])
def test_nothing_is_unpickled(how, tmp_path, saved):
    path = tmp_path/'x.pt'
    if how == 'raw': path.write_bytes(pickle.dumps(Attack()))
    else:
        with open(path, 'wb') as f: checkpoint._write_sealed(dict(Attack=Attack(), format=1) if how != 'whole' else Attack(), f)
    for read in (read_checkpoint, saved[0].load, saved[0].load_weights):
        with pytest.raises(CheckpointError): read(path)
    test_eq(ran, [])
    torch.load(path, weights_only=False) if how != 'raw' else pickle.loads(path.read_bytes())
    assert ran.pop()      # it would have worked

def test_a_file_from_a_newer_version(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, '_FORMAT', 2)
    folder = tmp_path/'run'
    make([CheckpointCB(folder)]).fit(1)
    monkeypatch.undo()
    before = {p.name: p.read_bytes() for p in folder.glob('*.pt')}
    with pytest.raises(CheckpointError, match='format 2, from a newer miniai.*update miniai'): make().fit(2, resume=folder)
    test_eq({p.name: p.read_bytes() for p in folder.glob('*.pt')} == before, True)       # not taken for damaged

def test_pytorch_reads_the_file(saved):
    learn, path = saved
    state = torch.load(path, weights_only=True)
    test_eq(state['model']['state']['0.weight'], learn.model.state_dict()['0.weight'])
    import zipfile
    with zipfile.ZipFile(path) as z: assert z.comment.startswith(b'miniai-1-sha256-') and z.testzip() is None

# -- the wrong model, optimizer, callbacks, data

def test_another_model_is_named_and_left_alone(saved, tmp_path):
    path = saved[1]
    other = TrainLearner(nn.Sequential(nn.Linear(6, 13), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3, bias=False), nn.Linear(3, 3)), loaders())
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    for read in (other.load, other.load_weights):
        with pytest.raises(CheckpointError) as e: read(path)
        for part in ('0.weight: (12, 6) float32 in the file, (13, 6) float32 in the model', '4.bias: (3,) float32 in the file, not in the model',
                     '5.weight: (3, 3) float32 in the model, not in the file'): assert part in str(e.value)
        test_eq(other.model.state_dict(), before)
    double = TrainLearner(net().double(), loaders())
    with pytest.raises(CheckpointError, match='float32 in the file, .* float64 in the model'): double.load(path)

@pytest.mark.parametrize('build, wanted', [
    (lambda: make([one_cycle()], sgd), 'with the optimizer Adam, this fit has SGD'),
    (lambda: make([], optim.Adam), 'has the state of BatchSchedCB'),
    (lambda: make([one_cycle(), GradAccumCB(2)]), 'has nothing for GradAccumCB'),
    (lambda: make([one_cycle()], metrics=HistoryCB()), 'has the metrics loss, accuracy, this fit has loss'),
    (lambda: make([one_cycle()], metrics=MetricsCB(accuracy=Accuracy())), 'has the state of HistoryCB'),
    (lambda: make([one_cycle()], dls=(DataLoader(Noisy(X[:16], Y[:16]), BS), loaders()[1])), 'made with 5 batches in a pass, this loader has 2'),
    (lambda: make([one_cycle()], opt=lambda ps, lr: optim.Adam([dict(params=[p]) for p in ps], lr)), 'other groups of parameters'),
])
def test_another_run_is_refused(build, wanted, tmp_path):
    learn = make([one_cycle(), CheckpointCB(tmp_path, every=3), Stumble('before_batch', 1, 4)])
    with pytest.raises(RuntimeError): learn.fit(3)
    with pytest.raises(ValueError) as e: build().fit(3, resume=tmp_path)
    assert wanted in str(e.value)

def test_a_shorter_stream_is_refused(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, n): self.n = n
        def __iter__(self): return iter([(X[i], Y[i]) for i in range(self.n)])
    with pytest.raises(RuntimeError): make([CheckpointCB(tmp_path, every=3), Stumble('before_batch', 1, 4)], dls=(DataLoader(Stream(N), BS), loaders()[1])).fit(3)
    with pytest.raises(CheckpointError, match='after 3 batches, but this loader gives only 2'): make(dls=(DataLoader(Stream(16), BS), loaders()[1])).fit(3, resume=tmp_path)

def test_resume_needs_something_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint in'): make().fit(1, resume=tmp_path)
    with pytest.raises(FileNotFoundError): make().fit(1, resume=tmp_path/'nowhere')
    code = "from miniai.learner import TrainLearner; from torch import nn; TrainLearner(nn.Linear(1, 1)).fit(1, resume='x')"
    assert 'import miniai.checkpoint' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr

# -- save and load

def test_save_and_load_everything(saved, tmp_path):
    learn, path = saved
    learn.save(path)
    numbers_next = torch.rand(2), np.random.rand(), random.random()
    other = make(opt=optim.Adam)
    other.load(path)
    test_eq((torch.rand(2), np.random.rand(), random.random()), numbers_next)
    learn.load(path)
    want = everything(learn)
    other.load(path)
    test_eq(everything(other), want)
    assert other.opt.state_dict()['state'][0]['exp_avg'].equal(learn.opt.state_dict()['state'][0]['exp_avg'])

def test_weights_of_all_kinds(saved, tmp_path):
    learn, path = saved
    torch.save(learn.model.state_dict(), tmp_path/'plain.pt')
    learn.save_weights(tmp_path/'sealed.pt')
    for p in (path, tmp_path/'plain.pt', tmp_path/'sealed.pt'):
        other = make()
        other.load_weights(p)
        test_eq(other.model.state_dict(), learn.model.state_dict())
    torch.save([1], tmp_path/'list.pt')
    with pytest.raises(CheckpointError, match='holds a list'): learn.load_weights(tmp_path/'list.pt')
    (tmp_path/'junk.pt').write_bytes(b'junk')
    with pytest.raises(CheckpointError, match='no file of weights'): learn.load_weights(tmp_path/'junk.pt')

def test_buffers_outside_the_state_dict_and_tied_weights(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer('seen', torch.zeros(()), persistent=False)
        def forward(self, x):
            self.seen += 1
            return self.b(self.a(x))
    set_seed(0)
    one, two = TrainLearner(Odd(), loaders()), TrainLearner(Odd(), loaders())
    one.model(torch.ones(1, 3))
    one.save(tmp_path/'x.pt')
    two.load(tmp_path/'x.pt')
    test_eq((two.model.seen, two.model.a.weight), (one.model.seen, one.model.a.weight))
    assert two.model.b.weight is two.model.a.weight

# -- the folder

def test_keep_and_best(tmp_path):
    learn = make([CheckpointCB(tmp_path/'a', every=2, keep=3, best='valid_accuracy'), CSVLoggerCB(tmp_path/'h.csv')])
    learn.fit(4)
    test_eq([p.name for p in checkpoints(tmp_path/'a')], [f'checkpoint-{i:06}.pt' for i in (10, 11, 12)])
    best = make()
    best.load(tmp_path/'a'/'best.pt')
    values = [row['valid_accuracy'] for row in learn.history]
    test_eq(len(best.history), values.index(max(values)) + 1)
    for kw in (dict(every=0), dict(keep=0), dict(best='valid_bleu'), dict(best='valid_loss', mode='down')):
        with pytest.raises(ValueError): CheckpointCB(tmp_path, **kw)
    with pytest.raises(ValueError, match="no number 'valid_f1' in the history"): make([CheckpointCB(tmp_path/'b', best='valid_f1')]).fit(1)
    with pytest.raises(ValueError, match='one is enough'): make([CheckpointCB(tmp_path/'c'), CheckpointCB(tmp_path/'d')]).fit(1)

def test_best_after_a_resume(tmp_path):
    def build(cb): return make([cb], sgd)
    whole = build(CheckpointCB(tmp_path/'whole', best='valid_loss'))
    whole.fit(6)
    for stop in (2, 4):
        part = build(CheckpointCB(tmp_path/f'p{stop}', best='valid_loss'))
        part.add_cbs(Stumble('before_batch', stop, 3))
        with pytest.raises(RuntimeError): part.fit(6)
        build(CheckpointCB(tmp_path/f'p{stop}', best='valid_loss')).fit(6, resume=tmp_path/f'p{stop}')
        a, b = (read_checkpoint(tmp_path/f/'best.pt') for f in ('whole', f'p{stop}'))
        test_eq((a['position']['epoch'], a['model']['state']), (b['position']['epoch'], b['model']['state']))

def test_another_run_is_not_overwritten(tmp_path):
    run(tmp_path/'a', CASES['amsgrad'])
    run(tmp_path/'b', CASES['amsgrad'])
    before = {p: p.read_bytes() for p in tmp_path.rglob('*.pt')}
    with pytest.raises(FileExistsError, match='already holds 2 checkpoints of another run'): run(tmp_path/'a', CASES['amsgrad'])
    with pytest.raises(FileExistsError, match='another run'): run(tmp_path/'a', CASES['amsgrad'], resume=tmp_path/'b')
    test_eq({p: p.read_bytes() for p in tmp_path.rglob('*.pt')} == before, True)

def test_remains_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path/'.checkpoint-000003.pt.0123abcd.tmp').write_bytes(b'half')
    (tmp_path/'notes.tmp').write_text('mine')
    make([CheckpointCB(tmp_path)]).fit(1)
    test_eq(sorted(p.name for p in tmp_path.iterdir()), ['.lock', 'checkpoint-000000.pt', 'checkpoint-000001.pt', 'notes.tmp'])

@linux
def test_two_processes_cannot_write_to_one_folder(tmp_path):
    code = f'''
import fcntl, sys
f = open({str(tmp_path/'.lock')!r}, 'a')
fcntl.lockf(f, fcntl.LOCK_EX)
print('locked', flush=True)
sys.stdin.read()
'''
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        p.stdout.readline()
        with pytest.raises(RuntimeError, match='another process is writing'): make([CheckpointCB(tmp_path)]).fit(1)
        p.kill()
    make([CheckpointCB(tmp_path)]).fit(1)      # the lock died with its process

@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty'])
def test_damaged_newest_falls_back(damage, tmp_path, capsys):
    build = CASES['adam_onecycle']
    whole = build(Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    learn = build(CheckpointCB(tmp_path, every=2))
    learn.add_cbs(Stumble('before_batch', 2, 3))
    with pytest.raises(RuntimeError): learn.fit(EPOCHS)
    newest = checkpoints(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data)//2] ^= 1
    newest.write_bytes(dict(flip=data, cut=data[:1000], empty=b'')[damage])
    resumed = run(tmp_path, build, resume=tmp_path)
    test_eq(everything(resumed), want)
    out = capsys.readouterr().out
    assert newest.name in out and 'trying the one before' in out
    assert (tmp_path/f'{newest.name}.damaged').exists()

def test_all_damaged(tmp_path):
    make([CheckpointCB(tmp_path)]).fit(1)
    for p in checkpoints(tmp_path): p.write_bytes(b'')
    with pytest.raises(CheckpointError, match='none of the 2 checkpoints'): make().fit(2, resume=tmp_path)
    assert len(list(tmp_path.glob('*.damaged'))) == 2

# -- what users do

class Cancel(Callback):
    "Cancel a validation pass in its second batch, in some epochs"
    def __init__(self, *epochs): self.epochs = epochs
    def after_predict(self, learn):
        if not learn.training and learn.iter == 1 and learn.epoch in self.epochs: raise CancelEpochException()

@pytest.mark.parametrize('epochs', [(0, 1, 2), (1,), (2,)])
def test_canceled_validation_loses_nothing(epochs, tmp_path):
    def build(cb): return make([Cancel(*epochs), CSVLoggerCB(tmp_path/'h.csv'), cb])
    learn = build(CheckpointCB(tmp_path/'a', keep=None))
    learn.fit(3)
    test_eq([read_checkpoint(p)['position']['epoch'] for p in checkpoints(tmp_path/'a')][-1], 3)
    assert len(checkpoints(tmp_path/'a')) == 4
    test_eq([row['epoch'] for row in rows(tmp_path/'h.csv')], [row['epoch'] for row in learn.history])
    want = numbers(learn)
    for path in checkpoints(tmp_path/'a'): test_eq(repr(numbers(run(tmp_path/'next'/path.stem, build, resume=path))), repr(want))

def test_a_foreign_table_is_not_deleted_by_a_resume_in_the_first_epoch(tmp_path):
    (tmp_path/'h.csv').write_text('epoch,train_loss\n0,1.5\n')
    with pytest.raises(RuntimeError): make([CheckpointCB(tmp_path/'a', every=1), Stumble('before_batch', 0, 3)]).fit(1)
    make([CheckpointCB(tmp_path/'a'), CSVLoggerCB(tmp_path/'h.csv')]).fit(1, resume=tmp_path/'a')
    test_eq((tmp_path/'h.csv.old').read_text(), 'epoch,train_loss\n0,1.5\n')
    test_eq(len(rows(tmp_path/'h.csv')), 1)

def test_a_table_in_a_new_folder(tmp_path):
    make([CSVLoggerCB(tmp_path/'new'/'h.csv')]).fit(1)
    test_eq(len(rows(tmp_path/'new'/'h.csv')), 1)

def test_best_is_written_before_the_epoch_counts_as_done(tmp_path, monkeypatch):
    "Killed between the two files, the epoch's end comes again"
    real, names = checkpoint._write, []
    monkeypatch.setattr(checkpoint, '_write', lambda path, state: (names.append(Path(path).name), real(path, state)))
    make([CheckpointCB(tmp_path, best='train_loss')]).fit(1)
    test_eq(names, ['checkpoint-000000.pt', 'best.pt', 'checkpoint-000001.pt'])

def test_best_over_several_fits(tmp_path):
    learn = make([CheckpointCB(tmp_path, best='valid_loss')])
    learn.fit(3)
    best = min(row['valid_loss'] for row in learn.history)
    learn.fit(1, lr=5.)
    test_eq(read_checkpoint(tmp_path/'best.pt')['history']['rows'][-1]['valid_loss'], min(best, learn.history[-1]['valid_loss']))

def test_another_number_of_epochs(tmp_path):
    with pytest.raises(RuntimeError): make([one_cycle(), CheckpointCB(tmp_path/'a'), Stumble('before_batch', 2, 1)]).fit(4)
    for n in (3, 6):
        with pytest.raises(CheckpointError, match=rf'a fit of 4 epochs, this is one of {n}; its schedule .* go on with fit\(4'): make([one_cycle()]).fit(n, resume=tmp_path/'a')
    with pytest.raises(RuntimeError): make([CheckpointCB(tmp_path/'b'), Stumble('before_batch', 2, 1)]).fit(4)
    with pytest.raises(CheckpointError, match='too early'): make().fit(2, resume=tmp_path/'b')

def test_the_same_callback_does_not_overwrite_a_run_that_failed(tmp_path):
    cb = CheckpointCB(tmp_path)
    stop = EarlyStoppingCB('valid_loss', patience=1, mode='max')
    with pytest.raises(RuntimeError): make([cb, stop, Stumble('before_batch', 1, 1)]).fit(3)
    for _ in range(2):
        with pytest.raises(FileExistsError): make([cb, stop]).fit(3)
    learn = make([cb, stop])
    learn.fit(3, resume=tmp_path)
    learn.fit(1)        # after a fit that has ended, or was ended by a callback

def test_files_of_the_user_are_no_checkpoints(tmp_path):
    for name in ('checkpoint-000007-good.pt', 'checkpoint-000004 (1).pt', 'checkpoint-.pt'): (tmp_path/name).write_text('mine')
    make([CheckpointCB(tmp_path, keep=1)]).fit(2)
    test_eq(sorted(p.name for p in tmp_path.glob('*.pt')), ['checkpoint-.pt', 'checkpoint-000002.pt', 'checkpoint-000004 (1).pt', 'checkpoint-000007-good.pt'])

def test_relative_folders_stay_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'elsewhere').mkdir()
    class Move(Callback):
        def before_epoch(self, learn): os.chdir(tmp_path/'elsewhere')
    make([CheckpointCB('run'), CSVLoggerCB('h.csv'), Move()]).fit(1)
    assert len(checkpoints(tmp_path/'run')) == 2 and len(rows(tmp_path/'h.csv')) == 1 and not list((tmp_path/'elsewhere').iterdir())
    monkeypatch.setenv('HOME', str(tmp_path))
    make([CheckpointCB('~/home')]).fit(1)
    assert len(checkpoints(tmp_path/'home')) == 2

def test_no_memory_is_no_damage(tmp_path, monkeypatch):
    make([CheckpointCB(tmp_path)]).fit(1)
    def full(*args, **kw): raise RuntimeError("can't allocate memory")
    monkeypatch.setattr(torch, 'load', full)
    with pytest.raises(RuntimeError, match='allocate memory'): make().fit(2, resume=tmp_path)
    assert len(checkpoints(tmp_path)) == 2 and not list(tmp_path.glob('*.damaged'))

def test_ignored_signals_stay_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    class Send(Callback):
        def after_predict(self, learn): signal.raise_signal(signal.SIGINT)
    try: make([CheckpointCB(tmp_path), Send()]).fit(1)
    finally: signal.signal(signal.SIGINT, before)

def test_one_folder_one_learner_one_fit(tmp_path):
    class Nested(Callback):
        def __init__(self, cb): self.cb = cb
        def before_batch(self, learn): make([self.cb]).fit(1)
    cb, handler = CheckpointCB(tmp_path/'a'), signal.getsignal(signal.SIGTERM)
    for inner, wanted in ((cb, 'in the middle of another fit'), (CheckpointCB(tmp_path/'a'), 'another Learner is writing')):
        shutil.rmtree(tmp_path/'a', ignore_errors=True)
        with pytest.raises(RuntimeError, match=wanted): make([cb, Nested(inner)]).fit(1)
        assert signal.getsignal(signal.SIGTERM) is handler
    make([CheckpointCB(tmp_path/'b')]).fit(1)

def test_other_generators(saved, tmp_path):
    learn, path = saved
    other = make(dls=(DataLoader(Noisy(X[:N], Y[:N]), BS, shuffle=True, generator=torch.Generator()), loaders()[1]))
    other.load(path)        # to look at it, or to predict, other loaders will do
    make([CheckpointCB(tmp_path/'a')]).fit(1)
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    with pytest.raises(CheckpointError, match='0 random generators of their own, those of this fit have 1'): other.fit(2, resume=tmp_path/'a')
    test_eq(other.model.state_dict(), before)

def test_a_fit_without_training(tmp_path):
    learn = make([one_cycle()])
    learn.fit(1)
    learn.fit(2, train=False, cbs=CheckpointCB(tmp_path))
    make([one_cycle(), CheckpointCB(tmp_path)]).fit(2, train=False, resume=tmp_path)
    fresh = make()
    fresh.save(tmp_path/'fresh.pt')
    learn.load(tmp_path/'fresh.pt')
    assert learn.opt is None

def test_plateau_is_refused():
    with pytest.raises(TypeError, match='ReduceLROnPlateau'): make([EpochSchedCB(optim.lr_scheduler.ReduceLROnPlateau)]).fit(1)

# -- disks

def limited(code, tmp_path):
    "Run code in a process that may not write more than 60 kB to a file"
    head = f'''
import sys
sys.path.insert(0, {str(ROOT/'tests')!r})
from test_checkpoint import *
path = Path({str(tmp_path)!r})
'''
    return subprocess.run([sys.executable, '-c', head + code], capture_output=True, text=True, cwd=ROOT)

@linux
def test_disk_full(tmp_path):
    res = limited('''
import resource
learn = TrainLearner(nn.Sequential(nn.Linear(6, 3)), loaders(), F.cross_entropy, cbs=[CheckpointCB(path, every=1)])
class Grow(Callback):
    def before_batch(self, learn):
        if learn.training and learn.iter == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
learn.add_cbs(Grow())
try: learn.fit(1)
except OSError as e: print(e.errno, e)
print(len(checkpoints(path)), [read_checkpoint(p)["position"]["done"] for p in checkpoints(path)], list(path.glob(".*tmp")))
''', tmp_path)
    assert f'{errno.EFBIG} ' in res.stdout and 'could not be written' in res.stdout and 'Make room' in res.stdout, res.stderr
    assert '2 [2, 3] []' in res.stdout

@linux
def test_tiny_disk(tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk], capture_output=True).returncode: pytest.skip('needs the right to mount')
    try:
        learn = TrainLearner(nn.Linear(6, 3), loaders(), F.cross_entropy, cbs=[CheckpointCB(disk, every=1, keep=None)])
        with pytest.raises(OSError, match='could not be written: No space left') as e: learn.fit(5)
        test_eq(e.value.errno, errno.ENOSPC)
        found = checkpoints(disk)
        assert len(found) >= 1 and not list(disk.glob('.*.tmp'))
        for p in found: read_checkpoint(p)
    finally: subprocess.run(['umount', disk], check=True)

def test_overwriting_keeps_the_old_file(saved, monkeypatch):
    learn, path = saved
    before = path.read_bytes()
    def full(state, file):
        file.write(b'half a file')
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(checkpoint, '_write_sealed', full)
    with pytest.raises(OSError, match='the file of that name is as it was'): learn.save(path)
    test_eq(path.read_bytes() == before, True)
    test_eq([p.name for p in path.parent.iterdir()], [path.name])

def test_the_file_is_on_the_disk_before_it_gets_its_name(saved, monkeypatch):
    learn, path = saved
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (done.append(os.readlink(f'/proc/self/fd/{fd}') if sys.platform == 'linux' else 'file'), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (done.append('replace'), replace(a, b)))
    learn.save(path)
    assert done[1] == 'replace' and len(done) == 3
    if sys.platform == 'linux': assert done[0].endswith('.tmp') and done[2] == str(path.parent)

@linux
def test_read_only_folder(tmp_path):
    code = '''
import tempfile
learn = TrainLearner(nn.Linear(6, 3), loaders(), F.cross_entropy)
learn.fit(1)          # all is imported now
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    folder.chmod(0o555)
    if os.getuid() == 0: os.seteuid(65534)
    for out in (folder, folder/'new'):
        try: learn.fit(1, cbs=CheckpointCB(out))
        except OSError as e: print(type(e).__name__, str(e).replace(str(folder), 'FOLDER'))
    try: learn.save(folder/'x.pt')
    except OSError as e: print(type(e).__name__, str(e).replace(str(folder), 'FOLDER'))
    os.seteuid(os.getuid())
    folder.chmod(0o755)
'''
    lines = [line for line in limited(code, tmp_path).stdout.splitlines() if 'Error' in line]
    assert len(lines) == 3 and all(line.startswith('PermissionError') for line in lines), lines
    assert 'FOLDER cannot be written to' in lines[0] and 'FOLDER/x.pt could not be written' in lines[2]

# -- signals

class Signal(Callback):
    "Send a signal to this process at an event"
    def __init__(self, event, signum, epoch=1, batch=2, training=True):
        self.signum, self.at = signum, (epoch, None if event.endswith('_epoch') else batch, training)
        setattr(self, event, self._send)
    def _send(self, learn):
        epoch, batch, training = self.at
        if (learn.epoch, learn.training) == (epoch, training) and batch in (None, learn.iter): signal.raise_signal(self.signum)

@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('event', [e for e in EVENTS if e not in ('predict', 'get_loss', 'backward', 'step', 'zero_grad') and not e.endswith('_fit')])
def test_a_signal_at_any_event(event, training, tmp_path):
    if not training and event in ('after_backward', 'after_step'): pytest.skip('does not happen in validation')
    build = CASES['adam_onecycle']
    whole = build(Callback())
    whole.fit(EPOCHS)
    want = everything(whole)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    batch = 2 if training else 1
    learn = build(CheckpointCB(tmp_path))
    learn.add_cbs(Signal(event, signal.SIGTERM, 1, batch, training))
    with pytest.raises(SystemExit) as e: learn.fit(EPOCHS)
    test_eq(e.value.code, 143)
    test_eq([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers, True)
    at = read_checkpoint(checkpoints(tmp_path)[-1])['position']
    if event.endswith('batch') or event.startswith('after_l') or event.startswith('after_p'):
        last = event == 'cleanup_batch' and training       # noticed when the next one is done
        if training: test_eq((at['epoch'], at['training'], at['done']), (1, True, batch + 1 + last))
    test_eq(everything(run(tmp_path, build, resume=tmp_path)), want)

def test_a_signal_at_the_end_is_not_swallowed(tmp_path):
    class Late(Callback):
        def after_fit(self, learn): signal.raise_signal(signal.SIGINT)
    learn = make([CheckpointCB(tmp_path), Late()])
    with pytest.raises(KeyboardInterrupt): learn.fit(1)
    test_eq(len(learn.history), 1)

def test_the_second_signal_is_obeyed_at_once(tmp_path):
    class Twice(Callback):
        after = False
        def after_predict(self, learn):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            self.after = True
    cb = Twice()
    with pytest.raises(KeyboardInterrupt): make([CheckpointCB(tmp_path), cb]).fit(1)
    test_eq(cb.after, False)

def test_a_worker_process_does_not_write_checkpoints(monkeypatch):
    signals, called = checkpoint._Signals(), []
    signals.start(called.append)
    try:
        monkeypatch.setattr(signals, 'pid', 0)      # as if this process had been forked off
        with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)
    finally: signals.stop()
    test_eq(called, [])

def test_in_a_thread_signals_are_left_alone(tmp_path):
    handlers, seen = signal.getsignal(signal.SIGTERM), []
    class Look(Callback):
        def after_batch(self, learn): seen.append(signal.getsignal(signal.SIGTERM))
    t = threading.Thread(target=lambda: make([CheckpointCB(tmp_path), Look()]).fit(1))
    t.start()
    t.join()
    assert set(seen) == {handlers} and len(checkpoints(tmp_path)) == 2

PROGRAM = '''
import sys, time
sys.path.insert(0, sys.argv[1])
from test_checkpoint import *
torch.set_num_threads(1)
out, workers, wait = Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
class Slow(Noisy):
    def __getitem__(self, i):
        time.sleep(wait)
        return super().__getitem__(i)
class Say(Callback):
    def after_batch(self, learn): print(learn.epoch, learn.iter, flush=True)
learn = make([one_cycle(), CheckpointCB(out), Say()], dls=loaders(workers, ds=Slow))
learn.fit(EPOCHS, resume=out if checkpoints(out) else None)
'''

def program(tmp_path, workers, wait):
    (tmp_path/'program.py').write_text(PROGRAM)
    return subprocess.Popen([sys.executable, tmp_path/'program.py', ROOT/'tests', tmp_path/'out', str(workers), str(wait)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)

def left_over(sessions):
    "Processes that still run in one of the sessions"
    found = []
    for p in Path('/proc').glob('[0-9]*/stat'):
        try: fields = p.read_text().rpartition(')')[2].split()
        except OSError: continue
        if int(fields[3]) in sessions and fields[0] != 'Z': found.append(p.parent.name)
    return found

@linux
@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('workers, wait', [(0, 0.01), (2, 0.01), (2, 0.8)])
def test_a_process_that_is_asked_to_stop(signum, workers, wait, tmp_path):
    "Also while workers take seconds for a batch: 8 items of 0.8 seconds"
    p = program(tmp_path, workers, wait)
    while (line := p.stdout.readline()) and not line.startswith('0 2'): pass
    assert line, p.stderr.read()
    time.sleep(0.1)
    os.kill(p.pid, signum)
    start = time.monotonic()
    p.wait(20)
    assert time.monotonic() - start < 5 or wait < 0.1, 'it waited for the workers'     # a batch takes 6.4 seconds
    assert p.returncode in ((143,) if signum == signal.SIGTERM else (-signal.SIGINT, 1))   # 1 where a package runs code at exit, as PyTorch with tabulate
    at = read_checkpoint(checkpoints(tmp_path/'out')[-1])['position']
    last = [line for line in p.stdout.read().splitlines() if line[0].isdigit()][-1:] or [line]
    epoch, i = [int(o) for o in last[-1].split()]
    if at['done']: test_eq((at['epoch'], at['done'] - 1), (epoch, i))
    else: assert (at['epoch'], at['training'], i) == (epoch, False, N//BS - 1)      # between training and validation
    while left_over({p.pid}) and time.monotonic() - start < 12: time.sleep(0.1)
    test_eq(left_over({p.pid}), [])

# -- real kills

@linux
@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits():
    "The benchmark, with few kills: two optimizers, 0 and 2 workers"
    res = subprocess.run([sys.executable, ROOT/'benchmarks/resume.py', '--kills', '8'], capture_output=True, text=True, cwd=ROOT)
    assert res.returncode == 0, res.stdout + res.stderr
    assert 'processes left over: 0' in res.stdout and len(res.stdout.splitlines()) == 6

@linux
@pytest.mark.slow
def test_the_command_survives(tmp_path):
    "`miniai train --out DIR --resume`, killed while it trains, ends with the files of a run that was not"
    code = 'import sys; from miniai.cli import main; sys.exit(main(sys.argv[1:]))'
    def command(out, *args): return [sys.executable, '-c', code, 'train', '--out', str(tmp_path/out), *args]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    settings = ['--model', 'mlp', '--epochs', '12', '--bs', '16', '--every', '5']
    quiet = subprocess.run(command('quiet', *settings), capture_output=True, text=True, env=env)
    assert quiet.returncode == 0, quiet.stderr
    args, folder, kills = settings, tmp_path/'killed'/'checkpoints', 0
    rng = random.Random(0)
    while kills < 3:
        seen = checkpoints(folder)[-1:]
        p = subprocess.Popen(command('killed', *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        while checkpoints(folder)[-1:] == seen and p.poll() is None: time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        p.kill()
        p.wait()
        args, kills = ['--resume'], kills + 1
        for path in checkpoints(folder): read_checkpoint(path)
        assert checkpoints(folder)
    refused = subprocess.run(command('killed', *settings), capture_output=True, text=True, env=env)
    assert refused.returncode == 2 and 'go on with it, --resume' in refused.stderr
    last = subprocess.run(command('killed', '--resume'), capture_output=True, text=True, env=env)
    assert last.returncode == 0 and 'resumed from checkpoint-' in last.stdout, last.stderr
    assert last.stdout.splitlines()[-1] == quiet.stdout.splitlines()[-1]
    a, b = (torch.load(tmp_path/out/'weights.pt', weights_only=True) for out in ('quiet', 'killed'))
    assert all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()
    def table(out): return [line.rsplit(',', 1)[0] for line in (tmp_path/out/'history.csv').read_text().splitlines()]      # without the times
    test_eq(table('killed'), table('quiet'))

# -- early stopping, tables, TensorBoard

class Scripted(Callback):
    "Put given numbers into the history"
    order = -4
    def __init__(self, values): self.values = values
    def after_epoch(self, learn):
        if not learn.training: learn.history[-1]['valid_loss'] = self.values[len(learn.history) - 1]

@pytest.mark.parametrize('values, kw, epochs', [
    ([5, 4, 3, 2, 1, 0.], {}, 6), ([5, 4, 4, 4, 4, 4.], dict(patience=2), 4), ([5, 5, 5, 5, 5, 5.], dict(patience=1), 2),
    ([5, 4.9, 4.8, 4.7, 4.6, 4.5], dict(patience=2, min_delta=0.15), 6), ([5, 4.9, 4.9, 4.8, 4.7, 4.6], dict(patience=2, min_delta=0.5), 3),
    ([1, 2, 3, 4, 5, 6.], dict(patience=2, mode='max'), 6), ([1, 2, 3, 4, 5, 6.], dict(patience=2, mode='min'), 3), ([math.nan]*6, dict(patience=2), 2),
])
def test_early_stopping(values, kw, epochs, tmp_path, capsys):
    def build(cb): return make([Scripted(values), EarlyStoppingCB(**kw), cb])
    learn = run(tmp_path/'a', build, epochs=6)
    test_eq(len(learn.history), epochs)
    assert ('stopped after' in capsys.readouterr().out) == (epochs < 6)
    broken = build(CheckpointCB(tmp_path/'b', every=1))
    broken.add_cbs(Stumble('before_batch', 1, 2))
    with pytest.raises(RuntimeError): broken.fit(6)
    test_eq(repr(numbers(run(tmp_path/'b', build, resume=tmp_path/'b', epochs=6))), repr(numbers(learn)))
    again = run(tmp_path/'a', build, resume=tmp_path/'a', epochs=6)       # stopped is stopped
    test_eq(len(again.history), epochs)

def test_early_stopping_refuses(tmp_path):
    with pytest.raises(ValueError, match='patience'): EarlyStoppingCB(patience=0)
    with pytest.raises(ValueError, match='Say mode='): EarlyStoppingCB('valid_bleu')
    with pytest.raises(ValueError, match='valid_loss'): make([EarlyStoppingCB()]).fit(2, valid=False)

def rows(path): return History.from_csv(path)

@pytest.mark.parametrize('stop', [(0, 3), (1, 0), (2, 4)])
def test_csv_over_a_resume(stop, tmp_path):
    file = tmp_path/'h.csv'
    def build(cb): return make([CSVLoggerCB(file), cb])
    learn = build(CheckpointCB(tmp_path/'run', every=10))      # at the ends of epochs only
    learn.add_cbs(Stumble('before_batch', *stop))
    with pytest.raises(RuntimeError): learn.fit(3)
    test_eq(len(rows(file)) if file.exists() else 0, stop[0])
    resumed = run(tmp_path/'run', build, resume=tmp_path/'run')
    test_eq([row['epoch'] for row in rows(file)], [0, 1, 2])
    test_close([row['train_loss'] for row in rows(file)], [row['train_loss'] for row in resumed.history])

def test_csv_rows_that_come_again_are_replaced(tmp_path):
    "The file is ahead of the checkpoint, behind it, or ends in the middle of a line"
    file = tmp_path/'h.csv'
    def build(cb): return make([CSVLoggerCB(file), cb])
    run(tmp_path/'run', build, keep=None)
    full, found = file.read_bytes(), checkpoints(tmp_path/'run')
    want = [row['train_loss'] for row in rows(file)]
    for content in (full, full[:-7], full.split(b'\n')[0] + b'\n', b''):
        for path in found:
            file.write_bytes(content)
            build(Callback()).fit(3, resume=path)
            test_close([row['train_loss'] for row in rows(file)], want, 0)

def test_csv_leaves_other_files_alone(tmp_path):
    file = tmp_path/'h.csv'
    for content in ('epoch,train_loss\n0,1.5\n', 'a note without an end', 'one\ntwo\n'):
        file.write_text(content)
        with pytest.raises(FileExistsError, match='another run'): make([CSVLoggerCB(file)]).fit(1)
        test_eq(file.read_text(), content)
    file.unlink()
    learn = make([CSVLoggerCB(file)])
    learn.fit(1)
    learn.fit(2)
    learn.fit(1, valid=False)
    learn.add_cbs(Scripted([0.]*9))
    test_eq([row['epoch'] for row in rows(file)], [0, 1, 2, 3])
    other = make([CSVLoggerCB(file)])
    other.fit(0)
    assert len(rows(file)) == 4

def test_csv_is_flushed_each_epoch(tmp_path):
    seen = []
    class Look(Callback):
        order = 50
        def after_epoch(self, learn):
            if not learn.training: seen.append(len(rows(tmp_path/'h.csv')))
    make([CSVLoggerCB(tmp_path/'h.csv'), Look()]).fit(3)
    test_eq(seen, [1, 2, 3])

def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    def build(cb): return make([TensorBoardCB(tmp_path/'tb'), cb])
    learn = build(CheckpointCB(tmp_path/'run', every=2))
    learn.add_cbs(Stumble('before_batch', 1, 3))
    with pytest.raises(RuntimeError): learn.fit(2)
    run(tmp_path/'run', build, resume=tmp_path/'run', epochs=2)
    for p in checkpoints(tmp_path/'run')[-1:]: p.unlink()       # go back to the middle of the last epoch, which has been logged
    resumed = run(tmp_path/'run', build, resume=tmp_path/'run', epochs=2)
    events = EventAccumulator(str(tmp_path/'tb')).Reload()
    batches = events.Scalars('train_loss/batch')
    test_eq([e.step for e in batches], list(range(1, 11)))
    test_close([e.value for e in batches], resumed.history.losses, 1e-6)
    test_close([e.value for e in events.Scalars('valid_accuracy')], [row['valid_accuracy'] for row in resumed.history], 1e-6)

def test_tensorboard_is_optional():
    code = '''
import sys
sys.modules['tensorboard'] = None
from test_checkpoint import *
try: make([TensorBoardCB('nowhere')]).fit(1)
except ImportError as e: print(e)
'''
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT/'tests')
    assert 'pip install tensorboard' in res.stdout and not (ROOT/'tests/nowhere').exists()
