"Broadcasting: judged by numpy and torch on drawn shapes, those that fit and those that do not"
import operator
import re
from html.parser import HTMLParser
from itertools import combinations_with_replacement

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from miniai.broadcasting import BroadcastTable, broadcast_shapes, expand_to, explain_broadcast, show_broadcast
from miniai.testing import expect_error, test_close, test_eq

many, some = settings(max_examples=300), settings(max_examples=100)
any_shape = st.lists(st.integers(0, 4), max_size=5).map(tuple)
any_shapes = st.lists(any_shape, max_size=4)


@st.composite
def fitting(draw, min_shapes=0, max_shapes=4, max_rank=5, min_size=0):
    "Shapes that fit together: a result, with some sizes replaced by 1 and some axes dropped on the left"
    full = draw(st.lists(st.integers(min_size, 4), max_size=max_rank))
    def one():
        sizes = [draw(st.sampled_from([1, n])) for n in full]
        return tuple(sizes[draw(st.integers(0, len(full))):])
    return [one() for _ in range(draw(st.integers(min_shapes, max_shapes)))]


# Shapes drawn freely rarely fit, and those made to fit always do: half of each
shapes_of_both_kinds = st.one_of(fitting(), any_shapes)


def answer(f, shapes):
    try: return tuple(f(*shapes))
    except (ValueError, RuntimeError): return None


def close_figures():
    plt.close('all')


class TestBroadcastShapes:
    @many
    @given(shapes_of_both_kinds)
    def test_agrees_with_numpy_and_torch(self, shapes):
        ours = answer(broadcast_shapes, shapes)
        test_eq(ours, answer(np.broadcast_shapes, shapes))
        test_eq(ours, answer(torch.broadcast_shapes, shapes))

    @many
    @given(fitting())
    def test_accepts_what_fits(self, shapes):
        result = broadcast_shapes(*shapes)
        test_eq(result, np.broadcast_shapes(*shapes))
        test_eq(result, tuple(torch.broadcast_shapes(*shapes)))
        assert type(result) is tuple

    @given(fitting(min_shapes=2), st.randoms())
    def test_order_does_not_matter(self, shapes, random):
        result = broadcast_shapes(*shapes)
        random.shuffle(shapes)
        test_eq(broadcast_shapes(*shapes), result)

    @pytest.mark.parametrize('shapes, result', [
        ([], ()), ([()], ()), ([(), ()], ()), ([(0,)], (0,)), ([(0,), (1,)], (0,)), ([(0,), ()], (0,)), ([(1, 0), (3, 1)], (3, 0)),
        ([(5,), (1,), (4, 1), (3, 1, 1)], (3, 4, 5)), ([torch.Size([2, 1]), [1, 3]], (2, 3)), ([5, (4, 1)], (4, 5)), ([np.int64(3), (1,)], (3,))])
    def test_corners(self, shapes, result):
        test_eq(broadcast_shapes(*shapes), result)

    def test_many_shapes(self):
        test_eq(broadcast_shapes(*[(1,)*i + (2,) for i in range(40)]), (1,)*39 + (2,))

    @some
    @given(any_shapes)
    def test_refusal_points_at_each_axis_that_does_not_fit(self, shapes):
        assume(answer(np.broadcast_shapes, shapes) is None)
        with pytest.raises(ValueError) as e: broadcast_shapes(*shapes)
        _, *table = str(e.value).splitlines()
        rows, marks = table[:len(shapes)], table[len(shapes)]
        rank = max(map(len, shapes))
        bad = [i for i in range(-rank, 0) if len({s[i] for s in shapes if len(s) >= -i} - {1}) > 1]
        test_eq([int(i) for i in re.findall(r'^axis (-\d+) has', str(e.value), re.M)], bad[::-1])
        # a caret stands under the last digit of each size at a bad axis, and nowhere else
        width = max(map(len, rows))
        columns = [i for i in range(width) if any(r[i:i+1].isdigit() for r in rows)]
        test_eq(len(columns), rank)
        test_eq([i for i, ch in enumerate(marks) if ch == '^'], [columns[i] for i in bad])

    def test_refusal_lines_up_wide_sizes(self):
        with pytest.raises(ValueError) as e: broadcast_shapes((256, 256, 3), (7, 1), (128, 1, 1))
        test_eq(str(e.value).splitlines()[1:5], ['a  256  256  3', 'b         7  1', 'c  128    1  1', '     ^    ^'])
        assert 'axis -2 has sizes 256 (a) and 7 (b); they differ, and neither is 1' in str(e.value)
        assert 'axis -3 has sizes 256 (a) and 128 (c); they differ, and neither is 1' in str(e.value)

    @given(any_shapes)
    def test_refusal_names_a_call_that_works(self, shapes):
        assume(answer(np.broadcast_shapes, shapes) is None)
        with pytest.raises(ValueError) as e: broadcast_shapes(*shapes)
        call = str(e.value).splitlines()[-1].removesuffix(' shows what would')
        test_eq(eval(call, {'explain_broadcast': explain_broadcast}).shapes, shapes)

    @pytest.mark.parametrize('f', [broadcast_shapes, explain_broadcast])
    def test_refuses_what_is_no_shape(self, f):
        with expect_error(ValueError, '0 or more'): f((2, -1))
        with expect_error(TypeError, 'whole numbers'): f((2.5,))
        with expect_error(TypeError, 'whole numbers'): f('ab')
        with expect_error(TypeError, 'whole numbers'): f(None)
        with expect_error(TypeError, '.shape'): f(torch.zeros(2))
        with expect_error(TypeError, '.shape'): f((2,), np.zeros(2))

    def test_more_than_26_shapes_have_names(self):
        with expect_error(ValueError, '3 (x29)'): broadcast_shapes(*[(2,)]*29, (3,))


@st.composite
def tensor_and_shape(draw):
    "A tensor (also a view with odd strides and an offset) and a shape, which may or may not fit"
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    big = torch.arange(float(np.prod([n+1 for n in shape]))).reshape([n+1 for n in shape])
    t = big[tuple(slice(1, None) for _ in shape)]
    if shape and draw(st.booleans()): t = t.transpose(0, draw(st.integers(0, len(shape)-1)))
    fits = [draw(st.integers(0, 4)) if n == 1 else n for n in t.shape]
    new = draw(st.lists(st.integers(0, 3), max_size=2)) + fits
    return t, tuple(draw(st.one_of(st.just(new), st.lists(st.integers(0, 3), max_size=5))))


def steps(t):
    "The strides that matter: along an axis of size 0 or 1 nobody ever steps"
    return [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1]


class TestExpandTo:
    @many
    @given(tensor_and_shape())
    def test_agrees_with_torch_and_numpy(self, t_shape):
        t, shape = t_shape
        try: expected = torch.broadcast_to(t, shape)
        except RuntimeError:
            with pytest.raises(ValueError): np.broadcast_to(t.numpy(), shape)
            with pytest.raises(ValueError, match='cannot be stretched'): expand_to(t, shape)
            return
        ours = expand_to(t, shape)
        test_eq(ours, expected)
        test_eq(ours, np.broadcast_to(t.numpy(), shape))
        test_eq(ours.data_ptr(), expected.data_ptr())      # an empty tensor reports 0
        test_eq(ours.untyped_storage().data_ptr(), t.untyped_storage().data_ptr())
        test_eq(ours.storage_offset(), expected.storage_offset())
        if ours.numel(): test_eq(steps(ours), steps(expected))
        old = (1,)*(len(shape)-t.dim()) + tuple(t.shape)
        assert all(st == 0 for st, o, n in zip(ours.stride(), old, shape, strict=True) if o != n)

    @given(tensor_and_shape())
    def test_gradient_agrees_with_torch(self, t_shape):
        t, shape = t_shape
        try: torch.broadcast_to(t, shape)
        except RuntimeError: shape = (2, *t.shape)
        ours, theirs = t.clone().requires_grad_(), t.clone().requires_grad_()
        w = torch.rand(shape)
        (expand_to(ours, shape)*w).sum().backward()
        (torch.broadcast_to(theirs, shape)*w).sum().backward()
        test_close(ours.grad, theirs.grad)

    @pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.complex64])
    def test_keeps_the_dtype(self, dtype):
        t = expand_to(torch.ones(3, 1, dtype=dtype), (2, 3, 4))
        test_eq((t.dtype, tuple(t.shape), t.stride()), (dtype, (2, 3, 4), (0, 1, 0)))

    def test_is_a_view(self):
        c = torch.tensor([1., 2])
        t = expand_to(c, (3, 2))
        c[0] = 9
        test_eq(t, [[9, 2]]*3)
        with pytest.raises(RuntimeError, match='single memory location'): t += 1

    def test_an_expanded_tensor_can_be_expanded(self):
        t = expand_to(expand_to(torch.tensor(5.), (3,)), (2, 3))
        test_eq(t, torch.full((2, 3), 5.))
        test_eq(t.stride(), (0, 0))

    def test_refusals(self):
        with expect_error(TypeError, 'as_tensor'): expand_to(np.ones(3), (3, 3))
        with expect_error(TypeError, '.shape'): expand_to(torch.ones(3), torch.ones(3, 3))
        with expect_error(ValueError, '0 or more'): expand_to(torch.ones(3), (-1, 3))
        with expect_error(ValueError, 'have      3\nwant  12  4\n          ^'): expand_to(torch.ones(3), (12, 4))
        with expect_error(ValueError, 'have  2  3\nwant     3\n      ^'): expand_to(torch.ones(2, 3), (3,))
        with expect_error(ValueError, 'have  1  3\nwant     3\n      ^'): expand_to(torch.ones(1, 3), (3,))


def column_ends(line): return [m.end() for m in re.finditer(r'\S+(?: \S+)*', line)]


class TableReader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.open, self.text, self.tints = [], [], [], []
    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == 'tr': self.rows.append([])
        if tag in ('th', 'td'):
            self.rows[-1].append('')
            self.tints.append(re.findall(r'background:([^;"]*)', dict(attrs)['style'])[-1:])
        if tag == 'p': self.text.append('')
    def handle_endtag(self, tag): test_eq(self.open.pop(), tag)
    def handle_data(self, data):
        if 'td' in self.open or 'th' in self.open: self.rows[-1][-1] += data
        if 'p' in self.open: self.text[-1] += data


class TestExplain:
    @many
    @given(shapes_of_both_kinds)
    def test_result_agrees_with_numpy(self, shapes):
        e = explain_broadcast(*shapes)
        test_eq(e.result, answer(np.broadcast_shapes, shapes))
        assert ('They fit' in repr(e)) is (e.result is not None)
        assert ('They do not fit' in repr(e)) is (e.result is None)
        if e.result is not None: test_eq(e.fixes, [])

    @some
    @given(shapes_of_both_kinds)
    def test_text_is_aligned(self, shapes):
        lines = repr(explain_broadcast(*shapes)).splitlines()[:len(shapes)+3]
        ends = [column_ends(line)[1:] for line in lines]
        assert all(e == ends[0] for e in ends), '\n'.join(lines)
        test_eq(len(ends[0]), max(map(len, shapes), default=0))

    @some
    @given(shapes_of_both_kinds)
    def test_each_column_shows_the_sizes_and_the_rule(self, shapes):
        "The rule of each column, worked out again in another way: by broadcasting one axis at a time with numpy"
        head, *rows, rules, result = (re.split(r'  +', line) for line in repr(explain_broadcast(*shapes)).splitlines()[:len(shapes)+3])
        rank = max(map(len, shapes), default=0)
        test_eq(head, ['axis', *map(str, range(-rank, 0))])
        for i in range(-rank, 0):
            sizes = [s[i] if len(s) >= -i else None for s in shapes]
            n = answer(np.broadcast_shapes, [(s,) for s in sizes if s is not None])
            test_eq([r[i] for r in rows], ['·' if s is None else str(s) for s in sizes])
            test_eq(result[i], '✗' if n is None else str(n[0]))
            assert ('≠' in rules[i]) is (n is None)
            if n is None: continue
            changed = [name for name, s in zip('abcd', sizes, strict=False) if s != n[0]]
            test_eq([r[0] for r in rules[i].split(', ')] if changed else rules[i], changed or 'same')
            assert ('×' in rules[i]) is any((s or 1) != n[0] for s in sizes if s != 0)

    @some
    @given(shapes_of_both_kinds)
    def test_html_says_the_same_as_the_text(self, shapes):
        e, page = explain_broadcast(*shapes), TableReader()
        page.feed(e._repr_html_())
        test_eq(page.open, [])
        lines = repr(e).splitlines()
        test_eq(page.rows, [re.split(r'  +', line) for line in lines[:len(shapes)+3]])
        test_eq(page.text, lines[len(shapes)+3:])

    def test_html_suits_light_and_dark(self):
        html = explain_broadcast((3,), (3, 4))._repr_html_()
        colors = set(re.findall(r'(?:color|background):([^;"]+)', html))
        test_eq(colors, {'inherit', 'none', 'rgba(213,94,0,.35)', 'rgba(86,180,233,.3)'})
        assert 'solid currentColor' in html

    def test_html_tints_what_is_stretched_and_what_fails(self):
        page = TableReader()
        page.feed(explain_broadcast((1, 2, 3), (4, 2, 5))._repr_html_())
        cells = [(text, tint) for text, tint in zip((c for row in page.rows for c in row), page.tints, strict=True) if tint]
        blue, orange, plain = ['rgba(86,180,233,.3)'], ['rgba(213,94,0,.35)'], ['none']
        test_eq(cells, [('1', blue), ('2', plain), ('3', orange), ('4', plain), ('2', plain), ('5', orange),
                        ('a ×4', plain), ('same', plain), ('3 ≠ 5', orange), ('4', plain), ('2', plain), ('✗', orange)])

    def test_known_tables(self):
        test_eq(repr(explain_broadcast((1, 4, 5), (3, 1, 5))), '\n'.join([
            'axis      -3    -2    -1', 'a          1     4     5', 'b          3     1     5',
            'rule    a ×3  b ×4  same', 'result     3     4     5', 'They fit: the result has shape (3, 4, 5).']))
        test_eq(repr(explain_broadcast((3,), (3, 4))), '\n'.join([
            'axis          -2     -1', 'a              ·      3', 'b              3      4', 'rule    a new ×3  3 ≠ 4', 'result         3      ✗',
            'They do not fit.', 'Axis -1 has sizes 3 (a) and 4 (b); they differ, and neither is 1.',
            'a[:, None] with b would fit: the result has shape (3, 4).']))
        test_eq(repr(explain_broadcast((), (1, 0))), '\n'.join([
            'axis       -2        -1', 'a           ·         ·', 'b           1         0', 'rule    a new  a new ×0', 'result      1         0',
            'They fit: the result has shape (1, 0).']))

    @some
    @given(any_shapes)
    def test_fixes_run_and_do_what_they_say(self, shapes):
        "Run the code of each fix on real arrays"
        arrays = {name: np.zeros(s) for name, s in zip('abcd', shapes, strict=False)}
        for code, result in explain_broadcast(*shapes).fixes:
            test_eq(np.broadcast_shapes(*(eval(c, {}, arrays).shape for c in code)), result)
            test_eq([c[0] for c in code], list(arrays))
            assert any('None' in c for c in code)

    @some
    @given(st.lists(st.integers(0, 4), max_size=3).map(tuple), st.lists(st.integers(0, 4), max_size=3).map(tuple))
    def test_fixes_are_the_shortest(self, s1, s2):
        "All ways to insert up to 3 new axes into either operand, by force"
        assume(answer(np.broadcast_shapes, (s1, s2)) is None)
        def inserted(s, places): return np.expand_dims(np.zeros(s), [p+i for i, p in enumerate(places)]).shape
        def ways(s): return [(places, inserted(s, places)) for n in range(4) for places in combinations_with_replacement(range(1, len(s)+1), n)]
        found = {}
        for p1, t1 in ways(s1):
            for p2, t2 in ways(s2):
                result = answer(np.broadcast_shapes, (t1, t2))
                if result is not None and len(result) <= max(len(s1), len(s2))+1:
                    found.setdefault((len(result), len(p1)+len(p2)), []).append((t1, t2, result))
        ours = [(*(eval(c, {}, {'a': np.zeros(s1), 'b': np.zeros(s2)}).shape for c in code), result)
                for code, result in explain_broadcast(s1, s2).fixes]
        test_eq(sorted(ours), sorted(found[min(found)]) if found else [])

    def test_no_fix_is_said(self):
        assert 'No single new axis would help' in repr(explain_broadcast((2, 3), (4, 5)))
        # so many axes that the search for a None is cut off
        many_axes = explain_broadcast(*[(i+2, i+12, i+22) for i in range(8)])
        test_eq(many_axes.fixes, [])
        assert 'given up' in repr(many_axes)

    def test_no_shapes(self):
        test_eq(explain_broadcast().result, ())
        assert isinstance(explain_broadcast(), BroadcastTable)


def cells(ax):
    "What the picture shows: for each panel a list of (text, is it solid?) in reading order"
    panels = {}
    fills = [p for p in ax.patches if p.get_facecolor()[3] > 0]
    edges = {(p.get_x(), p.get_y()) for p in ax.patches if p.get_facecolor()[3] == 0}
    for p in fills:
        inside = [t.get_text() for t in ax.texts if p.get_x() < t.get_position()[0] < p.get_x()+p.get_width()
                  and p.get_y() < t.get_position()[1] < p.get_y()+p.get_height()]
        test_eq(len(inside), 1)
        solid = p.get_facecolor()[3] == 1
        assert solid is not ((p.get_x(), p.get_y()) in edges)
        panels.setdefault(to_hex(p.get_facecolor()), []).append((inside[0], solid))
    return list(panels.values())


class TestShow:
    @settings(max_examples=40)
    @given(fitting(min_shapes=2, max_shapes=2, max_rank=3, min_size=1))
    def test_shows_the_values_and_shades_the_copies(self, shapes):
        close_figures()
        a, b = (np.arange(np.prod(s, dtype=int)).reshape(s) + 10*i for i, s in enumerate(shapes))
        if np.size(a+b) > 36: return
        panels = cells(show_broadcast(a, b))
        test_eq([[t for t, _ in p] for p in panels], [[str(v) for v in np.ravel(o)] for o in (*np.broadcast_arrays(a, b), a+b)])
        for panel in panels[:2]:    # the values of an operand are all different: the first time is stored, any later time is a copy
            seen = set()
            for text, solid in panel:
                assert solid is (text not in seen)
                seen.add(text)
        assert all(solid for _, solid in panels[2])

    @given(fitting(min_shapes=2, max_shapes=2, max_rank=3, min_size=1))
    @settings(max_examples=15)
    @example([(1, 4, 5), (3, 1, 5)])
    def test_nothing_overlaps_or_leaves_the_figure(self, shapes):
        close_figures()
        a, b = np.full(shapes[0], -1.234e-5), np.full(shapes[1], 1000.5)
        if np.size(a+b) > 36 and shapes[0] != (1, 4, 5): return
        ax = show_broadcast(a, b, np.hypot)
        ax.figure.canvas.draw()
        boxes = [t.get_window_extent() for t in ax.texts if t.get_text()]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i]), [t.get_text() for t in ax.texts]
            x, y = ax.figure.bbox.extents[2:]
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= x and box.y1 <= y
        # every text of a cell stays inside its cell
        for p in (p for p in ax.patches if p.get_facecolor()[3] > 0):
            cell = p.get_window_extent()
            inside = [b for b in boxes if cell.contains((b.x0+b.x1)/2, (b.y0+b.y1)/2)]
            assert len(inside) == 1 and inside[0].x0 >= cell.x0 and inside[0].x1 <= cell.x1

    def test_row_and_column(self):
        close_figures()
        c = torch.tensor([1., 2.])
        _, row, _ = cells(show_broadcast(torch.zeros(2, 2), c))
        _, column, _ = cells(show_broadcast(torch.zeros(2, 2), c[:, None]))
        test_eq(row, [('1', True), ('2', True), ('1', False), ('2', False)])
        test_eq(column, [('1', True), ('1', False), ('2', True), ('2', False)])

    @pytest.mark.parametrize('a, b, op, title, values', [
        ([1, 2], 3, operator.gt, 'a > b', ['False', 'False']),
        (torch.tensor([1., 5.]), torch.tensor([[3.]]), torch.maximum, 'maximum(a, b)', ['3', '5']),
        (np.array([1, 2]), np.array([3, 4]), operator.mul, 'a × b', ['3', '8']),
        (torch.tensor([1., 2.], requires_grad=True), 3, operator.truediv, 'a ÷ b', ['0.333', '0.667']),
        (2, 3, lambda a, b: a**b, 'op(a, b)', ['8'])])
    def test_operators_and_inputs(self, a, b, op, title, values):
        close_figures()
        ax = show_broadcast(a, b, op)
        assert any(t.get_text().startswith(title + '\n') for t in ax.texts)
        test_eq([t for t, _ in cells(ax)[2]], values)

    def test_titles_name_the_shapes(self):
        close_figures()
        titles = [t.get_text() for t in show_broadcast(np.ones((2, 1)), np.ones(3)).texts if '\n' in t.get_text()]
        test_eq(titles, ['a\n(2, 1) → (2, 3)', 'b\n(3,) → (2, 3)', 'a + b\n(2, 3)'])

    def test_note_only_with_copies(self):
        close_figures()
        def note(ax): return [t.get_text() for t in ax.texts if 'dashed' in t.get_text()]
        test_eq(len(note(show_broadcast(np.ones(2), 1))), 1)
        test_eq(note(show_broadcast(np.ones(2), np.ones(2))), [])

    def test_leaves_its_inputs_alone(self):
        close_figures()
        a = torch.arange(3.)
        show_broadcast(a, a[:, None])
        test_eq(a, torch.arange(3.))

    def test_refusals(self):
        close_figures()
        with expect_error(ValueError, 'room for 3 axes'): show_broadcast(np.ones((1, 1, 1, 1)), 1)
        with expect_error(ValueError, '20 rows'): show_broadcast(np.ones((3, 7, 1)), 1)
        with expect_error(ValueError, '10 values'): show_broadcast(np.ones(11), 1)
        with expect_error(ValueError, 'nothing to draw'): show_broadcast(np.ones((0, 3)), 1)
        with expect_error(ValueError, 'explain_broadcast((2,), (3,))'): show_broadcast(np.ones(2), np.ones(3))
        with expect_error(ValueError, 'value by value'): show_broadcast(np.ones((2, 2)), np.ones((2, 1)), operator.matmul)
        with expect_error(ValueError, 'too long to read'): show_broadcast(np.full((1, 10), -1.23e-30), 0)
        test_eq(plt.get_fignums(), [])
        show_broadcast(np.ones((2, 10, 10)), 1)
