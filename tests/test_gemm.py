"The kernels of chapter 03 keep the promises of chapter 01, at every edge of their blocks, on several threads, and on a (simulated) GPU"
import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from miniai import gemm
from miniai.gemm import _cuts, _product, matmul_blocked, matmul_cuda, matmul_cuda_tiled, matmul_fast, matmul_ikj, roofline, vector_registers
from miniai.matmul import MATMULS, matmul_lists
from miniai.testing import test_close, test_eq

NEW = [matmul_ikj, matmul_blocked, matmul_fast]
FLOATS = [torch.float32, torch.float64]
each_new = pytest.mark.parametrize('f', NEW, ids=lambda f: f.__name__)
each_float = pytest.mark.parametrize('dtype', FLOATS, ids=str)

def rand(*shape, dtype=torch.float32, seed=0):
    gen = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point: return torch.randn(*shape, generator=gen, dtype=dtype)
    return torch.randint(0 if dtype == torch.uint8 else -9, 9, shape, generator=gen).to(dtype)

def error(c, a, b):
    "Largest distance from the product in float64, in units of what rounding may do"
    exact = a.double() @ b.double()
    scale = (a.double().abs() @ b.double().abs()).clamp(min=1e-300)*torch.finfo(a.dtype).eps
    return float(((c.double()-exact).abs()/scale).max()) if exact.numel() else 0.

def right(f, m, k, n, dtype=torch.float32, seed=0):
    "Shape, dtype, inputs untouched, and no more than a few times torch's own error"
    a, b = rand(m, k, dtype=dtype, seed=seed), rand(k, n, dtype=dtype, seed=seed+1)
    before = a.clone(), b.clone()
    c = f(a, b)
    assert c.dtype == dtype and tuple(c.shape) == (m, n)
    assert error(c, a, b) <= 4*error(a@b, a, b) + 3, (m, k, n, dtype)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])

@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

def test_registered():
    for f in NEW: assert MATMULS[f.__name__].fn is f and MATMULS[f.__name__].loops == 0
    assert ('matmul_cuda' in MATMULS) == ('matmul_cuda_tiled' in MATMULS) == torch.cuda.is_available()

def edges(*sizes): return sorted({s+d for s in sizes for d in (-1, 0, 1)} - {0})

def block(dtype):
    "Columns in a strip and in a vector"
    lanes = gemm._VECTOR//(4 if dtype == torch.float32 else 8)
    return gemm._VECTORS*lanes, lanes

@each_new
@each_float
def test_columns_around_block_boundaries(f, dtype):
    wide, lanes = block(dtype)
    for n in edges(lanes, 2*lanes, 3*lanes, 64, wide, 2*wide, 256, gemm._STRIPS*wide, (gemm._STRIPS+1)*wide):
        right(f, 7, 65, n, dtype)
        right(f, 103, 33, n, dtype)         # more than 100 rows: packed

@each_new
@each_float
def test_rows_around_block_boundaries(f, dtype):
    for m in edges(1, gemm._ROWS, 2*gemm._ROWS, 100, 17*gemm._ROWS):
        right(f, m, 20, 260, dtype)
        right(f, m, 70, 7, dtype)
        right(f, m, 70, 33, dtype)

@each_new
@each_float
def test_depth_around_block_boundaries(f, dtype):
    for k in edges(1, 2, 256, 512, gemm._DEPTH, 2*gemm._DEPTH, 1024):
        right(f, 6, k, 10, dtype)
        right(f, 6, k, block(dtype)[0]+1, dtype)
        right(f, 101, k, 257, dtype)

@each_float
def test_dot_products_around_block_boundaries(dtype):
    lanes, side = block(dtype)[1], gemm._SIDE
    for n in edges(1, side, 2*side): right(matmul_fast, 103, 130, n, dtype)
    for m in edges(100, 20*side, 21*side): right(matmul_fast, m, 130, 2*side, dtype)
    for k in edges(100, 8*lanes, 1024, 2048): right(matmul_fast, 101, k, 2*side, dtype)

@each_new
@given(m=st.integers(0, 40), k=st.integers(0, 90), n=st.integers(0, 200), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_drawn(f, m, k, n, dtype, seed): right(f, m, k, n, dtype, seed)

@each_new
@each_float
def test_three_judges(f, dtype):
    a, b = rand(6, 70, dtype=dtype), rand(70, 9, dtype=dtype, seed=1)
    for wanted in (matmul_lists(a, b), a @ b): test_close(f(a, b), wanted, eps=1e-4)
    test_close(f(a.numpy(), b.numpy()), a @ b, eps=1e-4)

@each_new
@pytest.mark.parametrize('m, k, n', [(300, 300, 300), (2000, 300, 10), (5, 70, 10), (30, 70, 50), (3, 2000, 500)])
def test_strides(f, m, k, n):
    a, b = rand(2*m, 2*k), rand(k, 3*n, seed=1)
    for x, y in [(a[::2, ::2], b[:, ::3]), (a[:m, 1:k+1], b[:, 5:n+5]), (a[:m, :k].T.contiguous().T, b[:, :n].T.contiguous().T), (a[0, :k].expand(m, k), b[:, :1].expand(k, n))]:
        assert error(f(x, y), x, y) <= 4*error(x@y, x, y) + 2

@each_new
def test_arrays_keep_their_kind(f):
    a, b = rand(300, 200).numpy(), rand(200, 100, seed=1).numpy()
    for x, y in [(a, b), (a[::-1], b[:, ::-1]), (np.asfortranarray(a), b), (a.astype('>f4'), b.astype('>f4')), (a[:0], b), (a[:, :0], b[:0])]:
        c = f(x, y)
        assert isinstance(c, np.ndarray) and c.dtype == np.float32
        test_close(c, x@y, eps=1e-3)
    test_eq(f(a.astype(np.complex64), b.astype(np.complex64)).dtype, np.complex64)
    with pytest.raises(TypeError, match='float16'): f(a.astype(np.float16), b.astype(np.float16))

@each_new
@pytest.mark.parametrize('m, k, n', [(7, 70, 10), (7, 70, 50), (7, 70, 100), (300, 300, 300), (103, 117, 10)])
def test_nan_and_inf_stay_where_they_belong(f, m, k, n):
    a, b = torch.ones(m, k), torch.ones(k, n)
    a[0, 0], a[m-1, k-1], a[2, 3], a[3, 3], a[3, 4] = float('nan'), float('inf'), float('-inf'), float('inf'), float('-inf')
    test_close(f(a, b), a @ b)
    a, b = torch.ones(m, k), torch.ones(k, n)
    b[0, 0], b[k-1, n-1], b[1, n//2] = float('nan'), float('inf'), float('-inf')
    test_close(f(a, b), a @ b)
    a[1] = 0
    test_close(f(a, b), a @ b)

@each_new
def test_no_depth_gives_zeros(f):
    for m, n in [(3, 4), (300, 300), (5, 0), (0, 5)]: test_eq(f(torch.ones(m, 0), torch.ones(0, n)), torch.zeros(m, n))

@each_new
def test_refusals(f):
    x = torch.zeros(4, 4)
    with pytest.raises(ValueError, match='gradient.*detach'): f(x.clone().requires_grad_(), x)
    with pytest.raises(ValueError, match='gradient.*detach'): f(x, x.clone().requires_grad_())
    with torch.no_grad(): f(x, x.clone().requires_grad_())
    with pytest.raises(ValueError, match='inner sizes'): f(x, x[:3])
    with pytest.raises(ValueError, match='rank 2'): f(x, x[0])
    with pytest.raises(TypeError, match='float32 and float64'): f(x, x.double())
    with pytest.raises(TypeError, match='float16'): f(x.half(), x.half())

# -- threads

SHAPES = [(300, 300, 300), (3000, 784, 10), (3003, 784, 50), (9, 9000, 64), (40, 784, 500), (7, 784, 1000), (300, 784, 100), (1000, 1100, 75), (301, 1100, 6)]

@pytest.mark.parametrize('shape', SHAPES, ids=str)
@each_float
def test_bits_do_not_depend_on_threads(shape, dtype):
    m, k, n = shape
    x, y = rand(m, k, dtype=dtype).numpy(), rand(k, n, dtype=dtype, seed=1).numpy()
    one = _product(x, y, threads=1)
    for t in (1, 2, 3, 8): assert np.array_equal(_product(x, y, threads=t), one), t

@pytest.mark.parametrize('shape', [*SHAPES, (5, 784, 10), (200, 20, 300), (120, 30, 700)], ids=str)
def test_bits_do_not_depend_on_how_the_inputs_lie(shape):
    m, k, n = shape
    a, b = rand(m, k), rand(k, n, seed=1)
    whole = matmul_fast(a, b)
    for x, y in [(a.T.contiguous().T, b), (a, b.T.contiguous().T), (a.numpy(), b.numpy())]: assert np.array_equal(matmul_fast(x, y), whole)

@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_eight_threads_at_once(shape, two_threads):
    m, k, n = shape
    pairs = [(rand(m, k, seed=s), rand(k, n, seed=s+50)) for s in range(4)]
    wanted = [matmul_fast(a, b) for a, b in pairs]
    with ThreadPoolExecutor(8) as pool: got = list(pool.map(lambda i: matmul_fast(*pairs[i % 4]), range(32)))
    for i, c in enumerate(got): assert torch.equal(c, wanted[i % 4])

def test_torch_keeps_its_threads(two_threads):
    matmul_fast(rand(300, 300), rand(300, 300))
    assert torch.get_num_threads() == 2

def test_python_threads_do_where_openmp_is_missing(monkeypatch):
    x, y = rand(300, 300).numpy(), rand(300, 300, seed=1).numpy()
    one = _product(x, y, threads=1)
    monkeypatch.setattr(gemm, '_gomp', None)
    assert np.array_equal(_product(x, y, threads=3), one)

@pytest.mark.parametrize('team', ['PyTorch', 'Python'])
def test_what_a_member_has_not_done_is_noticed(team, monkeypatch, two_threads):
    gives_up = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda job: None)
    monkeypatch.setattr(gemm, '_member', lambda dtype, in_place: SimpleNamespace(address=ctypes.cast(gives_up, ctypes.c_void_p).value))
    if team == 'Python': monkeypatch.setattr(gemm, '_gomp', None)
    with pytest.raises(MemoryError, match='2 of 2 parts'): matmul_fast(rand(300, 300), rand(300, 300))
    assert gemm._team.acquire(blocking=False)        # and the team is free again
    gemm._team.release()

def test_out_is_written_over():
    x, y = rand(300, 300).numpy(), rand(300, 300, seed=1).numpy()
    out = np.full((300, 300), np.nan, np.float32)
    assert _product(x, y, out=out) is out
    test_close(out, x@y, eps=1e-3)

@each_float
@pytest.mark.parametrize('m, k, n', [(5, 30, 10), (13, 30, 10), (5, 30, 50), (13, 30, 50), (13, 1100, 33), (7, 30, 130), (60, 30, 130), (103, 30, 257), (103, 600, 300), (103, 117, 10), (101, 1100, 6)])
def test_nothing_around_the_result_is_touched(m, k, n, dtype):
    x, y = rand(m, k, dtype=dtype).numpy(), rand(k, n, dtype=dtype, seed=1).numpy()
    room = np.full(m*n + 64, np.nan, x.dtype)
    _product(x, y, out=room[32:-32].reshape(m, n), threads=1)
    test_close(room[32:-32].reshape(m, n), x@y, eps=1e-3)
    assert np.isnan(room[:32]).all() and np.isnan(room[-32:]).all()

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks Linux for a page that nobody may read')
def test_nothing_behind_the_inputs_is_read():
    code = '''
import ctypes, mmap, numpy as np
from miniai.gemm import _product
def at_the_edge(m, n):
    "An array whose last number is the last one before forbidden memory"
    size = -(-m*n*4//4096)*4096
    room = mmap.mmap(-1, size+4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start+size), 4096, 0) == 0
    x = np.frombuffer(room, np.float32, m*n, size-m*n*4).reshape(m, n)
    x[:] = np.random.rand(m, n)
    return x
for m, k, n in [(5, 30, 10), (13, 30, 10), (5, 30, 50), (13, 30, 50), (13, 1100, 33), (1, 1, 1), (7, 30, 130), (60, 30, 130), (103, 30, 257), (103, 600, 300), (103, 117, 10), (101, 1100, 6)]:
    x, y = at_the_edge(m, k), at_the_edge(k, n)
    assert np.allclose(_product(x, y, out=at_the_edge(m, n), threads=1), x@y, rtol=1e-4), (m, k, n)
print('fine')
import os; os._exit(0)'''
    res = python(code)
    assert res.stdout == 'fine\n', (res.returncode, res.stderr)

def test_default_dtype_does_not_matter():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try: test_eq(matmul_fast(rand(5, 6), rand(6, 7)).dtype, torch.float32)
    finally: torch.set_default_dtype(before)

def test_a_negated_view_is_not_taken_for_its_numbers():
    x = torch._neg_view(rand(5, 6))
    try: c = matmul_fast(x, rand(6, 7))
    except RuntimeError: return             # refused, in PyTorch's words
    test_close(c, x @ rand(6, 7), eps=1e-5)

@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 12), st.sampled_from([16, 32, 64]))
def test_cuts_cover_every_cell_once(m, n, parts, wide):
    seen, cuts = np.zeros((m, n), int), _cuts(m, n, parts, wide)
    for i0, i1, j0, j1 in cuts: seen[i0:i1, j0:j1] += 1
    assert (seen == 1).all() and len(cuts) <= parts
    assert all(i0 % gemm._ROWS == 0 and j0 % wide == 0 for i0, _, j0, _ in cuts)        # else sums would be taken in another order

def python(code, **env):
    return subprocess.run([sys.executable, '-c', code], env={**os.environ, **env}, capture_output=True, text=True, timeout=300)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_a_forked_child_works_alone():
    code = '''
import os, warnings, numpy as np, torch
from miniai.gemm import _product
warnings.simplefilter('ignore')
x = np.random.rand(300, 300).astype(np.float32)
first = _product(x, x, threads=2)
pid = os.fork()
if pid == 0: os._exit(0 if np.array_equal(_product(x, x, threads=2), first) else 3)
print('child', os.waitpid(pid, 0)[1], np.array_equal(_product(x, x, threads=2), first))'''
    res = python(code)
    assert res.stdout == 'child 0 True\n', res.stderr

# -- what is compiled

NARROW = dict(NUMBA_CPU_NAME='haswell', NUMBA_CPU_FEATURES='+avx,+avx2,+fma,+bmi,+bmi2,+sse4.2,+popcnt')

@pytest.mark.slow
@pytest.mark.skipif(vector_registers()[0] < 32, reason='the processor has no 256-bit vectors')
def test_narrow_vectors_give_the_same_numbers(tmp_path):
    code = '''
import torch
from miniai.gemm import matmul_blocked, matmul_fast, vector_registers
assert vector_registers() == (32, 16)
for m, k, n in [(300, 300, 300), (61, 784, 10), (5, 784, 10), (7, 20, 33), (64, 784, 50), (5, 784, 1000), (103, 600, 257), (103, 117, 6), (103, 1100, 5)]:
    for dtype in (torch.float32, torch.float64):
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        for f in (matmul_blocked, matmul_fast): assert (f(a, b)-a@b).abs().max() < 1e-3
print('fine')'''
    res = python(code, NUMBA_CACHE_DIR=str(tmp_path), **NARROW)
    assert res.stdout == 'fine\n', res.stderr

def test_machine_code_is_kept_between_processes(tmp_path):
    code = '''
import numpy as np
from miniai.gemm import _product, _tiles, _unpacked
for m, n in [(20, 100), (120, 300)]: _product(np.ones((m, 100), np.float32), np.ones((100, n), np.float32), threads=1)
print(*(sum(f.stats.cache_hits.values()) for f in (_unpacked, _tiles)))'''
    hits = [python(code, NUMBA_CACHE_DIR=str(tmp_path)).stdout for _ in range(2)]
    assert hits == ['0 0\n', '1 1\n']

# -- the roofline, and the way to the convolution

def test_roofline():
    import matplotlib.pyplot as plt
    points = {'slow': (80., 2.), 'one': (80., 99.), 'two': (80., 100.), 'thin': (4., 50.)}
    ax = roofline(points, peak=200., bandwidth=10., title='four')
    assert ax.get_title() == 'four' and ax.get_xscale() == ax.get_yscale() == 'log'
    assert [t.get_text() for t in ax.texts] == ['peak 200 GFLOP/s', 'slow: 2', 'one: 99', 'two: 100', 'thin: 50']
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(t) for t in ax.texts]       # without the lines to the points
    assert not any(p.overlaps(q) for i, p in enumerate(boxes) for q in boxes[:i])
    x, y = ax.lines[0].get_data()
    test_close(y, np.minimum(200, 10*x))
    own = plt.subplots()[1]
    assert roofline(points, 200., 10., ax=own) is own
    plt.close('all')

def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match='matmul_faster'): gemm.__getattr__('matmul_faster')

# -- CUDA

CUDA = '''
import numpy as np, torch
from miniai.gemm import matmul_cuda, matmul_cuda_tiled
device = 'cuda' if torch.cuda.is_available() else 'cpu'
for f in (matmul_cuda, matmul_cuda_tiled):
    for m, k, n in [(1, 1, 1), (16, 16, 16), (17, 15, 18), (3, 33, 2), (0, 3, 4), (2, 0, 3), (2, 3, 0)]:
        for dtype in (torch.float32, torch.float64, torch.int32):
            a = (torch.randn(m, k, dtype=torch.float64)*9).to(dtype)
            b = (torch.randn(k, n, dtype=torch.float64)*9).to(dtype)
            c = f(a.to(device), b.to(device))
            assert c.dtype == dtype and c.device.type == device and c.shape == (m, n), (c.dtype, c.shape)
            assert torch.allclose(c.cpu(), a@b, atol=1e-3), (f.__name__, m, k, n, dtype)
    a = torch.randn(5, 6)
    assert torch.allclose(f(a.T, a), a.T@a, atol=1e-4) and isinstance(f(a.numpy(), a.numpy().T), np.ndarray)
    a[0, 0], a[1, 1] = float('nan'), float('inf')
    assert torch.allclose(f(a, torch.ones(6, 2)), a@torch.ones(6, 2), equal_nan=True)
    for bad, word in [((a, a), 'inner sizes'), ((a, a.T.clone().requires_grad_()), 'gradient')]:
        try: f(*bad)
        except ValueError as e: assert word in str(e)
        else: raise AssertionError(word)
print('fine')'''

def test_cuda_kernels():
    res = python(CUDA, **({} if torch.cuda.is_available() else {'NUMBA_ENABLE_CUDASIM': '1'}))
    assert res.stdout == 'fine\n', res.stderr

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu_is_said_in_words():
    for f in (matmul_cuda, matmul_cuda_tiled):
        with pytest.raises(RuntimeError, match='no GPU.*NUMBA_ENABLE_CUDASIM.*matmul_fast'): f(torch.ones(2, 2), torch.ones(2, 2))
