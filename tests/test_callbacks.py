"Events, names, order and cancellation"
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniai import callbacks
from miniai.callbacks import (
    EVENTS,
    STEPS,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    SingleBatchCB,
    check_callback,
    edit_distance,
    event_table,
    in_order,
    nearest_event,
    run_cbs,
    with_cbs,
)

LEVELS = dict(fit=CancelFitException, epoch=CancelEpochException, batch=CancelBatchException)


def make(*names, order=0, base=Callback, log=None):
    "A callback with these methods, which write their names into `log`"
    def method(name): return lambda self, learn: (learn if log is None else log).append((type(self).__name__, name))
    cls = type('Made', (base,), {name: method(name) for name in names})
    cb = cls()
    cb.order = order
    return cb


class Loop:
    "Three levels, one batch; `raises` maps an event to the exception raised there"
    def __init__(self, raises=()): self.raises, self.heard = dict(raises), []

    def callback(self, name):
        self.heard.append(name)
        if name in self.raises: raise self.raises[name]

    @with_cbs('batch')
    def batch(self, n, extra=0): self.callback('predict')

    @with_cbs('epoch')
    def epoch(self): self.batch(1, extra=2)

    @with_cbs('fit')
    def fit(self): self.epoch()


FULL = ['before_fit', 'before_epoch', 'before_batch', 'predict', 'after_batch', 'cleanup_batch', 'after_epoch', 'cleanup_epoch',
        'after_fit', 'cleanup_fit']


def test_events_of_a_loop_in_order():
    loop = Loop()
    loop.fit()
    assert loop.heard == FULL


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('at', ['before_batch', 'predict', 'after_batch'])
def test_cancel_skips_the_rest_of_its_own_level_only(level, at):
    loop = Loop({at: LEVELS[level]()})
    loop.fit()
    inner = FULL[:FULL.index(at) + 1]
    rest = {'batch': FULL[5:], 'epoch': ['cleanup_batch', *FULL[7:]], 'fit': ['cleanup_batch', 'cleanup_epoch', 'cleanup_fit']}[level]
    assert loop.heard == inner + rest


@pytest.mark.parametrize('level', LEVELS)
def test_cancel_before_the_level_begins_still_cleans_up(level):
    loop = Loop({f'before_{level}': LEVELS[level]()})
    loop.fit()
    assert f'cleanup_{level}' in loop.heard and f'after_{level}' not in loop.heard
    assert 'predict' not in loop.heard


@pytest.mark.parametrize('exc', [ValueError('x'), KeyboardInterrupt(), SystemExit(), CancelStepException()])
@pytest.mark.parametrize('at', FULL)
def test_other_exceptions_pass_through_all_cleanups(exc, at):
    loop = Loop({at: exc})
    with pytest.raises(type(exc)) as caught: loop.fit()
    assert caught.value is exc
    begun = [o.split('_')[1] for o in loop.heard if o.startswith('before_')]
    for level in begun: assert loop.heard.count(f'cleanup_{level}') == 1


def test_a_cancel_of_an_outer_level_leaves_the_inner_ones():
    loop = Loop({'before_fit': CancelEpochException()})     # there is no epoch yet that could catch it
    with pytest.raises(CancelEpochException): loop.fit()


def test_with_cbs_keeps_name_and_docstring_and_refuses_other_words():
    class A:
        @with_cbs('fit')
        def go(self): "what it does"
    assert (A.go.__name__, A.go.__doc__) == ('go', 'what it does')
    for word in ('bach', 'Fit', '', None):
        with pytest.raises(ValueError, match='one of'): with_cbs(word)


def test_one_list_of_events():
    assert EVENTS == ('before_fit', 'before_epoch', 'before_batch', 'predict', 'after_predict', 'get_loss', 'after_loss', 'backward',
                      'after_backward', 'step', 'after_step', 'zero_grad', 'after_batch', 'cleanup_batch', 'after_epoch',
                      'cleanup_epoch', 'after_fit', 'cleanup_fit')
    assert STEPS == ('predict', 'get_loss', 'backward', 'step', 'zero_grad')


def slow_distance(a, b):
    "The same recursion without a table"
    if not a or not b: return len(a) + len(b)
    best = min(slow_distance(a[:-1], b) + 1, slow_distance(a, b[:-1]) + 1, slow_distance(a[:-1], b[:-1]) + (a[-1] != b[-1]))
    if len(a) > 1 and len(b) > 1 and a[-2:] == b[-1] + b[-2]: best = min(best, slow_distance(a[:-2], b[:-2]) + 1)
    return best


@given(st.text('ab_', max_size=5), st.text('ab_', max_size=5))
def test_edit_distance_against_the_slow_one(a, b):
    assert edit_distance(a, b) == slow_distance(a, b) == edit_distance(b, a)


@given(st.sampled_from([e for e in EVENTS if e != 'step']), st.data())
def test_a_name_one_letter_away_is_suspicious(event, data):
    i = data.draw(st.integers(0, len(event) - 1))
    letter = data.draw(st.sampled_from('abcdefghijklmnopqrstuvwxyz'))
    name = data.draw(st.sampled_from([event[:i] + event[i+1:], event[:i] + letter + event[i:], event[:i] + letter + event[i+1:],
                                      event[:i] + event[i+1:i+2] + event[i:i+1] + event[i+2:]]))
    if name in EVENTS or name.startswith('_'): assert nearest_event(name) is None
    else: assert nearest_event(name) in EVENTS


@pytest.mark.parametrize('name, event', [
    ('befor_fit', 'before_fit'), ('after_bacth', 'after_batch'), ('before_train', 'before_fit'), ('after_valid', 'after_batch'),
    ('cleanup_', 'cleanup_fit'), ('setp', 'step'), ('steps', 'step'), ('predicts', 'predict'), ('zero_grads', 'zero_grad'),
    ('afterbatch', 'after_batch'), ('before_fitt', 'before_fit'), ('get_los', 'get_loss'), ('backwards', 'backward')])
def test_suspicious_names(name, event):
    assert nearest_event(name) == event
    with pytest.raises(ValueError, match=f'Made.{name} is no event.*Did you mean {event}'): check_callback(make(name))


@pytest.mark.parametrize('name', ['plot', 'stop', 'setup', 'reset', 'get_lr', 'report', 'prepare', 'fit', 'epoch', 'batch', 'on_batch',
                                  'losses', 'update', 'compute', 'log', 'skip', 'prep', '_before_all', '_after_bacth', '__call__', 'sched'])
def test_helper_methods_are_left_alone(name): check_callback(make(name))


def test_only_methods_count():
    class Data(Callback):
        before_all = 3                               # not a method
        def __init__(self): self.after_all = [1, 2]
        @property
        def after_everything(self): return 1
    check_callback(Data())
    cb = Callback()
    cb.after_bacth = lambda learn: None              # a method of one object only
    with pytest.raises(ValueError, match='after_batch'): check_callback(cb)


def test_an_inherited_mistake_is_found():
    class Base(Callback):
        def after_bacth(self, learn): pass
    class Derived(Base): pass
    with pytest.raises(ValueError, match='Derived.after_bacth'): check_callback(Derived())


@pytest.mark.parametrize('what, says', [(SingleBatchCB, r'SingleBatchCB\(\)'), (object(), 'derived from Callback'), (None, 'derived'), (print, 'derived')])
def test_what_is_no_callback_is_refused(what, says):
    with pytest.raises(TypeError, match=says): check_callback(what)


def test_order_is_stable_and_reversed_for_cleanup():
    cbs = [make(order=o) for o in (2, 0, 1, 0)]
    a, b, c, d = cbs
    assert in_order(cbs) == in_order(cbs, 'before_fit') == [b, d, c, a]
    assert in_order(cbs, 'cleanup_fit') == [a, c, d, b]
    assert cbs == [a, b, c, d]


def test_order_as_an_argument():
    assert (Callback().order, Callback(order=3).order, SingleBatchCB().order) == (0, 3, 1)


@given(st.lists(st.tuples(st.integers(-3, 3), st.sets(st.sampled_from(EVENTS), max_size=4)), max_size=5))
def test_event_table_and_run_cbs_say_the_same(specs):
    log = []
    cbs = [make(*sorted(names), order=order, log=log) for order, names in specs]
    table = event_table(cbs)
    assert tuple(table) == EVENTS
    for event in EVENTS:
        log.clear()
        run_cbs(cbs, event)
        said, calls = list(log), [cb for cb, _ in table[event]]
        assert len(said) == len(calls)
        assert calls == [cb for cb in in_order(cbs, event) if hasattr(cb, event)]
        log.clear()
        for _, method in table[event]: method(None)
        assert log == said


def test_run_cbs_passes_the_learner():
    learn = []
    run_cbs([make('before_fit')], 'before_fit', learn)
    assert learn == [('Made', 'before_fit')]


def test_single_batch():
    with pytest.raises(CancelFitException): SingleBatchCB().after_batch(None)


def test_the_module_exports_what_it_promises():
    for name in ('Callback', 'CancelFitException', 'CancelBatchException', 'CancelEpochException', 'run_cbs', 'with_cbs', 'SingleBatchCB'):
        assert name in callbacks.__all__
