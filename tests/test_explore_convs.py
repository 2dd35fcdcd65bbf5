"Tests of miniai.explore_convs"
import math
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import miniai.explore_convs as m
from miniai.conv import conv, receptive_field, simple_cnn
from miniai.explore_convs import explore_conv, explore_receptive_field
from miniai.testing import test_close, test_eq

torch.manual_seed(0)
DIGIT = torch.randint(0, 17, (8, 8))
RANDOM = torch.randn(9, 9, dtype=torch.float64)
TOP = torch.tensor([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])

def numbers(text): return np.array([[math.nan if v == '' else float(v) for v in row.split(' ')] for row in text.split(';')])

def sheet(page, label): return page.get_by_role('application', name=label, exact=True).or_(page.get_by_role('img', name=label, exact=True))

def read(page, label): return numbers(sheet(page, label).get_attribute('data-values'))

def said(page): return page.locator('.say').text_content()

def click(page, label, i, j, rows, cols):
    "Click a cell of a sheet with so many rows and columns"
    box = sheet(page, label).bounding_box()
    page.mouse.click(box['x'] + 2 + (box['width'] - 4)*(j + .5)/cols, box['y'] + 2 + (box['height'] - 4)*(i + .5)/rows)

# -- one convolution: every setting

SWEEP = '''kernels => {
  const root = document.querySelector('.miniai-figure'), all = [];
  const sliders = Object.fromEntries([...root.querySelectorAll('input[type=range]')].map(n => [n.getAttribute('aria-label'), n]));
  const set = (name, v) => { if (Number(sliders[name].value) !== v) { sliders[name].value = v; sliders[name].dispatchEvent(new Event('input')); } };
  const values = n => Array.from({length: n.max - n.min + 1}, (_, i) => Number(n.min) + i);
  const told = name => root.querySelector(`[aria-label="${name}"]`).dataset.values;
  for (const radio of root.querySelectorAll('input[type=radio]')) {
    radio.click();
    for (const k of sliders['kernel size'] ? values(sliders['kernel size']) : [0]) {
      if (k) set('kernel size', k);
      for (const s of values(sliders.stride)) for (const p of values(sliders.padding)) for (const d of values(sliders.dilation)) {
        set('stride', s); set('padding', p); set('dilation', d);
        const wrong = root.querySelector('.wrong').textContent;
        all.push({turned: radio.value !== 'convolution', s, p, d, wrong, kernel: [...root.querySelectorAll('.weights input')].map(n => Number(n.dataset.value)), k,
          visible: !root.querySelector('.formula').hidden && !root.querySelector('.stage').parentNode.hidden, image: told('the image'), output: told('the output'), matrix: told('all windows as columns'),
          sizes: [...root.querySelectorAll('.formula .now')].map(n => Number(n.dataset.value)), formula: root.querySelector('.formula').textContent});
      }
    }
  }
  return all;
}'''

def judge(state, image, shape):
    "What PyTorch says about a state: output and matrix, or None if it is impossible"
    x, kernel = image.double()[None, None], torch.tensor(state['kernel'], dtype=torch.float64).reshape(shape)
    options = dict(stride=state['s'], padding=state['p'], dilation=state['d'])
    try:
        if state['turned']: return F.conv_transpose2d(x, kernel[None, None], **options)[0, 0], kernel.reshape(-1, 1)*x.reshape(1, -1)
        return F.conv2d(x, kernel[None, None], **options)[0, 0], F.unfold(x, shape, **options)[0]
    except RuntimeError: return None

@pytest.mark.parametrize('image,kernel', [(DIGIT, TOP), (RANDOM[:5], RANDOM[:2, :3]), (RANDOM[:1, :1], RANDOM[1:2, 1:2]), (RANDOM[:3, :4], RANDOM[:3, 4:5])],
                         ids=['digit', 'odd', 'one pixel', 'column'])
def test_every_setting_agrees_with_torch(show, image, kernel):
    states = show(explore_conv(image, kernel)).evaluate(SWEEP)
    impossible = 0
    for state in states:
        shape = (state['k'], state['k']) if state['k'] else tuple(kernel.shape)
        wanted = judge(state, image, shape)
        test_eq(wanted is None, bool(state['wrong']))
        test_eq(state['visible'], wanted is not None)
        if wanted is None: impossible += 1
        else:
            test_close(numbers(state['output']), wanted[0], eps=1e-9)
            test_close(numbers(state['matrix']), wanted[1], eps=1e-12)
            h, w = wanted[0].shape
            test_eq(state['sizes'], [h] if len(state['sizes']) == 1 else [h, w])
            test_eq(state['formula'].endswith(f'= {w}') and f'= {h}' in state['formula'], True)
    assert len(states) in (2*4*5*4*4, 2*4*5*4, 2*5*4*4*5) and (impossible or len(image) > 1)

def test_the_formula_holds_for_both_axes(show):
    page = show(explore_conv(torch.zeros(5, 9), torch.ones(2, 3), stride=2, padding=1))
    test_eq(page.locator('.formula .now').all_text_contents(),
            ['rows: ⌊(5 + 2·1 − 1·(2 − 1) − 1) / 2⌋ + 1 = ⌊5 / 2⌋ + 1 = 3', 'columns: ⌊(9 + 2·1 − 1·(3 − 1) − 1) / 2⌋ + 1 = ⌊8 / 2⌋ + 1 = 5'])

def test_large_image(show):
    image = torch.rand(28, 28)
    states = show(explore_conv(image, TOP.float(), padding=1)).evaluate(SWEEP.replace('n.max - n.min + 1', '2'))
    for state in states:
        wanted = judge(state, image, (state['k'], state['k']))
        test_close(numbers(state['output']), wanted[0], eps=1e-6)
        test_close(numbers(state['matrix']), wanted[1], eps=1e-6)
    test_eq(len(states), 32)

@pytest.mark.parametrize('turned', [False, True])
def test_impossible_settings_are_said(show, turned):
    page = show(explore_conv(torch.ones(2, 3), torch.ones(2, 2)))
    if turned:
        page.get_by_label('transposed convolution').check()
        for _ in range(4): page.get_by_label('padding', exact=True).press('ArrowRight')
        assert page.locator('.wrong').text_content() == 'The stamps cover 3 rows, and the padding cuts off 8 of them: nothing is left. Take less padding.'
    else:
        page.get_by_label('dilation', exact=True).press('ArrowRight')
        assert page.locator('.wrong').text_content().startswith('The kernel spans 3 rows, but the image has only 2: not one window fits.')
    assert page.locator('.sheet:visible').count() == 0 and page.get_by_role('button', name='Play').count() == 0
    page.get_by_label('padding' if turned else 'dilation', exact=True).press('Home')
    assert page.locator('.wrong').text_content() == '' and sheet(page, 'the output').is_visible()

# -- one convolution: every place

@pytest.mark.parametrize('options', [{}, dict(stride=2, padding=1), dict(dilation=2, padding=2, stride=3)], ids=str)
def test_every_window(show, options):
    image, kernel = RANDOM[:4, :6], RANDOM[4:6, :3]
    page = show(explore_conv(image, kernel, **options))
    out, columns = F.conv2d(image[None, None], kernel[None, None], **options)[0, 0], F.unfold(image[None, None], (2, 3), **options)[0]
    for i, j in product(*map(range, out.shape)):
        click(page, 'the output', i, j, *out.shape)
        window = columns[:, i*out.shape[1] + j].reshape(2, 3)
        test_close(read(page, 'the window'), window, eps=1e-9)
        test_close(read(page, 'the products'), window*kernel, eps=1e-9)
        test_close(float(page.locator('.sum').get_attribute('data-value')), out[i, j], eps=1e-9)
        assert said(page).startswith(f'Row {i}, column {j} of the output: 6 products')

def test_walking_with_keys(show):
    page = show(explore_conv(DIGIT, TOP))
    out = F.conv2d(DIGIT[None, None].double(), TOP[None, None].double())[0, 0]
    place = divmod(out.abs().argmax().item(), 6)
    for label in ('the image', 'the output'):
        sheet(page, label).focus()
        for key, (di, dj) in [('ArrowLeft', (0, -1))]*6 + [('ArrowDown', (1, 0))]*6 + [('ArrowUp', (-1, 0))]*6 + [('ArrowRight', (0, 1))]*6:
            place = tuple(min(5, max(0, v)) for v in (place[0] + di, place[1] + dj))
            page.keyboard.press(key)
            assert said(page).startswith(f'Row {place[0]}, column {place[1]} of the output')
            test_eq(float(page.locator('.sum').get_attribute('data-value')), out[place].item())

def test_pointing_previews_and_a_click_keeps(show):
    page = show(explore_conv(DIGIT, TOP))
    click(page, 'the output', 1, 2, 6, 6)
    box = sheet(page, 'the output').bounding_box()
    page.mouse.move(box['x'] + box['width']*4.5/6, box['y'] + box['height']*3.5/6)
    assert said(page).startswith('Row 3, column 4')
    page.mouse.move(box['x'] + box['width'] + 40, box['y'] + box['height'] + 30)
    assert said(page).startswith('Row 1, column 2')
    click(page, 'the image', 5, 5, 8, 8)            # the window around the pixel
    assert said(page).startswith('Row 4, column 4')
    click(page, 'the image', 7, 0, 8, 8)            # nearest to the corner
    assert said(page).startswith('Row 5, column 0')

def test_the_place_in_the_image_stays_when_a_setting_changes(show):
    page = show(explore_conv(torch.arange(64.).reshape(8, 8), TOP))
    click(page, 'the output', 3, 2, 6, 6)           # centered on pixel (4, 3)
    page.get_by_label('padding', exact=True).press('ArrowRight')
    assert 'Row 4, column 3 of the output' in said(page)
    page.get_by_label('transposed convolution').check()
    assert 'The pixel in row 4, column 3 is 35' in said(page)

@pytest.mark.parametrize('options', [{}, dict(stride=2, padding=1), dict(dilation=2, stride=3, padding=2)], ids=str)
def test_every_cell_of_a_transposed_convolution(show, options):
    image, kernel = RANDOM[:2, :3], RANDOM[:3, 3:5]
    page = show(explore_conv(image, kernel, **{**options, 'padding': 2}))
    page.get_by_label('transposed convolution').check()
    for _ in range(2 - options.get('padding', 0)): page.get_by_label('padding', exact=True).press('ArrowLeft')
    out = F.conv_transpose2d(image[None, None], kernel[None, None], **options)[0, 0]
    p = options.get('padding', 0)
    for i, j in product(*map(range, out.shape)):
        click(page, 'the output', i + p, j + p, *(n + 2*p for n in out.shape))
        assert said(page).startswith(f'Row {i}, column {j} of the output')
        test_close(float(page.locator('.sum').get_attribute('data-value')), out[i, j], eps=1e-9)
    if p:
        click(page, 'the output', 0, 0, *(n + 2*p for n in out.shape))
        assert 'cuts off' in said(page)
    for i, j in product(range(2), range(3)):
        click(page, 'the image', i, j, 2, 3)
        test_close(read(page, 'the products'), kernel*image[i, j], eps=1e-9)

def test_stamps_add_up_one_by_one(show):
    page = show(explore_conv(DIGIT[:3, :3], TOP, padding=1))
    page.get_by_label('transposed convolution').check()
    for n in range(1, 10):
        page.get_by_role('button', name='Step').click()
        part = torch.where(torch.arange(9) < n, DIGIT[:3, :3].flatten(), 0).reshape(3, 3)
        test_eq(read(page, 'the output'), F.conv_transpose2d(part[None, None].double(), TOP[None, None].double(), padding=1)[0, 0])

def test_step_and_play_fill_the_output(show):
    page = show(explore_conv(DIGIT[:4, :5], TOP))
    out = F.conv2d(DIGIT[None, None, :4, :5].double(), TOP[None, None].double())[0, 0].flatten().tolist()
    for n in (1, 2, 3):
        page.get_by_role('button', name='Step').click()
        filled = read(page, 'the output').flatten()
        test_eq((filled[:n].tolist(), np.isnan(filled[n:]).all()), (out[:n], True))
    page.get_by_role('button', name='Show all').click()
    test_eq(read(page, 'the output').flatten(), out)
    page.get_by_role('button', name='Play').click()
    assert 'Pause' in said(page) and np.isnan(read(page, 'the output')).any()
    page.wait_for_selector('.sheet[data-shown="6"]')
    test_eq(read(page, 'the output').flatten(), out)
    assert page.get_by_role('button', name='Play').is_visible()

# -- the kernel

PRESETS = {'top edge': lambda k: np.sign(2*np.arange(k) - k + 1)[:, None]*np.ones((1, k)), 'left edge': lambda k: np.sign(2*np.arange(k) - k + 1)*np.ones((k, 1)),
           'blur': lambda k: np.full((k, k), 1/k**2), 'identity': lambda k: np.eye(k*k)[(k//2)*k + k//2].reshape(k, k)}

def test_presets(show):
    page = show(explore_conv(DIGIT, torch.ones(2, 2)))
    def kernel(): return np.array(page.locator('.weights input').evaluate_all('all => all.map(n => Number(n.dataset.value))')).reshape(k, k)
    for k in range(2, 6):
        for name, rule in PRESETS.items():
            page.get_by_role('button', name=name).click()
            test_close(kernel(), rule(k))
            assert page.get_by_role('button', name=name).get_attribute('aria-pressed') == 'true'
        page.get_by_role('button', name='sharpen').click()
        test_eq((kernel().sum(), (kernel() < 0).sum()), (1, 4 if k > 2 else 2))
        page.get_by_label('kernel size').press('ArrowRight')

def test_as_given_comes_back(show):
    page = show(explore_conv(DIGIT, TOP))
    page.get_by_role('button', name='blur').click()
    page.get_by_role('button', name='as given').click()
    test_eq(read(page, 'the output'), F.conv2d(DIGIT[None, None].double(), TOP[None, None].double())[0, 0])

def test_typed_weights(show):
    page = show(explore_conv(DIGIT, TOP))
    kernel = TOP.double()
    for text, value in [('2', 2), ('-0.5', -.5), ('−3', -3), ('1/9', 1/9), ('0,5', .5), ('1e-3', .001), (' 1 / 4 ', .25)]:
        page.get_by_label('kernel row 1, column 2').fill(text)
        kernel[1, 2] = value
        test_close(read(page, 'the output'), F.conv2d(DIGIT[None, None].double(), kernel[None, None])[0, 0], eps=1e-9)
    assert page.locator('[aria-pressed=true]').count() == 0
    page.get_by_label('kernel size').press('ArrowRight')      # own numbers get a border of zeros
    bigger = torch.zeros(4, 4, dtype=torch.float64)
    bigger[1:, 1:] = kernel
    test_close(read(page, 'the output'), F.conv2d(DIGIT[None, None].double(), bigger[None, None])[0, 0], eps=1e-9)

def test_typed_nonsense_is_refused(show):
    page = show(explore_conv(DIGIT, TOP))
    before, cell, alert = read(page, 'the output'), page.get_by_label('kernel row 0, column 0'), page.get_by_role('alert').first
    for text in ('', 'x', '1/0', '1/2/3', '-', '/'):
        cell.fill(text)
        assert 'wanted a number' in alert.text_content() and cell.get_attribute('aria-invalid') == 'true', text
        test_eq(read(page, 'the output'), before)
        cell.fill('-1')
        assert alert.text_content() == '' and cell.get_attribute('aria-invalid') == 'false'

# -- what explore_conv takes

IMAGES = [[[1, 2], [3, 4]], np.array([[True, False], [True, True]]), torch.ones(1, 3, 3, dtype=torch.float16), torch.ones(2, 2, requires_grad=True),
          torch.tensor([[math.nan, 1.], [math.inf, -math.inf]]), np.zeros((1, 1, 4, 4), np.uint8), torch.full((2, 2), 1e30)]

def test_images_of_all_kinds(show):
    page = show(*[explore_conv(image, [[1., 2]]) for image in IMAGES])
    told = page.get_by_role('application', name='the output', exact=True).evaluate_all('all => all.map(n => n.dataset.values)')
    for image, text in zip(IMAGES, told, strict=True):
        x = torch.as_tensor(np.asarray(image.detach() if torch.is_tensor(image) else image, dtype='f8')).reshape(1, 1, *np.shape(image)[-2:])
        test_close(numbers(text), F.conv2d(x, torch.tensor([[[[1., 2]]]], dtype=torch.float64))[0, 0], eps=1e-6, rtol=1e-6)

@pytest.mark.parametrize('args,exc,text', [
    ((torch.zeros(33, 4), TOP), ValueError, '33×4'), ((torch.zeros(3), TOP), ValueError, 'rows, columns'), ((torch.zeros(2, 8, 8), TOP), ValueError, '(2, 8, 8)'),
    ((DIGIT, torch.zeros(8, 8)), ValueError, 'kernel'), ((DIGIT, [[1j]]), TypeError, 'real numbers'), (([['a']], TOP), TypeError, 'real numbers'), ((torch.zeros(0, 3), TOP), ValueError, '0×3'),
    ((DIGIT, TOP, 0), ValueError, 'stride'), ((DIGIT, TOP, 1.5), TypeError, 'stride'), ((DIGIT, TOP, 1, -1), ValueError, 'padding'), ((DIGIT, TOP, 1, 0, (1, 1)), TypeError, 'dilation'),
    ((DIGIT, TOP, 1, 0, 4), ValueError, 'spans 9 pixels'), ((DIGIT[:2], TOP), ValueError, 'spans 3 pixels'), (([[1, 2], [3]], TOP), ValueError, 'rectangular')])
def test_conv_refusals(args, exc, text):
    with pytest.raises(exc) as error: explore_conv(*args)
    assert text in str(error.value)

def test_largest_settings_of_a_call_fit_the_sliders(show):
    page = show(explore_conv(torch.rand(32, 32), torch.rand(7, 7), stride=8, padding=8, dilation=5))
    test_eq([page.get_by_label(name, exact=True).input_value() for name in ('kernel size', 'stride', 'padding', 'dilation')], ['7', '8', '8', '5'])

# -- both figures on a page

def a_net():
    torch.manual_seed(1)
    return nn.Sequential(conv(1, 3), conv(3, 12), nn.Flatten(), nn.Linear(12*4, 10))

def figures(): return dict(conv=explore_conv(DIGIT, TOP, padding=1), field=explore_receptive_field(a_net(), DIGIT))

@pytest.mark.parametrize('width,theme', [(390, 'light'), (390, 'dark'), (1280, 'light'), (1280, 'dark')])
def test_it_fits_and_follows_the_theme(show, width, theme):
    page = show(*figures().values(), width=width, theme=theme)
    def fits(): return page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    test_eq(page.locator('.miniai-figure').evaluate_all('all => all.map(n => n.dataset.theme)'), [theme]*2)
    assert fits()
    page.get_by_label('transposed convolution').check()
    for _ in range(3): page.get_by_label('stride', exact=True).press('ArrowRight')
    assert fits()

def test_two_copies_are_independent(show):
    figs = figures()
    page = show(figs['conv'], figs['conv'], figs['field'], figs['field'])
    before = page.locator('.say').all_text_contents()
    page.get_by_label('stride', exact=True).nth(1).press('ArrowRight')
    page.get_by_role('button', name='One layer back').nth(1).click()
    after = page.locator('.say').all_text_contents()
    test_eq([a == b for a, b in zip(before, after, strict=True)], [True, False, True, False])

def test_every_control_is_reached_by_tab(show):
    figs = figures()
    page = show(*figs.values())
    page.locator('h1').click()
    seen = set()
    for _ in range(60):
        page.keyboard.press('Tab')
        seen.add(page.evaluate('document.activeElement.getAttribute("aria-label") || document.activeElement.textContent || document.activeElement.value'))
    assert {'kernel size', 'stride', 'padding', 'dilation', 'Play', 'Step', 'Show all', 'blur', 'kernel row 2, column 2', 'the image', 'the output', 'all windows as columns',
            'layer 0', 'layer 2', 'mean', 'One layer back'} <= seen

def test_a_finger_works_too(browser, tmp_path):
    context = browser.new_context(has_touch=True, viewport=dict(width=390, height=900))
    page = context.new_page()
    page.set_content(f'<body style="margin:20px">{explore_conv(DIGIT, TOP)._repr_html_()}</body>')
    box = sheet(page, 'the output').bounding_box()
    page.touchscreen.tap(box['x'] + box['width']*2.5/6, box['y'] + box['height']*4.5/6)
    assert said(page).startswith('Row 4, column 2')
    context.close()

@pytest.mark.parametrize('name,most', [('conv', 60_000), ('field', 60_000)])
def test_html_is_small_and_closed(name, most):
    page = figures()[name]._repr_html_()
    assert len(page) < most and len(figures()[name].picture) < 25_000 and 'innerHTML' not in page and ' id=' not in page
    assert 'http' not in page.replace('http://www.w3.org/2000/svg', '')

# -- which pixels can reach a number

def transparent(module):
    "A net through which every pixel that can matter does: positive weights, no activation, means for maxima"
    if isinstance(module, nn.Sequential): return nn.Sequential(*map(transparent, module))
    if isinstance(module, nn.MaxPool2d): return nn.AvgPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
    if isinstance(module, (nn.ReLU, nn.BatchNorm2d, nn.Dropout)): return nn.Identity()
    module = deepcopy(module)
    for p in module.parameters(): p.data.fill_(1/p.numel())
    return module

def true_reach(net, shape):
    "For each number of the net's output: which pixels have a gradient, (c, h, w, rows, columns)"
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    out = transparent(net).double()(x)
    out = out[0] if out.ndim == 4 else out[0][:, None, None]
    return torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0][0].sum(0) > 0 for v in out.flatten()]).reshape(*out.shape, *shape[1:])

def found_reach(net, shape):
    groups = m._groups(net, (1, *shape))
    rows, cols = (m._reach([getattr(g.feeds, which) for g in groups]) for which in ('rows', 'cols'))
    def mask(sees, n): return torch.tensor([[i in s for i in range(n)] for s in sees])
    return mask(rows, shape[1])[None, :, None, :, None] & mask(cols, shape[2])[None, None, :, None, :]

LAYERS = st.sampled_from(['conv', 'strided', 'dilated', 'wide', 'pool', 'up', 'norm', 'mean', 'transposed', 'circular'])

def layer(kind, n):
    return dict(conv=lambda: nn.Sequential(nn.Conv2d(n, 2, 3, padding=1), nn.ReLU()), strided=lambda: nn.Conv2d(n, 3, 3, stride=2, padding=1), dilated=lambda: nn.Conv2d(n, 2, 2, dilation=2),
                wide=lambda: nn.Conv2d(n, 2, (1, 3), padding=(0, 2)), pool=lambda: nn.MaxPool2d(2, ceil_mode=True), up=lambda: nn.Upsample(scale_factor=2), norm=lambda: nn.BatchNorm2d(n),
                mean=lambda: nn.AdaptiveAvgPool2d(3), transposed=lambda: nn.ConvTranspose2d(n, 2, 2, stride=3), circular=lambda: nn.Conv2d(n, 2, 3, padding=1, padding_mode='circular'))[kind]()

@settings(max_examples=15)
@given(st.lists(LAYERS, min_size=1, max_size=3), st.integers(4, 7), st.integers(4, 7), st.integers(1, 2))
def test_reach_is_what_the_gradient_says(kinds, h, w, c):
    net, n = nn.Sequential(), c
    with torch.no_grad():
        for kind in kinds:
            net.append(layer(kind, n))
            try: x = net.eval()(torch.zeros(1, c, h, w))
            except RuntimeError: assume(False)      # nothing left to look at
            assume(x[0].numel() <= 300)
            n = x.shape[1]
    test_eq(found_reach(net, (c, h, w)).expand_as(true_reach(net, (c, h, w))), true_reach(net, (c, h, w)))

def test_reach_agrees_with_the_chapter_on_convolutions():
    net = nn.Sequential(conv(1, 2, ks=5, stride=1), nn.MaxPool2d(2), conv(2, 3), nn.Upsample(scale_factor=2), conv(3, 2, stride=1))
    field, groups = receptive_field(net, (1, 20, 24)), m._groups(net, (1, 1, 20, 24))
    for axis, which, n in ((0, 'rows', 20), (1, 'cols', 24)):
        test_eq(m._reach([getattr(g.feeds, which) for g in groups]), [list(range(max(a, 0), min(b, n - 1) + 1)) for a, b in field.fields[axis]])

class Residual(nn.Module):
    def __init__(self, n): super().__init__(); self.body = nn.Conv2d(n, n, 3, padding=1)
    def forward(self, x): return x + self.body(x).relu()

class Attention(nn.Module):
    def forward(self, x):
        flat = x.flatten(2)
        return (flat @ (flat.transpose(1, 2) @ flat).softmax(-1)).reshape(x.shape)

NETS = [
    (nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)), [(5, 1, 1), (3, 1, 1)], [64, 64]),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(72, 3), nn.Softmax(1)), [(2, 6, 6), (3, 1, 1), (3, 1, 1)], [9, 64, 64]),
    (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Unflatten(1, (2, 2, 2)), nn.Upsample(scale_factor=2)), [(2, 2, 2), (2, 4, 4)], [64, 64]),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU()), [(2, 6, 6), (2, 6, 6)], [9, 64]),
    (nn.Sequential(Residual(1), Residual(1)), [(1, 8, 8), (1, 8, 8)], [9, 25]),
    (nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), Attention()), [(4, 4, 4), (4, 4, 4)], [4, 64]),
    (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), [(1, 1, 1)], [64]),
    (nn.Conv2d(1, 2, 3), [(2, 6, 6)], [9]), (nn.ReLU(), [(1, 8, 8)], [1]), (nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)), [(2, 6, 6)], [9]),
    (nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.ReLU()), [(2, 1, 1)], [64])]

@pytest.mark.parametrize('net,shapes,sees', NETS, ids=range(len(NETS)))
def test_nets_of_all_kinds(net, shapes, sees):
    groups = m._groups(net, (1, 1, 8, 8))
    test_eq([g.shape[1:] for g in groups], shapes)
    for i, n in enumerate(sees):
        reach = [m._reach([getattr(g.feeds, which) for g in groups[:i+1]]) for which in ('rows', 'cols')]
        test_eq(max(map(len, reach[0]))*max(map(len, reach[1])), n)

def test_nets_of_all_kinds_are_drawn(show):
    page = show(*[explore_receptive_field(net, DIGIT/16) for net, _, _ in NETS])
    test_eq(page.locator('.layers').evaluate_all('all => all.map(n => n.children.length)'), [len(shapes) for _, shapes, _ in NETS])
    for text in page.locator('.say').all_text_contents(): assert 'It sees' in text

# -- what the page shows

READ = '''() => {
  const root = document.querySelector('.miniai-figure'), pixels = root.querySelector('[aria-label="the image"]'), found = [];
  root.querySelectorAll('.layers .panel').forEach((panel, n) => {
    const svg = panel.querySelector('svg'), [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
    const buttons = [...panel.querySelectorAll('button')];
    for (const button of buttons.length ? buttons : [null]) {
      button?.click();
      const rows = svg.dataset.values.split(';').map(r => r.split(' ')), area = svg.getBoundingClientRect();
      rows.forEach((row, i) => row.forEach((value, j) => {
        if (value === '') return;
        const at = (k, n, size, from) => from + (2 + (size - 4)*(k + .5)/n);
        const where = {bubbles: true, clientX: at(j, row.length, area.width, area.left), clientY: at(i, rows.length, area.height, area.top)};
        svg.dispatchEvent(new PointerEvent('pointermove', where));
        found.push({layer: n, channel: button && button.textContent, i, j, value: Number(value), rows: pixels.dataset.rows, cols: pixels.dataset.cols, influence: pixels.dataset.influence,
          said: root.querySelector('.say').textContent});
      }));
    }
  });
  return found;
}'''

def places(text): return [int(v) for v in text.split()]

def prefixes(net):
    "The net up to each layer that the figure shows, in float64 and evaluation mode"
    flat = [o for o in deepcopy(net).double().eval().modules() if not list(o.children())]
    ends = [i for i, o in enumerate(flat) if isinstance(o, (nn.Conv2d, nn.MaxPool2d, nn.Linear))]
    return [nn.Sequential(*flat[:end - isinstance(flat[end-1], nn.Flatten)]) for end in [*ends[1:], len(flat)]]

def check_page(page, net, image):
    "Compare every number of every layer on the page, its reach and its influence, with the gradient of the original net"
    x = image.double()[None].requires_grad_()
    reach = [true_reach(p, image.shape) for p in prefixes(net)]
    outs = [p(x)[0] for p in prefixes(net)]
    cells = page.evaluate(READ)
    for cell in cells:
        out, k, r, c = outs[cell['layer']], cell['channel'], cell['i'], cell['j']
        if out.ndim == 1 or out.shape[1:] == (1, 1): number, channel, r, c = out.flatten()[5*r + c], 5*r + c, 0, 0
        else: channel, number = (0, out[:, r, c].mean()) if k == 'mean' else (int(k or 0), out[int(k or 0), r, c])
        test_close(cell['value'], number, eps=1e-6, rtol=1e-6)
        mask = reach[cell['layer']][channel, r, c] if reach[cell['layer']].ndim == 5 else reach[cell['layer']]
        rows, cols = places(cell['rows']), places(cell['cols'])
        wanted = torch.zeros_like(mask)
        wanted[np.ix_(rows, cols)] = True
        test_eq(wanted, mask)
        grad = torch.autograd.grad(number, x, retain_graph=True)[0][0].abs().sum(0)
        test_close(numbers(cell['influence'])/255, grad[rows][:, cols]/grad.max().clamp(min=1e-300), eps=.51/255)
    return cells

def test_every_number_agrees_with_the_gradient(show):
    net, image = a_net(), (DIGIT[None]/16).float()
    cells = check_page(show(explore_receptive_field(net, image)), net, image)
    test_eq(len(cells), 3*16 + 5*4 + 10)

def test_color_dilation_and_pooling(show):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, dilation=2, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2))
    net(torch.randn(4, 3, 9, 8))       # running statistics of its own
    image = torch.randn(3, 9, 8)
    cells = check_page(show(explore_receptive_field(net, image)), net, image)
    assert any(c['rows'] == '1 3 5' for c in cells) and any('rows 1, 3 and 5' in c['said'] for c in cells)

def test_tracing_back(show):
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    page = show(explore_receptive_field(net, torch.rand(8, 8)))
    def framed(n): return [places(sheet(page, f'layer {n}').get_attribute(f'data-{what}') or '') for what in ('rows', 'cols', 'channels')]
    click(page, 'layer 2', 0, 0, 1, 4)
    assert said(page).startswith('Layer 2, number 0 is')
    click(page, 'layer 2', 0, 0, 1, 4)
    test_eq(framed(1), [[0, 1], [0, 1], [0]])
    assert 'One layer back: the whole grid of layer 1, in channel 0: 2×2 numbers.' in said(page)
    page.get_by_role('button', name='One layer back').click()
    test_eq(framed(0), [[0, 1, 2, 3], [0, 1, 2, 3], [0]])
    sheet(page, 'layer 2').focus()
    page.keyboard.press('Enter')
    assert '3 layers back, at the image: the whole image: 8×8 pixels.' in said(page) or 'rows 0–7' in said(page)
    page.get_by_role('button', name='Start again').click()
    assert said(page).startswith('Layer 2, number 0 is')
    page.keyboard.press('Tab')
    sheet(page, 'layer 3').focus()
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    assert said(page) == 'Layer 3, number 1. One layer back: all 4 numbers of layer 2.'

def test_words_of_the_brief(show):
    page = show(explore_receptive_field(nn.Sequential(conv(1, 2), conv(2, 2)), torch.rand(28, 28)))
    click(page, 'layer 1', 2, 1, 7, 7)
    assert 'It sees rows 5–11 and columns 1–7 of the image: 7×7 pixels.' in said(page) and 'Layer 1, channel 0, row 2, column 1 is' in said(page)
    sheet(page, 'layer 1').press('ArrowDown')
    assert 'It sees rows 9–15 and columns 1–7' in said(page)

def test_numbers_that_see_nothing_or_feel_nothing(show):
    gaps = nn.ConvTranspose2d(1, 1, 1, stride=2)
    page = show(explore_receptive_field(gaps, torch.rand(2, 2)))
    click(page, 'layer 0', 1, 0, 3, 3)
    assert said(page).endswith('It sees no pixel.')
    off = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    with torch.no_grad(): off[0].weight.fill_(1.), off[0].bias.fill_(-9)
    page = show(explore_receptive_field(off, torch.rand(2, 2)))
    assert 'is 0. It sees row 0 and column 0 of the image: 1×1 pixels. Right now none of them has any influence' in said(page)

# -- the model stays as it is

def test_the_model_is_left_alone():
    net = nn.Sequential(conv(1, 4, norm=nn.BatchNorm2d), nn.Dropout(.5), nn.Flatten(), nn.Linear(64, 3))
    image = torch.rand(1, 8, 8, requires_grad=True)
    net[0].eval()
    net[3].weight.requires_grad_(False)
    heard = []
    hooks = [o.register_forward_hook(lambda *a: heard.append(a)) for o in net.modules()]
    net[0][0].weight.grad = torch.ones_like(net[0][0].weight)
    before, flags, rng = deepcopy(net.state_dict()), [o.training for o in net.modules()], torch.get_rng_state()
    first = explore_receptive_field(net, image)._repr_html_()
    for k, v in net.state_dict().items(): assert torch.equal(v, before[k])
    test_eq([o.training for o in net.modules()], flags)
    test_eq([len(o._forward_hooks) for o in net.modules()], [1]*len(hooks))
    assert not heard and torch.equal(rng, torch.get_rng_state()) and image.grad is None and net[0][0].weight.dtype == torch.float32
    test_eq((net[0][0].weight.grad.sum().item(), [p.requires_grad for p in net[3].parameters()]), (36, [False, True]))
    with torch.no_grad(): assert explore_receptive_field(net, image)._repr_html_() == first
    with torch.inference_mode(): assert explore_receptive_field(net, image)._repr_html_() == first

class Pair(nn.Module):
    def forward(self, x): return x, x

class Mixed(nn.Module):
    def forward(self, x): return x + x.mean(2, keepdim=True) + x.mean(3, keepdim=True)

@pytest.mark.parametrize('net,image,exc,text', [
    ('net', DIGIT, TypeError, 'wanted a model'), (nn.Sequential(), DIGIT, ValueError, 'no layers'), (nn.Conv2d(3, 2, 3), DIGIT, ValueError, 'does not take the shape (1, 1, 8, 8)'),
    (nn.Conv2d(1, 2, 3), torch.zeros(65, 3), ValueError, '65×3'), (nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8), ValueError, 'one image'), (nn.Conv2d(1, 2, 3), [['a']], TypeError, 'real numbers'),
    (nn.Conv2d(1, 2, 3), torch.full((8, 8), math.nan), ValueError, 'nan'), (nn.Sequential(nn.Conv2d(1, 2, 3), Pair()), DIGIT, ValueError, 'makes a tuple'), (Mixed(), DIGIT, ValueError, 'not a block'),
    (nn.Sequential(nn.Flatten(2), nn.Linear(64, 3)), DIGIT, ValueError, 'wanted grids'), (nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1)]*17), DIGIT, ValueError, 'room for 16')])
def test_field_refusals(net, image, exc, text):
    with pytest.raises(exc) as error: explore_receptive_field(net, image)
    assert text in str(error.value)

def test_weights_that_are_nan_are_refused():
    net = nn.Conv2d(1, 1, 1)
    with torch.no_grad(): net.weight.fill_(math.nan)
    with pytest.raises(ValueError, match='nan or inf'): explore_receptive_field(net, DIGIT)

@pytest.mark.parametrize('net', [simple_cnn(), nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 10)),
                                 nn.Sequential(conv(1, 16, stride=1), conv(16, 24, stride=1), nn.Flatten(), nn.Linear(24*256, 10))], ids=['strides', 'worksheet', 'wide'])
def test_a_page_stays_small(show, net):
    size = 16 if isinstance(net[-1], nn.Linear) and net[-1].in_features > 288 else 28
    figure = explore_receptive_field(net, torch.rand(size, size))
    assert len(figure._repr_html_()) < 150_000
    assert 'It sees' in said(show(figure))

def test_what_is_left_out_is_said(show, monkeypatch):
    monkeypatch.setattr(m._how_many, '__defaults__', (50,))
    page = show(explore_receptive_field(nn.Sequential(conv(1, 6), conv(6, 8)), DIGIT))
    assert 'was left out' in said(page) and sheet(page, 'the image').get_attribute('data-influence') == 'none'
