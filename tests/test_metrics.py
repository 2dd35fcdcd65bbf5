"Metrics against everything at once"
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miniai.metrics import Accuracy, ConfusionMatrix, Mean, Metric
from miniai.testing import test_close, test_eq

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any)


@given(SIZES, st.integers(0, 10_000))
def test_the_mean_over_batches_is_the_mean_over_items(sizes, seed):
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, generator=g) for n in sizes]
    metric, mean = Metric(), Mean()
    for x in parts:
        value = x.mean() if len(x) else torch.tensor(float('nan'))     # an empty batch says nothing
        metric.add(value, n=len(x))
        mean.update(value, weight=len(x))
    test_close(metric.value, torch.cat(parts).mean(), 1e-5)
    test_eq(mean.compute(), metric.compute())


@given(SIZES, st.integers(2, 5), st.integers(0, 10_000), st.booleans())
def test_accuracy_over_batches(sizes, c, seed, as_labels):
    g = torch.Generator().manual_seed(seed)
    acc, right, n = Accuracy(), 0, 0
    for size in sizes:
        preds, targ = torch.randn(size, c, generator=g), torch.randint(c, (size,), generator=g)
        acc.update(preds.argmax(1) if as_labels else preds, targ)
        for p, t in zip(preds.tolist(), targ.tolist(), strict=True): right += p.index(max(p)) == t     # the slow, obvious version
        n += size
    test_close(acc.value, right/n, 1e-6)


def test_more_axes():
    preds, targ = torch.randn(3, 4, 5, 6), torch.randint(4, (3, 5, 6))
    acc = Accuracy()
    acc.add(preds, targ)
    test_close(acc.value, (preds.argmax(1) == targ).float().mean(), 1e-6)
    labels = Accuracy()
    labels.add(torch.tensor([True, False, True]), torch.tensor([True, True, True]))
    test_close(labels.value, 2/3, 1e-6)


@pytest.mark.parametrize('preds, targ, says', [
    (torch.zeros(4).long(), torch.zeros(4, 1).long(), 'wanted predictions'),
    (torch.zeros(4, 3), torch.zeros(5).long(), 'wanted predictions'),
    (torch.zeros(4, 3), torch.zeros(3).long(), 'wanted predictions'),
    (torch.zeros(4, 1), torch.zeros(4).long(), 'one number for each item'),
    (torch.zeros(4), torch.zeros(4).long(), 'no labels'),
    (torch.zeros(4, 3), torch.zeros(4, 3), 'must be labels'),
    (torch.zeros(4, 3, 2), torch.zeros(4, 5).long(), 'wanted predictions'),
])
def test_shapes_that_do_not_fit_are_refused_with_the_shapes(preds, targ, says):
    for metric in (Accuracy(), ConfusionMatrix(3)):
        with pytest.raises(ValueError, match=says) as e: metric.update(preds, targ)
        assert str(tuple(preds.shape)) in str(e.value) and str(tuple(targ.shape)) in str(e.value)


def test_nothing_yet():
    for m in (Metric(), Mean(), Accuracy()):
        with pytest.raises(ValueError, match='no value yet'): m.compute()
        m.add(torch.tensor([1]), torch.tensor([1])) if isinstance(m, Accuracy) else m.add(1.)
        assert m.value == 1
        m.reset()
        with pytest.raises(ValueError, match='no value yet'): _ = m.value
        assert 'nothing yet' in repr(m)


def test_weights_that_make_no_sense():
    with pytest.raises(ValueError, match='-1 items'): Mean().update(1., weight=-1)
    with pytest.raises(ValueError, match=r'shape \(2,\)'): Mean().update(torch.ones(2))


def test_value_cannot_be_set():
    with pytest.raises(AttributeError): Metric().value = 3


def test_course_signatures():
    acc = Accuracy()
    acc.add(torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 1, 2, 1, 0]))
    test_close(acc.value, 0.5)
    loss = Metric()
    loss.add(0.6, n=32)
    loss.add(0.9, n=2)
    test_close(loss.value, round((0.6*32 + 0.9*2)/(32 + 2), 6), 1e-5)
    acc.add(torch.tensor([0]), torch.tensor([1]), 2)     # n given by position
    test_close(acc.value, 3/8)


def test_a_metric_of_ones_own_is_weighted_without_asking():
    class Largest(Metric):
        def calc(self, inp, targ): return (inp - targ).abs().mean()
    m, x, y = Largest(), torch.randn(7, 2), torch.randn(7, 2)
    m.add(x[:5], y[:5])
    m.add(x[5:], y[5:])
    test_close(m.value, (x - y).abs().mean(), 1e-6)


def test_no_gradient_is_kept_and_the_sum_has_64_bits():
    m = Mean()
    m.update(torch.tensor(1., requires_grad=True)*2)
    assert not m.total.requires_grad and m.total.dtype == torch.float64 and m.value.dtype == torch.float32
    m.reset()
    m.update(torch.tensor(1e8), weight=1)
    for _ in range(100): m.update(torch.tensor(1.))
    test_close(m.total, 1e8 + 100, 1e-3)


def test_nan_is_not_hidden():
    m = Mean()
    m.update(1.)
    m.update(float('nan'))
    assert math.isnan(m.value)


@given(SIZES, st.integers(2, 5), st.integers(0, 10_000))
def test_confusion_matrix_cell_by_cell(sizes, c, seed):
    g = torch.Generator().manual_seed(seed)
    conf, pairs = ConfusionMatrix(c), []
    for n in sizes:
        preds, targ = torch.randn(n, c, generator=g), torch.randint(c, (n,), generator=g)
        conf.update(preds, targ)
        pairs += zip(targ.tolist(), preds.argmax(1).tolist(), strict=True)
    test_eq(conf.compute(), [[pairs.count((i, j)) for j in range(c)] for i in range(c)])
    conf.reset()
    assert conf.value.sum() == 0


@pytest.mark.parametrize('preds, targ', [([0, 3], [0, 1]), ([0, 1], [0, 3]), ([0, -1], [0, 1]), ([0, 1], [-1, 0])])
def test_labels_outside_the_classes_are_refused(preds, targ):
    conf = ConfusionMatrix(3)
    with pytest.raises(ValueError, match='labels go from 0 to 2'): conf.update(torch.tensor(preds), torch.tensor(targ))
    assert conf.value.sum() == 0


def test_confusion_plot():
    import matplotlib.pyplot as plt
    conf = ConfusionMatrix(2)
    conf.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    ax = conf.plot(['cat', 'dog'])
    assert sorted(t.get_text() for t in ax.texts) == ['1', '1', '1']
    assert [t.get_text() for t in ax.get_yticklabels()] == ['cat', 'dog']
    ax2 = plt.subplots()[1]
    assert conf.plot(ax=ax2) is ax2
    plt.close('all')


def test_nothing_is_pulled_out_of_a_tensor_in_a_batch():
    "The number of times a tensor becomes a Python number does not grow with the batches"
    from torch.utils._python_dispatch import TorchDispatchMode
    class Count(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))
    acc, mean = Accuracy(), Mean()
    with Count() as count:
        for _ in range(5):
            acc.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
            mean.update(torch.tensor(1.), weight=4)
    assert count.n == 0
