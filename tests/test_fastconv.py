"The convolution that unfolds nothing: the contract of chapter 08, every border of its blocks, its gradients, its layers, threads and forks"
import ctypes
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import test_im2col as contract
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_im2col import rand, same
from torch import nn
from torch.autograd import gradcheck

import miniai.fastconv as module
from miniai.fastconv import Conv2d, Linear, conv2d_fast, with_our_kernels
from miniai.im2col import CONV2DS, conv2d_loops
from miniai.testing import expect_error, test_close, test_eq

FAST = CONV2DS['conv2d_fast']
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


# --- the contract of chapter 08: the tests that every variant passes

def test_it_is_registered():
    test_eq((FAST.name, FAST.loops, FAST.fn is conv2d_fast), ('conv2d_fast', 0, True))
    import inspect
    test_eq(str(inspect.signature(conv2d_fast)), str(inspect.signature(conv2d_loops)))

@pytest.mark.parametrize('size', contract.SIZES)
@pytest.mark.parametrize('options', contract.GRID)
def test_grid(options, size): contract.test_grid(FAST, options, size)

@settings(max_examples=150)
@given(problem=contract.problems())
def test_drawn(problem): contract.test_drawn.hypothesis.inner_test(FAST, problem)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int64, torch.complex64], ids=str)
def test_dtypes(dtype): contract.test_dtypes(FAST, dtype)

@pytest.mark.parametrize('layout', contract.LAYOUTS)
def test_layouts(layout): contract.test_layouts(FAST, layout)

@pytest.mark.parametrize('test', [contract.test_special_sizes, contract.test_nan_and_inf, contract.test_gradcheck, contract.test_only_the_library_calls_the_library])
def test_contract(test): test(FAST)

@pytest.mark.parametrize('case', contract.REFUSED)
def test_refused_in_words(case): contract.test_refused_in_words(FAST, case)


# --- values

def check(x, w, bias=None, *args, eps=1e-10):
    "Results and all gradients, against PyTorch's, in 64 bits"
    inputs = [t.requires_grad_() for t in (x, w, bias) if t is not None]
    ours, theirs = conv2d_fast(x, w, bias, *args), F.conv2d(x, w, bias, *args)
    same(ours, theirs, eps)
    g = rand(*theirs.shape, seed=5)
    for a, b in zip(*(torch.autograd.grad(o, inputs, g) for o in (ours, theirs)), strict=True): test_close(a, b, eps=eps, rtol=eps)

@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('nf', [1, 7, 8, 9, 15, 16, 17, 25])
def test_around_the_blocks_of_filters(nf, stride): check(rand(2, 3, 7, 6), rand(nf, 3, 3, 3, seed=1), rand(nf, seed=2), stride, 1)

@pytest.mark.parametrize('c, ks', [(c, ks) for c in (1, 2, 3) for ks in (1, 2, 3)])
def test_around_the_blocks_of_taps(c, ks): check(rand(2, c, 5, 5), rand(3, c, ks, ks, seed=1), None, 1, ks//2)

@pytest.mark.parametrize('wide', [7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 1007, 1008, 1022, 1023, 1024, 1025, 1026, 2049])
def test_around_tiles_and_blocks_of_places(wide):
    for high, stride in product((1, 3), (1, (1, 2))): check(rand(1, 1, high, wide), rand(2, 1, 3, 3, seed=1), None, stride, 1)

@pytest.mark.parametrize('high', [30, 31, 32, 33, 34, 63, 64, 65, 341, 342, 1023, 1024, 1025])
def test_around_blocks_of_rows(high):
    wide = 32 if high < 100 else 2
    for stride in (1, 2): check(rand(2, 2, high, wide), rand(3, 2, 3, 3, seed=1), None, stride, 1)

@pytest.mark.parametrize('n', [1, 2, 7, 8, 9, 40, 41, 113, 114, 115])
def test_around_chunks_of_images(n): check(rand(n, 2, 2, 2), rand(3, 2, 3, 3, seed=1), rand(3), 1, 1)

def test_images_too_large_for_the_cache():
    check(rand(2, 300, 20, 21), rand(2, 300, 3, 3, seed=1), None, 2, 1)
    check(rand(1, 2, 3, 900), rand(1, 2, 1, 700, seed=1), None, 1, (0, 20))                # a kernel nearly as wide as a block

def test_padding_beyond_the_kernel_and_pixels_that_are_never_read():
    check(rand(1, 2, 5, 5), rand(2, 2, 2, 2), None, 1, 4)                                   # gradients for cut-off images
    check(rand(2, 1, 8, 9), rand(1, 1, 1, 1), None, (3, 5))
    check(rand(1, 1, 1, 1), rand(1, 1, 1, 1), None, 2, 3)
    check(rand(1, 2, 9, 9), rand(3, 2, 2, 3), None, 3, 2, (3, 2))                           # stride and dilation share a factor

@settings(max_examples=100)
@given(st.data())
def test_drawn_larger(data):
    draw = lambda low, high: data.draw(st.integers(low, high))          # noqa: E731
    groups, kh, kw, sh, sw, dh, dw, ph, pw = draw(1, 3), *(draw(1, 4) for _ in range(4)), *(draw(1, 3) for _ in range(2)), *(draw(0, 4) for _ in range(2))
    cg, fg = draw(1, 4), draw(1, 10)
    h, w = (max(1, draw(1, 50), d*(k-1) + 1 - 2*p) for d, k, p in ((dh, kh, ph), (dw, kw, pw)))
    x, kernels = rand(draw(1, 5), groups*cg, h, w, seed=draw(0, 9)), rand(groups*fg, cg, kh, kw, seed=3)
    check(x, kernels, rand(groups*fg), (sh, sw), (ph, pw), (dh, dw), groups)

def test_against_the_slow_obvious_version():
    x, w = rand(2, 2, 5, 4), rand(3, 2, 3, 2, seed=1)
    same(conv2d_fast(x, w, None, (2, 1), 1), conv2d_loops(x, w, None, (2, 1), 1))

@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('shape', [(4, 64, 14, 14), (8, 3, 28, 28), (64, 1, 9, 9)])
def test_rounding_is_like_that_of_pytorch(shape, stride):
    "The largest error, beside an answer in 64 bits, is within a small factor of PyTorch's own"
    x, w = rand(*shape).float().requires_grad_(), rand(32, shape[1], 3, 3, seed=1).float().requires_grad_()
    x64, w64 = (t.detach().double().requires_grad_() for t in (x, w))
    exact, ours, theirs = (f(a, b, None, stride, 1) for f, a, b in ((F.conv2d, x64, w64), (conv2d_fast, x, w), (F.conv2d, x, w)))
    g = rand(*exact.shape, seed=4)
    grads = [torch.autograd.grad(o, ins, g.to(o.dtype)) for o, ins in ((exact, (x64, w64)), (ours, (x, w)), (theirs, (x, w)))]
    for e, a, b in [(exact, ours, theirs), *zip(*grads, strict=True)]:
        error, yardstick = ((v - e).abs().max().item() for v in (a, b))
        assert error <= 4*yardstick + 1e-7, (error, yardstick)

def test_nan_and_inf_stay_where_they_belong():
    x, w = rand(2, 3, 9, 8), rand(9, 3, 3, 3, seed=1)
    for value, place in product((float('nan'), float('inf'), -float('inf')), ((0, 0), (0, 7), (8, 7), (4, 0), (4, 7), (3, 3))):
        bad = x.clone()
        bad[1, 1][place] = value
        for stride, padding in ((1, 1), (2, 1), (1, 0)):
            w.requires_grad_()
            ours, theirs = conv2d_fast(bad, w, None, stride, padding), F.conv2d(bad, w, None, stride, padding)
            same(ours, theirs)
            assert ours.isfinite().any()
            g = rand(*theirs.shape, seed=5)
            for a, b in zip(*(torch.autograd.grad(o, w, g) for o in (ours, theirs)), strict=True): test_close(a, b, eps=1e-10)

def test_the_gradient_of_one_bad_pixel_spoils_one_window_only():
    x, w = rand(1, 2, 6, 6).requires_grad_(), rand(3, 2, 3, 3, seed=1)
    g = torch.zeros(1, 3, 6, 6, dtype=torch.float64)
    g[0, 0, 2, 2] = float('inf')
    for a, b in zip(*(torch.autograd.grad(f(x, w, None, 1, 1), x, g) for f in (conv2d_fast, F.conv2d)), strict=True): test_eq(a.isfinite(), b.isfinite())

def test_negative_zero_bias_and_large_numbers():
    x = torch.full((1, 1, 3, 3), 3e38)
    test_eq(conv2d_fast(x, torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), float('inf')))
    test_eq(conv2d_fast(x*0, torch.ones(1, 1, 2, 2), torch.tensor([7.])), torch.full((1, 1, 2, 2), 7.))


# --- gradients

def test_only_the_gradients_that_are_asked_for():
    for asked in product((False, True), repeat=3):
        inputs = [t.requires_grad_(a) for t, a in zip((rand(2, 2, 5, 5), rand(3, 2, 2, 2), rand(3)), asked, strict=True)]
        out = conv2d_fast(*inputs)
        test_eq(out.requires_grad, any(asked))
        if not any(asked): continue
        out.sum().backward()
        test_eq([t.grad is not None for t in inputs], list(asked))

def test_no_gradients_of_gradients():
    x, w = rand(1, 1, 3, 3).requires_grad_(), rand(1, 1, 2, 2).requires_grad_()
    with expect_error(RuntimeError, 'F.conv2d'): torch.autograd.grad(conv2d_fast(x, w).sum(), x, create_graph=True)
    with expect_error(RuntimeError, 'nn.Linear'): torch.autograd.grad(Linear(3, 2, dtype=torch.float64)(x).sum(), x, create_graph=True)

def test_gradcheck_of_everything_at_once():
    x, w, b = rand(2, 4, 6, 5).requires_grad_(), rand(6, 2, 2, 3, seed=1).requires_grad_(), rand(6).requires_grad_()
    for args in (((2, 3), (1, 2), (3, 1), 2), (1, 'same', 2, 2), (3, 4, 1, 2)): assert gradcheck(lambda *t, args=args: conv2d_fast(*t, *args), (x, w, b))

def test_inputs_are_not_changed():
    x, w, b = rand(2, 3, 6, 6).requires_grad_(), rand(4, 3, 3, 3).requires_grad_(), rand(4).requires_grad_()
    before = [t.detach().clone() for t in (x, w, b)]
    conv2d_fast(x, w, b, 2, 1).square().sum().backward()
    for a, c in zip((x, w, b), before, strict=True): test_eq(a, c)


# --- the same bits, whoever computes them

def problem(n=16, c=8, nf=16, size=28):
    return rand(n, c, size, size).float(), rand(nf, c, 3, 3, seed=1).float()

def all_three(x, w, stride=1):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    out = conv2d_fast(x, w, None, stride, 1)
    return (out.detach(), *torch.autograd.grad(out.square().sum(), (x, w)))

@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

@pytest.mark.parametrize('sizes', [dict(), dict(n=1), dict(n=1, nf=64), dict(n=3, size=70, c=2), dict(n=200, size=3, nf=40, c=32)], ids=str)
def test_bits_do_not_depend_on_calls_or_threads(threads, sizes):
    x, w = problem(**sizes)
    threads(1)
    first = all_three(x, w)
    for t in (1, 2, 3, 8):
        threads(t)
        for _ in range(3):
            for a, b in zip(all_three(x, w), first, strict=True): test_eq(torch.equal(a, b), True)
        test_eq(torch.get_num_threads(), t)

def test_eight_threads_at_once(threads):
    threads(2)
    problems = [problem(n=8+i, c=4+i, nf=9+i) for i in range(8)]
    expected = [all_three(*p) for p in problems]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            for got, want in zip(pool.map(lambda p: all_three(*p), problems), expected, strict=True):
                for a, b in zip(got, want, strict=True): test_eq(torch.equal(a, b), True)

def test_without_pytorchs_team(threads, monkeypatch):
    x, w = problem()
    expected = all_three(x, w)
    monkeypatch.setattr(module.gemm, '_gomp', None)
    threads(2)
    for a, b in zip(all_three(x, w), expected, strict=True): test_eq(torch.equal(a, b), True)

def test_an_error_on_another_thread_is_raised_here(threads):
    threads(2)
    def fail(i): raise OverflowError(str(i))
    with pytest.raises(OverflowError): module._for_each(fail, 4, 2)

def test_what_a_member_has_not_done_is_noticed(threads, monkeypatch):
    threads(2)
    x, w = torch.rand(16, 8, 20, 20), torch.rand(8, 8, 3, 3)
    gives_up = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda job: None)
    monkeypatch.setattr(module, '_member', lambda dtype: SimpleNamespace(address=ctypes.cast(gives_up, ctypes.c_void_p).value))
    with pytest.raises(MemoryError, match='2 of 2 parts'): conv2d_fast(x, w)
    assert module.gemm._team.acquire(blocking=False)        # and the team is free again
    module.gemm._team.release()

def in_child(queue, x, w): queue.put(float(conv2d_fast(x, w).numpy().sum()))       # nothing of PyTorch's own that would wait for its team

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_forked_process_computes_too(threads):
    threads(2)
    x, w = problem()
    expected = float(conv2d_fast(x, w).numpy().sum())
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    child = context.Process(target=in_child, args=(queue, x, w))
    child.start()
    child.join(30)
    if child.is_alive(): child.kill()
    test_eq(child.exitcode, 0)
    test_eq(queue.get(), expected)

@pytest.mark.slow
@pytest.mark.parametrize('features', ['+avx2,+fma,+avx', '+sse4.2,+sse2'])
def test_narrower_registers(features):
    "A processor with registers of 256 or 128 bits, as far as numba can tell: other tiles, the same results"
    code = f'import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_fastconv as t; t.test_against_the_slow_obvious_version(); [t.test_around_tiles_and_blocks_of_places(w) for w in (7, 33, 1025)]'
    res = subprocess.run([sys.executable, '-c', code], env=os.environ | {'NUMBA_CPU_NAME': 'generic', 'NUMBA_CPU_FEATURES': features}, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:]


# --- memory

def test_scratch_does_not_grow_with_the_batch():
    "The lines of a unit fit in the cache whatever the number of images, and columns are never built"
    for c, n, size in product((1, 8, 64), (1, 64, 1000), (4, 28, 300)):
        p = module._plan(n, c, (size, size), (size, size), (3, 3), (1, 1), (1, 1), (1, 1))
        R, P, B = p.numbers[4:7]
        assert c*B*R*P <= max(module._CACHE, c*3*(size+2)) + c*2*P
        assert (B-1)*R*P + (p.numbers[9]-1)*P + p.numbers[10] <= module._PLACES


# --- layers and training

@pytest.mark.parametrize('shape', [(5, 7), (7,), (2, 3, 7), (0, 7), (1, 7)])
@pytest.mark.parametrize('bias', [True, False])
def test_linear(shape, bias):
    torch.manual_seed(1)
    ours = Linear(7, 5, bias=bias, dtype=torch.float64)
    torch.manual_seed(1)
    theirs = nn.Linear(7, 5, bias=bias, dtype=torch.float64)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True): test_eq(a, b)
    x, y = rand(*shape).requires_grad_(), rand(*shape).requires_grad_()
    same(ours(x), theirs(y))
    ours(x).sin().sum().backward()
    theirs(y).sin().sum().backward()
    test_close(x.grad, y.grad, eps=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True): test_close(a.grad, b.grad, eps=1e-12)

def test_linear_takes_what_pytorchs_takes():
    layer = Linear(4, 3)
    x = rand(6, 8).float()[:, ::2]
    test_close(layer(x), F.linear(x, layer.weight, layer.bias), eps=1e-6)
    with pytest.raises(RuntimeError): layer(torch.zeros(2, 5))
    with pytest.raises(RuntimeError): layer(torch.zeros(2, 4).double())
    test_eq(Linear(4, 3, dtype=torch.bfloat16)(torch.ones(2, 4, dtype=torch.bfloat16)).dtype, torch.bfloat16)
    assert gradcheck(Linear(4, 3, dtype=torch.float64), rand(2, 4).requires_grad_())

@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1), dict(groups=2, bias=False), dict(padding='same', dilation=2),
                                     *(dict(padding=(2, 1), padding_mode=mode) for mode in ('reflect', 'replicate', 'circular'))], ids=str)
def test_conv2d_module(options):
    torch.manual_seed(1)
    ours = Conv2d(4, 6, (3, 2), dtype=torch.float64, **options)
    torch.manual_seed(1)
    theirs = nn.Conv2d(4, 6, (3, 2), dtype=torch.float64, **options)
    x, y = rand(2, 4, 8, 7).requires_grad_(), rand(2, 4, 8, 7).requires_grad_()
    same(ours(x), theirs(y))
    ours(x).sin().sum().backward()
    theirs(y).sin().sum().backward()
    test_close(x.grad, y.grad, eps=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True): test_close(a.grad, b.grad, eps=1e-12)
    test_eq(sorted(ours.state_dict()), sorted(theirs.state_dict()))

def test_with_our_kernels_exchanges_all_and_changes_nothing_else():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(8, 3))
    ours = with_our_kernels(net)
    test_eq([type(m) for m in (ours[0][0], ours[0][1], ours[2])], [Conv2d, nn.BatchNorm2d, Linear])
    test_eq([type(m) for m in (net[0][0], net[2])], [nn.Conv2d, nn.Linear])
    ours[2].weight.data.zero_()
    assert net[2].weight.abs().sum() > 0                    # a copy
    class Mine(nn.Linear): pass
    test_eq(type(with_our_kernels(nn.Sequential(Mine(2, 2)))[0]), Mine)

@pytest.mark.parametrize('make, shape', [(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3)), (16, 1, 6, 6)),
                                         (lambda: nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3), nn.Flatten()), (16, 1, 6, 6))], ids=['linear', 'conv'])
def test_training_ends_at_the_same_weights(make, shape):
    torch.manual_seed(0)
    theirs = make().double()
    ours, x, y = with_our_kernels(theirs), rand(*shape), torch.arange(16) % 3
    start = theirs[-2 if isinstance(theirs[-1], nn.Flatten) else -1].weight.detach().clone()
    for net in (theirs, ours):
        opt = torch.optim.SGD(net.parameters(), lr=.2, momentum=.9)
        for _ in range(25):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True): test_close(a, b, eps=1e-9)
    assert (start - theirs[-2 if isinstance(theirs[-1], nn.Flatten) else -1].weight).abs().max() > .1        # something was learned

def test_arrays_do_not_carry_surprises():
    "A transposed view, a conjugate-free slice and a 0-stride expansion come out contiguous"
    for t in (rand(3, 4).T, rand(6, 8)[::2, ::3], rand(1, 4).expand(3, 4)):
        a = module._array(t)
        assert a.flags.c_contiguous and np.array_equal(a, t.numpy())

def test_other_kinds_take_the_columns():
    x, w = rand(1, 2, 4, 4).requires_grad_(), rand(3, 2, 2, 2).requires_grad_()
    with expect_error(TypeError, 'float32'): conv2d_fast(x, w.float())
    out = conv2d_fast(x[:0], w)
    out.sum().backward()
    test_eq((out.shape, w.grad.abs().sum()), ((0, 3, 3, 3), 0.))
    test_eq(conv2d_fast(torch.zeros(1, 2, 4, 4, device='meta'), torch.zeros(3, 2, 2, 2, device='meta')).shape, (1, 3, 3, 3))
