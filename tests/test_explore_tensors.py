"Tests of miniai.explore_tensors: the numbers in the drawn page against PyTorch's"
import functools
import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miniai.broadcasting import broadcast_shapes, explain_broadcast
from miniai.explore_tensors import _matrix, _packed, explore_broadcast, explore_matmul
from miniai.testing import test_close, test_eq

NAN, INF = float('nan'), float('inf')
WANTS, PRICES = torch.tensor([[6., 5, 3, 1], [3, 6, 2, 2], [3, 4, 3, 1]]), torch.tensor([[1.5, 1], [2, 2.5], [5, 4.5], [16, 17]])

def randoms(m, n, p, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=g), torch.randn(n, p, generator=g)

def values(locator, shape=None):
    "The exact numbers of the cells, as float64"
    found = locator.evaluate_all('nodes => nodes.map(node => node.dataset.value)')
    found = torch.tensor([float(v.replace('Infinity', 'inf')) for v in found], dtype=torch.float64)
    return found if shape is None else found.reshape(shape)

def result(page): return page.locator('.mm .c .cell')
def cell(page, i, j): return page.locator(f'.mm .c .cell[data-i="{i}"][data-j="{j}"]')
def said(page): return page.locator('.say').first.text_content()
def marked(page, block, name):
    return [tuple(map(int, o)) for o in page.locator(f'.mm .{block} .cell.{name}').evaluate_all('nodes => nodes.map(n => [n.dataset.i, n.dataset.j])')]
def view(page, name): page.get_by_label(name, exact=True).check()

# -- the product

SIZES = [(1, 1, 1), (2, 3, 4), (1, 12, 1), (12, 1, 12), (12, 12, 12), (1, 13, 1), (20, 30, 15), (32, 5, 32), (3, 64, 2), (2, 50, 13), (1, 1024, 1), (5, 784, 10)]

def test_every_cell_of_the_product(show):
    pairs = [randoms(*size) for size in SIZES]
    for fig, (a, b) in zip(show(*(explore_matmul(a, b) for a, b in pairs)).locator('.miniai-figure').all(), pairs, strict=True):
        c = a.double() @ b.double()
        test_close(values(result(fig), c.shape), c, eps=1e-11)
        test_close(values(fig.locator('.formula output'))[0], c[0, 0], eps=1e-11)

INPUTS = {'int64': (torch.tensor([[2**40, -3]]), torch.tensor([[5], [7]])), 'uint8': (torch.tensor([[10, 5]], dtype=torch.uint8), torch.tensor([[3], [2]], dtype=torch.uint8)),
          'bool': (torch.tensor([[True, False], [True, True]]), torch.tensor([[True], [True]])), 'float64': (torch.full((2, 3), 1/3).double(), torch.full((3, 1), .1).double()),
          'float16': (torch.full((2, 3), .1).half(), torch.ones(3, 2).half()), 'bfloat16': (torch.full((2, 3), .1).bfloat16(), torch.ones(3, 2).bfloat16()),
          'lists': ([[1, 2.5]], [[2], [4]]), 'arrays': (np.arange(6).reshape(2, 3), np.ones((3, 2))), 'mixed': (torch.ones(2, 2), [[1, 2], [3, 4]]),
          'gradient': (torch.ones(2, 2, requires_grad=True), torch.ones(2, 1)), 'transposed': (randoms(4, 3, 2)[0].T, randoms(4, 3, 5)[1].new_ones(4, 2)),
          'not finite': ([[NAN, 1.], [INF, 0.]], [[1., 0.], [-INF, 2.]]), 'large and small': ([[1e300, 1e-300]], [[1e5], [1e-10]])}

def test_every_kind_of_number(show):
    page = show(*(explore_matmul(*pair) for pair in INPUTS.values()))
    for fig, (kind, pair) in zip(page.locator('.miniai-figure').all(), INPUTS.items(), strict=True):
        a, b = ((o.detach() if torch.is_tensor(o) else torch.as_tensor(np.asarray(o))).double() for o in pair)
        test_close(values(result(fig), (len(a), b.shape[1])), a @ b, eps=1e-14)
        if kind == 'int64': test_eq(result(fig).first.get_attribute('data-value'), str(5*2**40 - 21))
        test_close(values(fig.locator('.mm .a .cell'), a.shape), a, eps=0.)
        test_close(values(fig.locator('.mm .b .cell'), b.shape), b, eps=0.)

def table(page):
    "The lines of the table of products: k and four numbers"
    lines = page.locator('.terms tbody tr:not(.gap)').evaluate_all('rows => rows.map(row => [row.dataset.k, ...[...row.querySelectorAll("td")].map(td => td.dataset.value)])')
    return [[float(v) for v in line if v is not None] for line in lines]

def sums_by_hand(a, b, i, j): return torch.cumsum(a[i].double()*b[:, j].double(), 0)

def test_all_cells_and_all_steps(show):
    a, b = randoms(3, 4, 2)
    page = show(explore_matmul(a, b))
    for i, j in itertools.product(range(3), range(2)):
        cell(page, i, j).click()
        sums = sums_by_hand(a, b, i, j)
        test_close([line[-1] for line in table(page)], sums, eps=1e-12)
        for k in range(4):
            page.get_by_label('k', exact=True).fill(str(k))
            lines = table(page)
            test_eq([line[:3] for line in lines], [[float(q), float(a[i, q]), float(b[q, j])] for q in range(4)])
            test_close([line[3] for line in lines[:k+1]], (a[i].double()*b[:, j].double())[:k+1], eps=1e-12)
            test_eq([len(line) for line in lines], [5]*(k+1) + [3]*(3-k))
            test_close(values(page.locator('.formula output'))[0], sums[k], eps=1e-12)
            test_eq((marked(page, 'a', 'hit'), marked(page, 'b', 'hit'), marked(page, 'c', 'hit')), ([(i, k)], [(k, j)], [(i, j)]))
            assert f'k = {k}: ' in said(page) and ('so far' in said(page)) == (k < 3)

STEP_ALL = '''() => { const slider = document.querySelector('input[type=range]'), seen = [];
for (let k = 0; k <= Number(slider.max); k++) { slider.value = k; slider.dispatchEvent(new Event('input'));
  const row = document.querySelector('.terms tr.now'); seen.push([row.dataset.k, ...[...row.querySelectorAll('td')].map(td => td.dataset.value)].map(Number)); }
return seen; }'''

@pytest.mark.parametrize('m,n,p,i,j', [(5, 784, 10, 2, 3), (2, 13, 2, 1, 0), (4, 12, 4, 0, 2)])
def test_long_sums_can_be_stepped_through(show, m, n, p, i, j):
    a, b = randoms(m, n, p, seed=i)
    page = show(explore_matmul(a, b))
    cell(page, i, j).click()
    seen = torch.tensor(page.evaluate(STEP_ALL), dtype=torch.float64)
    test_eq(seen[:, 0], torch.arange(n).double())
    test_eq(seen[:, 1], a[i].double())
    test_eq(seen[:, 2], b[:, j].double())
    test_close(seen[:, 4], sums_by_hand(a, b, i, j), eps=1e-11)
    assert page.locator('.terms tbody tr').count() <= 9 and (n <= 9 or page.locator('.terms .gap').count())

def test_gaps_say_how_much_is_left_out(show):
    page = show(explore_matmul(*randoms(1, 20, 1)))
    for k in range(20):
        page.get_by_label('k', exact=True).fill(str(k))
        rows = page.locator('.terms tbody tr').evaluate_all('rows => rows.map(row => row.dataset.k ?? row.textContent)')
        shown, left_out = [int(r) for r in rows if r.isdigit()], sum(int(re.search(r'\d+', r)[0]) for r in rows if not r.isdigit())
        assert set(range(max(0, k-2), min(20, k+3))) <= set(shown) and len(shown) + left_out == 20 and shown == sorted(shown), rows

def test_the_formula_is_written_out(show):
    page = show(explore_matmul(WANTS, PRICES))
    formula = page.locator('.formula')
    test_eq(formula.text_content(), 'c[0, 0] = 6·1.5 + 5·2 + 3·5 + 1·16 = 50')
    page.get_by_role('button', name='next').click()
    test_eq(formula.text_content(), 'c[0, 0] = 6·1.5 = 9 so far')
    page = show(explore_matmul([list(range(-3, 5))], [[2]]*8))
    test_eq(page.locator('.formula').text_content(), 'c[0, 0] = (−3)·2 + (−2)·2 + … + 3·2 + 4·2 = 8')

@pytest.mark.parametrize('m,n,p', [(2, 3, 4), (3, 4, 1), (5, 49, 6), (2, 30, 3)])
def test_whole_rows_at_once(show, m, n, p):
    a, b = randoms(m, n, p)
    page = show(explore_matmul(a, b))
    view(page, 'broadcast')
    page.locator('.mm .c svg').focus()
    page.keyboard.press('ArrowDown')
    partial = torch.cumsum(a[1].double()[:, None]*b.double(), 0)        # (n, p)
    for k in (0, n//2, n-1):
        page.get_by_label('k', exact=True).fill(str(k))
        sums = page.locator('.panel output') if n > 12 else page.locator('.panel svg').last.locator('.cell')
        test_close(values(sums), partial[k], eps=1e-11)
    if n <= 12:
        test_close(values(page.locator('.panel svg').nth(1).locator('.cell'), (n, p)), a[1].double()[:, None]*b.double(), eps=1e-12)
        test_close(values(page.locator('.panel svg').nth(0).locator('.cell'), (n, p)), a[1].double()[:, None].expand(n, p), eps=0.)
        test_eq(page.locator('.panel svg').nth(0).locator('.cell.ghost').count(), n*(p-1))
        test_eq((marked(page, 'c', 'hit'), marked(page, 'b', 'hit')), ([(1, j) for j in range(p)], [(n-1, j) for j in range(p)]))
    test_eq(page.locator('.panel code').text_content(), 'c[1] = (a[1][:, None] * b).sum(0)')
    test_close([float(o.replace('−', '-')) for o in said(page).split('all added up: ')[1].rstrip('.').split(', ')], partial[-1], eps=6e-4*float(partial[-1].abs().max()))

def test_einsum_names_the_axes(show):
    page = show(explore_matmul(WANTS, PRICES))
    view(page, 'einsum')
    test_eq(page.locator('.einsum').text_content(), 'ik , kj → ij')
    assert "einsum('ik,kj->ij', a, b)" in page.locator('.panel code').text_content()
    letters = {area: page.locator(f'.mm .{area} .letter').evaluate_all('nodes => nodes.map(n => n.dataset.letter)') for area in ('ai', 'ac', 'bk', 'bc', 'ci', 'cc')}
    test_eq(letters, dict(ai=['i'], ac=['k'], bk=['k'], bc=['j'], ci=['i'], cc=['j']))
    page.locator('.mm .c svg').focus()
    page.keyboard.press('End')
    page.keyboard.press('k')
    rows = page.locator('.letters tr').all_text_contents()
    assert 'now 0' in rows[0] and 'now 1' in rows[1] and 'now 0' in rows[2] and 'added up' in rows[2], rows
    test_close(values(page.locator('.formula output'))[0], float(WANTS[0, 0]*PRICES[0, 1]), eps=1e-12)

@pytest.mark.parametrize('code', ['c[1, 1] = (a[1] * b[:, 1]).sum()', 'c[1] = (a[1][:, None] * b).sum(0)', "c = torch.einsum('ik,kj->ij', a, b)"])
def test_the_code_on_the_figure_runs(show, code):
    page = show(explore_matmul(WANTS, PRICES))
    view(page, 'broadcast' if 'None' in code else 'einsum' if 'einsum' in code else 'elementwise')
    cell(page, 1, 1).click()
    test_eq(page.locator('.panel code').text_content(), code)
    names = dict(a=WANTS, b=PRICES, c=torch.zeros(3, 2), torch=torch)
    exec(code, names)
    test_close(names['c'][1, 1], (WANTS @ PRICES)[1, 1], eps=1e-6)

def test_keys_of_the_product(show):
    page = show(explore_matmul(WANTS, PRICES))
    assert 'arrow keys' in said(page)
    page.locator('.mm .c svg').focus()
    for key, words in [('ArrowDown', 'c[1, 0] = 58.5: row 1 of a times column 0 of b, 4 products added up.'), ('End', 'c[1, 1] = 61'), ('ArrowUp', 'c[0, 1] = 49'), ('Home', 'c[0, 0] = 50'),
                       ('k', 'k = 0: 6 times 1.5 is 9. Sum for c[0, 0], so far: 9.'), ('k', 'k = 1: 5 times 2 is 10. Sum for c[0, 0], so far: 19.'), ('Shift+K', 'k = 0'), ('Shift+K', 'k = 0'), ('k', 'k = 1'), ('k', 'k = 2'),
                       ('k', 'k = 3: 1 times 16 is 16. Sum for c[0, 0], all added up: 50.'), ('k', 'c[0, 0] = 50'), ('Shift+K', 'k = 2')]:
        page.keyboard.press(key)
        assert said(page).startswith(words), (key, said(page))
    test_eq(page.get_by_label('k', exact=True).input_value(), '2')

def test_every_control_is_reached_by_tab(show):
    page = show(explore_matmul(WANTS, PRICES))
    seen = []
    for _ in range(6):
        page.keyboard.press('Tab')
        seen.append(page.evaluate('(document.activeElement.textContent.length < 9 && document.activeElement.textContent) || document.activeElement.type || document.activeElement.getAttribute("role")'))
    test_eq(seen, ['radio', 'back', 'next', 'play', 'range', 'application'])

def test_pointing_shows_and_clicking_keeps(show):
    page = show(explore_matmul(WANTS, PRICES))
    cell(page, 2, 1).hover()
    test_eq((marked(page, 'c', 'hit'), marked(page, 'a', 'row'), marked(page, 'b', 'col')), ([(2, 1)], [(2, k) for k in range(4)], [(k, 1) for k in range(4)]))
    page.locator('h1').hover()
    test_eq(marked(page, 'c', 'hit'), [(0, 0)])
    cell(page, 2, 1).click()
    page.locator('h1').hover()
    test_eq(marked(page, 'c', 'hit'), [(2, 1)])
    page.locator('.mm .a .cell[data-i="1"][data-j="3"]').click()
    assert said(page).startswith('k = 3: 2 times 17 is 34') and marked(page, 'c', 'hit') == [(1, 1)]
    page.locator('.mm .b .cell[data-i="2"][data-j="0"]').click()
    assert said(page).startswith('k = 2: 2 times 5 is 10') and marked(page, 'c', 'hit') == [(1, 0)]
    page.locator('.terms tr[data-k="1"]').click()
    assert said(page).startswith('k = 1: 6 times 2 is 12')

def test_a_tap_keeps_the_cell(browser):
    context = browser.new_context(has_touch=True, viewport=dict(width=390, height=800))
    page = context.new_page()
    page.set_content(explore_matmul(WANTS, PRICES)._repr_html_())
    page.wait_for_selector('.say')
    cell(page, 2, 0).tap()
    test_eq((marked(page, 'c', 'hit'), said(page).split(':')[0]), ([(2, 0)], 'c[2, 0] = 43.5'))
    context.close()

def test_play_adds_one_after_another_and_stops(show):
    page = show(explore_matmul([[1, 2]], [[3], [4]]))
    page.get_by_role('button', name='play').click()
    assert said(page).startswith('k = 0')
    test_eq(page.get_by_role('button', name='pause').count(), 1)
    page.wait_for_function('document.querySelector(".say").textContent.startsWith("k = 1")')
    page.wait_for_function('document.querySelector(".say").textContent.startsWith("c[0, 0] = 11")')
    test_eq(page.get_by_role('button', name='play').count(), 1)
    page.locator('.mm .c svg').focus()
    page.keyboard.press('Space')
    page.keyboard.press('Space')
    page.wait_for_timeout(900)
    assert said(page).startswith('k = 0')

def test_rows_are_drawn_as_images(show):
    a, b = torch.rand(3, 64), torch.randn(64, 2)
    page = show(explore_matmul(a, b))
    sizes = page.locator('.mm canvas').evaluate_all('all => all.map(c => [c.width, c.height])')
    test_eq(sizes, [[8, 8]]*5)
    seen = page.locator('.mm .a canvas').nth(1).evaluate('c => [...c.getContext("2d").getImageData(0, 0, 8, 8).data].filter((v, at) => at % 4 === 3)')
    test_close(torch.tensor(seen)/255, a[1]/a.max(), eps=.51/255)
    colors = page.locator('.mm .b canvas').nth(0).evaluate('c => { const d = c.getContext("2d").getImageData(0, 0, 8, 8).data; return Array.from({length: 64}, (_, q) => d[4*q] > d[4*q + 2]); }')
    strong = b[:, 0].abs() > .1*b.abs().max()
    test_eq(torch.tensor(colors)[strong], (b[:, 0] < 0)[strong])
    box = page.locator('.panel .tile canvas').nth(0).bounding_box()
    page.mouse.move(box['x'] + box['width']*(2.5/8), box['y'] + box['height']*(5.5/8))
    assert said(page).startswith('k = 42: '), said(page)
    test_close(values(page.locator('.formula output'))[0], sums_by_hand(a, b, 0, 0)[42], eps=1e-11)

@pytest.mark.parametrize('width,m,n,p', [(1280, 3, 4, 2), (390, 3, 4, 2), (1280, 5, 784, 10), (390, 5, 784, 10), (1280, 12, 12, 12), (1280, 20, 30, 15)])
def test_a_stands_to_the_left_and_b_above(show, width, m, n, p):
    page = show(explore_matmul(*randoms(m, n, p)), width=width)
    a, b, c = (page.locator(f'.mm .{o} > *').bounding_box() for o in 'abc')
    assert a['x'] + a['width'] < c['x'] and b['y'] + b['height'] < c['y']
    assert abs(a['y'] - c['y']) < 2 and abs(a['height'] - c['height']) < 2 and abs(b['x'] - c['x']) < 2 and abs(b['width'] - c['width']) < 2

def test_narrow_pages_stack(show):
    page = show(explore_matmul(*randoms(12, 12, 12)), width=390)
    a, b, c = (page.locator(f'.mm .{o} > *').bounding_box() for o in 'abc')
    assert a['y'] + a['height'] <= b['y'] and b['y'] + b['height'] <= c['y'] and c['width']/12 > 24
    cell(page, 4, 5).click()
    page.set_viewport_size(dict(width=1280, height=900))
    page.wait_for_selector('.mm:not(.stacked)')
    test_eq((marked(page, 'c', 'hit'), page.locator('.mm .c svg').count()), ([(4, 5)], 1))

REFUSED = [((torch.ones(3), torch.ones(3, 2)), ValueError, 'a[None]'), ((torch.ones(2, 3), torch.ones(3)), ValueError, 'b[:, None]'), ((2., torch.ones(2, 2)), ValueError, 'a * b'),
           ((torch.ones(2, 2, 2), torch.ones(2, 2)), ValueError, 'a[0]'), ((torch.ones(2, 3), torch.ones(2, 3)), ValueError, 'a @ b.mT'), ((torch.ones(2, 3), torch.ones(4, 2)), ValueError, 'b @ a'),
           ((torch.ones(2, 3), torch.ones(4, 4)), ValueError, 'reshape'), ((torch.ones(0, 3), torch.ones(3, 2)), ValueError, 'no numbers'), ((torch.ones(2, 0), torch.ones(0, 2)), ValueError, 'no numbers'),
           ((torch.ones(33, 2), torch.ones(2, 2)), ValueError, 'too large to look at'), ((torch.ones(2, 1025), torch.ones(1025, 2)), ValueError, 'a[:5]'), ((torch.ones(2, 2), torch.ones(2, 33)), ValueError, '32 columns'),
           ((torch.ones(20, 1000), torch.ones(1000, 20)), ValueError, '20,000 numbers'), (([['x']], [[1]]), TypeError, 'real numbers'), ((torch.ones(1, 1, dtype=torch.complex64),)*2, TypeError, 'complex64'),
           (([[2**40]], [[2**40]]), ValueError, 'exact in a browser'), (([[2**60]], [[0]]), ValueError, 'exact in a browser'), (([[2**60+1]], [[.5]]), ValueError, 'exact in a browser'), ((torch.tensor([[100]], dtype=torch.int8),)*2, ValueError, 'do not fit int8'),
           (([[1, 2], [3]], [[1], [2]]), ValueError, 'rectangular'), ((np.array([[2**64-1]], dtype=np.uint64), [[1]]), ValueError, 'exact in a browser')]

@pytest.mark.parametrize('args,error,words', REFUSED)
def test_what_has_no_figure(args, error, words):
    with pytest.raises(error, match=re.escape(words)): explore_matmul(*args)

@given(st.lists(st.floats(width=32), min_size=1, max_size=9), st.booleans())
def test_numbers_survive_packing(numbers, single):
    x = np.array([numbers], dtype='<f4' if single else '<f8')
    packed = _packed(_matrix(x, 'a'))
    back = np.array(packed['values'], dtype=x.dtype) if 'values' in packed else np.frombuffer(__import__('base64').b64decode(packed['bytes']), x.dtype)
    np.testing.assert_array_equal(back, x[0])
    assert packed['single'] == single

# -- the shapes

DRIVE = '''lists => lists.map(shapes => {
  const inputs = [...document.querySelectorAll('.fields input')];
  shapes.forEach((text, q) => { inputs[q].value = text; inputs[q].dispatchEvent(new Event('input')); });
  const cells = [...document.querySelectorAll('.axes td')].map(td => [td.dataset.operand, Number(td.dataset.axis), td.dataset.size, Number(td.dataset.stride), td.classList.contains('bad')]);
  const buttons = [...document.querySelectorAll('.repairs button')].map(b => [b.dataset.written, b.dataset.result, Number(b.dataset.nones)]);
  return {cells, buttons, errors: [...document.querySelectorAll('.fields .error')].map(e => e.textContent).join(''), verdict: document.querySelector('.verdict').textContent};
})'''

def shape_lists(count, operands, seed=0):
    rng = np.random.default_rng(seed + operands)
    return [[tuple(rng.choice([0, 1, 1, 2, 3, 4], size=rng.integers(5)).tolist()) for _ in range(operands)] for _ in range(count)]

def answers(show, lists):
    page = show(explore_broadcast(*lists[0]))
    return page.evaluate(DRIVE, [[str(s) for s in shapes] for shapes in lists])

def check_strides(shapes, result, cells):
    for q, shape in enumerate(shapes):
        row = [c for c in cells if c[0] == str(q)]
        t = torch.empty(shape).broadcast_to(result)
        test_eq([c[3] for c in row], list(t.stride()))
        test_eq([int(c[2]) for c in row], [1]*(len(result)-len(shape)) + list(shape))

def check_repairs(shapes, buttons):
    fixes = [(';'.join(code), ','.join(map(str, result))) for code, result in explain_broadcast(*shapes).fixes]
    fewest = [(code, result) for code, result, nones in buttons if nones == buttons[0][2]]
    if len(fixes) <= 6: test_eq(sorted(fewest), sorted(fixes))
    else: assert len(buttons) == 6 and set(fewest) <= set(fixes)
    for code, result, _ in buttons:
        named = {name: torch.empty(s) for name, s in zip('abcd', shapes, strict=False)}
        repaired = [eval(o, named).shape for o in code.split(';')]
        test_eq(','.join(map(str, torch.broadcast_shapes(*repaired))), result)

@pytest.mark.parametrize('operands', [1, 2, 3, 4])
def test_hundreds_of_shapes(show, operands):
    lists = shape_lists(150 if operands < 4 else 60, operands)
    fitting = 0
    for shapes, seen in zip(lists, answers(show, lists), strict=True):
        table = explain_broadcast(*shapes)
        test_eq(seen['errors'], '')
        test_eq([c[2] for c in seen['cells'] if c[0] == 'result'], ['none' if n is None else str(n) for n in table.sizes])
        bad = {c[1] for c in seen['cells'] if c[4]}
        test_eq(bad, {i - len(table.sizes) for i, n in enumerate(table.sizes) if n is None})
        if table.result is None:
            with pytest.raises(RuntimeError): torch.broadcast_shapes(*shapes)
            assert 'do not fit' in seen['verdict']
            if seen['buttons'] or table.fixes: check_repairs(shapes, seen['buttons'])
        else:
            fitting += 1
            test_eq(tuple(torch.broadcast_shapes(*shapes)), broadcast_shapes(*shapes))
            assert f'shape {table.result},' in seen['verdict'] and not seen['buttons'], seen['verdict']
            check_strides(shapes, table.result, seen['cells'])
    assert fitting > 3 and (operands == 1 or fitting < .9*len(lists))

def test_a_misfit_says_why(show):
    page = show(explore_broadcast((8, 4, 5), (8, 1, 5), (3, 5)))
    test_eq(page.locator('.verdict').text_content(), 'They do not fit: axis −2 has sizes 4 (a) and 3 (c); they differ, and neither is 1.')
    assert 'Press a button' in said(page)
    page.locator('.fields input').nth(1).fill('8, 2, 5')
    assert 'axis −2 has sizes 4 (a), 2 (b) and 3 (c); they differ, and none is 1' in said(page)

PAIRS = [((3,), (3, 4)), ((3,), (4,)), ((2, 3), (2, 4)), ((3, 4), (3,), (4,)), ((3, 28, 28), (3,)), ((2, 3), (3, 2)), ((3,), (3, 3, 4))]

@pytest.mark.parametrize('shapes', PAIRS)
def test_each_repair_repairs(show, shapes):
    page = show(explore_broadcast(*shapes))
    buttons = page.locator('.repairs button')
    rank = [(int(b.get_attribute('data-nones')), b.get_attribute('data-written').count('['), math.prod(map(int, b.get_attribute('data-result').split(',')))) for b in buttons.all()]
    assert rank and rank == sorted(rank)
    for q in range(buttons.count()):
        written, wanted = buttons.nth(q).get_attribute('data-written'), buttons.nth(q).get_attribute('data-result')
        buttons.nth(q).click()
        repaired = [tuple(eval(o, {name: torch.empty(s) for name, s in zip('abcd', shapes, strict=False)}).shape) for o in written.split(';')]
        test_eq([f.input_value() for f in page.locator('.fields input').all()], [str(s) for s in repaired])
        assert f'shape ({wanted.replace(",", ", ")}' in page.locator('.verdict').text_content() and 'they fit' in said(page)
        test_eq(page.evaluate('document.activeElement.textContent'), 'undo')
        page.get_by_role('button', name='undo').click()
        test_eq([f.input_value() for f in page.locator('.fields input').all()], [str(s) for s in shapes])
        assert 'do not fit' in said(page)

def test_the_likeliest_repair_comes_first(show):
    for shapes, first in [(((3,), (3, 4)), 'a[:, None] → (3, 4)'), (((3, 28, 28), (3,)), 'b[:, None, None] → (3, 28, 28)'), (((3,), (4,)), 'a[:, None] → (3, 4)')]:
        test_eq(show(explore_broadcast(*shapes)).locator('.repairs button').first.text_content(), first)

@pytest.mark.parametrize('shapes', [((2, 3), (4, 5)), ((5,), (4,), (3,), (1,))])
def test_no_new_axis_helps(show, shapes):
    page = show(explore_broadcast(*shapes))
    assert not explain_broadcast(*shapes).fixes and page.locator('.repairs').count() == 0 and 'reshape or transpose' in page.locator('.note').text_content()

TYPED = {'(3,1)': (3, 1), '3,1': (3, 1), '3 1': (3, 1), '()': (), '[2, 3]': (2, 3), 'torch.Size([2, 3])': (2, 3), '(4,)': (4,), '4': (4,), ' 2 x 3 ': (2, 3), '0': (0,), '1,1,1,1,1,1': (1,)*6}

def test_ways_to_type_a_shape(show):
    page = show(explore_broadcast((1,)))
    for text, shape in TYPED.items():
        page.locator('.fields input').fill(text)
        test_eq(page.locator('.error').all_text_contents(), [''])
        assert f'shape {shape},' in page.locator('.verdict').text_content()

NO_SHAPES = {'': 'type sizes', '3, x1y': 'whole numbers', '2.5': 'whole numbers', '-1': 'whole numbers', '1 1 1 1 1 1 1': 'at most 6 axes', '99999999, 99999999': 'more numbers than any memory'}

def test_what_is_no_shape(show):
    page = show(explore_broadcast((2, 1), (3,)))
    field, problem = page.locator('.fields input').first, page.locator('.error').first
    for text, words in NO_SHAPES.items():
        field.fill('2, 1')
        test_eq((problem.text_content(), field.get_attribute('aria-invalid')), ('', 'false'))
        field.fill(text)
        assert words in problem.text_content() and '(2, 3)' in page.locator('.verdict').text_content()
        test_eq(field.get_attribute('aria-invalid'), 'true')

DRAWN = [((3, 1), (4,)), ((),), ((), (3,)), ((2, 3, 1), (3, 4)), ((4,), (2, 1, 1), (3, 1)), ((2, 1), (1, 3), (), (2, 3)), ((6, 3, 12), (1,)), ((12, 12), (12, 1)), ((1, 1, 1), (1,)), ((3, 2),)]

def test_the_grids_hold_the_numbers(show):
    page = show(*(explore_broadcast(*shapes) for shapes in DRAWN))
    for fig, shapes in zip(page.locator('.miniai-figure').all(), DRAWN, strict=True): check_grids(fig, shapes)

def check_grids(page, shapes):
    tensors = [(torch.arange(1, 1 + torch.Size(s).numel()).reshape(s)*10**q) for q, s in enumerate(shapes)]
    full = broadcast_shapes(*shapes)
    parts = page.locator('.part')
    test_eq(parts.count(), len(shapes) + 1)
    for q, t in enumerate([*tensors, sum(tensors)]):
        cells = parts.nth(q).locator('.cell')
        test_eq(values(cells).long(), t.broadcast_to(full).flatten())
        if q == len(shapes): continue
        ghosts = torch.tensor(cells.evaluate_all('nodes => nodes.map(n => n.classList.contains("ghost"))')).reshape(full)
        test_eq(int((~ghosts).sum()), t.numel())
        test_eq(t.broadcast_to(full)[~ghosts].flatten(), t.flatten())       # each stored number is solid once, the first time it is read

def test_words_for_a_cell(show):
    page = show(explore_broadcast((3, 1), (4,)))
    page.locator('svg[role=application]').focus()
    for key in ['ArrowDown', 'ArrowRight', 'ArrowRight']: page.keyboard.press(key)
    test_eq(said(page), 'result[1, 2] = a[1, 0] + b[2] = 2 + 30 = 32. Place in memory, index times stride: a at 1·1 + 2·0 = 1; b at 2·1 = 2.')
    test_eq(page.locator('.part').nth(0).locator('.cell.row').evaluate_all('n => n.map(c => [c.dataset.i, c.dataset.j])'), [['1', '0']])
    test_eq(page.locator('.part').nth(1).locator('.cell.hit').evaluate_all('n => n.map(c => [c.dataset.i, c.dataset.j])'), [['1', '2']])

@pytest.mark.parametrize('shapes', [((2, 3, 1), (3, 4)), ((2, 1), (1, 3), (2, 3)), ((3,), ())])
def test_places_in_memory(show, shapes):
    "For every cell of the result: the words' place of each operand against its storage"
    page, full = show(explore_broadcast(*shapes)), broadcast_shapes(*shapes)
    tensors = [torch.arange(torch.Size(s).numel()).reshape(s).broadcast_to(full) for s in shapes]
    cells = page.locator('.part').last.locator('.cell')
    for at, index in enumerate(itertools.product(*map(range, full))):
        cells.nth(at).hover()
        words = said(page)
        assert words.startswith(f'result[{", ".join(map(str, index))}] = ')
        test_eq([int(o) for o in re.findall(r'[a-d] at (?:[\d·+ ]+ = )?(\d+)', words)], [int(t[index]) for t in tensors])

def test_shapes_come_and_go(show):
    page = show(explore_broadcast((3,)))
    test_eq(page.get_by_role('button', name='remove').count(), 0)
    for text in ('2 1', '4 1 1', '()'):
        page.get_by_role('button', name='add a shape').click()
        page.keyboard.type(text)
    assert '(4, 2, 3)' in page.locator('.verdict').text_content() and page.get_by_role('button', name='add a shape').count() == 0
    page.get_by_role('button', name='remove shape b').click()
    assert '(4, 1, 3)' in page.locator('.verdict').text_content()
    test_eq([f.input_value() for f in page.locator('.fields input').all()], ['(3,)', '(4, 1, 1)', '()'])

@pytest.mark.parametrize('shapes,words', [(((256, 256, 3), (3,)), 'too much to draw'), (((0, 3), (1,)), 'no numbers'), (((2, 1, 1, 1), (2,)), 'too much to draw'), (((1, 13),), 'too much to draw'), (((7, 1, 1),), 'too much to draw')])
def test_too_large_or_empty_for_a_drawing(show, shapes, words):
    page = show(explore_broadcast(*shapes))
    assert words in page.locator('.note').text_content() and page.locator('.axes').count() == 1 and page.locator('svg').count() == 0
    test_eq(said(page), 'Change a shape.')

@pytest.mark.parametrize('shapes,error,words', [((), ValueError, 'one to 4 shapes'), (((1,),)*5, ValueError, 'got 5'), (((1,)*7,), ValueError, 'room for 6 axes'), (((10**9, 10**9),), ValueError, 'more numbers than any memory'),
                                                ((torch.ones(3),), TypeError, '.shape'), (('x',), TypeError, 'whole numbers'), (((-1,),), ValueError, '0 or more')])
def test_shapes_that_are_refused(shapes, error, words):
    with pytest.raises(error, match=re.escape(words)): explore_broadcast(*shapes)

def test_sizes_and_shapes_of_tensors(show):
    page = show(explore_broadcast(torch.ones(2, 1).shape, 3))
    assert '(2, 3)' in page.locator('.verdict').text_content()

# -- both, on the page

FIGURES = {'small': lambda: explore_matmul(WANTS, PRICES), 'dense': lambda: explore_matmul(*randoms(12, 12, 12)), 'images': lambda: explore_matmul(randoms(5, 784, 10)[0].clamp(0, 1), randoms(5, 784, 10)[1]),
           'shades': lambda: explore_matmul(*randoms(32, 30, 32)), 'wide': lambda: explore_matmul(*randoms(2, 1024, 17)), 'shapes': lambda: explore_broadcast((3, 1), (4,)),
           'misfit': lambda: explore_broadcast((2, 3), (3, 2)), 'slices': lambda: explore_broadcast((6, 1, 12), (3, 1), (12,)), 'six axes': lambda: explore_broadcast((10, 20, 30, 40, 50, 60), (1, 60))}

@functools.cache
def figure(name): return FIGURES[name]()

def states(page, keyboard):
    "The start, then each view after some steps"
    yield 'start'
    svg = page.locator('svg[role=application]')
    if svg.count():
        svg.last.focus()
        for key in ['ArrowDown', 'ArrowRight', 'k', 'k']: keyboard.press(key)
    for name in page.locator('input[type=radio]').evaluate_all('nodes => nodes.map(n => n.value)'):
        view(page, name)
        yield name

CONTRAST = '''() => {
  const parse = c => { const v = c.match(/[\\d.]+/g).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map(q => top[q]*top[3] + under[q]*(1 - top[3])).concat(1);
  const lum = c => c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4).reduce((sum, v, q) => sum + v*[.2126, .7152, .0722][q], 0);
  const chain = node => node === document.documentElement ? [node] : [...chain(node.parentElement), node];
  const page = parse(getComputedStyle(document.body).backgroundColor), low = [];
  for (const node of document.querySelectorAll('.miniai-figure *')) {
    const own = [...node.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim());
    if (!own.length || !node.getClientRects().length || node.closest('style, script, [disabled]')) continue;
    let back = page[3] ? page : [255, 255, 255, 1], opacity = 1;
    for (const at of chain(node)) { const style = getComputedStyle(at); opacity *= Number(style.opacity); back = over(parse(style.backgroundColor), back); }
    const style = getComputedStyle(node), rect = node.closest('.cell')?.querySelector('rect');
    if (rect) { const fill = parse(getComputedStyle(rect).fill); fill[3] *= Number(getComputedStyle(rect).fillOpacity); back = over(fill, back); }
    const ink = parse(rect ? style.fill : style.color);
    ink[3] *= opacity;
    const [light, dark] = [lum(over(ink, back)), lum(back)].sort((a, b) => b - a), ratio = (light + .05)/(dark + .05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${node.tagName}.${node.getAttribute('class')} ${own[0].textContent.trim().slice(0, 20)}`);
  }
  return low;
}'''

def all_states(page, names):
    "Bring all figures on the page from state to state: (figure's name, state)"
    for name, fig in zip(names, page.locator('.miniai-figure').all(), strict=True):
        for state in states(fig, page.keyboard): yield name, state

@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_text_can_be_read(show, theme):
    names = ['small', 'images', 'shapes', 'misfit']
    page = show(*map(figure, names), theme=theme)
    page.wait_for_function(f"document.querySelectorAll('.miniai-figure[data-theme={theme}]').length === {len(names)}")
    for at in all_states(page, names): test_eq((at, page.evaluate(CONTRAST)), (at, []))

@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_widens_the_page(show, width):
    page = show(*map(figure, FIGURES), width=width)
    for at in all_states(page, FIGURES):
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), at
        outside = page.evaluate("[...document.querySelectorAll('.mm, .panel, .stage')].filter(n => n.scrollWidth > n.clientWidth + 1).map(n => n.className)")
        test_eq((at, outside), (at, []))

def test_two_copies_do_not_meet(show):
    page = show(explore_matmul(WANTS, PRICES), explore_matmul(WANTS, PRICES), explore_broadcast((3,), (4,)), explore_broadcast((3,), (4,)))
    one, two, three, four = page.locator('.miniai-figure').all()
    two.get_by_label('einsum').check()
    two.locator('.mm .c .cell').last.click()
    assert 'c[2, 1]' in two.locator('.formula').text_content() and 'c[0, 0]' in one.locator('.formula').text_content()
    assert one.get_by_label('elementwise').is_checked() and one.locator('.einsum').count() == 0
    four.locator('.repairs button').first.click()
    assert three.locator('.repairs').count() == 1 and four.locator('.repairs').count() == 0
    test_eq(page.evaluate("document.querySelectorAll('.miniai-figure [id]').length"), 0)

@pytest.mark.parametrize('name', FIGURES)
def test_pages_stay_small(name):
    fig = figure(name)
    assert len(fig.picture) < 25_000 and fig.picture[:4] == b'\x89PNG'
    assert len(fig._repr_html_()) < (60_000 if name in ('small', 'dense', 'shapes', 'misfit', 'slices', 'six axes') else 130_000 + len(fig.data))

def test_the_same_figure_is_the_same_text():
    for name in ('small', 'shapes', 'misfit'): assert FIGURES[name]()._repr_html_() == figure(name)._repr_html_(), name

def test_rules_of_style_stay_at_home():
    "The style of one figure must not reach another kind of figure on the same page"
    for fig, name in [(FIGURES['small'](), 'matmul'), (FIGURES['shapes'](), 'shapes')]:
        selectors = [s.strip() for rule in re.findall(r'([^{}]+)\{', fig.style) for s in rule.split(',')]
        assert selectors and all(re.match(rf'\.miniai-figure(\[data-theme=dark\])? \.{name} ', s) for s in selectors), selectors

def test_still_pictures_where_scripts_are_blocked(show):
    page = show(explore_matmul(WANTS, PRICES), explore_broadcast((3,), (4,)), scripts=False)
    test_eq([i.is_visible() for i in page.locator('img.still').all()], [True, True])
    assert '3 by 4' in page.locator('img.still').first.get_attribute('alt') and 'do not fit' in page.locator('img.still').last.get_attribute('alt')
