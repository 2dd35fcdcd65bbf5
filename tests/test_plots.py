"Pictures show the values that came in, whatever form they came in"
import os
import subprocess
import sys
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miniai.plots import get_grid, show_image, show_images, subplots
from miniai.testing import expect_error, test_close, test_eq

rng = np.random.default_rng(0)
torch.manual_seed(0)
MAGENTA = [255, 0, 255, 255]


@pytest.fixture(autouse=True)
def tidy():
    "No warning passes unseen, and each test starts without figures"
    plt.close('all')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield
    plt.close('all')

def drawn(ax): return np.asarray(ax.images[0].get_array())

def screen(ax, h, w):
    "What a viewer sees of `ax`, one screen pixel for each of its h x w: (h, w, 4) bytes"
    ax.set_position([0, 0, 1, 1])
    ax.figure.set_size_inches(w/10, h/10)
    ax.figure.set_dpi(10)
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())

def bytes_image(*shape): return rng.integers(0, 256, shape, dtype=np.uint8)


# --- where the channels are ---

@pytest.mark.parametrize('make', [torch.tensor, np.array, lambda x: np.array(x).tolist()], ids=['tensor', 'array', 'list'])
@pytest.mark.parametrize('c', [1, 3, 4])
def test_orders(make, c):
    hwc = bytes_image(6, 5, c)
    want = hwc[..., 0] if c == 1 else hwc
    test_eq(drawn(show_image(make(hwc))), want)
    test_eq(drawn(show_image(make(hwc.transpose(2, 0, 1)))), want)

@given(h=st.integers(5, 9), w=st.integers(5, 9), c=st.sampled_from([1, 3, 4]), first=st.booleans(), tensor=st.booleans())
def test_clear_shapes(h, w, c, first, tensor):
    x = bytes_image(h, w, c)
    im = x.transpose(2, 0, 1) if first else x
    test_eq(drawn(show_image(torch.tensor(im) if tensor else im)), x[..., 0] if c == 1 else x)
    plt.close('all')

@pytest.mark.parametrize('shape', [(3, 3, 3), (1, 5, 3), (3, 7, 1), (4, 6, 3), (1, 1, 1), (3, 3, 4)])
def test_open_shapes_follow_the_library(shape):
    x = bytes_image(*shape)
    last, first = x, x.transpose(1, 2, 0)
    test_eq(drawn(show_image(x)), last[..., 0] if last.shape[-1] == 1 else last)
    test_eq(drawn(show_image(x.tolist())), last[..., 0] if last.shape[-1] == 1 else last)
    test_eq(drawn(show_image(torch.tensor(x))), first[..., 0] if first.shape[-1] == 1 else first)

@pytest.mark.parametrize('shape', [(), (7,), (784,), (2, 5, 6), (5, 6, 2), (5, 5, 5), (1, 1, 28, 28), (2, 2, 2, 2, 2), (0, 5), (5, 0, 3), (3, 0, 5)])
@pytest.mark.parametrize('make', [torch.zeros, np.zeros], ids=['tensor', 'array'])
def test_no_image(make, shape):
    with pytest.raises(ValueError) as e: show_image(make(shape))
    assert str(tuple(shape)) in str(e.value)
    test_eq(plt.get_fignums(), [])

@pytest.mark.parametrize('im', ['three.png', None, [['a', 'b']], np.zeros((3, 3), complex), torch.zeros(3, 3, dtype=torch.complex64)])
def test_no_numbers(im):
    with expect_error(TypeError, 'real numbers'): show_image(im)
    test_eq(plt.get_fignums(), [])

def test_ragged_list():
    with expect_error(ValueError, 'rectangular'): show_image([[1, 2], [3]])


# --- what may come in ---

@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('c', [1, 3])
def test_dtypes(dtype, c):
    x = torch.tensor(rng.integers(0, 2, (c, 5, 6))).to(dtype)
    ax = show_image(x)
    ax.figure.canvas.draw()
    top = 255 if dtype in (torch.int8, torch.int32, torch.int64, torch.uint8) else 1
    if c == 1: test_eq(drawn(ax), x[0].double())
    else: test_eq(drawn(ax), np.round(x.double().numpy().transpose(1, 2, 0)*255/top))

@pytest.mark.parametrize('dtype', ['>f4', '>i2', '>u2', '>f8', '<u4'])
@pytest.mark.parametrize('c', [1, 3])
def test_byte_orders(dtype, c):
    x = rng.integers(0, 2, (5, 6, c)).astype(dtype)
    ax = show_image(x)
    ax.figure.canvas.draw()
    test_close(drawn(ax)[..., 0] if c == 3 else drawn(ax), x[..., 0].astype('i8')*(255 if c == 3 and 'f' in dtype else 1))

def test_history_strides_and_readonly():
    x = torch.rand(3, 6, 5, requires_grad=True)
    want = (x.detach().numpy().transpose(1, 2, 0)*255).round()
    test_eq(drawn(show_image(x)), want)
    test_eq(drawn(show_image((x*1).transpose(1, 2))), want.transpose(1, 0, 2))
    test_eq(drawn(show_image(torch.nn.Parameter(x.detach()[:, ::2, ::2]))), want[::2, ::2])
    flipped = x.detach().numpy()[0, ::-1, ::-1]
    flipped.flags.writeable = False
    test_eq(drawn(show_image(flipped)), flipped)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu():
    x = torch.rand(2, 3, 6, 5, device='cuda', requires_grad=True)
    test_eq(drawn(show_image(x[0], title=torch.tensor(7, device='cuda'))), (x[0].detach().cpu().permute(1, 2, 0)*255).round())
    test_eq(len(show_images(x, titles=torch.arange(2, device='cuda'))), 2)

@pytest.mark.parametrize('x', [
    torch.rand(3, 5, 6), torch.rand(5, 6), torch.rand(5, 6, 4).double()*3, rng.random((5, 6, 3)), bytes_image(5, 6), bytes_image(5, 6, 3),
    torch.tensor([[float('nan'), 1.], [0., 2.]]), torch.full((3, 4, 5), float('nan'))])
def test_input_stays_and_picture_stays(x):
    before = x.clone() if isinstance(x, torch.Tensor) else x.copy()
    ax = show_image(x, vmin=0, vmax=3)
    ax.figure.canvas.draw()
    test_close(x, before, eps=0)
    picture = drawn(ax).copy()
    x[...] = 1
    test_close(drawn(ax), picture, eps=0)

@pytest.mark.parametrize('mode, shape', [
    ('1', (4, 5)), ('L', (4, 5)), ('I', (4, 5)), ('F', (4, 5)), ('I;16', (4, 5)), ('I;16B', (4, 5)), ('RGB', (4, 5, 3)), ('RGBA', (4, 5, 4)),
    ('P', (4, 5, 3)), ('PA', (4, 5, 4)), ('LA', (4, 5, 4)), ('CMYK', (4, 5, 3)), ('HSV', (4, 5, 3)), ('YCbCr', (4, 5, 3)), ('LAB', (4, 5, 3)), ('RGBX', (4, 5, 3)), ('RGBa', (4, 5, 4))])
def test_pil_modes(mode, shape):
    test_eq(drawn(show_image(Image.new(mode, (5, 4)))).shape, shape)

def test_pil_colors():
    red = Image.new('RGB', (5, 3), (255, 0, 0))
    for mode in ('P', 'HSV', 'YCbCr', 'CMYK', 'RGBX'): test_close(drawn(show_image(red.convert(mode)))[0, 0], [255, 0, 0], eps=1)
    test_eq(drawn(show_image(red)).shape, (3, 5, 3))    # 3 rows, not 3 channels
    half = Image.new('LA', (5, 4), (100, 128))
    test_eq(drawn(show_image(half))[0, 0], [100, 100, 100, 128])


# --- what is drawn ---

def test_gray_is_stretched_unless_told():
    x = torch.tensor([[2., 3.], [4., 6.]])
    test_close(screen(show_image(x), 2, 2)[..., 0], [[0, 64], [128, 255]], eps=1)
    test_close(screen(show_image(x, vmin=0, vmax=10), 2, 2)[..., 0], [[51, 77], [102, 153]], eps=1)
    test_close(screen(show_image(x, vmin=x.min(), vmax=torch.tensor(4.)), 2, 2)[..., 0], [[0, 128], [255, 255]], eps=1)

def test_masks():
    test_eq(screen(show_image(torch.ones(2, 2, dtype=torch.bool)), 2, 2)[..., :3], np.full((2, 2, 3), 255))
    test_eq(screen(show_image(np.zeros((2, 2), bool)), 2, 2)[..., :3], np.zeros((2, 2, 3)))
    show_image(np.ones((2, 2), bool), norm=mpl.colors.Normalize(0, 2))

def test_gray_cmap():
    x = torch.rand(2, 2)
    test_eq(show_image(x).images[0].get_cmap().name, 'gray')
    test_eq(show_image(x, cmap='viridis').images[0].get_cmap().name, 'viridis')
    mine = mpl.colormaps['bone'].with_extremes(bad='green')
    test_eq(show_image(x, cmap=mine).images[0].get_cmap().get_bad(), mpl.colors.to_rgba('green'))
    with mpl.rc_context({'image.cmap': 'gray_r'}): test_eq(show_image(x).images[0].get_cmap().name, 'gray_r')
    with expect_error(KeyError, 'no_such_map'): show_image(x, cmap='no_such_map')
    test_eq(mpl.rcParams['image.cmap'], mpl.rcParamsDefault['image.cmap'])

@pytest.mark.parametrize('odd', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('shape', [(2, 2), (2, 2, 3), (2, 2, 4)])
def test_nan_and_inf_are_magenta(odd, shape):
    x = np.full(shape, 0.25)
    x[1, 1] = 0.5
    x[0, 1, ...] = odd
    if len(shape) == 3: x[1, 0, 1] = odd
    x[..., 3:] = 1
    seen = screen(show_image(x), 2, 2)
    test_eq(seen[0, 1], MAGENTA)
    assert (seen[0, 0] != MAGENTA).any() and (seen[1, 1] != MAGENTA).any()
    if len(shape) == 3: test_eq(seen[1, 0], MAGENTA)

@pytest.mark.parametrize('shape', [(2, 2), (3, 2, 2), (4, 2, 2)])
def test_all_nan(shape):
    test_eq(screen(show_image(torch.full(shape, float('nan'))), 2, 2), np.full((2, 2, 4), MAGENTA))

@pytest.mark.parametrize('x', [
    torch.rand(3, 5, 6)*2.5 - 1, torch.rand(5, 6, 4)*255, rng.random((5, 6, 3)) - 0.5, np.full((5, 6, 3), 256), np.full((5, 6, 3), -1), torch.full((3, 5, 5), 1.01)])
def test_cut_off_colors_warn(x):
    with pytest.warns(UserWarning, match='this image has values .* cut off') as caught: ax = show_image(x)
    test_eq(caught[0].filename, __file__)
    top = 1 if torch.as_tensor(x).is_floating_point() else 255
    want = np.asarray(x if x.shape[0] > 4 else x.permute(1, 2, 0))/top
    test_close(drawn(ax), (want.clip(0, 1)*255).round(), eps=1)

def test_no_warning_for_what_nobody_sees():
    show_image(torch.full((3, 5, 5), 1.001))
    show_image(torch.full((3, 5, 5), -0.001))
    show_image(torch.full((5, 5), 300.))    # gray is stretched
    show_image(torch.rand(3, 5, 6)*9, vmin=0, vmax=9)

def test_color_range():
    x = rng.normal(size=(5, 6, 3))
    want = ((x + 1)/3).clip(0, 1)*255
    test_close(drawn(show_image(x, vmin=-1, vmax=2)), want, eps=0.51)
    test_close(drawn(show_image(torch.tensor(x), vmin=torch.tensor(-1), vmax=np.float32(2))), want, eps=0.51)
    opaque = np.concatenate([x, np.full((5, 6, 1), 0.8)], axis=-1)
    test_eq(drawn(show_image(opaque, vmin=-1, vmax=2))[..., 3], np.full((5, 6), 204))
    test_eq(drawn(show_image(bytes_image(5, 6, 4)//2 + 100, vmin=50, vmax=100))[..., :3], np.full((5, 6, 3), 255))
    for lo, hi in [(1, 1), (2, 1), (0, float('nan'))]:
        with expect_error(ValueError, 'must be below vmax'): show_image(x, vmin=lo, vmax=hi)

@pytest.mark.parametrize('c', [3, 4])
def test_bytes_and_floats_look_the_same(c):
    x = np.arange(256*c, dtype=np.uint8).reshape(16, 16, c)
    for same in (x, x.astype('i4'), x/255, (x/255).astype('f4'), torch.tensor(x/255).half()): test_eq(drawn(show_image(same)), x)

def test_axes_title_frame():
    fig, mine = plt.subplots()
    ax = show_image(torch.rand(5, 5), mine, title='three')
    assert ax is mine and not ax.axison
    test_eq(ax.get_title(), 'three')
    test_eq(len(plt.get_fignums()), 1)
    ax = show_image(torch.rand(5, 5), figsize=(2, 1), noframe=False)
    assert ax.axison
    test_eq([*ax.get_xticks(), *ax.get_yticks()], [])
    test_eq(ax.figure.get_size_inches(), [2, 1])
    for t in (torch.tensor(3), np.array(3), np.uint8(3), 3, '3', torch.tensor([3]), np.array([3])): test_eq(show_image(torch.rand(5, 5), mine, title=t).get_title(), '3')
    test_eq(show_image(torch.rand(5, 5), interpolation='bilinear', alpha=0.5).images[0].get_alpha(), 0.5)


# --- grids ---

@pytest.mark.parametrize('nrows, ncols', [(1, 1), (1, 4), (4, 1), (2, 3)])
def test_subplots(nrows, ncols):
    fig, axs = subplots(nrows, ncols, imsize=0.5, suptitle='all')
    test_eq(axs.size, nrows*ncols)
    test_eq(axs.shape, (nrows, ncols) if min(nrows, ncols) > 1 else (max(nrows, ncols),))
    test_eq(fig.get_size_inches(), [ncols*0.5, nrows*0.5])
    test_eq(fig.get_suptitle(), 'all')
    assert all(isinstance(ax, plt.Axes) for ax in axs.flat)

def test_subplots_arguments():
    fig, axs = subplots()
    test_eq(fig.get_size_inches(), [3, 3])
    fig, axs = subplots(2, 2, figsize=np.array([5, 4]), sharex=True, squeeze=False, layout=None)
    test_eq(fig.get_size_inches(), [5, 4])
    assert fig.get_layout_engine() is None and axs[0, 0].get_shared_x_axes().joined(axs[0, 0], axs[1, 1])
    test_eq(subplots(1, 1, squeeze=False)[1].shape, (1, 1))

@pytest.mark.parametrize('n', range(1, 31))
def test_grid_has_exactly_enough_cells(n):
    fig, axs = get_grid(n, imsize=0.3)
    shown = [ax for ax in axs.flat if ax.get_visible() and ax.axison]
    test_eq(len(shown), n)
    assert shown == list(axs.flat[:n])
    nrows, ncols = fig.axes[0].get_gridspec().get_geometry()
    assert nrows <= ncols and axs.size - n < ncols and axs.size - n < nrows

@settings(max_examples=15)
@given(n=st.integers(1, 20), side=st.integers(1, 6), rows=st.booleans())
def test_grid_with_one_side_given(n, side, rows):
    fig, axs = get_grid(n, **{'nrows' if rows else 'ncols': side}, imsize=0.1)
    nrows, ncols = fig.axes[0].get_gridspec().get_geometry()
    other = -(-n//side)
    test_eq((nrows, ncols), (side, other) if rows else (other, side))
    test_eq(sum(ax.get_visible() for ax in axs.flat), n)
    plt.close(fig)

def test_grid_refusals():
    for rows, cols in [(2, 2), (1, 4), (4, 1)]:
        with expect_error(ValueError, 'too few for 5'): get_grid(5, rows, cols)
    for bad in [dict(n=0), dict(n=-1), dict(n=5, nrows=0), dict(n=5, ncols=0), dict(n=5, nrows=-2, ncols=-3)]:
        with expect_error(ValueError, '1 or more'): get_grid(**bad)
    for bad in [dict(n=2.5), dict(n='5'), dict(n=5, nrows=2.0), dict(n=None)]:
        with expect_error(TypeError, 'whole number'): get_grid(**bad)
    test_eq(plt.get_fignums(), [])

def test_grid_arguments():
    fig, axs = get_grid(5, 3, 4, title='five', size=9, weight='light', figsize=(6, 3))
    test_eq((fig.get_suptitle(), fig._suptitle.get_size(), fig._suptitle.get_weight()), ('five', 9, 'light'))
    test_eq((axs.shape, list(fig.get_size_inches())), ((3, 4), [6, 3]))
    test_eq(get_grid(np.int64(5), torch.tensor(1))[1].shape, (5,))
    fig.colorbar(show_image(torch.rand(5, 5), axs[0, 0]).images[0], ax=axs)
    fig.canvas.draw()


# --- many images ---

@pytest.mark.parametrize('form', [
    lambda x: x, lambda x: x[:, 0], lambda x: list(x), lambda x: tuple(x.numpy()), lambda x: x.numpy(), lambda x: (im for im in x),
    lambda x: [Image.fromarray(im[0].numpy()) for im in x], lambda x: x.requires_grad_()*1, lambda x: x.tolist()])
@pytest.mark.parametrize('n', [1, 5, 7])
def test_show_images(form, n):
    x = torch.rand(n, 1, 6, 5)
    axs = show_images(form(x.clone()), imsize=0.5, titles=torch.arange(n))
    test_eq(axs.shape, (n,))
    for i in range(n):
        test_close(drawn(axs[i]), x[i, 0])
        test_eq(axs[i].get_title(), str(i))
    test_eq([ax.get_visible() for ax in axs[0].figure.axes].count(True), n)

def test_show_images_mixes_forms():
    axs = show_images([torch.rand(3, 5, 6), np.zeros((7, 8), bool), Image.new('RGB', (3, 3)), torch.rand(9, 9, 1)], nrows=1, cmap='bone', vmin=0, vmax=1)
    test_eq([drawn(ax).shape for ax in axs], [(5, 6, 3), (7, 8), (3, 3, 3), (9, 9)])
    test_eq(axs[3].images[0].get_cmap().name, 'bone')
    test_eq(axs[0].get_gridspec().get_geometry(), (1, 4))

def test_show_images_arguments():
    axs = show_images(torch.rand(6, 5, 5), 3, 2, list('abcdef'), title='six', imsize=0.5, noframe=False, vmin=-1, vmax=5)
    fig = axs[0].figure
    test_eq((fig.get_suptitle(), list(fig.get_size_inches()), axs[0].get_gridspec().get_geometry()), ('six', [1, 1.5], (3, 2)))
    test_eq((axs[2].get_title(), axs[2].axison, axs[2].images[0].get_clim()), ('c', True, (-1, 5)))
    test_eq([ax.get_title() for ax in show_images(torch.rand(3, 5, 5), titles=(t for t in ['a', None, 2]))], ['a', '', '2'])
    with pytest.raises((AttributeError, TypeError)): show_images(torch.rand(2, 5, 5), no_such_argument=1)

def test_show_images_refusals():
    x = torch.rand(3, 1, 5, 5)
    for titles in (['a'], list('abcd'), [], torch.arange(2)):
        with expect_error(ValueError, f'images: 3, but titles: {len(titles)}'): show_images(x, titles=titles)
    with expect_error(ValueError, "'abc'"): show_images(x, titles='abc')
    for none in ([], x[:0], iter(())):
        with expect_error(ValueError, 'no images'): show_images(none)
    for single in (torch.rand(28, 28), np.zeros((28, 28)), Image.new('L', (28, 28))):
        with expect_error(ValueError, '(28, 28); use show_image'): show_images(single)
    with expect_error(ValueError, 'too few for 3'): show_images(x, nrows=1, ncols=2)
    with pytest.raises(ValueError, match='flat image') as e: show_images([x[0], x[0].flatten()])
    assert 'image 1 of 2' in e.value.__notes__[0]
    test_eq(plt.get_fignums(), [])

def test_show_images_warns_once():
    x = torch.rand(9, 3, 5, 5)
    x[2:6] *= 3
    x[5] -= 1
    with pytest.warns(UserWarning, match='4 of the 9 images') as caught: show_images(x)
    test_eq((len(caught), caught[0].filename), (1, __file__))
    show_images(x, vmin=-1, vmax=3)


# --- no display, no side effects ---

def test_runs_without_a_display():
    "In a fresh process: importing picks no backend and opens nothing, drawing and saving work"
    code = '''
import matplotlib as mpl
import miniai.plots as p, sys, io, torch
assert mpl.get_backend(auto_select=False) is None, mpl.get_backend()
assert mpl.rcParams == mpl.rcParamsDefault or all(mpl.rcParams[k] == mpl.rcParamsDefault[k] for k in mpl.rcParamsDefault if k != 'backend')
assert not {'sklearn', 'datasets', 'numba', 'pandas', 'tkinter'} & sys.modules.keys()
axs = p.show_images(torch.rand(5, 1, 28, 28), titles=range(5))
axs[0].figure.savefig(f := io.BytesIO(), format='png')
print(mpl.get_backend(), len(f.getvalue()) > 1000)
'''
    env = {k: v for k, v in os.environ.items() if k not in ('DISPLAY', 'WAYLAND_DISPLAY', 'MPLBACKEND')}
    res = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    test_eq((res.stdout.split(), res.returncode, res.stderr), (['agg', 'True'], 0, ''))
