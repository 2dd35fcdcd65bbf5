"Hostile and unlucky input: workers that fail or die, files that lie, callbacks that raise, threads, forks, and the same bits again"
import gc
import hashlib
import importlib.util
import io
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate, get_worker_info

from miniai.callbacks import EVENTS, STEPS, Callback
from miniai.learner import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    GradAccumCB,
    Learner,
    MetricsCB,
    MomentumLearner,
    TrainCB,
    TrainLearner,
)
from miniai.testing import test_eq
from miniai.training import Dataset, get_dls

ROOT = Path(__file__).parents[1]
STARTS = [o for o in ('fork', 'spawn', 'forkserver') if o in mp.get_all_start_methods()]
posix = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')

def gen(seed=0): return torch.Generator().manual_seed(seed)
def weights(model): return [p.detach().clone() for p in model.parameters()]
def digest(model): return hashlib.sha256(b''.join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()
def quiet_fit(learn, *args, **kw):
    with redirect_stdout(io.StringIO()): learn.fit(*args, **kw)

def net(ni=4, nc=3, seed=7):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(ni, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, nc))

def clouds(n, seed=0):
    y = torch.randint(3, (n,), generator=gen(seed))
    return Dataset(torch.randn(n, 4, generator=gen(seed + 1)) + F.one_hot(y, 4), y)


# ---- items and workers that fail

class Odd(Exception):
    "An exception that cannot be made from one text"
    def __init__(self, a, b): super().__init__(a, b)

FAULTS = dict(ValueError=lambda: int('seven'), KeyError=lambda: {}['k'], OSError=lambda: open('/no/such/file'), UnicodeDecodeError=lambda: b'\xff'.decode(),
              StopIteration=lambda: next(iter(())), Odd=lambda: (_ for _ in ()).throw(Odd(1, 2)), exit=lambda: os._exit(3),
              kill=lambda: os.kill(os.getpid(), signal.SIGKILL), quit=lambda: sys.exit(0), none=lambda: None)

class Items:
    "Numbers and their squares; the one number `at` fails"
    def __init__(self, n=12, at=7, fault='ValueError', slow=0): self.n, self.at, self.fault, self.slow = n, at, fault, slow
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i == self.at:
            time.sleep(self.slow)
            FAULTS[self.fault]()
        return i, torch.tensor(i*i)

class ManyItems(Items):
    "The same, fetched a batch at a time"
    def __getitems__(self, idxs): return [self[i] for i in idxs]

class OnlyTogether(Items):
    "Fails for a batch, and for no item of it alone"
    def __getitems__(self, idxs): raise ValueError('not together')

def said(e): return ''.join(traceback.format_exception(e))
def valid_dl(ds, **kw): return get_dls(ds, ds, bs=2, **kw)[1]     # in order, 4 at a time

def check_workers_end(seconds=4, but=()):
    end = time.time() + seconds
    while (left := set(mp.active_children()) - set(but)) and time.time() < end: time.sleep(0.02)
    assert not left

@pytest.fixture
def nothing_left():
    "No process and no shared memory stays behind"
    before = set(mp.active_children()), set(os.listdir('/dev/shm')) if os.path.isdir('/dev/shm') else set()
    yield
    gc.collect()        # the traceback of an error holds the iterator, and the iterator its workers
    check_workers_end(20, but=before[0])
    if os.path.isdir('/dev/shm'): assert not [o for o in set(os.listdir('/dev/shm')) - before[1] if o.startswith(('torch_', 'pym-'))]

@pytest.mark.parametrize('fault, exc', [('ValueError', ValueError), ('KeyError', KeyError), ('OSError', FileNotFoundError),
                                        ('UnicodeDecodeError', UnicodeDecodeError), ('StopIteration', RuntimeError), ('Odd', Odd)])
@pytest.mark.parametrize('kind', [Items, ManyItems])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_item_that_raises_is_named(kind, num_workers, fault, exc, nothing_left):
    dl = valid_dl(kind(fault=fault), num_workers=num_workers)
    batches = iter(dl)
    test_eq(next(batches)[0].tolist(), [0, 1, 2, 3])
    if num_workers and exc in (UnicodeDecodeError, Odd): exc = RuntimeError      # PyTorch cannot make one of these from a message
    with pytest.raises(exc) as e: list(batches)
    assert type(e.value) is exc
    where = f'at item 7 of valid_ds ({kind.__name__} of 12 items)'
    assert where in said(e.value)
    if num_workers: assert f'{where}, in worker 1 of 2' in str(e.value) and fault in str(e.value)
    else: test_eq(e.value.__notes__, [f'This was {where}'])
    assert 'a worker' not in said(e.value) and 'died' not in said(e.value)
    if num_workers: check_workers_end()         # at once, even though `e` still holds the traceback
    with pytest.raises((RuntimeError, StopIteration)) as again: [next(batches) for _ in range(3)]
    assert ('begin a new one' in str(again.value)) == bool(num_workers)

def test_the_error_itself_stays_what_it_is():
    "The same object, with its place in the data set's code; other items can still be had"
    error = ValueError('mine')
    class Raises(Items):
        def __getitem__(self, i):
            if i == 5: raise error
            return super().__getitem__(i)
    batches = iter(valid_dl(Raises(at=None)))
    next(batches)
    with pytest.raises(ValueError) as e: next(batches)
    assert e.value is error and error.args == ('mine',) and '__getitem__' in [f.name for f in traceback.extract_tb(e.value.__traceback__)]
    test_eq(next(batches)[0].tolist(), [8, 9, 10, 11])

@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_batch_that_fails_as_a_whole_names_its_items(num_workers):
    for ds, collate in ((OnlyTogether(at=None), default_collate), (Items(at=None), lambda items: 1/0)):
        with pytest.raises((ValueError, ZeroDivisionError)) as e: list(get_dls(ds, ds, bs=4, num_workers=num_workers, collate_fn=collate)[1])
        assert f'at items 0, 1, 2, 3, 4, … (8 in all) of valid_ds ({type(ds).__name__} of 12 items)' in said(e.value)

def look(worker):
    info = get_worker_info()
    assert (info.id, type(info.dataset)) == (worker, Items)
    info.dataset.n = -1

@pytest.mark.parametrize('kw', [{}, dict(num_workers=2), dict(num_workers=2, persistent_workers=True), dict(num_workers=1, worker_init_fn=look, prefetch_factor=1),
                                dict(drop_last=True)], ids=str)
@pytest.mark.parametrize('kind', [Items, ManyItems])
def test_it_is_still_pytorchs_loader(kind, kw, nothing_left):
    "The same data set, the same batches in the same order from the same seed, epoch after epoch"
    if 'worker_init_fn' in kw and kind is ManyItems: return
    ds = kind(13, at=None)
    ours, _ = get_dls(ds, ds, bs=4, generator=gen(3), **kw)
    theirs = DataLoader(ds, batch_size=4, shuffle=True, generator=gen(3), **kw)
    assert isinstance(ours, DataLoader) and ours.dataset is ds and ours.collate_fn is theirs.collate_fn and ours.worker_init_fn is theirs.worker_init_fn
    for _ in range(3):
        test_eq(list(ours), list(theirs))
        test_eq(len(iter(ours)), len(iter(theirs)))
        test_eq(ours.generator.get_state(), theirs.generator.get_state())
    del ours, theirs

@posix
@pytest.mark.parametrize('kind, fault', [(Items, 'exit'), (Items, 'kill'), (ManyItems, 'kill'), pytest.param(Items, 'quit', marks=pytest.mark.slow)])
def test_a_worker_that_dies_is_named_with_its_items(kind, fault, nothing_left):
    dl = valid_dl(kind(40, at=6, fault=fault), num_workers=2)
    with pytest.raises(RuntimeError) as e: list(dl)
    items = 'item 6' if kind is Items else 'items 4, 5, 6, 7'
    assert 'Worker 1 of 2 (the first is 0) died' in said(e.value) and f', at {items} of valid_ds ({kind.__name__} of 40 items). Usual' in said(e.value)
    assert dict(exit='exit code 3', quit='', kill='Killed')[fault] in said(e.value) and 'memory' in said(e.value)
    del e, dl

@posix
def test_a_worker_that_dies_while_the_main_process_is_busy(nothing_left):
    "PyTorch then raises wherever the main thread happens to be, here within `sleep`"
    batches = iter(valid_dl(Items(40, at=8, fault='kill', slow=0.3), num_workers=2))
    other = iter(valid_dl(Items(at=None), num_workers=1))       # somebody else's workers have nothing to do with it
    test_eq(next(other)[0].tolist(), [0, 1, 2, 3])
    next(batches)
    with pytest.raises(RuntimeError) as e:
        end = time.time() + 30
        while time.time() < end: time.sleep(0.01)
    assert 'sleep' in said(e.value)
    test_eq(len(e.value.__notes__), 1)
    assert 'Worker 0 of 2 (the first is 0) died, at item 8 of valid_ds (Items of 40 items)' in e.value.__notes__[0]
    test_eq(len(list(other)), 2)
    del e, batches, other

@posix
def test_persistent_workers_are_replaced_after_a_death(nothing_left):
    ds = Items(12, at=None)
    dl = valid_dl(ds, num_workers=2, persistent_workers=True)
    want = list(dl)
    with pytest.raises((RuntimeError, OSError, EOFError)):
        batches = iter(dl)
        for w in mp.active_children(): w.kill()
        list(batches)
    del batches
    test_eq(list(dl), want)
    del dl

@posix
@pytest.mark.parametrize('start', [pytest.param(s, marks=[pytest.mark.slow] if s == 'forkserver' else []) for s in STARTS if s != 'fork'])
def test_workers_that_are_fresh_processes(start):
    context = mp.get_context(start)
    if start == 'forkserver': context.set_forkserver_preload(['test_faults'])
    for fault, exc in ((('ValueError', ValueError), ('kill', RuntimeError)) if start == 'forkserver' else [('kill', RuntimeError)]):
        with pytest.raises(exc) as e: list(valid_dl(Items(fault=fault), num_workers=2, multiprocessing_context=context))
        assert 'at item 7 of valid_ds (Items of 12 items)' in said(e.value) and 'orker 1 of 2 (the first is 0)' in said(e.value)

class Unpicklable(Items):
    def __reduce__(self): return os._exit, (1,)

@posix
@pytest.mark.slow
def test_a_worker_that_cannot_even_begin():
    with pytest.raises(RuntimeError) as e: list(valid_dl(Unpicklable(), num_workers=1, multiprocessing_context='spawn'))
    assert 'a worker of valid_ds (Unpicklable of 12 items) that could not even begin' in said(e.value)

@posix
def test_a_fit_whose_worker_dies_can_be_called_again(nothing_left):
    class Dies(Dataset):
        armed = True
        def __getitem__(self, i):
            if self.armed and i == 30: os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(i)
    data = clouds(40)
    ds = Dies(data.x, data.y)
    learn = TrainLearner(net(), get_dls(ds, clouds(8), 8, num_workers=2), F.cross_entropy, lr=0.1)
    with pytest.raises(RuntimeError) as e: quiet_fit(learn, 1)
    assert 'item 30 of train_ds (Dies of 40 items)' in said(e.value) and 'training in epoch 0' in said(e.value)
    del e
    ds.armed = False
    quiet_fit(learn, 2)
    test_eq(len(learn.history), 2)
    assert all(p.isfinite().all() for p in learn.model.parameters())
    learn.dls = None


# ---- files that lie

def fuzzer():
    spec = importlib.util.spec_from_file_location('fuzz_idx', ROOT/'benchmarks/fuzz_idx.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_read_idx_under_the_fuzzer():
    "The same files in CI each time, others elsewhere; the message has the numbers"
    fuzz = fuzzer()
    seed = 0 if os.environ.get('CI') else int(time.time())
    outcomes, findings, _ = fuzz.fuzz(seed, runs=2000, say=lambda line: None)
    assert not findings, findings
    for what in ('refused', 'read, plain', 'read, packed'): assert outcomes[what] > 100, outcomes

def test_the_fuzzer_can_find_something(monkeypatch):
    fuzz, good = fuzzer(), fuzzer().read_idx
    def forgets(path): return good(path)[:1]
    def guzzles(path):
        bytearray(1 << 24)
        return good(path)
    def wrong_error(path):
        try: return good(path)
        except ValueError: raise KeyError('what?') from None
    for bad in (forgets, guzzles, wrong_error):
        monkeypatch.setattr(fuzz, 'read_idx', bad)
        assert fuzz.fuzz(0, runs=60, say=lambda line: None)[1], bad

TIGHT = '''
import gzip, resource, struct, sys
from pathlib import Path
from miniai.idx import IdxError, read_idx
head = struct.pack('>HBBI', 0, 14, 1, 1 << 31)
files = {'plain': head + bytes(100), 'bomb': gzip.compress(struct.pack('>HBBI', 0, 8, 1, 9) + bytes(1 << 27), 1),
         'hungry': gzip.compress(head + bytes(1 << 20), 0)*20, 'shape': struct.pack('>HBB255I', 0, 14, 255, *[2**32 - 1]*255)}
for name, b in files.items(): Path(sys.argv[1], name).write_bytes(b)
n = 1 << 24
Path(sys.argv[1], 'honest').write_bytes(struct.pack('>HBBI', 0, 8, 1, n) + bytes(n))
now = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (96 << 20),)*2)
for name in files:
    try: read_idx(Path(sys.argv[1], name))
    except IdxError as e: print(name, 'refused')
print(read_idx(Path(sys.argv[1], 'honest')).shape)
try: bytearray(200 << 20)
except MemoryError: print('the limit is real')
'''

@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs /proc')
def test_memory_of_a_process_that_has_hardly_any(tmp_path):
    res = subprocess.run([sys.executable, '-c', TIGHT, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert res.returncode == 0, res.stderr
    test_eq(res.stdout.splitlines(), ['plain refused', 'bomb refused', 'hungry refused', 'shape refused', '(16777216,)', 'the limit is real'])


# ---- exceptions from each event of each callback

CANCELS = {CancelFitException: set(EVENTS) - {'cleanup_fit'},
           CancelEpochException: {e for e in EVENTS if not e.endswith('_fit')} - {'cleanup_epoch'},
           CancelBatchException: {e for e in EVENTS if not e.endswith(('_fit', '_epoch'))} - {'cleanup_batch'},
           CancelStepException: {'after_backward', 'step', 'after_step', 'zero_grad'}}

class Trouble:
    "Writes down which callback hears what, and raises `exc` at the second `at` of number `who`, or at its only one"
    def __init__(self, at, who, exc): self.at, self.who, self.exc, self.log, self.count = at, who, exc, [], 0
    def hear(self, i, event):
        self.log.append((i, event))
        if (i, event) != (self.who, self.at) or self.exc is None: return
        self.count += 1
        if self.count == (1 if event.endswith('_fit') else 2): raise self.exc

class Recorder(Callback):
    def __init__(self, trouble, i):
        self.order = i
        for event in EVENTS:
            if event not in STEPS: setattr(self, event, lambda learn, event=event: trouble.hear(i, event))

class Steps(TrainCB):
    "The five steps, each of which may fail before it does its work"
    def __init__(self, trouble):
        super().__init__()
        self.trouble = trouble
for step in STEPS: setattr(Steps, step, lambda self, learn, step=step: (self.trouble.hear(1, step), getattr(TrainCB, step)(self, learn)))

def check_nesting(log):
    "Whatever was begun is cleaned up once, and what was begun last is cleaned up first"
    begun = []
    for i, event in log:
        when, _, level = event.partition('_')
        if when == 'before': begun.append((i, level))
        elif when == 'cleanup': test_eq((i, level), begun.pop())
        elif event not in STEPS: assert (i, level) in begun or level not in ('fit', 'epoch', 'batch')
    test_eq(begun, [])

@pytest.mark.parametrize('exc', [ValueError, KeyboardInterrupt, SystemExit, *CANCELS])
@pytest.mark.parametrize('at', EVENTS)
def test_an_exception_from_each_event_of_each_callback(at, exc):
    ds = clouds(24)
    for who in [1] if at in STEPS else [0, 1, 2]:
        error = exc('mine')
        trouble = Trouble(at, who, error)
        cbs = [Recorder(trouble, i) for i in range(3)]
        learn = Learner(net(), get_dls(ds, clouds(10), 8, generator=gen()), F.cross_entropy, lr=0.1, cbs=[*cbs, Steps(trouble)])
        if at in CANCELS.get(exc, ()): quiet_fit(learn, 2)
        else:
            with pytest.raises(exc) as e: quiet_fit(learn, 2)
            assert e.value is error
        assert trouble.count
        check_nesting(trouble.log)
        trouble.exc, trouble.log[:] = None, []
        quiet_fit(learn, 1)                             # and again
        check_nesting(trouble.log)
        test_eq([trouble.log.count((i, 'cleanup_batch')) for i in range(3)], [4]*3)
        assert torch.is_grad_enabled() and all(p.isfinite().all() for p in learn.model.parameters())


# ---- losses that are not finite

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('cls, kw', [(TrainLearner, {}), (TrainLearner, dict(opt_func=optim.Adam)), (MomentumLearner, {}), (TrainLearner, dict(cbs=GradAccumCB(2))),
                                     (Learner, dict(cbs=TrainCB()))], ids=['SGD', 'Adam', 'MomentumLearner', 'GradAccumCB', 'TrainCB'])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(cls, kw, value):
    steps = []
    def loss(preds, yb):
        steps.append(weights(learn.model))
        return F.cross_entropy(preds, yb)*(value if len(steps) == 4 else 1)
    learn = cls(net(), get_dls(clouds(48), clouds(8), 8, generator=gen()), loss, lr=0.1, **kw)
    with pytest.raises(FloatingPointError): quiet_fit(learn, 1)
    for now, then in zip(weights(learn.model), steps[3], strict=True): test_eq(now, then)       # exactly those before the bad batch
    assert all(t.isfinite().all() for s in learn.opt.state.values() for t in s.values() if torch.is_tensor(t))
    quiet_fit(learn, 1)
    assert all(p.isfinite().all() for p in learn.model.parameters())


# ---- two threads

class Meet(Callback):
    "Let two threads take turns at every event of a batch, so that they are always in the middle of each other"
    def __init__(self, barrier): self.barrier = barrier
    def _meet(self, learn):
        if self.barrier: self.barrier.wait(60)
    before_batch = after_predict = after_loss = after_backward = after_step = after_batch = _meet

def one_of_two(seed, barrier=None, fail=False):
    "A Learner with data, net, order and rate of its own"
    dls = get_dls(clouds(64, seed), clouds(32, seed + 5), 8, generator=gen(seed))
    opt = optim.Adam if seed else optim.SGD
    class Fails(Callback):
        def after_loss(self, learn):
            if fail and learn.iter == 3: raise ZeroDivisionError
    return TrainLearner(net(seed=seed), dls, F.cross_entropy, lr=0.01*(seed + 1), cbs=[Meet(barrier), Fails(), MetricsCB()], opt_func=opt)

def in_threads(*jobs):
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for t in threads: t.start()
    for t in threads: t.join(120)
    assert not any(t.is_alive() for t in threads)

def test_two_learners_in_two_threads():
    barrier = threading.Barrier(2)
    alone, together = ([one_of_two(seed, b) for seed in (0, 1)] for b in (None, barrier))
    with redirect_stdout(io.StringIO()):
        for learn in alone: learn.fit(3)
        in_threads(*(lambda learn=learn: learn.fit(3) for learn in together))
    for a, b in zip(alone, together, strict=True):
        test_eq(digest(b.model), digest(a.model))
        test_eq([{k: v for k, v in row.items() if k != 'time'} for row in b.history], [{k: v for k, v in row.items() if k != 'time'} for row in a.history])
        test_eq(b.history.losses, a.history.losses)
    assert digest(alone[0].model) != digest(alone[1].model) and torch.is_grad_enabled()

def test_a_failure_in_one_thread_is_none_of_the_others_business():
    fails, works, alone, errors = one_of_two(0, fail=True), one_of_two(1), one_of_two(1), []
    def try_often():
        for _ in range(5):
            try: fails.fit(1)
            except ZeroDivisionError as e: errors.append(e)
    with redirect_stdout(io.StringIO()):
        alone.fit(3)
        in_threads(try_often, lambda: works.fit(3))
    test_eq((len(errors), digest(works.model)), (5, digest(alone.model)))


# ---- a fork

FORK = '''
import io, os, sys, torch
from contextlib import redirect_stdout
sys.path.insert(0, sys.argv[1])
from test_faults import F, TrainLearner, clouds, digest, gen, get_dls, net
torch.set_num_threads(2)
learn = TrainLearner(net(), get_dls(clouds(4096), clouds(64), 1024, generator=gen()), F.cross_entropy, lr=0.1)
def fit():
    with redirect_stdout(io.StringIO()): learn.fit(1)
    return digest(learn.model)
if sys.argv[2] == 'fitted': fit()
child = os.fork()
torch.set_num_threads(1)        # in a child a must: threads do not survive a fork; in the parent for the same bits
os.write(1, (fit() + '\\n').encode())
if not child: os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
'''

@posix
@pytest.mark.parametrize('before', ['new', 'fitted'])
def test_a_learner_goes_on_after_a_fork(before):
    "In the child and in the parent, with the same result"
    res = subprocess.run([sys.executable, '-c', FORK, str(ROOT/'tests'), before], capture_output=True, text=True, timeout=60)
    assert res.returncode == 0, res.stderr
    lines = res.stdout.splitlines()
    assert len(lines) == 2 and len(set(lines)) == 1, res


# ---- the same bits again

AGAIN = '''
import io, sys
from contextlib import redirect_stdout
import torch
from torch import nn, optim
from torch.nn import functional as F
from miniai.datasets import DataLoaders, load_dataset_dict, inplace
from miniai.learner import TrainLearner
from miniai.training import set_seed
import numpy as np
torch.set_num_threads(1)        # several threads may share a sum in one way or another
dd = load_dataset_dict('digits', say=None)
dd = {k: ds.select(range(200)) for k, ds in dd.items()}
@inplace
def pixels(b): b['image'] = [torch.tensor(np.array(im)).float().flatten()/255 for im in b['image']]
for num_workers in map(int, sys.argv[1]):
    set_seed(42)
    dls = DataLoaders.from_dd({k: ds.with_transform(pixels) for k, ds in dd.items()}, 32, num_workers=num_workers)
    learn = TrainLearner(nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10)), dls, F.cross_entropy, lr=0.1, opt_func=optim.Adam)
    with redirect_stdout(io.StringIO()): learn.fit(2)
    import hashlib
    print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in learn.model.parameters())).hexdigest(), [row['valid_loss'] for row in learn.history])
'''

@pytest.mark.slow
def test_same_seed_same_bits():
    "In two processes whose dictionaries and sets are ordered differently, without workers and with two"
    lines = []
    for workers, seed in (('02', '1'), ('0', '2')):
        res = subprocess.run([sys.executable, '-c', AGAIN, workers], capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONHASHSEED': seed})
        assert res.returncode == 0, res.stderr
        lines += res.stdout.splitlines()
    test_eq((len(lines), len(set(lines))), (3, 1))

@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_workers_end_when_the_program_is_killed_while_they_start(method, tmp_path):
    (tmp_path/'program.py').write_text(f'''
import os, signal, sys, time
from miniai.training import Dataset, get_dls
def killer(worker):
    os.kill(int(os.environ['MAIN']), signal.SIGKILL)
    time.sleep(0.5)
if __name__ == '__main__':
    os.environ['MAIN'] = str(os.getpid())
    dl = get_dls(Dataset(range(8), range(8)), Dataset(range(8), range(8)), 2, num_workers=2, worker_init_fn=killer, multiprocessing_context={method!r})[0]
    list(dl)
''')
    p = subprocess.Popen([sys.executable, tmp_path/'program.py'], start_new_session=True, stderr=subprocess.DEVNULL)
    assert p.wait(60) == -9
    def left():
        stats = [o.read_text().rpartition(')')[2].split() for o in Path('/proc').glob('[0-9]*/stat') if o.exists()]
        return [s for s in stats if int(s[3]) == p.pid and s[0] != 'Z']
    stop = time.monotonic() + 15
    while left() and time.monotonic() < stop: time.sleep(0.1)
    assert not left()
