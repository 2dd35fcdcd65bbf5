"Every way of writing a convolution, against PyTorch's own: values, shapes, dtypes, gradients and refusals"
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastcore.docments import docments
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import miniai.im2col as module
from miniai.im2col import (
    CONV2DS,
    apply_kernel,
    avg_pool2d,
    col2im,
    conv2d_im2col,
    conv2d_loops,
    conv2d_numba,
    conv2d_torch,
    conv2d_unfold,
    conv_out_size,
    conv_transpose2d,
    global_avg_pool,
    im2col,
    max_pool2d,
    show_pixels,
    upsample_nearest,
)
from miniai.testing import expect_error, test_close, test_eq

NAMES = ['conv2d_loops', 'conv2d_apply', 'conv2d_numba', 'conv2d_im2col_numpy', 'conv2d_im2col', 'conv2d_unfold', 'conv2d_einsum', 'conv2d_torch']
NO_GRADIENT = 'conv2d_numba', 'conv2d_im2col_numpy'
every = pytest.mark.parametrize('conv', list(CONV2DS.values()), ids=list(CONV2DS))
with_gradient = pytest.mark.parametrize('conv', [v for name, v in CONV2DS.items() if name not in NO_GRADIENT],
                                        ids=[name for name in CONV2DS if name not in NO_GRADIENT])
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
EPS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.complex64: 1e-4}


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Thousands of tiny convolutions: a second thread would only have to be waited for"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rand(*shape, seed=0, dtype=torch.float64, scale=1.):
    "Random numbers of any dtype; whole ones for integers"
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)*scale
    return x.round().to(dtype) if not (dtype.is_floating_point or dtype.is_complex) else x.to(dtype)


def same(a, b, eps=None):
    "Equal in shape and dtype, close in value"
    test_eq(a.dtype, b.dtype)
    test_close(a, b, eps=EPS.get(b.dtype, 0) if eps is None else eps, rtol=1e-2 if b.dtype in (torch.float16, torch.bfloat16) else 0)


def same_gradients(ours, theirs, inputs):
    upstream = rand(*theirs.shape, seed=9)
    for a, b in zip(*(torch.autograd.grad(o, inputs, upstream) for o in (ours, theirs)), strict=True): test_close(a, b, eps=1e-10)


def test_registry():
    test_eq(list(CONV2DS)[:len(NAMES)], NAMES)
    test_eq([CONV2DS[n].loops for n in NAMES], [7, 4, 0, 0, 0, 0, 0, 0])
    for name, v in CONV2DS.items(): assert v.name == name


GRID = {
    'plain': {}, 'bias': {'bias': 1}, 'stride': {'stride': 2}, 'stride_pair': {'stride': (1, 3)}, 'padding': {'padding': 2}, 'padding_pair': {'padding': [0, 3]},
    'same': {'padding': 'same'}, 'same_dilated': {'padding': 'same', 'dilation': (2, 1)}, 'valid': {'padding': 'valid', 'stride': 2}, 'dilation': {'dilation': 2},
    'groups': {'groups': 2, 'bias': 1}, 'depthwise': {'groups': 4}, 'one_number_in_a_tuple': {'stride': (2,), 'padding': (1,), 'dilation': (1,)},
    'everything': {'bias': 1, 'stride': (2, 3), 'padding': (3, 1), 'dilation': (1, 2), 'groups': 2}}
SIZES = {'odd': ((2, 4, 7, 5), (3, 3)), 'even_kernel': ((1, 4, 6, 7), (2, 4)), 'one_weight': ((2, 4, 5, 5), (1, 1)), 'row': ((1, 4, 5, 9), (1, 3)), 'no_images': ((0, 4, 6, 6), (3, 2))}

@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('options', GRID)
@every
def test_grid(conv, options, size):
    options, (shape, ks) = dict(GRID[options]), SIZES[size]
    x, w = rand(*shape), rand(4, 4//options.get('groups', 1), *ks, seed=1)
    options['bias'] = rand(4, seed=2) if options.get('bias') else None
    x0, w0 = x.clone(), w.clone()
    if any((k-1)*d >= n + 2*p for k, d, n, p in zip(ks, *map(_two, (options.get('dilation', 1), shape[2:], options.get('padding', 0))), strict=True)):
        with expect_error(ValueError, 'does not fit'): conv(x, w, **options)
        with pytest.raises(RuntimeError): F.conv2d(x, w, **options)
        return
    same(conv(x, w, **options), F.conv2d(x, w, **options))
    test_eq(x, x0)
    test_eq(w, w0)

def _two(v):
    if isinstance(v, str): return (99, 99) if v == 'same' else (0, 0)
    return tuple(v)*2 if isinstance(v, (tuple, list)) and len(v) == 1 else tuple(v) if isinstance(v, (tuple, list, torch.Size)) else (v, v)


pairs = lambda low, high: st.one_of(st.integers(low, high), st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731

@st.composite
def problems(draw):
    "Images, kernels, bias and settings of a convolution, of which some do not fit"
    groups = draw(st.integers(1, 3))
    c, nf = groups*draw(st.integers(1, 2)), groups*draw(st.integers(1, 2))
    batch = () if draw(st.booleans()) and draw(st.booleans()) else (draw(st.integers(0, 2)),)
    x = rand(*batch, c, draw(st.integers(1, 6)), draw(st.integers(1, 6)), seed=draw(st.integers(0, 99)))
    w = rand(nf, c//groups, draw(st.integers(1, 4)), draw(st.integers(1, 4)), seed=draw(st.integers(0, 99)))
    bias = rand(nf, seed=3) if draw(st.booleans()) else None
    padding = draw(st.one_of(pairs(0, 2), st.sampled_from(['same', 'valid'])))
    stride = 1 if padding == 'same' else draw(pairs(1, 3))
    return x, w, bias, stride, padding, draw(pairs(1, 2)), groups

@every
@given(problem=problems())
def test_drawn(conv, problem):
    x, w, bias, *settings = problem
    inputs = [t for t in (x, w, bias) if t is not None]
    if conv.name not in NO_GRADIENT: inputs = [t.requires_grad_() for t in inputs]
    try: expected = F.conv2d(x, w, bias, *settings)
    except RuntimeError:
        with pytest.raises(ValueError, match='does not fit'): conv(x, w, bias, *settings)
        return
    out = conv(x, w, bias, *settings)
    same(out, expected)
    if expected.requires_grad: same_gradients(out, expected, inputs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.complex64], ids=str)
@every
def test_dtypes(conv, dtype):
    x, w, b = rand(2, 3, 6, 5, dtype=dtype, scale=3), rand(4, 3, 3, 2, seed=1, dtype=dtype, scale=3), rand(4, seed=2, dtype=dtype)
    if conv.name == 'conv2d_unfold' and not (dtype.is_floating_point or dtype.is_complex):
        with expect_error(TypeError, str(dtype)): conv(x, w, b)
    else: same(conv(x, w, b, 2, 1), F.conv2d(x, w, b, 2, 1))

def test_small_integers_wrap_around():
    x, w = torch.full((1, 1, 3, 3), 100, dtype=torch.int8), torch.full((1, 1, 3, 3), 3, dtype=torch.int8)
    for name in CONV2DS:
        if name != 'conv2d_unfold': same(CONV2DS[name](x, w), F.conv2d(x, w))


LAYOUTS = {
    'channels_last':  lambda: rand(2, 4, 6, 5).to(memory_format=torch.channels_last),
    'strided':        lambda: rand(4, 4, 12, 15)[::2, :, ::2, ::3],
    'transposed':     lambda: rand(5, 6, 4, 2).permute(3, 2, 1, 0),
    'expanded':       lambda: rand(1, 1, 1, 5).expand(2, 4, 6, 5),
    'offset':         lambda: rand(3, 5, 8, 8)[1:, 1:, 2:, 3:],
    'other_channels': lambda: rand(2, 8, 6, 5)[:, ::2],
}

@pytest.mark.parametrize('layout', LAYOUTS)
@every
def test_layouts(conv, layout):
    x = LAYOUTS[layout]()
    for w in (rand(6, 4, 3, 2, seed=1), rand(6, 4, 3, 2, seed=1).to(memory_format=torch.channels_last), rand(2, 3, 4, 6, seed=1).permute(3, 2, 1, 0)):
        for padding in (0, 1): same(conv(x, w, padding=padding), F.conv2d(x, w, padding=padding))
    same(conv(x, rand(6, 2, 3, 2), groups=2), F.conv2d(x, rand(6, 2, 3, 2), groups=2))
    if conv.name in NO_GRADIENT or layout == 'expanded': return
    x.requires_grad_()
    same_gradients(conv(x, w, stride=2), F.conv2d(x, w, stride=2), [x])


@every
def test_special_sizes(conv):
    x = rand(2, 1, 5, 4)
    same(conv(x, rand(1, 1, 5, 4)), F.conv2d(x, rand(1, 1, 5, 4)))
    same(conv(x, rand(3, 1, 9, 6), padding=2), F.conv2d(x, rand(3, 1, 9, 6), padding=2))
    same(conv(x[0], rand(3, 1, 2, 2)), F.conv2d(x[0], rand(3, 1, 2, 2)))
    same(conv(x[:, :, :1, :1], rand(3, 1, 1, 1), stride=5), F.conv2d(x[:, :, :1, :1], rand(3, 1, 1, 1), stride=5))

@every
def test_nan_and_inf(conv):
    x, w = rand(1, 2, 5, 5), rand(1, 2, 2, 2)
    x[0, 0, 0, 0], x[0, 1, 4, 4] = float('nan'), float('inf')
    same(conv(x, w), F.conv2d(x, w))


SHAPES = {'x': (2, 4, 6, 5), 'w': (6, 4, 3, 3)}
REFUSED = {
    'channels':         (dict(w=rand(6, 3, 3, 3)), ValueError, ['(2, 4, 6, 5)', '(6, 3, 3, 3)']),
    'groups_channels':  (dict(groups=2), ValueError, ['(2, 4, 6, 5)', '(6, 4, 3, 3)', 'groups=2']),
    'groups_kernels':   (dict(w=rand(5, 2, 3, 3), groups=2), ValueError, ['5 out', 'groups=2', '(5, 2, 3, 3)']),
    'groups_0':         (dict(groups=0), ValueError, ['groups']),
    'groups_half':      (dict(groups=1.5), TypeError, ['groups']),
    'kernel_too_large': (dict(w=rand(6, 4, 7, 3)), ValueError, ['(2, 4, 6, 5)', '(7, 3)', '6×5']),
    'dilated_too_far':  (dict(dilation=4, padding=1), ValueError, ['9×9', '8×7', '(2, 4, 6, 5)']),
    'bias_size':        (dict(bias=rand(5)), ValueError, ['(5,)', '(6,)']),
    'bias_axes':        (dict(bias=rand(6, 1)), ValueError, ['(6, 1)', '(6,)']),
    'bias_number':      (dict(bias=1.), TypeError, ['bias', 'float']),
    'bias_dtype':       (dict(bias=rand(6).float()), TypeError, ['float32', 'float64']),
    'kernel_dtype':     (dict(w=rand(6, 4, 3, 3).float()), TypeError, ['float32', 'float64']),
    'truth_values':     (dict(x=rand(2, 4, 6, 5).bool(), w=rand(6, 4, 3, 3).bool()), TypeError, ['truth values']),
    'two_axes':         (dict(x=rand(6, 5)), ValueError, ['(6, 5)']),
    'five_axes':        (dict(x=rand(1, 2, 4, 6, 5)), ValueError, ['(1, 2, 4, 6, 5)']),
    'flat_kernel':      (dict(w=rand(6, 36)), ValueError, ['(6, 36)']),
    'no_kernel':        (dict(w=rand(0, 4, 3, 3)), ValueError, ['(0, 4, 3, 3)']),
    'no_weights':       (dict(w=rand(6, 4, 0, 3)), ValueError, ['(6, 4, 0, 3)']),
    'no_channels':      (dict(x=rand(2, 0, 6, 5), w=rand(6, 0, 3, 3)), ValueError, ['(2, 0, 6, 5)']),
    'no_pixels':        (dict(x=rand(2, 4, 0, 5), padding=2), ValueError, ['(2, 4, 0, 5)']),
    'list':             (dict(x=[[1.]]), TypeError, ['list']),
    'array':            (dict(w=np.zeros((6, 4, 3, 3))), TypeError, ['ndarray']),
    'other_device':     (dict(w=rand(6, 4, 3, 3).to('meta')), ValueError, ['meta', 'cpu']),
    'stride_0':         (dict(stride=0), ValueError, ['stride', '0']),
    'stride_three':     (dict(stride=(1, 1, 1)), ValueError, ['stride', '(1, 1, 1)']),
    'stride_float':     (dict(stride=1.), TypeError, ['stride', '1.0']),
    'padding_negative': (dict(padding=-1), ValueError, ['padding', '-1']),
    'padding_word':     (dict(padding='full'), ValueError, ["'same'", "'full'"]),
    'same_strided':     (dict(padding='same', stride=2), ValueError, ["'same'", 'stride 1']),
    'dilation_0':       (dict(dilation=0), ValueError, ['dilation']),
}

@pytest.mark.parametrize('case', REFUSED)
@every
def test_refused_in_words(conv, case):
    change, exc, texts = REFUSED[case]
    with pytest.raises(exc) as e: conv(**{'x': rand(*SHAPES['x']), 'w': rand(*SHAPES['w']), **change})
    for text in texts: assert text in str(e.value), str(e.value)


@with_gradient
def test_gradcheck(conv):
    x, w, b = (rand(*s, seed=i).requires_grad_() for i, s in enumerate([(1, 2, 4, 3), (2, 1, 2, 2), (2,)]))
    assert gradcheck(lambda *args: conv(*args, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (x, w, b))

@pytest.mark.parametrize('conv', [CONV2DS[n] for n in NO_GRADIENT], ids=NO_GRADIENT)
def test_no_gradient_is_said(conv):
    x, w, b = rand(1, 2, 4, 4), rand(3, 2, 2, 2), rand(3)
    for args in ((x.clone().requires_grad_(), w), (x, w.clone().requires_grad_()), (x[:0].requires_grad_(), w)):
        with expect_error(ValueError, 'gradient'): conv(*args, padding=1)
    with torch.no_grad(): same(conv(x.clone().requires_grad_(), w.clone().requires_grad_()), F.conv2d(x, w))
    b.requires_grad_()      # the bias is added by PyTorch, so its gradient is right
    test_eq(torch.autograd.grad(conv(x, w, b).sum(), b)[0], [9., 9, 9])


class Calls(TorchDispatchMode):
    "Record the names of all operations that PyTorch runs"
    def __init__(self):
        super().__init__()
        self.names = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

@every
def test_only_the_library_calls_the_library(conv):
    with Calls() as calls: conv(rand(1, 2, 4, 4), rand(2, 1, 2, 2), rand(2), 2, 1, 1, 2)
    used = any('conv' in name for name in calls.names)
    test_eq(used, conv.name == 'conv2d_torch')


def test_functions_survive_pickling_and_are_documented():
    test_eq(pickle.loads(pickle.dumps(conv2d_im2col)), conv2d_im2col)
    for name in module.__all__:
        f = getattr(module, name)
        if not callable(f): continue
        assert f.__doc__ and '\n' not in f.__doc__, name
        docs = docments(f)
        for p in inspect.signature(f).parameters: assert docs[p], f'{name}: {p} has no comment'
    test_eq(list(inspect.signature(conv2d_loops).parameters), ['x', 'w', 'bias', 'stride', 'padding', 'dilation', 'groups'])
    test_eq(str(inspect.signature(conv2d_loops)), str(inspect.signature(conv2d_torch)))

def test_the_quick_one_copies_no_padding_it_does_not_need():
    x = rand(2, 3, 5, 5)
    test_eq(module._pad(x, ((0, 0), (0, 0))).data_ptr(), x.data_ptr())
    test_eq(module._windows(x, (2, 2), (1, 1), (1, 1)).data_ptr(), x.data_ptr())

def test_first_of_the_compiled_calls_with_other_layouts():
    x, w = rand(2, 2, 6, 6, dtype=torch.float32), rand(2, 2, 3, 3, dtype=torch.float32)
    same(conv2d_numba(x.transpose(2, 3), w.transpose(2, 3)), F.conv2d(x.transpose(2, 3), w.transpose(2, 3)))


# --- the parts

@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_conv_out_size(size, ks, stride, padding, dilation):
    try: expected = F.conv2d(torch.zeros(1, 1, size, size), torch.zeros(1, 1, ks, ks), None, stride, padding, dilation).shape[-1]
    except RuntimeError:
        with pytest.raises(ValueError, match=f'spans {dilation*(ks-1)+1} pixels'): conv_out_size(size, ks, stride, padding, dilation)
    else: test_eq(conv_out_size(size, ks, stride, padding, dilation), expected)

@pytest.mark.parametrize('args', [(0, 1), (5, 0), (5, 3, 0), (5, 3, 1, -1), (5, 3, 1, 0, 0)])
def test_conv_out_size_refuses(args):
    with expect_error(ValueError, 'or more'): conv_out_size(*args)

def test_conv_out_size_wants_whole_numbers():
    with expect_error(TypeError): conv_out_size(5., 3)


def test_apply_kernel():
    im, kernel = rand(5, 6), rand(2, 3)
    test_close(apply_kernel(im, 1, 3, kernel), (im[1:3, 3:6]*kernel).sum())
    test_close(apply_kernel(im, 0, 1, kernel, (3, 2)), (im[:4:3, 1::2]*kernel).sum())
    test_close(apply_kernel(im.expand(4, 5, 6), 3, 3, kernel.expand(4, 2, 3)), 4*(im[3:, 3:]*kernel).sum())
    pixels = torch.full((3, 3), 200, dtype=torch.uint8)
    test_close(apply_kernel(pixels, 0, 0, torch.full((3, 3), .5)), 900.)       # bytes times fractions
    for row, col in ((-1, 0), (0, -1), (4, 0), (0, 4)):
        with expect_error(ValueError, f'row {row}, column {col}'): apply_kernel(im, row, col, kernel)
    with expect_error(ValueError, '(4, 2, 3)'): apply_kernel(im, 0, 0, kernel.expand(4, 2, 3))


@st.composite
def unfoldings(draw):
    batch = () if draw(st.booleans()) else (draw(st.integers(0, 2)),)
    x = rand(*batch, draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 7)), seed=draw(st.integers(0, 99)))
    return x, draw(pairs(1, 4)), dict(stride=draw(pairs(1, 3)), padding=draw(pairs(0, 2)), dilation=draw(pairs(1, 2)))

@given(unfoldings())
def test_im2col_is_unfold_and_col2im_is_fold(problem):
    x, ks, options = problem
    x.requires_grad_()
    try: expected = F.unfold(x, ks, **options)
    except RuntimeError:
        with pytest.raises(ValueError, match='does not fit'): im2col(x, ks, **options)
        return
    cols = im2col(x, ks, **options)
    same(cols, expected)
    g = rand(*cols.shape, seed=5).requires_grad_()
    back = col2im(g, x.shape[-2:], ks, **options)
    same(back, F.fold(g, x.shape[-2:], ks, **options))
    test_close(torch.autograd.grad(cols, x, g)[0], back, eps=1e-10)               # col2im is the gradient of im2col
    test_close(torch.autograd.grad(back, g, x)[0], cols, eps=1e-10)               # and the other way round

def test_im2col_gradcheck():
    options = dict(ks=(2, 3), stride=(1, 2), padding=1, dilation=(2, 1))
    x = rand(1, 2, 4, 5).requires_grad_()
    assert gradcheck(lambda x: im2col(x, **options), x)
    assert gradcheck(lambda c: col2im(c, (4, 5), **options), rand(*im2col(x, **options).shape).requires_grad_())

@pytest.mark.parametrize('layout', LAYOUTS)
def test_im2col_layouts(layout):
    x = LAYOUTS[layout]()
    same(im2col(x, (2, 3), padding=1), F.unfold(x, (2, 3), padding=1))
    same(im2col(x, (2, 3)), F.unfold(x, (2, 3)))

def test_im2col_takes_whole_numbers_too():
    x = rand(2, 3, 5, 5, dtype=torch.int64, scale=9)
    test_eq(im2col(x, 3).double(), F.unfold(x.double(), 3))
    test_eq(col2im(im2col(x, 3), 5, 3).dtype, torch.int64)

def test_im2col_refuses():
    with expect_error(ValueError, '(2, 3, 4, 5)'): im2col(rand(2, 3, 4, 5), 5)
    with expect_error(ValueError, '(4, 5)'): im2col(rand(4, 5), 2)
    with expect_error(TypeError, 'padding'): im2col(rand(1, 4, 5), 2, padding='same')
    with expect_error(TypeError, 'list'): im2col([[1]], 2)
    with expect_error(ValueError, '(2, 9, 4)'): col2im(rand(2, 9, 4), 3, 2)         # 9 rows are no windows of 4 pixels
    with expect_error(ValueError, '(2, 8, 5)'): col2im(rand(2, 8, 5), 3, 2)         # 5 places instead of 4
    with expect_error(ValueError, '(4,)'): col2im(rand(4), 3, 2)
    with expect_error(ValueError, 'spans 4'): col2im(rand(16, 1), 3, 4)
    with expect_error(TypeError, 'ndarray'): col2im(np.zeros((4, 4)), 3, 2)


@st.composite
def poolings(draw):
    batch = () if draw(st.booleans()) else (draw(st.integers(0, 2)),)
    x = rand(*batch, draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(1, 8)), seed=draw(st.integers(0, 99)), scale=3)
    if draw(st.booleans()): x = x.round()       # ties
    ks = draw(pairs(1, 4))
    padding = draw(st.integers(0, (ks if isinstance(ks, int) else min(ks))//2))
    return x, ks, draw(st.one_of(st.none(), pairs(1, 3))), padding, draw(pairs(1, 2))

@given(poolings())
def test_pooling(problem):
    x, ks, stride, padding, dilation = problem
    x.requires_grad_()
    for ours, theirs, extra in ((max_pool2d, F.max_pool2d, [dilation]), (avg_pool2d, F.avg_pool2d, [])):
        try: expected = theirs(x, ks, stride, padding, *extra)
        except RuntimeError:
            with pytest.raises(ValueError, match='does not fit'): ours(x, ks, stride, padding, *extra)
            continue
        out = ours(x, ks, stride, padding, *extra)
        same(out, expected)
        if expected.isfinite().all(): same_gradients(out, expected, [x])      # PyTorch's gradient of a window of nothing but padding goes astray

@pytest.mark.parametrize('layout', LAYOUTS)
def test_pooling_layouts(layout):
    x = LAYOUTS[layout]()
    same(max_pool2d(x, 2), F.max_pool2d(x, 2))
    same(avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1))

def test_pooling_dtypes_and_special_values():
    for dtype in (torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32):
        x = rand(1, 2, 5, 5, dtype=dtype, scale=4).abs()
        same(max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))
        if dtype.is_floating_point: same(avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1))
    x = -rand(1, 1, 4, 4).abs() - 1                     # all negative: the padding must not win
    assert max_pool2d(x, 2, padding=1).max() < 0
    x[0, 0, 1, 1] = float('nan')
    same(max_pool2d(x, 2), F.max_pool2d(x, 2))

def test_pooling_refuses():
    x = rand(1, 2, 4, 4)
    with expect_error(ValueError, 'half of the window'): max_pool2d(x, 3, padding=2)
    with expect_error(ValueError, '(1, 2, 4, 4)'): max_pool2d(x, 5)
    with expect_error(TypeError, 'complex'): max_pool2d(x.to(torch.complex64), 2)
    with expect_error(TypeError, 'bool'): max_pool2d(x.bool(), 2)
    with expect_error(TypeError, 'list'): max_pool2d([1], 2)
    with expect_error(TypeError, 'int64'): avg_pool2d(x.long(), 2)
    with expect_error(TypeError, 'int64'): global_avg_pool(x.long())
    with expect_error(ValueError, '(4, 4)'): global_avg_pool(x[0, 0])

def test_global_avg_pool():
    for x in (rand(2, 3, 4, 5), rand(3, 4, 5), rand(0, 3, 4, 5), LAYOUTS['channels_last']()):
        same(global_avg_pool(x), F.adaptive_avg_pool2d(x, 1)[..., 0, 0])
    assert gradcheck(global_avg_pool, rand(1, 2, 3, 3).requires_grad_())


@given(st.booleans(), st.integers(1, 5), st.integers(1, 5), pairs(1, 4))
def test_upsample_nearest(single, h, w, scale):
    x = rand(2, 3, h, w)[0 if single else slice(None)].requires_grad_()
    out, expected = upsample_nearest(x, scale), F.interpolate(x if x.dim() == 4 else x[None], scale_factor=scale)
    same(out, expected if x.dim() == 4 else expected[0])
    same_gradients(out, expected.reshape(out.shape), [x])

def test_upsample_nearest_refuses():
    with expect_error(ValueError, 'scale'): upsample_nearest(rand(1, 2, 2), 0)
    with expect_error(TypeError, 'scale'): upsample_nearest(rand(1, 2, 2), 1.5)
    with expect_error(ValueError, '(2, 2)'): upsample_nearest(rand(2, 2), 2)


@st.composite
def transposed(draw):
    groups = draw(st.integers(1, 3))
    c, nf = groups*draw(st.integers(1, 2)), draw(st.integers(1, 2))
    batch = () if draw(st.booleans()) and draw(st.booleans()) else (draw(st.integers(0, 2)),)
    x = rand(*batch, c, draw(st.integers(1, 5)), draw(st.integers(1, 5)), seed=draw(st.integers(0, 99)))
    w = rand(c, nf, draw(st.integers(1, 4)), draw(st.integers(1, 4)), seed=draw(st.integers(0, 99)))
    bias = rand(nf*groups, seed=3) if draw(st.booleans()) else None
    return x, w, bias, draw(pairs(1, 3)), draw(pairs(0, 2)), draw(pairs(0, 2)), groups, draw(pairs(1, 2))

@given(transposed())
def test_conv_transpose2d(problem):
    x, w, bias, *settings = problem
    inputs = [t.requires_grad_() for t in (x, w, bias) if t is not None]
    try:
        expected = F.conv_transpose2d(x, w, bias, *settings)
        if not len(x): F.conv_transpose2d(x.new_zeros(1, *x.shape[1:]), w, bias, *settings)       # with no image, PyTorch checks less
    except RuntimeError:
        with pytest.raises(ValueError, match='output_padding must be smaller|cuts everything off'): conv_transpose2d(x, w, bias, *settings)
        return
    out = conv_transpose2d(x, w, bias, *settings)
    same(out, expected)
    same_gradients(out, expected, inputs)

def test_conv_transpose2d_is_the_gradient_of_conv2d():
    x, w = rand(2, 4, 9, 8).requires_grad_(), rand(6, 2, 3, 2)
    small = conv2d_im2col(x, w, None, (2, 3), 1, 1, 2)
    g = rand(*small.shape)
    extra = [n - (conv_transpose2d(g, w, None, (2, 3), 1, 0, 2).shape[i]) for i, n in ((2, 9), (3, 8))]
    test_close(conv_transpose2d(g, w, None, (2, 3), 1, extra, 2), torch.autograd.grad(small, x, g)[0], eps=1e-10)

def test_conv_transpose2d_gradcheck_and_layouts():
    x, w, b = (rand(*s).requires_grad_() for s in ((1, 2, 3, 2), (2, 1, 2, 3), (2,)))
    assert gradcheck(lambda *args: conv_transpose2d(*args, stride=2, padding=1, output_padding=1, groups=2), (x, w, b))
    for layout in LAYOUTS.values(): same(conv_transpose2d(layout(), rand(4, 3, 2, 2)), F.conv_transpose2d(layout(), rand(4, 3, 2, 2)))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        x, w = rand(1, 3, 4, 4, dtype=dtype, scale=3), rand(3, 2, 3, 3, dtype=dtype, scale=3)
        same(conv_transpose2d(x, w, stride=2), F.conv_transpose2d(x, w, stride=2))

@pytest.mark.parametrize('change, exc, text', [
    (dict(w=rand(3, 2, 2, 2)), ValueError, '(1, 4, 3, 3)'), (dict(groups=3), ValueError, 'groups=3'), (dict(bias=rand(4)), ValueError, '(2,)'),
    (dict(output_padding=1), ValueError, 'output_padding'), (dict(padding=2), ValueError, 'cuts everything off'), (dict(w=rand(4, 2, 2, 2).float()), TypeError, 'float32'),
    (dict(x=rand(3, 3)), ValueError, '(3, 3)'), (dict(stride=0), ValueError, 'stride'), (dict(padding='same'), TypeError, 'padding')])
def test_conv_transpose2d_refuses(change, exc, text):
    with expect_error(exc, text): conv_transpose2d(**{'x': rand(1, 4, 3, 3), 'w': rand(4, 2, 2, 2), **change})


def test_show_pixels():
    import matplotlib.pyplot as plt
    ax = show_pixels(torch.tensor([[.25, 1.], [0, .5]], requires_grad=True), title='four', decimals=2)
    test_eq([t.get_text() for t in ax.texts], ['0.25', '1.00', '0.00', '0.50'])
    test_eq([t.get_color() for t in ax.texts], ['black', 'white', 'black', 'black'])
    test_eq((ax.get_title(), ax.images[0].get_cmap().name, ax.images[0].get_clim()), ('four', 'gray_r', (0, 1)))
    signed = show_pixels([[-2, 1]], plt.subplots()[1], limit=4)
    test_eq((signed.images[0].get_cmap().name, signed.images[0].get_clim()), ('RdBu', (-4, 4)))
    with expect_error(ValueError, '(1, 2, 2)'): show_pixels(np.zeros((1, 2, 2)))
    plt.close('all')


def test_a_convolution_trains():
    "A few steps of gradient descent through our own convolution find the kernel that made the data"
    x, wanted = rand(8, 1, 6, 6), rand(2, 1, 3, 3, seed=7)
    w = torch.zeros_like(wanted, requires_grad=True)
    for _ in range(200):
        loss = (conv2d_im2col(x, w) - F.conv2d(x, wanted)).square().mean()
        grad, = torch.autograd.grad(loss, w)
        with torch.no_grad(): w -= .2*grad
    test_close(w, wanted, eps=1e-3)

def test_warnings_are_not_hidden_by_our_own():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for conv in CONV2DS.values(): conv(rand(1, 2, 5, 5), rand(2, 2, 3, 3), padding='same')

def test_unfold_says_what_it_lacks():
    with expect_error(TypeError, 'conv2d_im2col'): conv2d_unfold(rand(1, 1, 3, 3, dtype=torch.int64), rand(1, 1, 2, 2, dtype=torch.int64))
