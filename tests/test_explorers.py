"Tests of miniai.explorers: the record of a fit against a recorder of its own, and the figure against the record"
import contextlib
import io
import random
import re
import types
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from miniai import explore_convs, explore_tensors, explorers
from miniai.callbacks import EVENTS, STEPS, Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException
from miniai.checkpoint import BatchSchedCB, CheckpointCB, CSVLoggerCB, EarlyStoppingCB, EpochSchedCB, TensorBoardCB
from miniai.explorers import explore_events, record_events
from miniai.learner import (
    Accuracy,
    DeviceCB,
    GradAccumCB,
    GradClipCB,
    HistoryCB,
    Learner,
    LRFinderCB,
    MetricsCB,
    MomentumLearner,
    ProgressCB,
    SingleBatchCB,
    TrainCB,
    TrainLearner,
)
from miniai.testing import expect_error, test_close, test_eq
from miniai.training import BatchSampler, Dataset, MiniDataLoader, Sampler

CANCELS = CancelBatchException, CancelEpochException, CancelFitException, CancelStepException

# -- learners to look at

def data(n=4, bs=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(bs, 6, generator=g), torch.randint(3, (bs,), generator=g)) for _ in range(n)]

def net(*more): return nn.Sequential(nn.Linear(6, 5), *more, nn.ReLU(), nn.Linear(5, 3))

def learner(kind=TrainLearner, cbs=(), model=None, dls=None, seed=1, **kwargs):
    torch.manual_seed(seed)
    return kind(model or net(), dls or (data(), data(3, seed=9)), F.cross_entropy, cbs=list(cbs), **kwargs)

def shuffled():
    g, (x, y) = torch.Generator().manual_seed(5), map(torch.cat, zip(*data(), strict=True))
    return [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, shuffle=s, generator=g if s else None) for s in (True, False)]

def mini():
    x, y = map(torch.cat, zip(*data(), strict=True))
    ds = Dataset(x, y)
    return [MiniDataLoader(ds, BatchSampler(Sampler(ds, shuffle), 8)) for shuffle in (True, False)]

class Named(types.SimpleNamespace): "Data loaders that are no tuple"

class CountCB(Callback):
    order = 3
    def before_fit(self, learn): self.n, self.seen = 0, []
    def after_batch(self, learn):
        self.n += 1
        self.seen.append(learn.loss.item())
        learn.note = f'{self.n} batches'

class NoiseCB(Callback):
    def before_batch(self, learn): learn.batch = learn.batch[0] + torch.randn_like(learn.batch[0])*random.random() + float(np.random.rand()), learn.batch[1]

class SpoilCB(Callback):
    "Changes the data themselves, as a careless callback does"
    def before_batch(self, learn): learn.batch[0].mul_(2)

LEARNERS = dict(
    plain=lambda: learner(Learner, [TrainCB()]),
    train=learner,
    momentum=lambda: learner(MomentumLearner, mom=.9, lr=.3),
    metrics=lambda: learner(Learner, [TrainCB(), DeviceCB('cpu'), MetricsCB(accuracy=Accuracy()), ProgressCB(), CountCB()]),
    dropout=lambda: learner(Learner, [TrainCB(), GradClipCB(.1), NoiseCB()], net(nn.BatchNorm1d(5), nn.Dropout(.5)), opt_func=optim.Adam),
    accum=lambda: learner(Learner, [TrainCB(), GradAccumCB(3), GradClipCB(1.)]),
    one_cycle=lambda: learner(TrainLearner, [BatchSchedCB(partial(optim.lr_scheduler.OneCycleLR, max_lr=.3, total_steps=20)), EpochSchedCB(partial(optim.lr_scheduler.ExponentialLR, gamma=.5))]),
    shuffled=lambda: learner(TrainLearner, [CountCB()], dls=shuffled()),
    mini=lambda: learner(TrainLearner, dls=mini()),
    named=lambda: learner(TrainLearner, dls=Named(train=data(), valid=data(2), extra=3)),
    finder=lambda: learner(TrainLearner, [LRFinderCB()]),
    stopping=lambda: learner(TrainLearner, [EarlyStoppingCB(patience=1)]),
    spoil=lambda: learner(TrainLearner, [SpoilCB()]),
    kept_opt=lambda: (o := learner(TrainLearner, opt_func=None), setattr(o, 'opt', optim.SGD(o.model.parameters(), .3)))[0],
)
each_learner = pytest.mark.parametrize('kind', LEARNERS)

# -- a recorder of its own: a trace of Python's calls. It knows nothing about the Learner but the names of methods

def shorten(dls, n):
    class Short:
        def __init__(self, dl): self.dl = dl
        def __iter__(self): return islice(iter(self.dl), n)
        def __len__(self): return min(n, len(self.dl))
    return types.SimpleNamespace(train=Short(dls.train), valid=Short(dls.valid))

class Trace(Callback):
    "Wraps the methods of callbacks and the steps of a Learner, one by one, and writes down each call with the loss and the rate before it"
    def __init__(self, learn):
        self.log, self.inside, self.learn = [], [], learn
        for cb in learn.cbs: self.wrap(cb)
        for step in STEPS:
            if getattr(type(learn), step) is not getattr(Learner, step): self.wrap(learn, [step])

    def wrap(self, o, events=EVENTS):
        for event in events:
            if (method := getattr(o, event, None)) is None: continue
            def called(*args, event=event, method=method):
                if o in self.inside: return method(*args)      # a callback that calls a method of its own
                self.log.append((event, type(o).__name__, *self.numbers()))
                self.inside.append(o)
                try: return method(*args)
                finally: self.inside.remove(o)
            setattr(o, event, called)

    def numbers(self):
        loss, opt = getattr(self.learn, 'loss', None), self.learn.opt
        return (float(torch.as_tensor(loss).detach()) if loss is not None else None), (opt.param_groups[0]['lr'] if opt else None)

def real_fit(make, n_epochs=1, n_batches=2, cbs=(), **fit):
    "The same short fit, really done, on another Learner made in the same way; what was called, and how it ended"
    learn = make()
    learn.add_cbs(list(cbs) + [HistoryCB()]*(not any(isinstance(cb, MetricsCB) for cb in [*learn.cbs, *cbs])))
    learn.dls = shorten(learn.dls, n_batches)
    trace, error = Trace(learn), None
    with contextlib.redirect_stdout(io.StringIO()):
        try: learn.fit(n_epochs, **fit)
        except Exception as e: error = e
    return trace.log, error, learn

def fold(run):
    "The state before each tick, out of the changes"
    state, states = dict(run['start']), []
    for t in run['ticks']:
        states.append(dict(state))
        for name, old, new, value in t['changes']:
            assert (state.get(name) or [None])[0] == old or '(another one)' in str(state.get(name)) or name.split('.')[0].endswith('CB'), (name, old, state.get(name))
            state[name] = (new, value) if new is not None else None
    return states

def value(state, name): return (state.get(name) or (None, None))[1]

def called(run):
    "Who was called when, with the loss and the rate before it; without the guard that is built in, which the trace cannot wrap"
    return [(t['event'], re.sub(r' \d$', '', t['who']), value(s, 'learn.loss'), value(s, 'learning rate')) for t, s in zip(run['ticks'], fold(run), strict=True)
            if t['who'] not in ('', 'the loop', 'FiniteLossCB') and not t.get('skipped') and not t.get('again')]

def same_calls(a, b, stale=False):
    test_eq([o[:2] for o in a], [o[:2] for o in b])
    for x, y in zip(a, b, strict=True):
        for v, w in zip(x[2:], y[2:], strict=True): assert v == w or v is None, (x, y)

@each_learner
@pytest.mark.parametrize('n_epochs,n_batches,train,valid', [(2, 3, True, True), (1, 2, True, False), (1, 1, False, True)])
def test_record_is_what_a_real_fit_does(kind, n_epochs, n_batches, train, valid):
    if kind == 'finder' and not train: return      # needs an optimizer
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    learn = LEARNERS[kind]()
    torch.manual_seed(4), random.seed(4), np.random.seed(4)
    run = record_events(learn, n_epochs, n_batches, train, valid)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    made = LEARNERS[kind]()
    torch.manual_seed(4), random.seed(4), np.random.seed(4)
    log, error, fitted = real_fit(lambda: made, n_epochs, n_batches, train=train, valid=valid)
    same_calls(called(run), log)
    assert len(log) > 8 and (error is None) == (run['error'] is None), (error, run['error'])
    losses = [c[3] for t in run['ticks'] for c in t['changes'] if c[0] == 'learn.loss']
    if kind in ('plain', 'momentum', 'dropout', 'one_cycle', 'shuffled') and train:
        assert set(fitted.history.losses) <= set(losses) and len(fitted.history.losses) == n_epochs*n_batches
    last = value(dict(fold(run)[-1]), 'weights')
    if kind != 'finder': test_close(last, sum(p.detach().float().norm()**2 for p in fitted.model.parameters()).sqrt().item())

# -- what is skipped

class AtCB(Callback):
    "Raises an exception at an event, in the pass and batch that are wanted"
    order = 2
    def __init__(self, at, exc, training=True, batch=0, epoch=0): self.at, self.exc, self.where = at, exc, (training, batch, epoch)
    def _at(self, learn, event):
        training, batch, epoch = self.where
        if event != self.at: return
        if not event.endswith('_fit'):
            if (learn.training, learn.epoch) != (training, epoch): return
            if not event.endswith('_epoch') and learn.iter != batch: return
        raise self.exc('on purpose')

for _event in [e for e in EVENTS if e not in STEPS]:
    def _method(self, learn, event=_event): self._at(learn, event)
    setattr(AtCB, _event, _method)

class QuietCB(Callback):
    "Listens to everything that is no step, after all others"
    order = 50

for _event in [e for e in EVENTS if e not in STEPS]: setattr(QuietCB, _event, lambda self, learn: None)

def keys(run, skipped):
    "The (epoch, pass, batch, event) of the events that were announced, or of those that were skipped"
    found = []
    for t in run['ticks']:
        if bool(t.get('skipped') and not t['who']) != skipped or not t['event']: continue
        chain = [b['label'] for b in run['bands'] if t['band'] is not None and b['level'] <= run['bands'][t['band']]['level']
                 and b['start'] <= run['bands'][t['band']]['start'] and b['end'] >= run['bands'][t['band']]['end']]
        if not t['who'] or not t.get('skipped'): found.append((*chain, t['event']))
    return list(dict.fromkeys(found))

CASES = [(c, True, 0, 1) for c in CANCELS] + [(ZeroDivisionError, True, 1, 2), (CancelEpochException, False, 0, 2), (CancelFitException, True, 1, 2), (CancelBatchException, False, 1, 1)]

@pytest.mark.parametrize('event', [e for e in EVENTS if e not in STEPS])
def test_what_a_cancellation_skips(event):
    "At every event, every exception, in training and in validation: who was called, and what was left out"
    kind = (Learner, TrainLearner)[EVENTS.index(event) % 2]
    def make(*cbs): return learner(kind, [*([TrainCB()] if kind is Learner else []), *cbs, QuietCB()])
    full = {n: keys(record_events(make(AtCB('', ValueError)), n), False) for n in (1, 2)}
    for exc, training, batch, n in CASES:
        if not training and event in ('after_backward', 'after_step'): continue
        at = AtCB(event, exc, training, batch)
        run = record_events(make(at), n)
        log, error, _ = real_fit(partial(make, AtCB(event, exc, *at.where)), n)
        same_calls(called(run), log)
        test_eq(run['error'] is None, error is None)
        if error is not None: assert run['error'].startswith(f'{exc.__name__}: on purpose')
        done, left = keys(run, False), keys(run, True)
        test_eq(sorted(set(done) & set(left)), [])
        test_eq(sorted(done + left), sorted(full[n]))
        test_eq([o for o in full[n] if o in done], done)                  # in order
        raised = [t for t in run['ticks'] if t.get('raised')]
        test_eq([(t['event'], t['who'], t['raised']) for t in raised], [(event, 'AtCB', f'{exc.__name__}: on purpose')])
        reasons = {t['skipped'] for t in run['ticks'] if t.get('skipped')} - {f'its before_{o} did not run' for o in ('fit', 'epoch', 'batch')}
        assert reasons <= {f'{exc.__name__} raised by AtCB in {event}'}
        others = [t['who'] for t in run['ticks'] if t.get('skipped') and t['who']]
        test_eq('QuietCB' in others, not event.startswith('cleanup_'))

@pytest.mark.parametrize('step', STEPS)
@pytest.mark.parametrize('exc', CANCELS)
def test_cancellations_in_a_step(step, exc):
    class BrokenLearner(TrainLearner): pass
    def fail(self):
        if self.training: raise exc()
        getattr(TrainLearner, step)(self)
    setattr(BrokenLearner, step, fail)
    full = keys(record_events(learner(cbs=[QuietCB()])), False)
    run = record_events(learner(BrokenLearner, [QuietCB()]))
    log, error, _ = real_fit(lambda: learner(BrokenLearner, [QuietCB()]))
    same_calls(called(run), log)
    test_eq(run['error'] is None, error is None)
    done, left = keys(run, False), keys(run, True)
    test_eq((sorted(done + left), sorted(set(done) & set(left))), (sorted(full), []))

def test_the_same_exception_object_again():
    class SameCB(Callback):
        def __init__(self): self.exc = CancelBatchException('again')
        def before_batch(self, learn): raise self.exc
    run = record_events(learner(cbs=[SameCB()]))
    test_eq([t['raised'] for t in run['ticks'] if t.get('raised')], ['CancelBatchException: again']*4)
    test_eq(run['error'], None)

class Failing:
    "A loader that breaks off"
    def __init__(self, batches): self.batches = batches
    def __len__(self): return len(self.batches) + 1
    def __iter__(self):
        yield from self.batches
        raise OSError('the disk is gone')

def test_a_loader_that_fails():
    run = record_events(learner(dls=(Failing(data(1)), data())), n_batches=3)
    assert run['error'].startswith('OSError: the disk is gone This was in the loader')
    test_eq([(t['who'], t['raised']) for t in run['ticks'] if t.get('raised')], [('the loop', 'OSError: the disk is gone')])
    test_eq([b['label'] for b in run['bands'] if b.get('skipped')], ['batch 1', 'validation', 'batch 0', 'batch 1', 'batch 2'])

def test_updates_within_a_callback():
    "A group of batches that ends in after_epoch, as the loader did not say how many batches it has"
    class NoLen:
        def __iter__(self): return iter(data())
    run = record_events(learner(cbs=[GradAccumCB(3)], dls=(NoLen(), data())), n_batches=2)
    inside = [(t['event'], t['who'], t.get('again', False)) for t in run['ticks'] if t['event'] in ('step', 'zero_grad', 'after_epoch') and not t.get('skipped')]
    test_eq(inside[:5], [('after_epoch', 'HistoryCB', False), ('after_epoch', 'FiniteLossCB', False), ('after_epoch', 'GradAccumCB', False),
                         ('step', 'TrainLearner', False), ('zero_grad', 'TrainLearner', False)])
    test_eq([c[0] for t in run['ticks'] if t['event'] == 'step' and not t.get('skipped') for c in t['changes']], ['weights'])

def test_a_callback_that_goes_on_after_others():
    class AgainCB(Callback):
        def after_epoch(self, learn):
            learn.note = 1
            if learn.training: learn._update()
            learn.note = 2
    run = record_events(learner(cbs=[AgainCB()]), n_batches=1, valid=False)
    first = next(i for i, t in enumerate(run['ticks']) if t['who'] == 'AgainCB')
    told = [(t['event'], t['who'], t.get('again', False), [c[2] for c in t['changes'] if c[0] == 'learn.note']) for t in run['ticks'][first:first + 6]]
    test_eq(told, [('after_epoch', 'AgainCB', False, ['1']), ('after_backward', 'FiniteLossCB', False, []), ('step', 'TrainLearner', False, []),
                   ('after_step', '', False, []), ('zero_grad', 'TrainLearner', False, []), ('after_epoch', 'AgainCB', True, ['2'])])

# -- no trace

def everything(learn):
    "All that a run could change, as bits"
    def plain(o, depth=6):
        if isinstance(o, torch.Tensor): return id(o), o._version, o.detach().numpy().tobytes(), o.requires_grad, plain(o.grad) if o.is_leaf and o.grad is not None else None
        if isinstance(o, (str, int, float, bool, type(None), bytes)): return repr(o)
        if isinstance(o, torch.Generator): return id(o), o.get_state().numpy().tobytes()
        if not depth: return id(o)
        if isinstance(o, dict): return id(o), [(plain(k, depth - 1), plain(v, depth - 1)) for k, v in o.items()]
        if isinstance(o, (list, tuple, set)): return id(o), [plain(v, depth - 1) for v in o]
        return id(o), plain(vars(o), depth - 1) if hasattr(o, '__dict__') and not isinstance(o, (type, types.FunctionType)) else None
    state = np.random.get_state()
    return (plain(vars(learn)), [(k, v.numpy().tobytes()) for k, v in learn.model.state_dict().items()], [m.training for m in learn.model.modules()], torch.get_rng_state().numpy().tobytes(),
            random.getstate(), state[1].tobytes(), state[2:], torch.is_grad_enabled())

@each_learner
@pytest.mark.parametrize('fitted', [False, True])
def test_nothing_is_left(kind, fitted, capsys, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt
    monkeypatch.chdir(tmp_path)
    learn, twin = LEARNERS[kind](), LEARNERS[kind]()
    for o in (learn, twin):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        if fitted: o.fit(1, cbs=CountCB())
    plt.close('all')
    capsys.readouterr()
    before = everything(learn)
    run = explore_events(learn, 2, 2)
    assert everything(learn) == before and len(run.data) > 1000
    test_eq(capsys.readouterr(), ('', ''))
    test_eq((list(tmp_path.iterdir()), plt.get_fignums()), ([], []))
    for o in (learn, twin):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        o.fit(2)
    plt.close('all')
    test_eq(learn.history.losses, twin.history.losses)
    for p, q in zip(learn.model.parameters(), twin.model.parameters(), strict=True): assert torch.equal(p, q)

def test_nothing_is_left_of_an_error():
    learn = learner(cbs=[AtCB('after_loss', ZeroDivisionError)])
    before = everything(learn)
    assert record_events(learn)['error'].startswith('ZeroDivisionError')
    assert everything(learn) == before
    class InterruptCB(Callback):
        def after_loss(self, learn): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): record_events(learn, cbs=InterruptCB())
    assert everything(learn) == before

def test_files_are_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class OwnCSV(CSVLoggerCB): pass
    writers = [CheckpointCB(tmp_path/'run'), OwnCSV('run.csv'), TensorBoardCB(tmp_path/'board')]
    learn = learner(cbs=writers[:1])
    run = record_events(learn, cbs=writers[1:])
    test_eq((list(tmp_path.iterdir()), run['left_out']), ([], ['CheckpointCB', 'OwnCSV', 'TensorBoardCB']))
    assert not {'CheckpointCB', 'OwnCSV', 'TensorBoardCB'} & {c['name'] for c in run['cbs']}
    learn.fit(1)      # and they work as before
    assert (tmp_path/'run').is_dir()
    test_eq(len(record_events(learn)['left_out']), 1)

def test_a_callback_of_your_own_can_be_left_out():
    class Loud(CountCB): pass
    loud = Loud()
    for without in (loud, Loud, [CountCB]): test_eq(record_events(learner(), cbs=loud, without=without)['left_out'], ['Loud'])
    with expect_error(ValueError, 'no callback of this Learner'): record_events(learner(), without=loud)
    with expect_error(ValueError, 'nobody does predict'): record_events(learner(Learner, [TrainCB()]), without=TrainCB)

def test_what_reaches_the_original_is_refused():
    learn = learner()
    before = everything(learn)
    learn.loss_func = lambda p, y: F.cross_entropy(p, y) + sum(o.square().sum() for o in learn.model.parameters())
    with expect_error(ValueError, 'uses `learn` from outside'): record_events(learn)
    model = learn.model
    class Spy(Callback):
        def after_batch(self, _): model.zero_grad()
    learn.loss_func = F.cross_entropy
    with expect_error(ValueError, 'uses `model` from outside'): record_events(learn, cbs=Spy())
    def default(p, y, m=model): return F.cross_entropy(p, y) + m[0].weight.sum()
    learn.loss_func = default
    with expect_error(ValueError, 'an argument of default'): record_events(learn)
    learn.loss_func = F.cross_entropy
    hook = model[0].register_forward_hook(lambda m, i, o: model[2].weight.sum())
    with expect_error(ValueError, 'a hook of Linear'): record_events(learn)
    hook.remove()
    assert everything(learn) == before

def test_what_nobody_has_thought_of_is_noticed():
    learn = learner()
    hidden = {'it': learn.model}
    class SneakyCB(Callback):
        def after_batch(self, _):
            for p in hidden['it'].parameters(): p.data.add_(1)
    weights = [p.detach().clone() for p in learn.model.parameters()]
    with expect_error(RuntimeError, '0.weight'): record_events(learn, cbs=SneakyCB())
    for p, q in zip(learn.model.parameters(), weights, strict=True): assert torch.equal(p, q)

def test_functions_that_take_nothing_from_outside_are_fine():
    model = net()     # the same names as attributes and globals are no reason to refuse
    class FineCB(Callback):
        def after_batch(self, learn): learn.note = learn.model[0].weight.sum().item()
    learn = learner(cbs=[FineCB()], model=model)
    learn.loss_func = partial(F.cross_entropy, label_smoothing=.1)
    test_eq(record_events(learn)['error'], None)

@pytest.mark.parametrize('change,exc,text', [
    (dict(n_epochs=-1), ValueError, '0 or more'), (dict(n_batches=0), ValueError, '1 or more'), (dict(n_batches=2.), TypeError, 'whole number'),
    (dict(n_epochs=True), TypeError, 'whole number'), (dict(n_epochs=5, n_batches=5), ValueError, 'too many to look at'),
    (dict(train=False, valid=False), ValueError, 'nothing to do'), (dict(cbs=CountCB), TypeError, 'with parentheses')])
def test_refusals(change, exc, text):
    with expect_error(exc, text): explore_events(learner(), **change)

def test_refusals_of_learners():
    for o in (net(), None, Learner, object()):
        with expect_error(TypeError, 'wanted a Learner'): explore_events(o)
    with expect_error(TypeError, 'dls holds something that can exist only once'): explore_events(learner(dls=((b for b in data()), data())))
    class FileCB(Callback):
        def __init__(self): self.file = open(__file__)
    keep = FileCB()
    with expect_error(TypeError, 'cannot be copied'): explore_events(learner(cbs=[keep]))
    keep.file.close()
    class AskCB(Callback):
        def before_batch(self, learn): explore_events(learn)
    with expect_error(RuntimeError, 'in the middle of a fit'): learner(cbs=[AskCB()]).fit(1)
    class OwnWay(TrainLearner):
        def callback(self, event):
            for cb in self.cbs: getattr(cb, event, lambda o: None)(self)
    with expect_error(TypeError, 'in a way of its own'): explore_events(learner(OwnWay, [CountCB()]))

def test_odd_learners():
    test_eq([t['event'] for t in record_events(learner(), 0)['ticks'] if t['event'] and not t['who']], [])
    for model in (nn.Sequential(nn.LazyLinear(3)), nn.Sequential(nn.Linear(6, 3), nn.Identity())):
        test_eq(record_events(learner(model=model, opt_func=optim.SGD))['error'], None)
    class Dicts(TrainLearner):
        def predict(self): self.preds = self.model(self.batch['x'])
        def get_loss(self): self.loss = self.loss_func(self.preds, self.batch['y'])
    run = record_events(learner(Dicts, dls=([dict(x=x, y=y) for x, y in data()],)*2, check_finite=False))
    assert {"learn.batch['x']", "learn.batch['y']"} <= {c[0] for t in run['ticks'] for c in t['changes']}
    for dtype in (torch.float64, torch.bfloat16):
        class CastCB(Callback):
            def before_batch(self, learn, dtype=dtype): learn.batch = learn.batch[0].to(dtype), learn.batch[1]
        run = record_events(learner(model=net().to(dtype), cbs=[CastCB()]))
        assert f'(8, 3) {str(dtype)[6:]} on cpu' in str(run['ticks']) and run['error'] is None
    class NanCB(Callback):
        def after_predict(self, learn): learn.preds = learn.preds*float('nan')
    assert 'FloatingPointError: the training loss is nan' in record_events(learner(), cbs=NanCB())['error']
    run = record_events(learner(check_finite=False), cbs=[NanCB(), NanCB()])
    assert any(c[0] == 'learn.loss' and c[2] == 'nan' for t in run['ticks'] for c in t['changes'])
    test_eq([c['name'] for c in run['cbs'] if 'Nan' in c['name']], ['NanCB', 'NanCB 2'])
    class OwnFit(TrainLearner):
        def fit(self, n_epochs=1, cbs=None): return super().fit(n_epochs, cbs=cbs)
    test_eq(record_events(learner(OwnFit))['error'], None)

@pytest.mark.slow
def test_loaders_with_workers():
    dls = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.cat, zip(*data(), strict=True))), batch_size=8, num_workers=2) for _ in range(2)]
    learn = learner(dls=dls)
    before = everything(learn)
    run = record_events(learn)
    assert everything(learn) == before
    same_calls(called(run), real_fit(lambda: learner(dls=dls))[0])

def test_what_callbacks_change_is_said():
    class StopCB(Callback):
        def after_loss(self, learn):
            learn.stop, learn.opt.param_groups[0]['lr'], self.told = True, .05, 7
            del learn.epochs
            print('stopping')
    run = record_events(learner(lr=.2), cbs=StopCB(), n_batches=1)
    first = next(t for t in run['ticks'] if t['who'] == 'StopCB')
    test_eq(first['changes'], [['learn.stop', None, 'True', None], ['learning rate', '0.2', '0.05', .05], ['StopCB.told', None, '7', 7], ['learn.epochs', 'range(0, 1)', None, None]])
    test_eq(first['printed'], 'stopping\n')
    loop = [t['changes'] for t in run['ticks'] if t['who'] == 'the loop']
    assert ['learn.model.training', 'True', 'False', None] in [c for o in loop for c in o] and any(c[0] == 'learn.batch[0]' for o in loop for c in o)

# -- the figure

def shown(page):
    "Everything that the panel says at each step, by pressing next until the end"
    return page.evaluate("""() => {
      const figure = document.querySelector('.miniai-figure'), next = [...figure.querySelectorAll('button')][1], steps = [];
      const texts = q => [...figure.querySelectorAll(q)].map(n => n.textContent);
      for (;;) {
        steps.push({where: texts('.where')[0], doing: texts('.doing')[0], items: texts('.changes li'), say: texts('.say')[0],
          struck: texts('.where s'), changes: [...figure.querySelectorAll('.changes li[data-name]')].map(n => [n.dataset.name, n.dataset.value ?? null]),
          now: Object.fromEntries([...figure.querySelectorAll('.state .value')].map(n => [n.dataset.name, [n.textContent, n.dataset.value ?? null]])),
          lit: [...figure.querySelectorAll('.dot.now')].map(n => n.dataset.who), row: [...figure.querySelectorAll('.event.now')].map(n => n.dataset.event)});
        if (next.disabled) return steps;
        next.click();
      }
    }""")

def same_number(text, value): return text is None if value is None else float(text) == value

def bands_of(run, t):
    inner = run['bands'][t['band']]
    return [b['label'] for b in run['bands'] if b['level'] and b['level'] <= inner['level'] and b['start'] <= inner['start'] and b['end'] >= inner['end']]

SHOWN = dict(metrics=LEARNERS['metrics'], accum=lambda: learner(Learner, [TrainCB(), GradAccumCB(3)]), one_cycle=LEARNERS['one_cycle'], skip=lambda: learner(cbs=[AtCB('before_batch', CancelBatchException)]),
             stop=lambda: learner(cbs=[SingleBatchCB()]), failed=lambda: learner(cbs=[AtCB('after_loss', ZeroDivisionError, batch=1)]))

@pytest.mark.parametrize('kind', SHOWN)
def test_each_step_of_the_figure(show, kind):
    run = record_events(SHOWN[kind]())
    figure = explore_events(SHOWN[kind]())
    steps = shown(show(figure, theme='dark' if kind == 'accum' else 'light'))
    states = [*fold(run)[1:], None]
    test_eq(len(steps), len(run['ticks']))
    for i, (t, step, state) in enumerate(zip(run['ticks'], steps, states, strict=True)):
        test_eq(step['where'], ' \u203a '.join([*bands_of(run, t), *filter(None, [t['event']])]) or 'fit')
        test_eq([o[0] for o in step['changes']], [c[0] for c in t['changes']])
        for (_, text), change in zip(step['changes'], t['changes'], strict=True): assert same_number(text, change[3]), (text, change)
        for c, text in zip(t['changes'], step['items'], strict=False): assert c[0] in text and (c[2] or 'is gone') in text and (c[2] is None or (c[1] or 'is new') in text)
        if state:
            for name, (text, number) in step['now'].items():
                if 'time' not in name: assert text == (state.get(name) or ['\u2013'])[0] and same_number(number, value(state, name)), (name, text, state.get(name))
        assert t['who'] in step['doing'].lower() if t['who'] == 'the loop' else t['who'] in step['doing']
        test_eq((step['struck'], t.get('skipped', '') in step['doing']), ([t['event']] if t.get('skipped') else [], True))
        if t.get('raised'): assert any(t['raised'] in o for o in step['items'])
        test_eq((step['lit'], step['row']), ([t['who']] if t['who'] not in ('', 'the loop') else [], [t['event']] if t['event'] else []))
        if i: assert step['say'].startswith(f'Step {i + 1} of {len(steps)}: ')

def at(page): return int(page.locator('.miniai-figure [data-step]').first.get_attribute('data-step'))

def test_all_ways_to_move(show):
    run = record_events(LEARNERS['metrics']())
    page = show(explore_events(LEARNERS['metrics']()))
    ticks, timeline = run['ticks'], page.locator('svg.timeline')
    assert 'Press next' in page.locator('.say').text_content()
    page.get_by_role('button', name='next').click()
    page.get_by_role('button', name='next').click()
    page.get_by_role('button', name='back').click()
    test_eq(at(page), 1)
    timeline.focus()
    for key, wanted in [('ArrowRight', 2), ('ArrowLeft', 1), ('ArrowLeft', 0), ('ArrowLeft', 0), ('End', len(ticks) - 1), ('ArrowRight', len(ticks) - 1), ('Home', 0)]:
        page.keyboard.press(key)
        test_eq(at(page), wanted)
    wanted = sorted({b['start'] for b in run['bands']} - {0})
    for key, order in (('ArrowDown', wanted), ('ArrowUp', wanted[-2::-1])):
        for start in order:
            page.keyboard.press(key)
            test_eq(at(page), start)
    page.get_by_label('step', exact=True).fill('20')
    test_eq((at(page), page.locator('.miniai-figure output').text_content(), timeline.get_attribute('aria-valuenow')), (19, '20', '20'))
    box = timeline.bounding_box()
    unit = (box['width'] - 4)/len(ticks)
    for i in (5, 30, 11):
        page.mouse.click(box['x'] + 2 + (i + .5)*unit, box['y'] + 100)
        test_eq(at(page), i)
    page.mouse.move(box['x'] + 2 + 40.5*unit, box['y'] + 100)      # only a look
    assert page.locator('.say').text_content().startswith('Step 41') and at(page) == 11
    page.mouse.move(5, 5)
    assert page.locator('.say').text_content().startswith('Step 12')
    page.locator('.dot[data-who=MetricsCB]').first.click()
    assert ticks[at(page)]['event'] == 'before_fit' and ticks[at(page)]['who'] == 'MetricsCB'
    for _ in range(3):      # one after the other, and from the beginning
        page.locator('.event[data-event=get_loss] text').click()
        test_eq(ticks[at(page)]['event'], 'get_loss')
    test_eq(len([1 for t in ticks[:at(page)] if t['event'] == 'get_loss']), 2)

def test_only_what_changes_something(show):
    run = record_events(LEARNERS['metrics']())
    page = show(explore_events(LEARNERS['metrics']()))
    wanted = [i for i, t in enumerate(run['ticks']) if not t.get('skipped') and (t['changes'] or t.get('raised') or t.get('printed'))]
    assert page.locator('.head').all_text_contents() == ['DeviceCB', 'MetricsCB', 'TrainCB', 'FiniteLossCB', 'CountCB', 'ProgressCB']
    page.get_by_label('only those that change something').check()
    visited = [at(page)]
    page.locator('svg.timeline').focus()
    for _ in range(len(wanted) + 2):
        page.keyboard.press('ArrowRight')
        if at(page) != visited[-1]: visited.append(at(page))
    test_eq(visited, wanted)
    test_eq(page.locator('.head').all_text_contents(), ['MetricsCB', 'TrainCB', 'FiniteLossCB', 'CountCB', 'ProgressCB'])
    test_eq(page.locator('.tick.faint').count(), len(run['ticks']) - len(wanted))
    page.get_by_label('all steps').check()
    test_eq((page.locator('.head').count(), page.locator('.tick.faint').count()), (6, 0))

@pytest.mark.parametrize('theme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1280])
def test_it_fits_on_the_page(show, width, theme):
    page = show(explore_events(LEARNERS['metrics'](), 2, 3), explore_events(SHOWN['stop']()), width=width, theme=theme)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    page.get_by_role('button', name='next').first.click()
    test_eq(page.locator('.miniai-figure').evaluate_all("l => l.map(f => f.querySelector('[data-step]').dataset.step)"), ['1', '0'])
    page.locator('svg.timeline').first.focus()
    page.keyboard.press('End')
    left = page.locator('.scroller').first.evaluate('n => [n.scrollLeft, n.clientWidth, n.scrollWidth]')
    assert left[0] + left[1] > left[2] - 40      # the cursor is in sight
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth') and page.locator('[id]').count() == 0

def test_sizes_and_words():
    figure = explore_events(LEARNERS['metrics']())
    page = figure._repr_html_()
    assert len(page) < 60_000 and len(figure.picture) < 25_000
    test_eq(page, explore_events(LEARNERS['metrics']())._repr_html_())
    assert 'MetricsCB' in figure.alt and 'skipped: CancelFitException raised by SingleBatchCB in after_batch' in explore_events(SHOWN['stop']()).alt
    assert 'ended with an error' in explore_events(SHOWN['failed']()).alt and 'ended with an error' in explore_events(SHOWN['failed']()).data
    assert 'Left out' in explore_events(learner(), cbs=TensorBoardCB('x')).data

def test_text_in_the_figure_is_text(show):
    class MarkCB(Callback):
        def after_loss(self, learn): learn.note = '<img src=x onerror=alert(1)></script>'
    steps = shown(show(explore_events(learner(cbs=[MarkCB()]))))
    assert any("learn.note is new: '<img src=x onerror=alert(1)></script>'" in o for s in steps for o in s['items'])

# -- one module to import from

def test_other_explorers_are_here_too():
    for module, names in ((explore_tensors, ('explore_matmul', 'explore_broadcast')), (explore_convs, ('explore_conv', 'explore_receptive_field'))):
        for name in names:
            assert getattr(explorers, name) is getattr(module, name) and name in explorers.__all__
