"Tests of miniai.watch"
import functools
import sys
import threading
import time

import numpy as np
import pytest
import torch

from miniai.testing import test_close, test_eq
from miniai.watch import Run, TimeUp, has_loop, has_matmul_operator, mentioned, watch

def forever():
    while True: pass

def deaf():
    end = time.perf_counter() + 4
    while time.perf_counter() < end:
        try: time.sleep(.001)
        except: pass  # noqa: E722

def test_value_and_time():
    run = watch(lambda a, b: a + b, 1, 2)
    assert isinstance(run, Run) and run.value == 3 and run.fine and run.seconds >= 0 and run.stopped

@pytest.mark.parametrize('error', [ValueError('x'), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), StopIteration(), RecursionError(), MemoryError()])
def test_any_exception_stays_inside(error):
    def fn(): raise error
    run = watch(fn)
    assert run.error is error and not run.fine and run.ended

def test_endless_recursion():
    def fn(): return fn()
    assert isinstance(watch(fn).error, RecursionError)

def test_endless_loop_is_stopped(capfd):
    before = threading.active_count()
    run = watch(forever, seconds=.1)
    assert not run.ended and run.stopped
    assert threading.active_count() == before
    assert capfd.readouterr() == ('', '')

def test_a_loop_that_catches_everything():
    run = watch(deaf, seconds=.1)
    assert not run.ended

def test_what_cannot_be_stopped_is_left_behind():
    start = time.perf_counter()
    run = watch(time.sleep, 30, seconds=.1)
    assert not run.ended and not run.stopped and time.perf_counter() - start < 10

def test_watching_goes_on_after_giving_up():
    "Python 3.11 hung here: an exception that no thread hears kept every other watched thread from its first step"
    watch(time.sleep, 3, seconds=.05)
    run = watch(helper, 1, seconds=1.)
    assert run.value == 2 and run.seconds < 1

def test_time_up_is_not_caught_by_accident():
    assert not issubclass(TimeUp, Exception)

def test_grad_mode_is_the_callers():
    with torch.no_grad(): assert watch(torch.is_grad_enabled).value is False
    assert watch(torch.is_grad_enabled).value is True

def test_profile_of_the_caller_stays():
    heard = []
    def profile(frame, event, arg): heard.append(event)
    sys.setprofile(profile)
    try:
        watch(lambda: 1)
        assert sys.getprofile() is profile
    finally: sys.setprofile(None)

# -- what is called

def helper(x): return x + 1

def test_own_code_is_counted():
    def fn(x): return [helper(v) for v in x]
    run = watch(fn, [1, 2, 3])
    assert run.codes[fn.__code__] == 1 and run.codes[helper.__code__] == 3

def test_torch_operations_under_any_name():
    a = torch.ones(2, 2)
    secret = torch.mm
    for fn, name in [(lambda: a @ a, 'matmul'), (lambda: secret(a, a), 'mm'), (lambda: getattr(a, 'mat' + 'mul')(a), 'matmul'), (lambda: torch.nn.functional.linear(a, a), 'linear'),
                     (lambda: functools.partial(torch.einsum, 'ij,jk->ik')(a, a), 'einsum'), (lambda: torch.nn.Linear(2, 2)(a), 'linear'), (lambda: eval('a @ a', dict(a=a)), 'matmul')]:
        assert {name, f'__{name}__'} & watch(fn).names(), name

def test_functions_of_libraries():
    x = torch.ones(2, requires_grad=True)
    assert 'torch.autograd.grad' in watch(lambda: torch.autograd.grad(x.sum(), x)).calls
    assert 'backward' in watch(lambda: x.sum().backward()).names()
    assert 'miniai.testing.test_close' in watch(lambda: test_close(1., 1.)).calls
    assert 'builtins.len' in watch(lambda: len([1])).calls

def test_methods_made_by_exec_belong_to_their_module():
    "The `__init__` of a data class has no file of its own"
    run = watch(lambda: Run())
    assert Run.__init__.__code__.co_filename == '<string>' and Run.__init__.__code__ not in run.codes

def test_no_recording_on_request():
    assert not watch(helper, 1, record=False).codes

def test_eight_threads_watch_at_once():
    runs = []
    def work(n): runs.append((n, watch(lambda: [helper(v) for v in range(n)])))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    for n, run in runs: test_eq((run.value, run.codes[helper.__code__]), ([v + 1 for v in range(n)], n))

# -- code

def while_loop(x):
    while x: x -= 1
def comprehension(x): return {v for v in x}
def generator(x): return sum(v for v in x)
def inner(x):
    def f(v): return [w for w in v]
    return f(x)
def no_loop(x): return x.sum() if len(x) and x.ndim else abs(x)

@pytest.mark.parametrize('fn,loop', [(while_loop, True), (comprehension, True), (generator, True), (inner, True), (no_loop, False), (forever, True), (deaf, True)])
def test_loops(fn, loop): test_eq(has_loop(fn.__code__), loop)

def inplace(a, b): a @= b
def nested(a): return [v @ a for v in a]
def decorated(a): return a + a   # a @ a

@pytest.mark.parametrize('fn,found', [(lambda a: a @ a, True), (inplace, True), (nested, True), (decorated, False), (lambda a: a*a, False)])
def test_matmul_operator(fn, found): test_eq(has_matmul_operator(fn.__code__), found)

ALIAS = np.matmul

def test_mentioned():
    local = np.dot
    for fn, what in [(lambda a: ALIAS(a, a), np.matmul), (lambda a: np.matmul(a, a), np.matmul), (lambda a: local(a, a), np.dot), (helper, None)]:
        assert any(m is what for m in mentioned(fn)) == (what is not None)
    test_eq(mentioned(len), [])
    test_close(len(mentioned(functools.partial(helper, 1))), 0)
