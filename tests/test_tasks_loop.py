"Tests of miniai.tasks_loop: every exercise of the chapters 11, 13 and 14, with right and wrong answers"
import functools
import hashlib
import io
import math
import os
import shutil
import tempfile
from functools import lru_cache
from itertools import accumulate

import pytest
import torch
from exercise_checks import check_calls, check_exercise, check_judges, solutions, tasks_of
from torch import optim

from miniai import callbacks, learner
from miniai.callbacks import Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException
from miniai.judge import Draw, judge

TASKS = tasks_of('tasks_loop')
RIGHT = solutions('11_callbacks', '13_learner', '14_checkpoint')
RIGHT = {k: v for k, v in RIGHT.items() if k in TASKS}
each = pytest.mark.parametrize('name', TASKS)
EXC = dict(fit=CancelFitException, epoch=CancelEpochException, batch=CancelBatchException)

@pytest.fixture(autouse=True)
def one_thread():
    "Nets as small as these only wait for other threads"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

@pytest.fixture(scope='module', autouse=True)
def optimizers_are_loaded():
    "The first step of an optimizer imports half of PyTorch, which takes longer than a judged answer may"
    p = torch.ones(1, requires_grad=True)
    p.sum().backward()
    optim.SGD([p], .1).step()

# -- 11

def insertion(cbs, event, learn=None, forward=False, below=lambda a, b: a <= b, strict=False):
    "Insertion sort by hand"
    found = []
    for cb in cbs:
        at = len([o for o in found if below(o.order, cb.order)])
        found.insert(at, cb)
    if event[:8] == 'cleanup_' and not forward: found = list(reversed(found))
    for cb in found:
        if strict or hasattr(cb, event): getattr(cb, event)(learn)

def destructive(cbs, event, learn=None):
    cbs.sort(key=lambda cb: cb.order)
    insertion(cbs, event, learn)

def cutter(base, exc=CancelEpochException, moment='before_batch', limit=lambda n: n, training=True, per_epoch=True):
    "A callback that cuts a pass short, at a batch that is one too many"
    class Cut(base):
        def __init__(self, n): self.n, self.seen = n, 0
        def before_epoch(self, learn): self.seen = 0 if per_epoch else self.seen
        def _look(self, learn):
            if learn.training or not training:
                self.seen += moment.startswith('after')
                if self.seen >= limit(self.n): raise exc()
                self.seen += moment.startswith('before')
    setattr(Cut, moment, Cut._look)
    return Cut

class events:
    "The decorator as a class"
    def __init__(self, nm): self.nm = nm
    def __call__(self, f):
        def run(o, *args, **kwargs):
            failed = None
            try: self.inside(o, f, args, kwargs)
            except self.caught(): pass
            except Exception as e: failed = e
            self.end(o, failed)
            if failed is not None: raise failed
        functools.update_wrapper(run, f)
        return self.finish(run)
    def inside(self, o, f, args, kwargs):
        o.callback('before_' + self.nm)
        f(o, *args, **kwargs)
        o.callback('after_' + self.nm)
    def caught(self): return EXC[self.nm]
    def end(self, o, failed): o.callback('cleanup_' + self.nm)
    def finish(self, run): return run

class swallow(events):
    def caught(self): return Exception
class any_cancel(events):
    def caught(self): return tuple(EXC.values())
class no_cleanup_after_failure(events):
    def __call__(self, f):
        def run(o, *args, **kwargs):
            try: self.inside(o, f, args, kwargs)
            except EXC[self.nm]: return
            o.callback('cleanup_' + self.nm)
        return functools.wraps(f)(run)
class nameless(events):
    def finish(self, run): return lambda o, *args, **kwargs: run(o, *args, **kwargs)
class drops_arguments(events):
    def inside(self, o, f, args, kwargs): super().inside(o, f, (), {})

def edits_by_memory(a, b, change=1, swaps=True):
    @lru_cache(None)
    def go(i, j):
        if not i or not j: return i + j
        best = min(go(i-1, j) + 1, go(i, j-1) + 1, go(i-1, j-1) + change*(a[i-1] != b[j-1]))
        return min(best, go(i-2, j-2) + 1) if swaps and i > 1 and j > 1 and (a[i-2], a[i-1]) == (b[j-1], b[j-2]) else best
    return go(len(a), len(b))

def edits_again(a, b):
    def go(a, b):
        if not (a and b): return max(len(a), len(b))
        res = min(go(a[1:], b) + 1, go(a, b[1:]) + 1, go(a[1:], b[1:]) + (a[0] != b[0]))
        return min(res, go(a[2:], b[2:]) + 1) if a[:2] == b[1::-1] and len(a) > 1 and len(b) > 1 else res
    return go(a, b)

# -- 13

def fading(losses, beta, first=None, corrected=True, beta2=None):
    out, avg = [], first(losses) if first else 0.
    for n, loss in enumerate(losses, 1):
        avg += (1 - beta)*(loss - avg)
        out.append(avg/(1 - (beta2 or beta)**n) if corrected else avg)
    return out

def smallest_by_accumulate(losses, mult, best=lambda a, b: a if a < b else b, isnan=True, over=lambda loss, limit: loss > limit, extra=0):
    smallest = math.inf
    for n, loss in enumerate(losses):
        if over(loss, mult*smallest) or (isnan and not abs(loss) < math.inf): return n + extra
        smallest = best(loss, smallest)
    return len(losses)

def momentum(base=Callback, start='before_fit', scale=lambda mom: 1., previous=False):
    class Mom(base):
        def __init__(self, mom): self.mom, self.v = mom, None
        def after_backward(self, learn):
            grads = [p.grad.clone() for p in learn.model.parameters()]
            v = grads if self.v is None else [self.mom*o + scale(self.mom)*g for o, g in zip(self.v, grads, strict=True)]
            self.v = grads if previous else v
            for p, g in zip(learn.model.parameters(), v, strict=True): p.grad.copy_(g)
    if start: setattr(Mom, start, lambda self, learn: setattr(self, 'v', None))
    return Mom

def losses_cb(mean=lambda losses, sizes: sum(a*b for a, b in zip(losses, sizes, strict=True))/sum(sizes), moment='before_epoch', value=lambda loss: loss.item(), flip=False):
    class Rows(Callback):
        def before_fit(self, learn): self.rows, self.losses, self.sizes = [{} for _ in range(learn.n_epochs)], [], []
        def after_loss(self, learn):
            self.losses.append(value(learn.loss))
            self.sizes.append(learn.batch[1].shape[0])
        def cleanup_epoch(self, learn):
            self.rows[learn.epoch].update({'epoch': learn.epoch, f'{"train" if learn.training != flip else "valid"}_loss': mean(self.losses, self.sizes)})
            if moment: self.losses, self.sizes = [], []
    return Rows

def finder(note='before', restore=True, validate=False, more=False, copies=True, stop=True):
    class Find(Callback):
        def __init__(self, gamma, max_mult): self.gamma, self.max_mult = gamma, max_mult
        def before_fit(self, learn):
            self.lrs, self.losses, self.smallest = [], [], math.inf
            self.start = {k: v.clone() if copies else v for k, v in learn.model.state_dict().items()}
        def before_epoch(self, learn):
            if not learn.training and not validate: raise CancelEpochException()
        def after_predict(self, learn): self.lr = learn.opt.param_groups[0]['lr']*(self.gamma if note == 'after' else 1)
        def after_loss(self, learn):
            loss = float(learn.loss.detach())
            over = loss > self.max_mult*self.smallest
            if not over or more: self.lrs, self.losses = self.lrs + [self.lr], self.losses + [loss]
            if over and stop: raise CancelFitException()
            self.smallest = min(self.smallest, loss)
        def after_batch(self, learn):
            for group in learn.opt.param_groups: group['lr'] = group['lr']*self.gamma
        def cleanup_fit(self, learn):
            if restore: learn.model.load_state_dict(self.start)
    return Find

def groups(weigh='mean', rest='step', every=False, order=5):
    "Gradients are collected by hand, and the step is skipped until a group is full"
    class Group(Callback):
        def __init__(self, n): self.n, self.order = n, order
        def before_epoch(self, learn): self.sums, self.count = None, 0
        def after_backward(self, learn):
            grads = [p.grad.clone() for p in learn.model.parameters()]
            self.sums = grads if self.sums is None or weigh == 'last' else [a + b for a, b in zip(self.sums, grads, strict=True)]
            self.count += 1
            full = self.count == self.n or (rest == 'step' and learn.iter + 1 == len(learn.dl))
            learn.model.zero_grad()
            if not full and not every: raise CancelStepException()
            for p, g in zip(learn.model.parameters(), self.sums, strict=True): p.grad = g/dict(mean=self.count, n=self.n).get(weigh, 1)
            self.sums, self.count = None, 0
    return Group

# -- 14

def patient(losses, patience, better=lambda loss, best: loss < best, extra=0, forget=False):
    best, since = None, 0
    for n, loss in enumerate(losses, 1):
        if best is None or better(loss, best): best, since = loss, 0
        else: since += 1
        if forget: best = loss
        if since == patience + extra: return n
    return len(losses)

def stopper(moment='after_epoch', fresh=True, exc=CancelFitException, column='valid_loss', extra=0, forget=False):
    class Stop(Callback):
        def __init__(self, patience): self.patience, self.first = patience, 0
        def before_fit(self, learn):
            if fresh: self.first = len(learn.history)
        def _look(self, learn):
            values = [row[column] for row in learn.history[self.first:]]
            if learn.training == (moment == 'before_epoch') and values and patient(values + [math.inf]*50, self.patience, extra=extra, forget=forget) <= len(values): raise exc()
    setattr(Stop, moment, Stop._look)
    return Stop

class Remembers(Callback):
    def __init__(self, patience): self.left, self.patience, self.best = patience, patience, None
    def after_epoch(self, learn):
        if learn.training: return
        loss = learn.history[-1]['valid_loss']
        if self.best is None or loss < self.best: self.left, self.best = self.patience, loss
        else: self.left -= 1
        if self.left <= 0: raise CancelFitException()

def by_tempfile(path, write, sync=True, folder=True, tidy=True, quiet=False, rename=os.rename):
    handle, name = tempfile.mkstemp(dir=path.parent if folder else None)
    try:
        with os.fdopen(handle, 'wb') as file:
            write(file)
            file.flush()
            if sync: os.fsync(file.fileno())
        rename(name, path)
    except BaseException:
        if tidy: os.remove(name)
        if not quiet: raise

class Keeper:
    "As bytes in a tensor"
    parts = 'model', 'opt', 'random'
    def state(self, learn):
        file = io.BytesIO()
        torch.save([learn.model.state_dict(), learn.opt.state_dict(), torch.random.get_rng_state()], file)
        return dict(all=torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))
    def restore(self, learn, state):
        model, opt, random = torch.load(io.BytesIO(bytes(state['all'].tolist())), weights_only=True)
        if 'model' in self.parts: learn.model.load_state_dict(model)
        if 'opt' in self.parts: learn.opt.load_state_dict(opt)
        if 'random' in self.parts: torch.random.set_rng_state(random)

def keeps(*parts): return type('Part', (Keeper,), dict(parts=parts))

class NotCopied(Keeper):
    def state(self, learn): return dict(model=learn.model.state_dict(), opt=learn.opt.state_dict(), random=torch.get_rng_state())
    def restore(self, learn, state):
        learn.model.load_state_dict(state['model'])
        learn.opt.load_state_dict(state['opt'])
        torch.set_rng_state(state['random'])

class Pickled(Keeper):
    def state(self, learn): return dict(model=learn.model)

ALSO_RIGHT = {
    'run_in_order': insertion, 'FewBatchesCB': cutter(Callback), 'with_events': events, 'letter_edits': edits_by_memory,
    'finder_rates': lambda start, gamma, n: [start*math.exp(math.log(gamma)*i) for i in range(n)],
    'warmup_cosine': lambda steps, warm, lr: [lr*k/warm for k in range(1, warm + 1)] + [lr*math.cos(math.pi*k/(steps - warm)/2)**2 for k in range(1, steps - warm + 1)],
    'finder_stop': smallest_by_accumulate,
    'finder_choice': lambda rates, losses: next(r/10 for r, v in zip(rates, losses, strict=True) if v == min(losses)) if len(rates) > 4 and min(losses) < losses[0]*.9 else 0.,
    'smooth_losses': fading, 'MomentumCB': momentum(), 'EpochLossCB': losses_cb(), 'RateFinderCB': finder(), 'AccumulateCB': groups(),
    'epochs_until_stop': patient, 'unseal': lambda data: (True, data[:-32]) if data.endswith(hashlib.sha256(data[:-32]).digest()) else (False, b''),
    'StopEarlyCB': stopper(), 'write_safely': by_tempfile, 'RunKeeper': Keeper}

WRONG = {
    'run_in_order': [
        (functools.partial(insertion, below=lambda a, b: True), 'as they stand in the list'), (functools.partial(insertion, forward=True), 'here it goes forward'),
        (destructive, 'the list is sorted in place'), (functools.partial(insertion, below=lambda a, b: a >= b), 'wanted'),
        (functools.partial(insertion, strict=True), 'AttributeError'), (lambda cbs, event, learn=None: callbacks.run_cbs(cbs, event, learn), 'it calls miniai.callbacks.run_cbs'),
        (lambda cbs, event: None, 'the number of parameters differs')],
    'FewBatchesCB': [
        (cutter(Callback, CancelFitException, 'after_batch'), 'the whole fit is ended'), (cutter(Callback, moment='after_batch', training=False), 'validation is cut short'),
        (cutter(Callback, limit=lambda n: n + 1), 'one batch too many'), (cutter(Callback, moment='after_batch', per_epoch=False), 'goes on from epoch to epoch'),
        (cutter(Callback, moment='after_bacth'), 'Did you mean after_batch?'), (cutter(callbacks.SingleBatchCB), 'wanted')],
    'with_events': [
        (swallow, 'every exception is caught'), (any_cancel, 'all cancel exceptions are caught'), (no_cleanup_after_failure, '`cleanup_` is left out'),
        (nameless, 'has lost its name'), (drops_arguments, 'TypeError'), (callbacks.with_cbs, "is miniai's own"), (lambda nm: callbacks.with_cbs(nm), 'it calls')],
    'letter_edits': [
        (functools.partial(edits_by_memory, swaps=False), 'neighbors that are swapped'), (functools.partial(edits_by_memory, change=2), 'to change a letter'),
        (lambda a, b: max(len(a), len(b)) - sum(map(str.__eq__, a, b)), 'the places where the letters differ'), (edits_again, 'times for one pair'),
        (lambda a, b: callbacks.edit_distance(a, b), 'it calls')],
    'finder_rates': [
        (lambda start, gamma, n: [start*gamma**i for i in range(1, n + 1)], 'the first rate is `start` itself'), (lambda start, gamma, n: [start + i*gamma for i in range(n)], 'equally far apart'),
        (lambda start, gamma, n: list(accumulate([start] + [gamma]*n, lambda a, b: a*b)), 'one rate too many'), (lambda start, gamma, n: (start*gamma**i for i in range(n)), 'wanted a list')],
    'warmup_cosine': [
        (lambda steps, warm, lr: [lr*k/warm for k in range(warm)] + ALSO_RIGHT['warmup_cosine'](steps, warm, lr)[warm:], 'begins at 0'),
        (lambda steps, warm, lr: ALSO_RIGHT['warmup_cosine'](steps, warm, lr)[:warm] + [lr - lr*k/(steps - warm) for k in range(1, steps - warm + 1)], 'along a straight line'),
        (lambda steps, warm, lr: ALSO_RIGHT['warmup_cosine'](steps, warm, lr)[:warm] + [lr*math.cos(math.pi*k/(steps - warm)/2)**2 for k in range(steps - warm)], 'one step late'),
        (lambda steps, warm, lr: ALSO_RIGHT['warmup_cosine'](steps, warm, lr)[:-1], 'wanted')],
    'finder_stop': [
        (functools.partial(smallest_by_accumulate, isnan=False), 'nan is not noticed'), (functools.partial(smallest_by_accumulate, best=lambda a, b: a), 'just before it'),
        (functools.partial(smallest_by_accumulate, extra=1), 'off by one'), (functools.partial(smallest_by_accumulate, over=lambda loss, limit: loss >= limit), 'not yet more'),
        (lambda losses, mult: smallest_by_accumulate(losses, mult, lambda a, b: min([a, b])), 'it calls `min`')],
    'finder_choice': [
        (lambda rates, losses: ALSO_RIGHT['finder_choice'](rates, losses)*10, 'wanted is a tenth'), (lambda rates, losses: rates[losses.index(min(losses))]/10 if len(rates) > 4 else 0., 'did not fall'),
        (lambda rates, losses: rates[losses.index(min(losses))]/10 if min(losses) < .9*losses[0] else 0., 'fewer than five'), (lambda rates, losses: None, 'nothing is returned')],
    'smooth_losses': [
        (functools.partial(fading, corrected=False), 'the first averages are too small'), (functools.partial(fading, first=lambda losses: losses[0] if losses else 0, corrected=False), 'begins with the first loss'),
        (lambda losses, beta: fading(losses, 1 - beta), 'are exchanged'), (lambda losses, beta: [s/n for n, s in enumerate(accumulate(losses), 1)], 'the same weight'),
        (lambda losses, beta: [sum(beta**(len(o) - 1 - j)*v for j, v in enumerate(o))/sum(beta**j for j in range(len(o))) for o in (losses[:i+1] for i in range(len(losses)))], 'loops in it')],
    'MomentumCB': [
        (momentum(start=None), 'goes on from fit to fit'), (momentum(scale=lambda mom: 1 - mom), 'wanted'), (momentum(previous=True), 'is the last gradient alone'),
        (momentum(start='before_epoch'), 'wanted'), (momentum(base=learner.GradClipCB), 'it inherits from GradClipCB')],
    'EpochLossCB': [
        (losses_cb(lambda losses, sizes: sum(losses)/len(losses)), 'the mean over batches'), (losses_cb(moment=None), 'not set back to 0'),
        (losses_cb(lambda losses, sizes: losses[-1]), 'the loss of the last batch'), (losses_cb(flip=True), 'wanted'), (losses_cb(value=lambda loss: loss.detach()[None]), 'wanted a number')],
    'RateFinderCB': [
        (finder(restore=False), 'not put back'), (finder(note='after'), 'after they were multiplied'), (finder(validate=True), 'validation takes part'), (finder(more=True), 'is noted, too'),
        (finder(copies=False), 'not put back')],
    'AccumulateCB': [
        (groups(weigh='sum'), 'the sum of the gradients'), (groups(weigh='n'), 'is divided by n'), (groups(rest='lose'), 'is thrown away'), (groups(every=True), 'wanted'),
        (type('Mine', (learner.GradAccumCB,), {}), 'it inherits from GradAccumCB'), (lambda n: learner.GradAccumCB(n), 'it is no class')],
    'epochs_until_stop': [
        (functools.partial(patient, forget=True), 'of the epoch before'), (functools.partial(patient, better=lambda loss, best: loss <= best), 'as good as the best'),
        (functools.partial(patient, extra=1), 'an epoch too long'), (lambda losses, patience: patient(losses, patience, better=lambda loss, best: min(loss, best) != best), 'it calls `min`')],
    'unseal': [
        (lambda data: (True, bytes(data[i] for i in range(len(data) - 32))), 'not checked'), (lambda data: (hashlib.sha256(data[:-32]).digest() == data[-32:], data[:-32]), 'is handed out; nobody'),
        (lambda data: (True, data) if hashlib.sha256(data[:-32]).digest() == data[-32:] else (False, b''), 'handed out with the content'), (lambda data: data[:-32], 'wanted a tuple')],
    'StopEarlyCB': [
        (Remembers, 'of an earlier fit'), (stopper(forget=True), 'of the epoch before'), (stopper(extra=1), 'an epoch too long'), (stopper(exc=CancelEpochException), 'only the epoch is canceled'),
        (stopper(column='train_loss'), 'the training loss'), (stopper(column='valid_los'), 'KeyError')],
    'write_safely': [
        (functools.partial(by_tempfile, tidy=False), 'half a file stays'), (functools.partial(by_tempfile, quiet=True), 'is swallowed'), (functools.partial(by_tempfile, sync=False), 'there is no `os.fsync`'),
        (functools.partial(by_tempfile, folder=False, rename=shutil.move), 'in_the_same_folder'), (functools.partial(by_tempfile, rename=shutil.copyfile), 'copied and stays'),
        (lambda path, write: write(path.open('wb')), 'meanwhile')],
    'RunKeeper': [
        (keeps('model', 'random'), 'not the state of the optimizer'), (keeps('model', 'opt'), '`torch.get_rng_state` is missing'), (keeps('model'), 'neither the optimizer'), (NotCopied, 'have to be copied'),
        (Pickled, 'it raised')]}

@each
def test_exercise(name): check_exercise(TASKS[name], RIGHT[name], ALSO_RIGHT[name], WRONG[name])

@each
def test_the_answer_is_what_is_called(name):
    "A counting wrapper; a class counts its objects"
    task, right, made = TASKS[name], RIGHT[name], []
    if task.use is None: return check_calls(task, right)
    if isinstance(right, type):
        class Counting(right):
            def __init__(self, *args): made.append(1); super().__init__(*args)
    else:
        def Counting(*args): made.append(1); return right(*args)
    assert judge(task, Counting, limit=5.).passed and len(made) >= 3*(task.size + 1)

@each
def test_specification_and_judge_agree(name):
    if TASKS[name].judge is not None: return check_judges(TASKS[name])
    for size in range(TASKS[name].size + 1):
        for plain in (True, False): assert TASKS[name].want(TASKS[name].draw(Draw(size, 0, plain))) is not None

@each
def test_each_mistake_has_its_own_words(name):
    for words, mistake in TASKS[name].mistakes.items():
        fn = type(mistake.__name__, (mistake,), {}) if isinstance(mistake, type) else functools.wraps(mistake, assigned=())(lambda *args, mistake=mistake: mistake(*args))
        verdict = judge(TASKS[name], fn, limit=5.)
        assert not verdict.passed and verdict.diagnosis == words, f'{name}: wanted {words!r}, got {verdict}'

def test_judging_leaves_random_numbers_alone():
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    assert judge(TASKS['RunKeeper'], RIGHT['RunKeeper'], limit=5.)
    assert torch.equal(torch.rand(1), want)

def test_tasks_are_complete():
    assert set(TASKS) == set(ALSO_RIGHT) == set(WRONG) == set(RIGHT)
    for c in ('11_callbacks', '13_learner', '14_checkpoint'):
        assert {t.level for t in TASKS.values() if t.chapter == c} == {1, 2, 3} and sum(t.chapter == c for t in TASKS.values()) >= 4
