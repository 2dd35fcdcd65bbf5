"Tests of miniai.judge"
import functools
import sys
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from miniai.judge import (
    Case,
    Draw,
    Exercise,
    Rule,
    Verdict,
    as_html,
    as_text,
    compiled,
    diagnose,
    difference,
    judge,
    no_autograd,
    no_calls,
    no_loop,
    no_matmul,
    one_expression,
    shrink,
    speed_ratio,
    try_case,
    wrong_places,
)
from miniai.testing import test_close, test_eq
from miniai.watch import watch

def product(
    a:Tensor,  # (n, k)
    b:Tensor,  # (k, m)
)->Tensor:     # (n, m)
    "The matrix product"
    out = torch.zeros(len(a), b.shape[1])
    for i in range(len(a)):
        for j in range(b.shape[1]):
            for k in range(len(b)): out[i,j] += a[i,k]*b[k,j]
    return out

def draw(d):
    n, k, m = d.n(), d.n(0), d.n()
    return d.floats(n, k), d.floats(k, m)

def exercise(**kwargs): return Exercise('product', '01_matmul', 'Multiply.', product, draw, **dict(dict(size=3, hints=('one', 'two')), **kwargs))

# -- drawing

def test_draws_are_repeatable_and_grow():
    for size in range(6):
        d = Draw(size, 3)
        shapes = [d.n() for _ in range(50)]
        assert min(shapes) == 1 and max(shapes) <= size + 1
        test_close(Draw(size, 3).floats(3, 2), Draw(size, 3).floats(3, 2))
    assert all(Draw(s).n(0, 2) <= 2 for s in range(9))
    assert not torch.equal(Draw(3, 1).floats(3), Draw(3, 2).floats(3))

def test_plain_numbers_are_whole_and_some_tensors_lie_across():
    x = Draw(4, 1, plain=True).floats(5, 5)
    test_close(x, x.round())
    assert {Draw(4, s).floats(3, 4).is_contiguous() for s in range(20)} == {True, False}
    test_eq(Draw(1).lists(0, 2), [])
    assert isinstance(Draw(1).lists(2)[0], float) and Draw(1).choice('a') == 'a'

# -- comparing

T = torch.tensor
SAME = [(T([1., 2]), T([1., 2])), (1, T(1)), (T(1.), 1.), (1., 1), ([1, (2, T(3.))], [1, (2, 3.)]), ((1,), [1]), ({'a': 1.}, {'a': 1}), (None, None), ('x', 'x'),
        (T([float('nan')]), T([float('nan')])), (np.ones(2), np.ones(2)), (T([True]), T([True])), (float('inf'), float('inf')), (T([1.], requires_grad=True), T([1.])),
        (torch.zeros(0, 3), torch.zeros(0, 3)), (T([1 + 2j]), T([1 + 2j]))]
OTHER = [(T([1.]), T([2.])), (T([[1.]]), T([1.])), (T([1]), T([1.])), (np.ones(2), torch.ones(2)), ([1.], T([1.])), (None, 0), (0, None), (True, 1), (1, True), ([1], [1, 2]),
         ({'a': 1}, {'b': 1}), ('x', 'y'), (T([1.]), T([float('nan')])), (torch.zeros(0, 3), torch.zeros(3, 0)), (float('nan'), 1.), (T([1 + 2j]), T([1 - 2j])), ((i for i in [1]), [1]),
         (T([False]), T([True])), (T([1.]).double(), T([1.])), (T(1), T(1.)), (object(), 3)]

@pytest.mark.parametrize('got,want', SAME, ids=str)
def test_same(got, want): test_eq(difference(got, want), '')

@pytest.mark.parametrize('got,want', OTHER, ids=str)
def test_other(got, want): assert difference(got, want)

def test_wrong_places():
    test_eq(wrong_places(T([1., 2, 3]), T([1., 5, 3])).tolist(), [False, True, False])

# -- right, wrong, strange

def test_right_answers():
    for fn in (lambda a, b: a @ b, product, lambda a, b: (a[:,:,None]*b).sum(1), torch.matmul):
        verdict = judge(exercise(), fn)
        assert verdict and verdict.calls >= 12 and not verdict.problem and not verdict.hint

class Rude:
    def __repr__(self): raise RuntimeError('no')
    __str__ = __eq__ = __repr__
class RudeError(Exception):
    def __str__(self): raise RuntimeError('no')
def raise_rudely(a, b): raise RudeError
def endless(a, b):
    while True: pass
def swallow(a, b):
    end = time.perf_counter() + 4    # long enough to be given up on, short enough to leave the other tests alone
    while time.perf_counter() < end:
        try: time.sleep(.01)
        except: pass  # noqa: E722
def sleeper(a, b): time.sleep(3)
def recursive(a, b): return recursive(a, b)
def generator(a, b): yield a @ b

@pytest.mark.parametrize('fn', [None, 3, 'x', T([1.]), Rude(), lambda: 1, lambda a, b, c: 1, lambda a, b: None, lambda a, b: Rude(), raise_rudely, endless, swallow, sleeper, recursive, generator,
                                lambda a, b: sys.exit(), lambda a, b: 1/0, lambda a, b: a, lambda a, b: (a @ b).tolist(), lambda a, b: (a @ b).numpy(), lambda a, b: a @ b + 1e-3,
                                lambda a, b: torch.randn(len(a), b.shape[1]), int, Rude, print, lambda a, b: (a @ b).to_sparse(), lambda a, b: (a @ b).to('meta')])
def test_strange_answers_fail_in_words(fn):
    verdict = judge(exercise(), fn, limit=.2)
    assert verdict.passed is False and verdict.problem
    assert str(verdict) and verdict._repr_html_()

@pytest.mark.parametrize('fn,words', [
    (lambda a, b: (a @ b).T, 'transposed'), (lambda a, b: -(a @ b), 'sign'), (lambda a, b: 3*(a @ b), '3 times what it should be'), (lambda a, b: None, 'is there a `return`'),
    (lambda a, b: (a.double() @ b.double()), 'float64'), (lambda a, b: a.mul_(2) @ b/2, 'in place'), (lambda a, b: nope, 'does not exist'),  # noqa: F821
    (lambda a, b: a @ b/a.shape[1], 'mean where a sum'), (lambda a, b: (a @ b)[None], 'axis of length 1'), (lambda a, b: (a @ b)[:-1], 'off by one'), (lambda a: a, 'number of parameters'),
    (endless, 'endless'), (lambda a, b: T([a[i,0] for i in range(len(a) + 1)]), 'runs past the end'), (lambda a, b: (a @ b).half(), 'float16')])
def test_general_diagnoses(fn, words):
    verdict = judge(exercise(), fn, limit=.5)
    assert words in verdict.diagnosis, verdict

def test_own_mistakes_come_first():
    ex = exercise(mistakes={'minus was meant': lambda a, b: -(a @ b), 'never': lambda a, b: 1/0})
    test_eq(judge(ex, lambda a, b: -product(a, b)).diagnosis, 'minus was meant')
    test_eq(judge(ex, lambda a, b: 1/0).diagnosis, '')

def test_square_only():
    def swapped(a, b): return torch.stack([torch.stack([sum((a[i,k]*b[k,j] for k in range(len(a))), T(0.)) for j in range(b.shape[1])]) for i in range(len(a))])
    ex = Exercise('product', 'x', 'Multiply.', product, lambda d: (d.floats(n := d.n(), k := d.choice([n, n + 1])), d.floats(k, n)), size=4)
    verdict = judge(ex, swapped)
    assert not verdict and verdict.diagnosis == 'it is right for square inputs only: two sizes are mixed up', verdict

def test_the_input_stays_whole():
    args = torch.ones(2, 3), torch.ones(3, 2)
    kept = [a.clone() for a in args]
    case = try_case(exercise(), lambda a, b: a.zero_() @ b, args)
    assert case.problem
    for a, k in zip(args, kept, strict=True): test_close(a, k)

def test_smallest_input():
    def fails_wide(a, b): return a @ b + (b.shape[1] > 2)
    verdict = judge(exercise(size=5), fails_wide)
    test_eq([tuple(x.shape) for x in verdict.case.args][1][1], 3)
    assert verdict.case.weight <= 9 and all((x == x.round()).all() for x in verdict.case.args)

def test_shrink_keeps_what_it_cannot_better():
    case = try_case(exercise(), lambda a, b: a @ b + (len(a) == 50), (torch.ones(50, 1), torch.ones(1, 1)))
    assert shrink(exercise(), lambda a, b: a @ b + (len(a) == 50), case) is case
    good = try_case(exercise(), torch.matmul, (torch.ones(2, 1), torch.ones(1, 1)))
    test_eq(diagnose(exercise(), [good, case]), '')

def test_hints_come_one_by_one():
    test_eq([judge(exercise(), lambda a, b: a, attempt=n).hint for n in (0, 1, 2, 9)], ['', 'one', 'two', 'two'])
    test_eq(judge(exercise(), torch.matmul, attempt=2).hint, '')

def test_answers_of_miniai_are_not_yours():
    from miniai.matmul import matmul_broadcast, matmul_lists
    assert "miniai's own" in judge(exercise(), matmul_broadcast).problem
    assert 'miniai.matmul.matmul_broadcast' in judge(exercise(), lambda a, b: matmul_broadcast(a, b)).problem
    assert "miniai's own" in judge(exercise(), functools.partial(matmul_broadcast)).problem
    assert judge(exercise(allow=('matmul',)), lambda a, b: matmul_broadcast(a, b))
    assert not judge(exercise(), matmul_lists)

# -- rules

LOOPS = dict(comprehension=lambda a, b: torch.stack([r @ b for r in a]), map=lambda a, b: torch.stack(list(map(lambda r: r @ b, a))), vmap=lambda a, b: torch.vmap(lambda r: r @ b)(a),
             unbind=lambda a, b: torch.stack(a.unbind()) @ b, recursion=lambda a, b: rows(a, b), lists=lambda a, b: torch.tensor(a.tolist(), dtype=a.dtype).reshape(a.shape) @ b)
def rows(a, b): return torch.cat([a[:1] @ b, rows(a[1:], b)]) if len(a) > 1 else a @ b

@pytest.mark.parametrize('name', LOOPS)
def test_no_loop(name):
    verdict = judge(exercise(rules=(no_loop,)), LOOPS[name])
    assert not verdict and 'the numbers are right, but' in verdict.problem, verdict

PRODUCTS = dict(operator=lambda a, b: a @ b, mm=lambda a, b: torch.mm(a, b), einsum=lambda a, b: torch.einsum('ik,kj', a, b), tensordot=lambda a, b: torch.tensordot(a, b, 1),
                numpy=lambda a, b: torch.from_numpy(a.numpy() @ b.numpy()), dot=lambda a, b: torch.from_numpy(np.dot(a.numpy(), b.numpy())), linear=lambda a, b: torch.nn.functional.linear(a, b.T),
                matmul=lambda a, b: torch.from_numpy(np.matmul(a.numpy(), b.numpy())), evaluated=lambda a, b: eval('a @ b', dict(a=a, b=b)), rows=lambda a, b: torch.stack([b.T.mv(r) for r in a]))

@pytest.mark.parametrize('name', PRODUCTS)
def test_no_matmul(name):
    verdict = judge(exercise(rules=(no_matmul,)), PRODUCTS[name])
    assert not verdict and 'the numbers are right, but' in verdict.problem, verdict

def test_rules_let_honest_answers_pass():
    assert judge(exercise(rules=(no_loop, no_matmul, one_expression, no_autograd)), lambda a, b: (a[:,:,None]*b[None]).sum(1))

def test_one_expression():
    def two(a, b):
        c = a @ b
        return c
    assert 'keeps `c`' in judge(exercise(rules=(one_expression,)), two).problem

def test_no_autograd():
    rule = no_calls('grad')
    x = torch.ones(2, requires_grad=True)
    def fn(): return torch.autograd.grad(x.sum(), x)[0]
    assert rule.broken(fn, watch(fn)) and no_autograd.broken(fn, watch(fn))

def test_compiled():
    from numba import njit
    ex = Exercise('double', 'x', 'Double.', lambda x: 2*x, lambda d: (float(d.n()),), rules=(compiled,))
    assert judge(ex, njit(lambda x: 2*x))
    assert '@njit' in judge(ex, lambda x: 2*x).problem

# -- speed and looks

def test_speed():
    def slow(a, b): time.sleep(.01); return a @ b
    ex = exercise(reference=slow, faster=2., size=2)
    verdict = judge(ex, torch.matmul)
    assert verdict and verdict.ratio > 2 and 'times as fast' in str(verdict)
    late = judge(ex, lambda a, b: (time.sleep(.02), a @ b)[1])
    assert not late and 'wanted 2 times' in late.problem
    assert speed_ratio(ex, slow) > 0

def test_a_class_can_be_an_answer():
    def use(cls, values):
        total = cls()
        for v in values: total.add(v)
        return total.value
    class Right:
        def __init__(self): self.value = 0
        def add(self, v): self.value += v
    class Wrong(Right):
        def add(self, v): self.value = v
    ex = Exercise('total', 'x', 'Add up.', Right, lambda d: (d.ints(d.n()).tolist(),), use=use, mistakes={'only the last one is kept': Wrong})
    assert judge(ex, Right)
    class Other:
        value = 0
        def add(self, v): self.value = v*1
    test_eq(judge(ex, Other).diagnosis, 'only the last one is kept')

def test_images_are_shown_plane_by_plane():
    ex = Exercise('double', 'x', 'Double.', lambda x: 2*x, lambda d: (d.floats(2, 1, 2, 3),))
    page = judge(ex, lambda x: 2*x + (torch.arange(3) == 1))._repr_html_()
    test_eq((page.count('<table>'), page.count('<td class=bad>')), (6, 4))

def test_inputs_of_a_class_are_shown():
    ex = Exercise('total', 'x', 'Add up.', sum, lambda d: ([1, 2, 3],), use=lambda fn, values: fn(values))
    assert '[1, 2, 3]' in str(judge(ex, lambda v: 0))

def test_a_rule_of_your_own():
    def even(fn, run): return '' if sum(run.codes.values()) % 2 else 'an even number of your functions ran'
    verdict = judge(exercise(rules=(Rule('an odd number of functions', even),)), lambda a, b: (lambda: a @ b)())
    assert isinstance(verdict, Verdict) and 'The rule: an odd number' in verdict.problem

def test_long_and_ragged_inputs_are_shown():
    case = Case(([(T([1.]), 2), (T([3., 4]), 5)], np.ones(2, dtype='>f4')), 1, watch(lambda: 2), 'wanted 1, got 2')
    verdict = Verdict('x', False, case.problem, case=case, names=('a_name_that_is_long', 'big_endian'))
    assert 'a_name_that_is_long ' in as_text(verdict) and '\033[31m' in as_text(verdict, color=True) and '<table>' in as_html(verdict) and case.weight == 4
    assert difference(np.ones(2, dtype='>f4'), np.zeros(2, dtype='>f4'))

def test_loading_a_package_is_not_the_learners_time(tmp_path, monkeypatch):
    (tmp_path/'slow_package.py').write_text('import time, email.mime.text\ntime.sleep(.6)\nimport wave')
    monkeypatch.syspath_prepend(tmp_path)
    def fn(a, b):
        import slow_package  # noqa: F401
        return a @ b
    assert judge(exercise(), fn, limit=.3)

def test_pictures_mark_what_is_wrong():
    page = judge(exercise(), lambda a, b: a @ b + 1)._repr_html_()
    assert '<td class=bad>' in page and 'expected' in page and 'got' in page
    assert '&lt;b&gt;' in judge(exercise(), lambda a, b: '<b>')._repr_html_()
