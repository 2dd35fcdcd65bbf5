"Tests of miniai.figures"
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from miniai.figures import Playable, still, to_js
from miniai.testing import test_eq

def picture():
    fig = Figure(figsize=(1, 1))
    fig.subplots()
    return still(fig)

def figure(script='ui.say("awake")', data=None, **kwargs): return Playable('probe', data or {}, script, picture(), 'A probe', **kwargs)

# -- numbers for a script

@given(st.lists(st.floats(width=32), max_size=5))
def test_float32_come_back(values):
    x = torch.tensor(values, dtype=torch.float32)
    back = torch.tensor(json.loads(to_js(x)), dtype=torch.float32)
    assert torch.equal(back.nan_to_num(7.), x.nan_to_num(7.)) and torch.equal(back.isnan(), x.isnan())

@given(st.lists(st.floats(), max_size=5))
def test_float64_come_back(values):
    back = json.loads(to_js(np.array(values)))
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, back, strict=True))

HELD = [(1, 1), (True, True), (None, None), ('x', 'x'), ([1, [2]], [1, [2]]), ({'a': np.float32(.1)}, {'a': .1}), (np.int64(3), 3), (np.zeros((0, 2)), []), (torch.tensor(2.), 2.),
        (torch.ones(2, requires_grad=True), [1., 1.])]

@pytest.mark.parametrize('value,held', HELD, ids=str)
def test_what_a_figure_can_hold(value, held):
    back = json.loads(to_js(value))
    assert back == held and type(back) is type(held)

@pytest.mark.parametrize('value', [{1, 2}, object(), print, 1j])
def test_what_a_figure_cannot_hold(value):
    with pytest.raises(TypeError, match='a figure can hold numbers'): to_js(dict(x=value))

@pytest.mark.parametrize('text', ['</script><b>', '<!-- <script>', "it's \u2028 fine", '"\\'])
def test_text_arrives_as_it_is(show, text):
    page = show(figure('ui.say(data.text)', dict(text=text)))
    test_eq(page.locator('.say').text_content(), text)

@pytest.mark.parametrize('alt', ['', '  '])
def test_a_figure_wants_a_description(alt):
    with pytest.raises(ValueError, match='description in words'): Playable('probe', {}, '', b'', alt)

# -- in a browser

def test_same_figure_twice_answers_twice(show):
    one = figure('root.append(ui.button("press", () => ui.say("pressed")))')
    page = show(one, one)
    page.locator('button').nth(1).click()
    test_eq(page.locator('.say').all_text_contents(), ['', 'pressed'])
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(n => n.id)).size === document.querySelectorAll('[id]').length")

def test_still_picture_where_scripts_are_blocked(show):
    page = show(figure(), scripts=False)
    assert page.locator('img.still').is_visible() and page.locator('img.still').get_attribute('alt') == 'A probe'
    assert show(figure()).locator('img.still').count() == 0

def test_a_script_that_fails_leaves_the_picture(browser, tmp_path):
    page = browser.new_page()
    heard = []
    page.on('console', lambda m: heard.append(m.text))
    page.set_content(figure('throw Error("broken on purpose")')._repr_html_())
    assert page.locator('img.still').is_visible() and 'broken on purpose' in heard[0]
    page.close()

def test_description_is_text_not_html(show):
    page = show(Playable('probe', {}, 'ui.say("x")', picture(), 'a < b & "c" > <b>d</b>'))
    test_eq(page.locator('.miniai-figure').get_attribute('aria-label'), 'a < b & "c" > <b>d</b>')

def test_theme_follows_the_page(show):
    page = show(figure(), theme='dark')
    test_eq(page.locator('.miniai-figure').get_attribute('data-theme'), 'dark')
    page.evaluate("document.body.className = ''")
    page.wait_for_selector('.miniai-figure[data-theme=light]')

def test_controls(show):
    page = show(figure("""const told = (...a) => ui.say(a.join(' '));
        root.append(ui.slider('size', 1, 5, 2, v => told('size', v)), ui.choice('view', ['a', 'b'], 'a', v => told('view', v)),
          ui.field('shape', '3', v => { told('shape', v); return v === 'x' ? 'wanted a number' : ''; }));"""))
    said = page.locator('.say')
    page.get_by_label('size').press('ArrowRight')
    test_eq(said.text_content(), 'size 3')
    page.get_by_label('b', exact=True).check()
    test_eq(said.text_content(), 'view b')
    page.get_by_label('shape').fill('x')
    test_eq((said.text_content(), page.locator('.error').text_content()), ('shape x', 'wanted a number'))
    page.get_by_label('shape').fill('4')
    test_eq(page.locator('.error').text_content(), '')

@pytest.mark.parametrize('value,shown', [(0, '0'), (1234567, '1235000'), (-.5, '\u22120.5'), (1e-9, '1e\u22129'), (1/3, '0.3333'), (math.nan, 'nan'), (-math.inf, '\u2212inf'), (-1e-9, '\u22121e\u22129'), (1e20, '1.000e+20')])
def test_numbers_as_text(show, value, shown):
    test_eq(show(figure('ui.say(ui.num(data.v))', dict(v=value))).locator('.say').text_content(), shown)

GRID = "const grid = ui.grid(data.x, {label: 'grid', pick: (i, j) => ui.say(`${i} ${j} ${data.x[i][j]}`)}); root.append(grid.svg);"

def test_grid_by_mouse_and_keys(show):
    x = torch.arange(6.).reshape(2, 3)/8
    page = show(figure(GRID, dict(x=x)))
    shown = page.locator('.cell').evaluate_all('cells => cells.map(c => Number(c.dataset.value))')
    test_eq(shown, x.flatten().tolist())
    page.locator('.cell[data-i="1"][data-j="2"]').click()
    test_eq(page.locator('.say').text_content(), '1 2 0.625')
    page.locator('svg').focus()
    for key, wanted in [('ArrowLeft', '1 1'), ('ArrowUp', '0 1'), ('ArrowUp', '0 1'), ('End', '0 2'), ('ArrowRight', '0 2'), ('Home', '0 0'), ('ArrowDown', '1 0')]:
        page.keyboard.press(key)
        assert page.locator('.say').text_content().startswith(wanted), key

@pytest.mark.parametrize('width', [390, 1280])
def test_a_wide_grid_does_not_widen_the_page(show, width):
    page = show(figure(GRID, dict(x=np.zeros((2, 60)))), width=width)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
