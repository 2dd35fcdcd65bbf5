"The loop, its callbacks, and what happens when something goes wrong"
import copy
import io
import json
import os
import pty
import random
import re
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from miniai import callbacks, learner, metrics
from miniai.callbacks import EVENTS, STEPS, Callback
from miniai.learner import (
    Accuracy,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    DeviceCB,
    FiniteLossCB,
    GradAccumCB,
    GradClipCB,
    History,
    Learner,
    LRFinderCB,
    Mean,
    MetricsCB,
    MomentumLearner,
    ProgressCB,
    SingleBatchCB,
    TrainCB,
    TrainLearner,
    lr_find,
)
from miniai.testing import test_close, test_eq

X = torch.randn(44, 3, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1)
XV, YV = X[:20].flip(0)*1.1, Y[:20].flip(0)
FLOWS = ['before_fit', 'before_epoch', 'before_batch', 'after_predict', 'after_loss', 'after_backward', 'after_step', 'after_batch',
         'cleanup_batch', 'after_epoch', 'cleanup_epoch', 'after_fit', 'cleanup_fit']


def batches(*xs, bs=8): return list(zip(*[x.split(bs) for x in xs], strict=True))
def net():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
def pair(bs=8): return batches(X, Y, bs=bs), batches(XV, YV, bs=bs)
def make(cbs=None, cls=TrainLearner, model=None, dls=None, **kw):
    return cls(model or net(), dls or pair(), F.cross_entropy, lr=kw.pop('lr', 0.1), cbs=cbs, **kw)
def weights(model): return [p.detach().clone() for p in model.parameters()]
def same(a, b):
    for p, q in zip(a, b, strict=True): test_eq(p, q)


class Listener(Callback):
    "Writes down all events; raises `exc` at the `nth` time that it hears `at`"
    def __init__(self, at=None, exc=None, nth=1, order=0, log=None, name=None, skip=()):
        self.at, self.exc, self.nth, self.order, self.heard, self.name, self.skip = at, exc, nth, order, [] if log is None else log, name, skip
        for event in EVENTS:
            if event not in STEPS: setattr(self, event, partial(self._hear, event))
    def _hear(self, event, learn):
        self.heard.append((self.name, event) if self.name else event)
        self.seen = getattr(self, 'seen', 0) + (event == self.at)
        if event == self.at and self.seen == self.nth: raise self.exc


# --- the loop

def test_order_of_events_is_this_list():
    ear = Listener()
    class Steps(Callback):
        def predict(self, learn): ear.heard.append('predict'); learn.preds = learn.model(learn.batch[0])
        def get_loss(self, learn): ear.heard.append('get_loss'); learn.loss = learn.preds.sum()
        def backward(self, learn): ear.heard.append('backward'); learn.loss.backward()
        def step(self, learn): ear.heard.append('step')
        def zero_grad(self, learn): ear.heard.append('zero_grad')
    Learner(net(), (batches(X, Y, bs=30), batches(XV, YV, bs=20)), cbs=[ear, Steps()]).fit(1)
    batch = ['before_batch', 'predict', 'after_predict', 'get_loss', 'after_loss', 'backward', 'after_backward', 'step', 'after_step',
             'zero_grad', 'after_batch', 'cleanup_batch']
    valid = ['before_batch', 'predict', 'after_predict', 'get_loss', 'after_loss', 'after_batch', 'cleanup_batch']
    end = ['after_epoch', 'cleanup_epoch']
    assert ear.heard == ['before_fit', 'before_epoch', *batch, *batch, *end, 'before_epoch', *valid, *end, 'after_fit', 'cleanup_fit']


OPTS = dict(sgd=optim.SGD, momentum=partial(optim.SGD, momentum=0.9), adam=partial(optim.Adam, betas=(0.8, 0.9)))

@pytest.mark.parametrize('name', OPTS)
@pytest.mark.parametrize('kind', ['TrainCB', 'TrainLearner', 'everything'])
def test_the_weights_are_those_of_the_bare_loop_bit_for_bit(name, kind):
    model = net()
    opt = OPTS[name](model.parameters(), 0.05)
    for _ in range(3):
        for xb, yb in pair()[0]:
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
    cbs = {'TrainCB': TrainCB(), 'TrainLearner': None, 'everything': [TrainCB(), DeviceCB('cpu'), MetricsCB(a=Accuracy()), ProgressCB(), Listener()]}[kind]
    learn = make(cbs, TrainLearner if kind == 'TrainLearner' else Learner, opt_func=OPTS[name], lr=0.05)
    with redirect_stdout(io.StringIO()): learn.fit(3)
    same(weights(learn.model), weights(model))


def test_momentum_learner_is_momentum():
    a, b = make(cls=MomentumLearner, mom=0.7, lr=0.05), make(opt_func=partial(optim.SGD, momentum=0.7), lr=0.05)
    a.fit(2)
    b.fit(2)
    same(weights(a.model), weights(b.model))
    assert (MomentumLearner(net()).mom, MomentumLearner(net()).lr) == (0.85, 0.1)


def test_batch_norm_and_dropout_get_the_right_mode_and_gradients_are_off_in_validation():
    seen = []
    class Look(Callback):
        def after_predict(self, learn):
            seen.append((learn.training, learn.model.training, torch.is_grad_enabled(), learn.preds.requires_grad))
    make(Look(), model=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))).fit(1)
    assert set(seen) == {(True, True, True, True), (False, False, False, False)}
    assert torch.is_grad_enabled()


def test_course_attributes():
    learn = make(lr=0.3)
    seen = []
    class Look(Callback):
        def after_batch(self, learn):
            assert learn.dl is (learn.dls.train if learn.training else learn.dls.valid)
            assert learn.batch[0] is learn.dl[learn.iter][0]
            seen.append((learn.epoch, list(learn.epochs), learn.n_epochs, learn.training, learn.iter))
    learn.fit(2, cbs=Look())
    assert seen[0] == (0, [0, 1], 2, True, 0) and seen[-1] == (1, [0, 1], 2, False, 2)
    assert learn.opt.param_groups[0]['lr'] == 0.3
    learn.fit(1, lr=0.01)
    assert (learn.opt.param_groups[0]['lr'], learn.lr) == (0.01, 0.3)
    for o in ('preds', 'loss', 'batch', 'model', 'dls', 'cbs', 'opt', 'loss_func', 'opt_func'): assert hasattr(learn, o)


def test_the_same_objects_under_the_names_of_the_course():
    for name in ('CancelFitException', 'CancelBatchException', 'CancelEpochException', 'Callback', 'run_cbs', 'with_cbs', 'SingleBatchCB'):
        assert getattr(learner, name) is getattr(callbacks, name) and name in learner.__all__
    for name in ('Accuracy', 'Mean', 'Metric'): assert getattr(learner, name) is getattr(metrics, name)
    for name in ('MetricsCB', 'DeviceCB', 'TrainCB', 'ProgressCB', 'Learner', 'TrainLearner', 'MomentumLearner', 'LRFinderCB', 'lr_find', 'to_cpu'):
        assert name in learner.__all__ and hasattr(learner, name)


def test_loaders_as_an_object_or_a_pair():
    train, valid = pair()
    for dls in ((train, valid), [train, valid], SimpleNamespace(train=train, valid=valid)):
        learn = make(dls=dls)
        learn.fit(1)
        assert (learn.dls.train, learn.dls.valid) == (train, valid)


# --- refused before the first batch

@pytest.mark.parametrize('step', STEPS)
def test_a_step_that_nobody_does(step):
    class Most(Callback): pass
    for o in STEPS:
        if o != step: setattr(Most, o, lambda self, learn: None)
    ear = Listener()
    learn = Learner(net(), pair(), cbs=[Most(), ear])
    with pytest.raises(ValueError, match=f'nobody does {step}.*TrainCB'): learn.fit(1)
    assert ear.heard == []
    if step in STEPS[2:]:
        class Loss(Callback):
            def after_loss(self, learn): learn.loss = torch.tensor(0.)
        learn.loss = torch.tensor(0.)
        learn.fit(1, train=False, cbs=Loss())     # validation needs only the first two


def test_two_that_train_are_refused():
    with pytest.raises(ValueError, match='TrainCB and by TrainCB'): make([TrainCB(), TrainCB()], Learner).fit(1)
    with pytest.raises(ValueError, match='TrainCB and by TrainLearner'): make(TrainCB()).fit(1)
    class Own(Callback):
        def step(self, learn): pass
    with pytest.raises(ValueError, match='step is done by TrainCB and by Own'): make([TrainCB(), Own()], Learner).fit(1)
    for kind in (MetricsCB, ProgressCB):
        with pytest.raises(ValueError, match=kind.__name__): make([kind(), kind()]).fit(1)


def test_bad_callbacks_are_refused_when_added():
    class Typo(Callback):
        def befor_fit(self, learn): pass
    for bad, exc in ((Typo(), ValueError), (TrainCB, TypeError), (3, TypeError)):
        with pytest.raises(exc): make(bad)
        learn = make()
        with pytest.raises(exc): learn.fit(1, cbs=[SingleBatchCB(), bad])
        with pytest.raises(exc): learn.add_cbs(bad)
        assert learn.cbs == []
    learn.cbs.append(Typo())
    with pytest.raises(ValueError, match='before_fit'): learn.fit(1)
    cb = SingleBatchCB()
    for go in (lambda: make([cb, cb]), lambda: make(cb).fit(1, cbs=cb)):
        with pytest.raises(ValueError, match='twice'): go()


@pytest.mark.parametrize('kw, exc, says', [
    (dict(n_epochs=-1), ValueError, '0 or more'), (dict(n_epochs=1.5), TypeError, 'float'), (dict(train=False, valid=False), ValueError, 'nothing to do')])
def test_impossible_fits(kw, exc, says):
    with pytest.raises(exc, match=says): make().fit(**kw)


def test_no_loaders():
    for dls in ((0,), None, SimpleNamespace(train=[1])):
        with pytest.raises(ValueError, match='no loader to'): TrainLearner(net(), dls, F.cross_entropy).fit(1)
    TrainLearner(net(), SimpleNamespace(train=pair()[0]), F.cross_entropy).fit(1, valid=False)
    with pytest.raises(ValueError, match='no optimizer'): make(opt_func=None).fit(1)


def test_unknown_event():
    with pytest.raises(ValueError, match="'after_bacth' is no event"): make().callback('after_bacth')


def test_a_fit_within_a_fit_is_refused():
    class Again(Callback):
        def after_batch(self, learn): learn.fit(1)
    with pytest.raises(RuntimeError, match='middle of a fit'): make(Again()).fit(1)


# --- ordinary corner cases

def test_no_epochs():
    ear, learn = Listener(), make()
    before = weights(learn.model)
    learn.fit(0, cbs=ear)
    assert ear.heard == ['before_fit', 'after_fit', 'cleanup_fit'] and learn.history == []
    same(before, weights(learn.model))


def test_validation_only_and_training_only():
    learn = make(MetricsCB(a=Accuracy()))
    before, opt = weights(learn.model), learn.opt
    with redirect_stdout(io.StringIO()): learn.fit(1, train=False)
    same(before, weights(learn.model))
    assert learn.opt is opt and learn.history.losses == []
    assert list(learn.history[0]) == ['epoch', 'valid_loss', 'valid_a', 'time']
    with redirect_stdout(io.StringIO()): learn.fit(1, valid=False)
    assert list(learn.history[1]) == ['epoch', 'train_loss', 'train_a', 'time']
    learn.plot_losses()
    plt.close('all')


class Stream(IterableDataset):
    def __iter__(self): return iter(zip(X, Y, strict=True))

class NoLength:
    def __iter__(self): return iter(batches(X, Y))

@pytest.mark.parametrize('train', [DataLoader(Stream(), 8), NoLength()])
def test_loaders_of_unknown_length(train):
    learn = make([MetricsCB(), ProgressCB(every=0)], dls=(train, train))
    with redirect_stdout(io.StringIO()): learn.fit(2)
    assert len(learn.history) == 2 and len(learn.history.losses) == 2*6


def test_a_generator_can_be_used_once_and_says_so():
    learn = make(dls=((b for b in pair()[0]), pair()[1]))
    with pytest.raises(ValueError, match='no batches from the training loader'): learn.fit(2)
    assert len(learn.history) == 1
    with pytest.raises(ValueError, match='no batches from the validation loader'): make(dls=(pair()[0], [])).fit(1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
    def forward(self, x, z): return self.a(x) + self.b(z)

def test_several_inputs_and_several_targets():
    dl = batches(X, X*2, Y)
    learn = make([TrainCB(n_inp=2), MetricsCB(a=Accuracy())], Learner, TwoInputs(), (dl, dl))
    with redirect_stdout(io.StringIO()): learn.fit(1)
    preds, targets = learn.get_preds()
    test_eq(targets, Y)
    test_close(learn.history[0]['valid_a'], (preds.argmax(1) == Y).float().mean(), 1e-6)
    two = batches(X, X*2, X*3)
    auto = Learner(nn.Linear(3, 3), (two, two), lambda p, a, b: ((p - a)**2 + (p - b)**2).mean(), cbs=TrainCB())
    auto.fit(1)
    test_eq(auto.get_preds()[1][1], X*3)


def test_a_dict_batch_is_refused_in_words_or_used_by_a_callback_of_its_own():
    dl = [dict(image=x, label=y) for x, y in batches(X, Y)]
    for learn in (make(dls=(dl, dl)), make(TrainCB(), Learner, dls=(dl, dl))):
        with pytest.raises(TypeError, match=r'image: \(8, 3\) float32, label: \(8,\) int64'): learn.fit(1)
    class DictCB(TrainCB):
        def predict(self, learn): learn.preds = learn.model(learn.batch['image'])
        def get_loss(self, learn): learn.loss = learn.loss_func(learn.preds, learn.batch['label'])
    learn = make([DictCB(), DeviceCB('cpu')], Learner, dls=(dl, dl))
    learn.fit(2)
    bare = make(dls=(batches(X, Y), batches(X, Y)))
    bare.fit(2)
    same(weights(learn.model), weights(bare.model))
    test_close(learn.history[-1]['valid_loss'], F.cross_entropy(learn.get_preds()[0], Y), 1e-5)
    with pytest.raises(TypeError, match='tuples'), redirect_stdout(io.StringIO()): learn.fit(1, cbs=MetricsCB(a=Accuracy()))


def test_a_loss_that_is_a_vector_is_refused_in_words():
    loss = nn.CrossEntropyLoss(reduction='none')
    for learn in (TrainLearner(net(), pair(), loss), Learner(net(), pair(), loss, cbs=TrainCB())):
        with pytest.raises(ValueError, match=r'one number, got the shape \(8,\).*mean'): learn.fit(1, valid=False)
        with pytest.raises(ValueError, match=r'shape \(8,\)'): learn.fit(1, train=False)


def test_callbacks_given_to_fit_last_for_that_fit_only():
    kept = Listener()
    learn = make(kept)
    learn.fit(1, cbs=SingleBatchCB())
    assert learn.cbs == [kept]
    with pytest.raises(ZeroDivisionError): learn.fit(1, cbs=[SingleBatchCB(), Listener('after_loss', ZeroDivisionError())])
    assert learn.cbs == [kept]
    with pytest.raises(ValueError): learn.fit(-1, cbs=SingleBatchCB())
    assert learn.cbs == [kept]


def test_callbacks_added_and_removed_during_a_fit():
    heard = []
    class Late(Callback):
        def after_batch(self, learn): heard.append(learn.iter)
    late = Late()
    class Adds(Callback):
        def after_batch(self, learn):
            if learn.training and learn.iter == 1: learn.add_cbs(late)
            if learn.training and learn.iter == 3: learn.remove_cbs(late)
            if learn.training and learn.iter == 4: learn.cbs.append(late)      # the direct way is noticed too
    learn = make(Adds())
    learn.fit(1, valid=False)
    assert heard == [2, 3, 5]
    assert late in learn.cbs
    both = make()
    class Stays(Callback):
        def before_fit(self, learn): learn.add_cbs(late)
    both.fit(1, cbs=Stays())
    assert both.cbs == [late]


def test_events_are_looked_up_once_per_fit(monkeypatch):
    calls = []
    def counted(cbs):
        calls.append(1)
        return callbacks.event_table(cbs)
    monkeypatch.setattr(learner, 'event_table', counted)
    learn = make()
    learn.fit(1)
    n = len(calls)
    calls.clear()
    learn.fit(5)
    assert len(calls) == n <= 2      # one to check, one to use


def test_single_batch():
    learn = make(SingleBatchCB())
    learn.fit(3)
    assert (learn.iter, learn.epoch, learn.training, learn.preds.shape) == (0, 0, True, (8, 3))


@pytest.mark.parametrize('exc, batches_seen', [(CancelBatchException, 9), (CancelEpochException, 9 - 5), (CancelFitException, 1)])
def test_cancel(exc, batches_seen):
    seen = []
    class Count(Callback):
        def before_batch(self, learn): seen.append(learn.iter)
    learn = make([Count(), Listener('after_predict', exc())])
    learn.fit(1)
    assert len(seen) == batches_seen
    assert len(learn.history) == (0 if exc is CancelFitException else 1)


def test_a_cancelled_epoch_counts_what_it_saw():
    class Some(Callback):
        def after_batch(self, learn):
            if learn.iter == 1: raise CancelEpochException()
    learn = make([Some(), MetricsCB(a=Accuracy())])
    with redirect_stdout(io.StringIO()) as out: learn.fit(2)
    assert [row['epoch'] for row in learn.history] == [0, 1] and len(learn.history.losses) == 4 and len(out.getvalue().splitlines()) == 3
    assert all('train_a' in row and 'valid_a' in row for row in learn.history)
    preds = learn.get_preds(pair()[1][:2])
    test_close(learn.history[-1]['valid_a'], (preds[0].argmax(1) == preds[1]).float().mean(), 1e-6)


def test_cancel_step_keeps_the_gradients():
    learn = make(Listener('after_backward', CancelStepException()))
    before = weights(learn.model)
    learn.fit(1, valid=False, cbs=SingleBatchCB())
    same(before, weights(learn.model))
    assert all(p.grad.abs().sum() > 0 for p in learn.model.parameters())


def test_gradients_left_over_are_forgotten():
    a, b = make(), make()
    for p in a.model.parameters(): p.grad = torch.ones_like(p)
    a.fit(1)
    b.fit(1)
    same(weights(a.model), weights(b.model))


def test_device():
    class Stop(Callback):
        def after_predict(self, learn): raise CancelFitException()
    learn = make([DeviceCB('meta'), Stop()])
    learn.fit(1)
    assert {o.device.type for o in (*learn.model.parameters(), *learn.batch, learn.preds)} == {'meta'}


# --- what went wrong, and where

def own_frame(e, name): return name in [f.name for f in __import__('traceback').extract_tb(e.__traceback__)]

@pytest.mark.parametrize('at', FLOWS)
def test_an_exception_in_a_callback_gains_one_note(at):
    error = ZeroDivisionError('mine')
    with pytest.raises(ZeroDivisionError) as caught: make(Listener(at, error, nth=2 if at.endswith(('batch', 'epoch')) else 1)).fit(2)
    assert caught.value is error and own_frame(error, '_hear') and error.args == ('mine',)
    assert len(error.__notes__) == 1
    note = error.__notes__[0]
    assert f'{at} of Listener' in note
    if not at.endswith('_fit'): assert ('validation' if at.endswith('epoch') else 'training') + ' in epoch 0' in note
    if at.endswith(('batch', 'step', 'loss', 'predict', 'backward')):
        assert '((8, 3) float32, (8,) int64)' in note and f'batch {int(at.endswith("batch"))} ' in note


def test_an_exception_in_the_model_the_loss_or_the_loader():
    class Fails(nn.Module):
        def forward(self, x): return 1/0
    for learn, who in ((make(model=Fails(), opt_func=lambda p, lr: optim.SGD([torch.zeros(1)], lr)), 'TrainLearner'),
                       (make(TrainCB(), Learner, Fails(), opt_func=lambda p, lr: optim.SGD([torch.zeros(1)], lr)), 'TrainCB')):
        with pytest.raises(ZeroDivisionError) as e: learn.fit(1)
        assert f'predict of {who}, training in epoch 0, batch 0' in e.value.__notes__[0] and own_frame(e.value, 'forward')
    def loss(*args): raise KeyError('x')
    with pytest.raises(KeyError) as e: TrainLearner(net(), pair(), loss).fit(1)
    assert 'get_loss of TrainLearner' in e.value.__notes__[0]
    class Loader:
        def __iter__(self):
            yield from pair()[0][:2]
            raise OSError('disk gone')
    for cbs in (None, Listener('before_batch', CancelBatchException(), nth=2)):
        with pytest.raises(OSError, match='disk gone') as e: make(cbs, dls=(Loader(), pair()[1])).fit(1)
        assert e.value.__notes__ == ['This was in the loader, training in epoch 0, loading batch 2 (the first is 0)']
    bad_opt = make()
    class Step(optim.SGD):
        def step(self): raise OverflowError
    bad_opt.opt_func = Step
    with pytest.raises(OverflowError) as e: bad_opt.fit(1)
    assert 'step of TrainLearner' in e.value.__notes__[0]


def test_the_second_failure_does_not_hide_the_first_cleanup():
    log = []
    cbs = [Listener('cleanup_fit', ValueError(str(i)), order=i, log=log, name=i + 1) for i in range(3)]
    with pytest.raises(ValueError, match='2') as e: make(cbs).fit(0)
    assert [n for n, event in log if event == 'cleanup_fit'] == [3, 2, 1]
    assert len(e.value.__notes__) == 3 and "cleanup_fit of Listener failed as well: ValueError('0')" in e.value.__notes__


@pytest.mark.parametrize('who', [0, 1, 2])
@pytest.mark.parametrize('exc', [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize('at', FLOWS)
def test_an_exception_at_any_event_of_any_callback(at, exc, who):
    "Each `cleanup_` runs exactly once for each `before_` that has begun, backward; the Learner can be used again"
    log = []
    cbs = [Listener(at if i == who else None, exc(), nth=2 if at.endswith(('batch', 'epoch')) else 1, order=i, log=log, name=i + 1) for i in range(3)]
    learn = make([MetricsCB(), ProgressCB()])
    with pytest.raises(exc), redirect_stdout(io.StringIO()): learn.fit(2, cbs=cbs)
    for level in ('batch', 'epoch', 'fit'):
        for i in range(3): assert log.count((i + 1, f'before_{level}')) == log.count((i + 1, f'cleanup_{level}')), (level, i)
    assert [n for n, event in log if event == 'cleanup_fit'] == ([3, 2, 1] if at != 'before_fit' else [3, 2, 1][2 - who:])
    assert [type(cb) for cb in learn.cbs] == [MetricsCB, ProgressCB] and torch.is_grad_enabled()
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert not any(m._forward_hooks for m in learn.model.modules())
    n = len(learn.history)
    assert n == (2 if at in ('after_fit', 'cleanup_fit') else 1 if at.endswith('epoch') and at != 'before_epoch' else 0)
    with redirect_stdout(io.StringIO()): learn.fit(1)
    assert len(learn.history) == n + 1


@pytest.mark.parametrize('at', STEPS)
@pytest.mark.parametrize('cls', [Learner, TrainLearner])
def test_interrupted_within_a_step_and_again_as_if_nothing_had_happened(at, cls):
    class Interrupts(cls): pass
    def interrupt(self):
        if self.epoch == 1 and self.armed: raise KeyboardInterrupt
        return getattr(cls, at)(self)
    if cls is TrainLearner: setattr(Interrupts, at, interrupt)
    class TrainOrStop(TrainCB): pass
    def stop(self, learn):
        if learn.epoch == 1 and learn.armed: raise KeyboardInterrupt
        return getattr(TrainCB, at)(self, learn)
    setattr(TrainOrStop, at, stop)
    learn = make(None if cls is TrainLearner else TrainOrStop(), Interrupts)
    learn.armed = True
    with pytest.raises(KeyboardInterrupt): learn.fit(3)
    assert len(learn.history) == 1
    state, learn.armed = copy.deepcopy(learn.model.state_dict()), False
    learn.fit(1)
    fresh = make()
    fresh.model.load_state_dict(state)
    fresh.fit(1)
    same(weights(learn.model), weights(fresh.model))


# --- losses that are not finite

class Divide(nn.Module):
    def forward(self, x): return x/0

@pytest.mark.parametrize('value, word', [(float('nan'), 'nan'), (float('inf'), 'infinite'), (-float('inf'), 'infinite')])
@pytest.mark.parametrize('training', [True, False])
def test_a_loss_that_is_not_finite_stops_the_fit_there(value, word, training):
    def loss(preds, yb): return F.cross_entropy(preds, yb)*(value if learn.training == training and learn.iter == 2 else 1)
    learn = TrainLearner(net(), pair(), loss, lr=0.25)
    steps = []
    class Count(Callback):
        def after_step(self, learn): steps.append(1)
    with pytest.raises(FloatingPointError) as e: learn.fit(1, cbs=Count())
    said = str(e.value)
    assert f'{"training" if training else "validation"} loss is {word} in epoch 0, batch 2 ' in said and 'loss function' in said
    assert ('learning rate 0.25' in said) == training
    assert len(steps) == (2 if training else 6)
    assert all(p.isfinite().all() for p in learn.model.parameters())


def test_the_culprit_is_named_and_looking_for_it_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Sequential(nn.Linear(4, 3), Divide()), nn.Linear(3, 3))
    learn = make(model=model)
    state = {}
    class Keep(Callback):
        order = -1
        def after_loss(self, learn): state.update(buffers=copy.deepcopy(dict(model.named_buffers())), rng=torch.get_rng_state(), preds=learn.preds)
    with pytest.raises(FloatingPointError, match=r'first output that is not finite is that of 3.1 \(Divide\)') as e: learn.fit(1, cbs=Keep())
    test_eq(dict(model.named_buffers()), state['buffers'])
    test_eq(torch.get_rng_state(), state['rng'])
    assert learn.preds is state['preds'] and not any(m._forward_hooks for m in model.modules())
    for cb, cls in ((None, TrainLearner), (TrainCB(), Learner)):
        with pytest.raises(FloatingPointError) as e: make(cb, cls, nn.Sequential(nn.Linear(3, 3), Divide())).fit(1)
        assert 'after_loss of FiniteLossCB' in e.value.__notes__[0]

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)
        def forward(self, x): return self.lin(x).log()*float('nan')
    with pytest.raises(FloatingPointError, match=r'that of model \(Inside\)'): make(model=Inside()).fit(1)


def test_the_batch_or_the_weights_are_named():
    x = X.clone()
    x[10, 1] = float('nan')
    with pytest.raises(FloatingPointError, match='batch 1 .*batch itself'): make(dls=(batches(x, Y), pair()[1])).fit(1)
    learn = make()
    with torch.no_grad(): learn.model[2].bias[0] = float('nan')
    with pytest.raises(FloatingPointError, match='weights 2.bias were not finite already'): learn.fit(1)


def test_opt_out_of_the_guard():
    def nan_loss(p, y): return F.cross_entropy(p, y)*float('nan')
    learn = TrainLearner(net(), pair(), nan_loss, check_finite=False)
    learn.fit(1)
    assert not all(p.isfinite().all() for p in learn.model.parameters())
    learn.check_finite = True
    with pytest.raises(FloatingPointError): learn.fit(1)


class LaterEvent:
    "Stands in for a GPU's event: the answer has not arrived before it was asked for `delay` times"
    delay = 3
    def __init__(self, device=None): self.asked = 0
    def record(self): pass
    def query(self):
        self.asked += 1
        return self.asked > self.delay
    def synchronize(self): pass

@pytest.mark.parametrize('delay', [0, 3, 100])
@pytest.mark.parametrize('bad', [0, 2, 5])
def test_the_guard_of_a_device_that_answers_later(monkeypatch, delay, bad):
    monkeypatch.setattr(torch, 'Event', LaterEvent)
    monkeypatch.setattr(LaterEvent, 'delay', delay)
    class Deferred(FiniteLossCB):
        def after_loss(self, learn): self._ask(learn, learn.loss)
    def loss(preds, yb): return F.cross_entropy(preds, yb)*(float('nan') if learn.training and learn.iter == bad else 1)
    learn = TrainLearner(net(), pair(), loss, lr=0.25, cbs=Deferred())
    with pytest.raises(FloatingPointError, match=f'training loss.* batch {bad} .*rate 0.25'): learn.fit(1)
    assert all(p.isfinite().all() for p in learn.model.parameters())
    bare, good = make(lr=0.25), [b for i, b in enumerate(pair()[0]) if i != bad]
    ok = make(Deferred(), lr=0.25, dls=(good, pair()[1]))
    ok.fit(1)
    bare.dls = SimpleNamespace(train=good, valid=pair()[1])
    bare.fit(1)
    same(weights(ok.model), weights(bare.model))      # and it changes nothing as long as all is well


# --- metrics and history

def test_metrics_against_everything_at_once():
    learn = make(MetricsCB(Accuracy(), top=Accuracy()))
    with redirect_stdout(io.StringIO()) as out: learn.fit(2)
    preds, targets = learn.get_preds()
    row = learn.history[-1]
    assert list(row) == ['epoch', 'train_loss', 'valid_loss', 'train_Accuracy', 'valid_Accuracy', 'train_top', 'valid_top', 'time']
    test_close(row['valid_loss'], F.cross_entropy(preds, targets), 1e-5)
    test_close(row['valid_top'], (preds.argmax(1) == targets).float().mean(), 1e-6)
    assert row['valid_top'] == row['valid_Accuracy'] and all(isinstance(v, (int, float)) for v in row.values())
    assert [len(line.split()) for line in out.getvalue().splitlines()] == [8]*3
    assert len(learn.history.losses) == 12 and learn.history.ends == [6, 12]
    test_close(row['train_loss'], sum(v*n for v, n in zip(learn.history.losses[6:], [8]*5 + [4], strict=True))/44, 1e-5)


class Foreign:
    "A metric as other libraries write them: three methods and a device"
    def __init__(self): self.device, self.seen, self.grads = None, [], []
    def to(self, device): self.device = device
    def reset(self): self.seen = []
    def update(self, preds, target):
        self.seen.append(len(target))
        self.grads.append(preds.requires_grad)
    def compute(self): return {'items': torch.tensor(float(sum(self.seen))), 'table': torch.zeros(2, 3)}


def test_anything_with_update_compute_reset():
    m = Foreign()
    learn = make(MetricsCB(m))
    with redirect_stdout(io.StringIO()) as out: learn.fit(1)
    assert m.device == torch.device('cpu') and len(m.grads) == 9 and not any(m.grads)
    assert (learn.history[0]['train_items'], learn.history[0]['valid_items']) == (44., 20.)
    assert learn.history[0]['valid_table'].shape == (2, 3) and '(2, 3)' in out.getvalue()
    for bad in (3, Accuracy, object()):
        with pytest.raises(TypeError, match='update, compute and reset'): MetricsCB(bad)
    for bad in (dict(loss=Mean()), dict(time=Mean())):
        with pytest.raises(ValueError, match='is taken'): MetricsCB(**bad)
    with pytest.raises(ValueError, match='is taken'): MetricsCB(Accuracy(), Accuracy())


def test_torchmetrics():
    tm = pytest.importorskip('torchmetrics')
    multi = partial(tm.classification.MulticlassAccuracy, num_classes=3, average='micro')
    collection = tm.MetricCollection({'micro': multi(), 'macro': tm.classification.MulticlassAccuracy(num_classes=3)})
    conf = tm.classification.MulticlassConfusionMatrix(num_classes=3)
    learn = make(MetricsCB(multi(), ours=Accuracy(), collection=collection, conf=conf))
    with redirect_stdout(io.StringIO()): learn.fit(2)
    for row in learn.history:
        for p in ('train', 'valid'):
            test_close(row[f'{p}_MulticlassAccuracy'], row[f'{p}_ours'], 1e-6)
            test_close(row[f'{p}_micro'], row[f'{p}_ours'], 1e-6)
    assert learn.history[-1]['valid_conf'].sum() == 20


def test_no_number_is_made_of_a_tensor_in_a_batch():
    "On a GPU, each of them would be a wait: their number must not grow with the number of batches"
    class Count(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))
    counts = []
    for bs in (22, 1):
        learn = make([MetricsCB(a=Accuracy()), ProgressCB(), GradAccumCB(2), DeviceCB('cpu')], dls=pair(bs), check_finite=False)
        with Count() as count, redirect_stdout(io.StringIO()): learn.fit(1)
        counts.append(count.n)
    assert counts[0] == counts[1]


def test_history_is_kept_without_metrics_and_over_fits(capsys):
    learn = make()
    assert repr(learn.history) == 'History: no epochs yet'
    with pytest.raises(ValueError, match='nothing to draw'): learn.plot_losses()
    learn.fit(2)
    learn.fit(1)
    assert [row['epoch'] for row in learn.history] == [0, 1, 2] and capsys.readouterr().out == ''
    assert repr(learn.history).count('\n') == 3 and '<table>' in learn.history._repr_html_()


def test_history_goes_through_a_file(tmp_path):
    learn = make(MetricsCB(a=Accuracy()))
    with redirect_stdout(io.StringIO()): learn.fit(2)
    with redirect_stdout(io.StringIO()): learn.fit(1, train=False)     # this row has fewer values
    learn.history.to_csv(tmp_path/'h.csv')
    assert History.from_csv(tmp_path/'h.csv') == learn.history


def test_plots():
    learn = make(MetricsCB(a=Accuracy(), b=Accuracy()))
    with redirect_stdout(io.StringIO()): learn.fit(2)
    ax = learn.plot_losses()
    assert [len(line.get_xdata()) for line in ax.lines] == [12, 2, 2]
    mine = plt.subplots()[1]
    assert learn.plot_losses(mine) is mine
    assert [ax.get_ylabel() for ax in learn.plot_metrics()] == ['a', 'b']
    assert [ax.get_ylabel() for ax in learn.plot_metrics('b')] == ['b']
    with pytest.raises(ValueError, match='no metric'): learn.plot_metrics('c')
    bare = make()
    bare.fit(1)
    with pytest.raises(ValueError, match='no metrics but the loss'): bare.plot_metrics()
    plt.close('all')


def test_timeline_is_what_happens(capsys):
    log = []
    class Two(Callback):
        order = -1
        def after_batch(self, learn): log.append('after_batch Two')
        def before_fit(self, learn): log.append('before_fit Two')
    ear = Listener(log=log)
    learn = make([TrainCB(), ear], Learner, dls=(pair()[0][:1], pair()[1]))
    learn.timeline(Two())
    printed = capsys.readouterr().out
    said = [line.split(maxsplit=1)[0].strip('[]') for line in printed.splitlines()]
    assert said == list(EVENTS)
    learn.fit(1, valid=False, cbs=Two())
    assert [o for o in said if o not in STEPS] == [o for o in log if ' ' not in o]
    assert re.search(r'after_batch +HistoryCB, Two, Listener', printed) and re.search(r'\[step\] +TrainCB', printed)
    make().timeline()
    assert re.search(r'\[step\] +TrainLearner', capsys.readouterr().out)


# --- progress

SCRIPT = '''
import torch
from miniai.learner import *
from torch.nn import functional as F
x = torch.randn(40, 3)
dl = [(a, (a.sum(1) > 0).long()) for a in x.split(4)]
learn = TrainLearner(torch.nn.Linear(3, 2), (dl, dl), F.cross_entropy, cbs=[MetricsCB(accuracy=Accuracy()), ProgressCB(plot=True, every=0)])
learn.fit(3)
'''

def test_progress_in_a_pipe(tmp_path):
    res = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, timeout=120)
    assert res.returncode == 0 and res.stderr == b''
    lines = res.stdout.decode('ascii').splitlines()
    assert lines[0].split() == ['epoch', 'train_loss', 'valid_loss', 'train_accuracy', 'valid_accuracy', 'time']
    assert [line.split()[0] for line in lines[1:]] == ['0', '1', '2'] and len({len(line) for line in lines}) == 1
    assert not re.search(rb'[^\x20-\x7e\n]', res.stdout)


def test_progress_in_a_terminal():
    parent, child = pty.openpty()
    proc = subprocess.Popen([sys.executable, '-c', SCRIPT], stdout=child, stderr=child, close_fds=True, env={**os.environ, 'COLUMNS': '90', 'LINES': '30'})
    os.close(child)
    out = b''
    while True:
        try: chunk = os.read(parent, 65536)
        except OSError: break
        if not chunk: break
        out += chunk
    assert proc.wait(60) == 0
    os.close(parent)
    text = out.decode()
    assert 'train 1/3' in text and 'valid 3/3' in text and '10/10' in text and 'loss' in text and '\r' in text
    rows = [line.split('\r')[-1] if '\r' in line.rstrip('\r') else line for line in text.replace('\r\n', '\n').split('\n')]
    rows = [re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', row).strip() for row in rows]
    rows = [row for row in rows if row]
    assert [row.split()[0] for row in rows] == ['epoch', '0', '1', '2']        # what stays on the screen: the table


NOTEBOOK = [SCRIPT, 'learn.fit(1, cbs=SingleBatchCB())\nprint("still here")', 'try: learn.fit(-1)\nexcept ValueError as e: print(e)']

def test_progress_in_a_page_that_nbdev_runs(tmp_path):
    from execnb.shell import CaptureShell
    from fastcore.nbio import mk_cell, new_nb
    nb = new_nb([mk_cell(s) for s in NOTEBOOK])
    CaptureShell().run_all(nb)
    check_notebook([[dict(o) for o in cell['outputs']] for cell in nb.cells])


def test_progress_in_jupyter(tmp_path):
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in NOTEBOOK])
    nbclient.NotebookClient(nb, timeout=120, kernel_name='python3').execute()
    check_notebook(json.loads(nbformat.writes(nb))['cells'] and [json.loads(nbformat.writes(nb))['cells'][i]['outputs'] for i in range(3)])


def check_notebook(outputs):
    "One table with three rows, one curve, no text of a bar left over"
    kinds = [(o['output_type'], *sorted(o.get('data', {}))) for o in outputs[0]]
    assert kinds == [('display_data', 'text/html', 'text/plain'), ('display_data', 'image/png', 'text/plain')] or \
        kinds == [('display_data', 'image/png', 'text/plain'), ('display_data', 'text/html', 'text/plain')]
    table = next(o['data'] for o in outputs[0] if 'text/html' in o['data'])
    html, text = ''.join(table['text/html']), ''.join(table['text/plain'])
    assert html.count('<tr>') == 4 and '<progress' not in html and 'valid_accuracy' in html
    assert [line.split()[0] for line in text.splitlines()] == ['epoch', '0', '1', '2']
    said = ''.join(t for o in outputs[1] for t in o.get('text', ''))
    assert 'still here' in said and '<progress' not in json.dumps(outputs)
    assert 'n_epochs must be 0 or more' in ''.join(t for o in outputs[2] for t in o.get('text', ''))


def test_progress_leaves_metrics_as_they_were():
    m = MetricsCB()
    learn = make([ProgressCB(), m])
    with redirect_stdout(io.StringIO()): learn.fit(1)
    assert '_log' not in vars(m)
    with redirect_stdout(io.StringIO()): make(ProgressCB()).fit(1)       # and works without


# --- bending

@pytest.mark.parametrize('n, bs', [(1, 8), (2, 8), (3, 4), (4, 4), (11, 4), (100, 4)])
def test_accumulated_gradients_are_those_of_a_large_batch(n, bs):
    x, y = X[:40], Y[:40]
    small, large = batches(x, y, bs=bs), batches(x, y, bs=n*bs)
    a = make(GradAccumCB(n), dls=(small, pair()[1]))
    b = make(dls=(large, pair()[1]))
    steps = []
    class Count(Callback):
        def after_step(self, learn): steps.append(learn.iter)
    a.fit(2, cbs=Count())
    b.fit(2)
    for p, q in zip(weights(a.model), weights(b.model), strict=True): test_close(p, q, 1e-5)
    assert len(steps) == 2*len(large)
    test_close(a.history[-1]['train_loss'], b.history[-1]['train_loss'], 0.2)      # the loss that is shown is not divided


def test_accumulating_over_a_loader_of_unknown_length_steps_at_the_end():
    norms = []
    class Count(Callback):
        order = 30
        def after_backward(self, learn): norms.append(torch.cat([p.grad.flatten() for p in learn.model.parameters()]).norm().item())
    make([GradAccumCB(4), GradClipCB(0.01), Count()], dls=(NoLength(), pair()[1])).fit(2)
    assert len(norms) == 4                                        # 6 batches: one full group and one of 2, in each epoch
    for norm in norms: assert norm <= 0.01001                     # the last group is clipped like the others


def test_a_group_that_was_cancelled_leaves_no_gradient():
    class Stop(Callback):
        def after_batch(self, learn):
            if learn.training and learn.iter == 0: raise CancelEpochException()
    learn = make([GradAccumCB(3), Stop()])
    before = weights(learn.model)
    learn.fit(2)
    same(before, weights(learn.model))
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in learn.model.parameters())
    with pytest.raises(ValueError, match='1 or more'): GradAccumCB(0)


def test_whole_groups_are_clipped():
    x, y = X[:40], Y[:40]
    a = make([GradClipCB(0.05), GradAccumCB(2)], dls=(batches(x, y, bs=4), pair()[1]))
    b = make(GradClipCB(0.05), dls=(batches(x, y, bs=8), pair()[1]))
    a.fit(1)
    b.fit(1)
    for p, q in zip(weights(a.model), weights(b.model), strict=True): test_close(p, q, 1e-6)


def test_clipping_is_pytorchs():
    model = net()
    opt = optim.SGD(model.parameters(), 0.1)
    for xb, yb in pair()[0]:
        F.cross_entropy(model(xb), yb).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        opt.step()
        opt.zero_grad()
    learn = make(GradClipCB(0.1))
    learn.fit(1)
    same(weights(learn.model), weights(model))


# --- trial runs

def noisy_net(): return nn.Sequential(nn.Linear(3, 20), nn.BatchNorm1d(20), nn.Dropout(0.3), nn.ReLU(), nn.Linear(20, 3))

def full_state(learn):
    _ = learn.history
    return dict(tensors={k: v.clone() for k, v in learn.model.state_dict().items()}, torch=torch.get_rng_state(), numpy=np.random.get_state()[1],
                python=random.getstate(), opt=copy.deepcopy(learn.opt.state_dict()) if learn.opt else None, loader=GEN.get_state(),
                modes=[m.training for m in learn.model.modules()], keys=sorted(vars(learn)), history=list(learn.history),
                losses=list(learn.history.losses), cbs=list(learn.cbs), lr=learn.lr)

GEN = torch.Generator()

def shuffled(bs=4): return DataLoader(TensorDataset(X, Y), bs, shuffle=True, generator=GEN), pair()[1]


class Noise(Callback):
    "Draws from all sources of random numbers"
    def before_batch(self, learn): _ = random.random(), np.random.rand(), torch.rand(1)


@pytest.mark.parametrize('opt_func', [optim.SGD, optim.Adam, None])
@pytest.mark.parametrize('trained', [True, False])
def test_lr_find_leaves_everything_bit_for_bit_as_it_was(opt_func, trained):
    torch.manual_seed(3)
    learn = make([MetricsCB(), ProgressCB(), Noise()], model=noisy_net(), dls=shuffled(), opt_func=opt_func or optim.Adam)
    if trained or opt_func is None:
        with redirect_stdout(io.StringIO()): learn.fit(1)
    learn.opt_func = opt_func
    learn.model.train()
    learn.model[1].eval()
    before, opt = full_state(learn), learn.opt
    plt.close('all')
    with redirect_stdout(io.StringIO()) as out: rate = learn.lr_find()
    after = full_state(learn)
    for k, v in before.items(): test_eq(after[k], v)
    assert learn.opt is opt
    assert (f'suggested: {rate:.2g}' if rate else 'no suggestion') in out.getvalue() and 'epoch' not in out.getvalue()
    assert len(plt.get_fignums()) == 1 and plt.gca().get_xscale() == 'log'
    plt.close('all')


def test_the_next_fit_is_the_one_that_would_have_been_without_lr_find():
    def run(find):
        torch.manual_seed(5)
        GEN.manual_seed(5)
        learn = make(model=noisy_net(), dls=shuffled())
        if find:
            with redirect_stdout(io.StringIO()): learn.lr_find(max_epochs=2)
        learn.fit(1)
        return weights(learn.model)
    same(run(True), run(False))
    plt.close('all')


def test_the_suggestion():
    lrs = [1e-5*1.3**i for i in range(50)]
    bowl = [1 + abs(np.log10(lr) + 2) for lr in lrs]                    # lowest at 1e-2
    assert 0.5e-3 < learner._suggest(lrs, bowl) < 2e-3
    noise = np.random.default_rng(0).normal(0, 0.05, 50)
    assert 0.3e-3 < learner._suggest(lrs, bowl + noise) < 3e-3
    assert learner._suggest(lrs, [1.]*50) is None and learner._suggest(lrs, 1 + noise) is None and learner._suggest(lrs[:4], [4, 3, 2, 1]) is None
    learn = make(dls=shuffled(), lr=1e-3)
    with redirect_stdout(io.StringIO()): rate = learn.lr_find()
    learn.fit(3, lr=rate)
    assert learn.history[-1]['train_loss'] < learn.history[0]['train_loss'] and 0.01 < rate < 1
    plt.close('all')


def test_lr_find_interrupted():
    plt.close('all')
    learn = make(model=noisy_net(), dls=shuffled(), cbs=Listener('after_step', KeyboardInterrupt(), nth=5))
    before = full_state(learn)
    with pytest.raises(KeyboardInterrupt): lr_find(learn)
    for k, v in before.items(): test_eq(full_state(learn)[k], v)
    assert plt.get_fignums() == []


def test_lr_finder_as_a_callback():
    learn = make(dls=shuffled())
    before = weights(learn.model)
    finder = LRFinderCB(gamma=2, max_mult=2)
    learn.fit(10, cbs=finder, lr=1e-4)
    same(before, weights(learn.model))
    test_close(np.array(finder.lrs), 1e-4*2.**np.arange(len(finder.lrs)), rtol=1e-6)
    assert all(np.isfinite(finder.losses)) and len(finder.losses) == len(finder.lrs)
    assert (LRFinderCB().gamma, LRFinderCB().max_mult) == (1.3, 3)
    plt.close('all')


def test_lr_find_without_a_hope(capsys):
    learn = TrainLearner(net(), shuffled(), lambda p, y: p.sum()*0)
    assert learn.lr_find(max_epochs=1) is None
    assert 'no suggestion' in capsys.readouterr().out
    plt.close('all')


def test_lr_find_sees_a_loss_that_explodes_at_once(capsys):
    learn = TrainLearner(net(), shuffled(), lambda p, y: p.sum()*float('nan'))
    assert learn.lr_find() is None
    assert 'tried 0' in capsys.readouterr().out
    plt.close('all')


def test_get_preds():
    learn = make([MetricsCB(), ProgressCB(), TrainCB(), Noise()], Learner, noisy_net())
    with redirect_stdout(io.StringIO()): learn.fit(1)
    learn.model.train()
    keys, n = sorted(vars(learn)), len(learn.history)
    with redirect_stdout(io.StringIO()) as out: preds, targets = learn.get_preds()
    assert learn.model.training and sorted(vars(learn)) == keys and len(learn.history) == n and out.getvalue() == ''
    test_eq(targets, YV)
    assert not preds.requires_grad
    learn.model.eval()
    test_close(preds, learn.model(XV), 1e-5)
    preds, nothing = learn.get_preds([(XV,)])
    assert nothing is None and preds.shape == (20, 3)
    with pytest.raises(ValueError, match='no batches'): learn.get_preds([])


def test_get_preds_within_a_fit_changes_nothing():
    class Peek(Callback):
        order = 30
        def after_epoch(self, learn): self.got = learn.get_preds()
        def after_batch(self, learn):
            if learn.iter == 1: learn.get_preds()
    peek = Peek()
    a, b = make(peek), make()
    a.fit(2)
    b.fit(2)
    same(weights(a.model), weights(b.model))
    test_eq(a.history.losses, b.history.losses)
    test_eq(peek.got[1], YV)


def test_get_preds_of_a_model_that_returns_several():
    class Two(nn.Module):
        def forward(self, x): return {'a': x, 'b': (x*2, x*3)}
    learn = TrainLearner(Two(), pair(), F.cross_entropy)
    preds, _ = learn.get_preds()
    test_eq(preds, {'a': XV, 'b': (XV*2, XV*3)})


def test_show_results():
    images = torch.rand(12, 1, 6, 6)
    labels = torch.arange(12) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    learn = TrainLearner(model, (batches(images, labels), batches(images, labels)), F.cross_entropy)
    axs = learn.show_results(6, names=['cat', 'dog', 'owl'])
    wrong = model(images[:6]).argmax(1) != labels[:6]
    for ax, bad, label in zip(axs, wrong.tolist(), labels.tolist(), strict=False):
        assert (', not ' in ax.get_title()) == bad and ax.get_title().endswith(['cat', 'dog', 'owl'][label])
    flat = TrainLearner(nn.Linear(36, 36), (batches(images.flatten(1), images.flatten(1)),)*2)
    assert len(flat.show_results(4)) == 8
    with pytest.raises(ValueError, match='labels and images'): TrainLearner(nn.Linear(36, 2), (batches(images.flatten(1), images),)*2).show_results()
    with pytest.raises(ValueError, match='shows images'): make().show_results()
    plt.close('all')


def test_importing_it_does_not_import_what_only_pictures_and_bars_need():
    code = 'import sys, miniai.learner; print([m for m in ("matplotlib", "sklearn", "numba", "datasets", "IPython", "pandas") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
