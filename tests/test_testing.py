"The tools that all other tests stand on"
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miniai.testing import equals, expect_error, near, test, test_close, test_eq, test_near, to_array

nan, inf = float('nan'), float('inf')

def passes(f, *args, **kwargs):
    "True if `f` is content, False if it raises an AssertionError"
    try: f(*args, **kwargs)
    except AssertionError: return False
    return True

def test_test_prints_both_sides():
    with pytest.raises(AssertionError, match=r'(?s)lt:.*second.*first'): test('second', 'first', lambda a, b: a < b, 'lt')
    with pytest.raises(AssertionError, match='equals'): test(1, 2, equals)

@pytest.mark.parametrize('a, b, same', [
    (1, 1, True), ('a', 'a', True), ([1, 2], [1, 2], True), ([1, 2], (1, 2), True), ([1], [1, 1], False), (None, None, True),
    (torch.ones(3), torch.ones(2, 3), False), (torch.ones(2, 3), torch.ones(3), False), (torch.ones(3), [1, 1, 1], True),
    (torch.ones(1), 1., False), (torch.tensor(1.), 1., True), (np.ones((0, 3)), np.ones((0, 2)), False), (torch.ones(2), None, False),
    ({'x': torch.ones(2)}, {'x': torch.ones(2)}, True), ({'x': torch.ones(2)}, {'x': torch.ones(1, 2)}, False), ({'x': 1}, {'y': 1}, False),
    ([torch.ones(2), 'a'], [torch.ones(2), 'a'], True), (torch.Size([2, 3]), (2, 3), True), (nan, nan, False),
])
def test_equals(a, b, same):
    assert equals(a, b) is same
    assert passes(test_eq, a, b) is same

@pytest.mark.parametrize('cmp', [test_eq, test_near, test_close])
@pytest.mark.parametrize('a, b', [((3,), (2, 3)), ((2, 3), (3,)), ((1,), ()), ((0,), (3,)), ((0, 3), (3, 0)), ((1, 3), (3,)), ((3, 1), (1, 3))])
def test_shapes_never_stretch(cmp, a, b):
    with pytest.raises(AssertionError): cmp(torch.zeros(a), np.zeros(b))

@pytest.mark.parametrize('a, b, ok', [
    (1., 1.00001, True), (1., 1.0002, False), (nan, nan, True), (nan, 1., False), (1., nan, False), (inf, inf, True), (inf, -inf, False),
    (inf, 1e300, False), (1e300, inf, False), (True, 1, True), ([[1, nan]], [[1, nan]], True), ([[1, nan]], [[nan, 1]], False), ([], [], True),
])
def test_near_and_close_agree_on_special_values(a, b, ok):
    assert near(a, b, rtol=1e-4, atol=0) is ok
    assert passes(test_near, a, b, rtol=1e-4, atol=0) is ok
    assert passes(test_close, a, b, eps=1e-4) is ok

def test_integers_do_not_wrap():
    assert passes(test_close, np.uint8([3]), np.uint8([4]), eps=1)
    assert not passes(test_close, np.uint8([3]), np.uint8([4]), eps=.5)
    assert not passes(test_close, np.uint8([0]), np.uint8([255]), eps=1)
    assert not passes(test_close, np.int64([2**62]), np.int64([2**62 + 1]), eps=.5)
    assert not passes(test_close, np.int64([2**63-1]), np.int64([-2**63]), eps=1)
    assert passes(test_close, np.uint64([2**64-1]), np.uint64([2**64-1]), eps=0)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64])
def test_dtypes(dtype):
    x = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    test_close(x, x.clone())
    y = x.clone()
    y[1, 0] = 0
    with pytest.raises(AssertionError, match=r'1 of 4 .* \[1, 0\]'): test_close(y, x)

def test_message_names_shapes_or_the_worst_value():
    with pytest.raises(AssertionError, match=r'\(3,\) and \(2, 3\)'): test_close(torch.zeros(3), torch.zeros(2, 3))
    x = torch.zeros(2, 3, 4)
    x[1, 2, 3], x[0, 1, 1] = -7, 2
    with pytest.raises(AssertionError, match=r'2 of 24 .* 7, is at \[1, 2, 3\]: -7.0 and 0.0'): test_close(x, torch.zeros(2, 3, 4))
    x[0, 0, 0] = nan
    with pytest.raises(AssertionError, match=r'3 of 24 .* nan, is at \[0, 0, 0\]'): test_close(x, torch.zeros(2, 3, 4))
    with pytest.raises(AssertionError, match=r'1 of 2 .* 1, is at \[1\]'): test_close([inf, 1], [inf, 2])
    with pytest.raises(AssertionError, match='the only value'): test_close(1, 2)

def test_bad_input_is_refused():
    with pytest.raises(TypeError, match='test_eq'): test_close('3', '3')
    with pytest.raises(TypeError, match='NoneType'): near(None, 1)
    with pytest.raises(ValueError, match='rectangular'): test_close([[1, 2], [3]], [[1, 2], [3]])
    for bad in (-1., nan):
        with pytest.raises(ValueError, match='0 or more'): test_close(1, 1, eps=bad)

def test_any_container():
    x = torch.arange(6.).reshape(2, 3)
    for same in (x.tolist(), x.numpy(), [x[0], x[1]], (x[0].tolist(), x[1].numpy()), [[torch.tensor(0.), 1, np.float32(2)], [3, 4, 5]], x.requires_grad_(), x.detach().T.contiguous().T):
        test_close(same, x)
        assert to_array(same).shape == (2, 3)

def test_inputs_are_left_alone():
    x, y = torch.tensor([1., nan]), torch.tensor([2., nan])
    with pytest.raises(AssertionError): test_close(x, y)
    assert x[0] == 1 and y[0] == 2 and x.isnan()[1]

@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(0, 1), st.floats(-2, 2), st.data())
def test_close_is_the_slow_obvious_rule(xs, eps, nudge, data):
    i = data.draw(st.integers(0, len(xs)-1))
    ys = [x + nudge*eps*(k == i) for k, x in enumerate(xs)]
    assert passes(test_close, xs, ys, eps=eps) is all(abs(x-y) <= eps for x, y in zip(xs, ys, strict=True))
    assert near(xs, ys) is all(abs(x-y) <= 1e-8 + 1e-5*abs(y) for x, y in zip(xs, ys, strict=True))
    assert near(xs, ys) is torch.allclose(torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64))

def test_expect_error(capsys):
    with expect_error(ValueError, 'invalid'): int('x')
    assert capsys.readouterr().out.startswith('ValueError: invalid')
    with pytest.raises(AssertionError, match='without one'):
        with expect_error(ValueError): pass
    with pytest.raises(AssertionError, match='lacks'):
        with expect_error(ValueError, 'nonsense'): int('x')
    with pytest.raises(KeyError):
        with expect_error(ValueError): {}['x']
