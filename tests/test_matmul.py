"Every variant in the registry keeps the promises that its page makes"
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

import miniai.gemm  # noqa: F401  enters its variants
from miniai.matmul import (
    MATMULS,
    Ladder,
    Rung,
    Variant,
    batch_matmul,
    human_time,
    jit,
    ladder,
    matmul_dot,
    matmul_lists,
    matmul_numba,
    matmul_numba_dot,
    matmul_torch,
    measure,
    median_time,
    register,
)
from miniai.testing import test_close, test_eq

NUMBA = ['matmul_numba_dot', 'matmul_numba', 'matmul_ikj', 'matmul_blocked', 'matmul_fast']      # the last three are chapter 03's
OUTSIDE = ['matmul_lists', *NUMBA]      # those that leave PyTorch
TORCH = [n for n in MATMULS if n not in OUTSIDE and 'cuda' not in n]
INTS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
SHAPES = [(1, 1, 1), (2, 3, 4), (5, 7, 1), (1, 9, 2), (6, 1, 5), (0, 3, 4), (2, 3, 0), (2, 0, 4), (0, 0, 0), (3, 17, 5)]
each_variant = pytest.mark.parametrize('v', MATMULS.values(), ids=lambda v: v.name)

def rand(*shape, dtype=torch.float32, seed=0):
    gen = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point: return torch.randn(*shape, generator=gen, dtype=dtype)
    return torch.randint(0 if dtype == torch.uint8 else -9, 9, shape, generator=gen).to(dtype)

def same_as_torch(v, a, b, eps=1e-4):
    "Value, shape and dtype as torch.matmul, by a function that leaves its inputs alone"
    a0, b0 = a.clone(), b.clone()
    c = v(a, b)
    assert isinstance(c, torch.Tensor) and c.dtype == a.dtype
    test_close(c, torch.matmul(a, b), eps=eps if a.dtype.is_floating_point else 0)
    assert torch.equal(a.nan_to_num(7), a0.nan_to_num(7)) and torch.equal(b.nan_to_num(7), b0.nan_to_num(7))

def test_registry_holds_the_rungs_of_the_page():
    assert list(MATMULS)[:10] == ['matmul_lists', 'matmul_loops', 'matmul_numba_dot', 'matmul_numba', 'matmul_elementwise', 'matmul_dot',
                             'matmul_broadcast', 'matmul_outer', 'matmul_einsum', 'matmul_torch']
    assert [v.loops for v in MATMULS.values()][:10] == [3, 3, 2, 0, 2, 2, 1, 0, 0, 0]
    for name, v in MATMULS.items(): assert v.name == name and v.fn.__doc__

@each_variant
@pytest.mark.parametrize('m, n, p', SHAPES)
def test_values(v, m, n, p): same_as_torch(v, rand(m, n), rand(n, p, seed=1))

@each_variant
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, *INTS], ids=str)
def test_dtypes(v, dtype): same_as_torch(v, rand(3, 6, dtype=dtype), rand(6, 4, dtype=dtype, seed=1))

@each_variant
def test_double_precision(v):
    a, b = rand(3, 784, dtype=torch.float64), rand(784, 2, dtype=torch.float64, seed=1)
    same_as_torch(v, a, b, eps=1e-11)

@each_variant
@pytest.mark.parametrize('dtype', INTS, ids=str)
def test_integers_wrap_as_in_torch(v, dtype):
    top = torch.iinfo(dtype).max
    same_as_torch(v, torch.tensor([[top, top, 3], [top, 1, -2 if dtype != torch.uint8 else 2]], dtype=dtype), torch.tensor([[top], [2], [5]], dtype=dtype))

@each_variant
def test_not_contiguous(v):
    a, b = rand(6, 8), rand(8, 10, seed=1)
    same_as_torch(v, a.T.contiguous().T, b.T.contiguous().T)
    same_as_torch(v, a[::2, ::2], b[::2, ::3])
    same_as_torch(v, a[:, 1:5], b[2:6, 3:])
    same_as_torch(v, a[0].expand(4, 8), b[:, :1].expand(8, 3))
    same_as_torch(v, a.T, a)

@pytest.mark.parametrize('name', NUMBA)
def test_arrays(name):
    v, a, b = MATMULS[name], rand(6, 8).numpy(), rand(8, 4, seed=1).numpy()
    for x, y in [(a, b), (a[::-1], b), (a[:, ::-1], b[::-1]), (a[::-2, ::2], b[::2, ::-1]), (np.asfortranarray(a), b), (a.astype('>f4'), b.astype('>f4')), (a[:0], b), (a[:, :0], b[:0])]:
        before = x.copy(), y.copy()
        c = v(x, y)
        assert isinstance(c, np.ndarray) and c.dtype == np.float32
        test_close(c, x@y, eps=1e-5)
        test_eq(before, (x, y))
    a.flags.writeable = False
    test_close(v(a, b), a@b, eps=1e-5)
    test_eq(v(a.astype(np.int16), b.astype(np.int16)).dtype, np.int16)

def test_lists():
    a, b = rand(3, 4).tolist(), rand(4, 2, seed=1).tolist()
    c = matmul_lists(a, b)
    assert isinstance(c, list)
    test_close(c, np.array(a) @ np.array(b))
    assert matmul_lists([[1, 2], [3, 4]], [[5, 6], [7, 8]]) == [[19, 22], [43, 50]]
    assert matmul_lists([], []) == []
    for x, y, msg in [([1, 2], [[1], [2]], 'list of rows'), ([[1, 2], [3]], [[1], [2]], 'same length'), ([[1, 2]], [[1, 2]], r'\(1, 2\) @ \(1, 2\)')]:
        with pytest.raises(ValueError, match=msg): matmul_lists(x, y)
    with pytest.raises(TypeError): matmul_lists(a, torch.tensor(b))

@each_variant
def test_nan_and_inf(v):
    nan, inf = float('nan'), float('inf')
    a = torch.tensor([[1., nan, 2], [inf, 1, 1], [0, 1, inf], [inf, -inf, 0], [1, 2, 3]])
    for b in (torch.ones(3, 2), torch.tensor([[0., 1], [1, -inf], [-1, 0]])): same_as_torch(v, a, b)

@each_variant
def test_inner_sizes(v):
    for sa, sb in [((784, 10), (5, 784)), ((2, 3), (4, 2)), ((2, 0), (1, 2)), ((1, 2), (1, 2))]:
        with pytest.raises(ValueError, match=rf'\({sa[0]}, {sa[1]}\) @ \({sb[0]}, {sb[1]}\).*inner sizes.*'): v(torch.zeros(sa), torch.zeros(sb))
    with pytest.raises(ValueError, match='b @ a'): v(torch.zeros(7, 3), torch.zeros(5, 7))
    with pytest.raises(ValueError, match='b.mT'): v(torch.zeros(7, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match='a.mT'): v(torch.zeros(7, 3), torch.zeros(7, 5))

@each_variant
@pytest.mark.parametrize('sa, sb', [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 2, 3), (2, 3, 2)), ((), ())], ids=str)
def test_ranks(v, sa, sb):
    with pytest.raises(ValueError, match='rank 2'): v(torch.zeros(sa), torch.zeros(sb))

@each_variant
def test_unequal_or_useless_inputs(v):
    x = torch.zeros(2, 2)
    with pytest.raises(TypeError, match='float32 and float64.*to'): v(x, x.double())
    with pytest.raises(TypeError, match='int64 and float32'): v(x.long(), x)
    with pytest.raises(TypeError, match='bool'): v(x.bool(), x.bool())
    for bad in ([[1., 2.], [3., 4.]], 'no', None, 3.):
        with pytest.raises(TypeError, match='wanted two tensors'): v(x, bad)
    with pytest.raises((TypeError, ValueError), match='device|meta'): v(x, x.to('meta'))

@pytest.mark.parametrize('name', TORCH)
def test_gradients(name):
    a, b = (rand(3, 4, dtype=torch.float64).requires_grad_(), rand(4, 2, dtype=torch.float64, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(MATMULS[name].fn, (a, b))
    wanted = torch.autograd.grad((a@b).square().sum(), (a, b))
    got = torch.autograd.grad(MATMULS[name](a, b).square().sum(), (a, b))
    for x, y in zip(got, wanted, strict=True): test_close(x, y, eps=1e-10)

@pytest.mark.parametrize('name', OUTSIDE)
def test_gradients_are_refused_in_words(name):
    a, b = rand(2, 3).requires_grad_(), rand(3, 2)
    for x, y in [(a, b), (b, a)]:
        with pytest.raises(ValueError, match='gradient.*detach'): MATMULS[name](x, y)
    with torch.no_grad(): test_close(MATMULS[name](a, b), a@b)

@pytest.mark.parametrize('name', NUMBA)
def test_numba_refuses_what_it_lacks(name):
    half = torch.zeros(2, 2, dtype=torch.float16)
    with pytest.raises(TypeError, match='float16'): MATMULS[name](half, half)
    with pytest.raises(TypeError, match='float16'): MATMULS[name](half.numpy(), half.numpy())
    with pytest.raises(TypeError, match='tensor|array'): MATMULS[name](half.numpy(), half)
    with pytest.raises(ValueError, match='inner sizes'): MATMULS[name](np.zeros((784, 10)), np.zeros((5, 784)))

@each_variant
def test_only_one_variant_calls_matmul(v):
    class Watch(TorchFunctionMode):
        called = set()
        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.called.add(getattr(func, '__name__', str(func)))
            return func(*args, **(kwargs or {}))
    library = {'matmul', '__matmul__', '__rmatmul__', 'mm', 'bmm', 'addmm', 'linear', 'mv', 'addmv', 'baddbmm', 'inner', 'tensordot', 'chain_matmul'}
    with Watch() as w:
        w.called = set()
        v(rand(2, 3), rand(3, 2))
    assert bool(w.called & library) is (v.name == 'matmul_torch'), w.called

sizes = st.integers(0, 6)
@each_variant
@given(m=sizes, n=sizes, p=sizes, dtype=st.sampled_from([torch.float32, torch.float64, torch.int64]), seed=st.integers(0, 99), flip=st.booleans())
def test_drawn_shapes(v, m, n, p, dtype, seed, flip):
    a, b = rand(m, n, dtype=dtype, seed=seed), rand(n, p, dtype=dtype, seed=seed+1)
    same_as_torch(v, a.T.contiguous().T if flip else a, b)

@given(sizes, sizes, sizes, sizes)
def test_drawn_mismatches(m, n, k, p):
    a, b = torch.zeros(m, n), torch.zeros(k, p)
    for v in MATMULS.values():
        if n == k: test_eq(v(a, b).shape, (m, p))
        else:
            with pytest.raises(ValueError, match='inner sizes'): v(a, b)

# -- batches

def by_hand(a, b): return torch.stack([matmul_dot(x, y) for x, y in zip(a, b, strict=True)]) if len(a) else a.new_zeros(0, a.shape[1], b.shape[2])

@pytest.mark.parametrize('n, sa, sb', [(7, (3, 4), (4, 2)), (1, (1, 1), (1, 1)), (0, (3, 4), (4, 2)), (3, (0, 4), (4, 2)), (3, (2, 0), (0, 2))])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.int64], ids=str)
def test_batch_matmul(n, sa, sb, dtype):
    a, b = rand(n, *sa, dtype=dtype), rand(n, *sb, dtype=dtype, seed=1)
    c = batch_matmul(a, b)
    assert c.dtype == dtype
    for wanted in (torch.bmm(a, b), torch.matmul(a, b), by_hand(a, b)): test_close(c, wanted)
    a = rand(n, sa[1], sa[0], dtype=dtype).mT
    test_close(batch_matmul(a, b), torch.bmm(a, b))

def test_batch_matmul_gradients_and_refusals():
    a, b = rand(2, 3, 4, dtype=torch.float64).requires_grad_(), rand(2, 4, 2, dtype=torch.float64, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(batch_matmul, (a, b))
    with pytest.raises(ValueError, match='rank 3'): batch_matmul(a[0], b[0])
    with pytest.raises(ValueError, match='batch sizes differ, 2 and 1'): batch_matmul(a, b[:1])
    with pytest.raises(ValueError, match='inner sizes'): batch_matmul(a, a)
    with pytest.raises(TypeError, match='float64 and float32'): batch_matmul(a, b.float())

# -- the ladder

def test_ladder_on_small_matrices():
    a, b = rand(3, 16), rand(16, 4, seed=1)
    lad = ladder(a, b, progress=False)
    assert [r.name for r in lad] == list(MATMULS)
    assert all(r.seconds > 0 and r.max_diff < 1e-4 and not r.extrapolated and r.flops == 2*3*16*4 for r in lad)
    text = repr(lad)
    for name in MATMULS: assert name in text
    assert 'speed-up' in text and '~' not in text
    dicts = json.loads(json.dumps(lad.to_dicts()))
    assert min(d['speedup'] for d in dicts) == 1 and dicts[0]['name'] == 'matmul_lists'

def test_ladder_says_what_it_extrapolated():
    a, b = rand(400, 16), rand(16, 4, seed=1)
    slow = {n: MATMULS[n] for n in ('matmul_loops', 'matmul_outer', 'matmul_torch')}
    lad = ladder(a, b, slow, progress=False, max_seconds=.05, max_bytes=400*16*4*4//2)
    loops, outer, best = lad
    assert loops.extrapolated and loops.rows < 400 and loops.why == 'time'
    assert outer.extrapolated and outer.rows == 200 and 'GiB' in outer.why
    assert not best.extrapolated
    assert f'~ matmul_loops: extrapolated from {loops.rows} of 400 rows' in repr(lad) and repr(lad).count('~') == 4

def test_ladder_notices_a_wrong_variant():
    a, b = rand(3, 16), rand(16, 4, seed=1)
    with pytest.raises(AssertionError, match='differ'): measure(Variant(lambda a, b: a@b + 1e-2, 0), a, b)
    with pytest.raises(AssertionError, match='shapes differ'): measure(Variant(lambda a, b: (a@b)[0], 0), a, b)
    with pytest.raises(TypeError, match='wanted float32'): measure(Variant(lambda a, b: (a@b).double(), 0), a, b)
    with pytest.raises(ValueError, match='nothing to time'): measure(MATMULS['matmul_torch'], a[:0], b)

def test_ladder_plot():
    import matplotlib.pyplot as plt
    rungs = Ladder([Rung('one', 3, .5, 1000, 0., 5, 5), Rung('two', 7, 1e-5, 1000, 1e-6, 5, 60, 'time')])
    ax = rungs.plot(title='two rungs')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['one', 'two']
    texts = [t.get_text() for t in ax.texts]
    assert texts == ['500 ms', '~10 µs   50,000×'] and ax.get_title(loc='left') == 'two rungs'
    _, own = plt.subplots()
    assert rungs.plot(ax=own) is own
    plt.close('all')

def test_human_time():
    for s, text in [(0, '0 ns'), (1e-9, '1 ns'), (9.994e-7, '999 ns'), (1e-6, '1 µs'), (1.234e-3, '1.23 ms'), (.0999, '99.9 ms'), (1, '1 s'), (59.99, '60 s'), (6421.3, '6,421 s')]:
        assert human_time(s) == text

def test_median_time_counts_calls():
    calls = []
    assert 0 < median_time(lambda: calls.append(1), repeats=3) < .1
    assert len(calls) > 3
    import time
    calls.clear()
    def slow(): calls.append(time.sleep(.03))
    assert .02 < median_time(slow, repeats=50, budget=.05) < 1
    assert len(calls) < 10
    calls.clear()
    def compiles_first(): calls.append(time.sleep(.01) if not calls else None)
    assert median_time(compiles_first, repeats=1) < .005 and len(calls) > 20

def test_register_and_jit():
    mine = {}
    @register(mine, loops=1)
    def matmul_mine(a, b): return a@b
    test_close(mine['matmul_mine'](torch.eye(2), torch.eye(2)), torch.eye(2))
    assert mine['matmul_mine'].loops == 1 and 'matmul_mine' not in MATMULS
    @jit
    def add(a, b): return a+b
    assert add(1, 2) == 3

def test_threads_share_nothing():
    from concurrent.futures import ThreadPoolExecutor
    a, b = rand(20, 30), rand(30, 10, seed=1)
    for f in (matmul_numba, matmul_numba_dot, matmul_torch):
        with ThreadPoolExecutor(8) as pool: res = list(pool.map(lambda _, f=f: f(a, b), range(16)))
        for r in res: test_close(r, a@b, eps=1e-5)

def test_machine_code_is_kept_between_processes(tmp_path):
    code = 'import torch; from miniai.matmul import matmul_numba, _three_loops as f; matmul_numba(torch.eye(2), torch.eye(2)); print(sum(f.stats.cache_hits.values()))'
    env = {**__import__('os').environ, 'NUMBA_CACHE_DIR': str(tmp_path)}
    hits = [int(subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    assert hits == [0, 1]

@pytest.mark.slow
def test_a_notebooks_cell_is_compiled_anew(tmp_path):
    "Machine code on disk would be found by the cell's text alone, with the old value of what another cell defines"
    code = '''
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell('from miniai.matmul import jit').raise_error()
shell.run_cell(f'N = {sys.argv[1]}').raise_error()
shell.run_cell('@jit\\ndef f(): return N').raise_error()
shell.run_cell('print(f())').raise_error()'''
    env = {**__import__('os').environ, 'IPYTHONDIR': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path), 'NUMBA_CACHE_DIR': ''}
    for n in '12': assert subprocess.run([sys.executable, '-c', code, n], env=env, capture_output=True, text=True, check=True).stdout == f'{n}\n'
