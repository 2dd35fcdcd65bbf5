"The training loop and its parts, judged by PyTorch, by hand-computed values, and by what they must refuse"
import math
import multiprocessing
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from miniai.testing import expect_error, test_close, test_eq
from miniai.training import (
    BatchSampler,
    Dataset,
    MiniDataLoader,
    Sampler,
    accuracy,
    collate,
    cross_entropy,
    evaluate,
    fit,
    get_dls,
    log_softmax,
    logsumexp,
    mlp,
    mlp_grads,
    nll_loss,
    report,
    set_seed,
)

sizes, seeds = st.integers(1, 6), st.integers(0, 2**31)
BS = 8


def gen(seed=0): return torch.Generator().manual_seed(seed)

def make_ds(n, ni=5, nc=3, seed=0):
    "Points in `nc` clouds, so that there is something to learn"
    g = gen(seed)
    y = torch.randint(nc, (n,), generator=g)
    return Dataset(torch.randn(n, ni, generator=g) + 2*F.one_hot(y, ni), y)

def make_model(ni=5, nc=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(ni, 8), nn.ReLU(), nn.Linear(8, nc))

def sgd(model, lr=0.1): return torch.optim.SGD(model.parameters(), lr=lr)

def weights(model): return [p.detach().clone() for p in model.parameters()]


# ---- loss functions

@given(st.lists(sizes, max_size=2), sizes, seeds, st.sampled_from([1., 30., 1e4]), st.sampled_from([torch.float32, torch.float64]))
def test_log_softmax_agrees_with_torch(lead, nc, seed, scale, dtype):
    x = torch.randn(*lead, nc, generator=gen(seed)).to(dtype) * scale
    for ours, theirs in ((logsumexp, torch.logsumexp), (log_softmax, F.log_softmax)):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, want = ours(a), theirs(b, dim=-1)
        test_eq((out.dtype, out.shape), (dtype, want.shape))
        test_close(out, want, 1e-5, rtol=1e-5)
        up = torch.randn(want.shape, generator=gen(1)).to(dtype)
        out.backward(up)
        want.backward(up)
        test_close(a.grad, b.grad, 1e-5)

def test_logsumexp_at_infinity_and_zero_rows():
    inf = torch.inf
    x = torch.tensor([[-inf, 0., 1.], [-inf, -inf, -inf], [inf, 0., 1.], [1e38, -1e38, 0.]])
    test_close(logsumexp(x), torch.logsumexp(x, dim=-1))
    test_close(log_softmax(x[:1]), F.log_softmax(x[:1], dim=-1))
    test_eq(log_softmax(torch.zeros(0, 3)).shape, (0, 3))
    test_eq(logsumexp(torch.zeros(2, 0, 3)).shape, (2, 0))

@given(sizes, sizes, seeds, st.sampled_from([torch.int64, torch.int32, torch.uint8]), st.booleans())
def test_cross_entropy_agrees_with_torch(n, nc, seed, dtype, transposed):
    x = torch.randn(n, nc, generator=gen(seed)) * 3
    if transposed: x = x.T.contiguous().T
    yb = torch.randint(nc, (n,), generator=gen(seed))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, want = cross_entropy(a, yb.to(dtype)), F.cross_entropy(b, yb)
    test_close(loss, want, 1e-5)
    test_close(nll_loss(F.log_softmax(x, dim=1), yb.to(dtype)), want, 1e-5)
    loss.backward()
    want.backward()
    test_close(a.grad, b.grad, 1e-6)

def test_cross_entropy_of_nothing_is_nan_like_torch():
    x, y = torch.zeros(0, 3), torch.zeros(0).long()
    test_close(cross_entropy(x, y), F.cross_entropy(x, y))

@pytest.mark.parametrize('f', [nll_loss, cross_entropy])
@pytest.mark.parametrize('yb,error,words', [
    (torch.tensor([0, 3]), ValueError, 'label 3 is outside the 3 classes, 0 to 2 (1 such labels in 2)'),
    (torch.tensor([-1, -100]), ValueError, 'label -1'),
    (torch.tensor([0, 300], dtype=torch.int16), ValueError, 'label 300'),
    (torch.tensor([0, 255], dtype=torch.uint8), ValueError, 'label 255'),
    (torch.tensor([0., 1.]), TypeError, 'torch.float32'),
    (torch.tensor([True, False]), TypeError, 'torch.bool'),
    (torch.tensor([0]), ValueError, 'labels (1,)'),
    (torch.tensor([[0], [1]]), ValueError, 'labels (2, 1)'),
    (torch.tensor(0), ValueError, 'labels ()')])
def test_bad_labels_are_refused(f, yb, error, words):
    with expect_error(error, words): f(torch.zeros(2, 3), yb)

def test_loss_of_images_of_scores_is_refused():
    "Also where indexing would have gone through, with a wrong result"
    for h in (2, 4):
        with expect_error(ValueError, f'(2, 3, {h})'): nll_loss(torch.zeros(2, 3, h), torch.zeros(2, h).long())

def test_many_classes_and_byte_labels():
    x = torch.randn(4, 300, generator=gen())
    yb = torch.tensor([0, 255, 7, 9], dtype=torch.uint8)
    test_close(cross_entropy(x, yb), F.cross_entropy(x, yb.long()), 1e-5)


# ---- the net by hand

@given(sizes, sizes, sizes, sizes, seeds)
def test_mlp_and_its_gradients(n, ni, nh, nc, seed):
    g = gen(seed)
    x, yb = torch.randn(n, ni, generator=g).double(), torch.randint(nc, (n,), generator=g)
    params = [torch.randn(*s, generator=g).double().requires_grad_() for s in ((ni, nh), (nh,), (nh, nc), (nc,))]
    w1, b1, w2, b2 = params
    out = mlp(x, *params)
    test_close(out, F.linear(F.relu(F.linear(x, w1.T, b1)), w2.T, b2), 1e-10)
    F.cross_entropy(out, yb).backward()
    for p, grad in zip(params, mlp_grads(x, yb, *params), strict=True):
        test_eq(grad.requires_grad, False)
        test_close(grad, p.grad, 1e-10)

def test_mlp_grads_at_the_corner_of_relu():
    "All inputs of the ReLU are exactly 0: PyTorch's slope there is 0"
    x, yb = torch.zeros(2, 3), torch.tensor([0, 0])
    params = [torch.ones(3, 4), torch.zeros(4), torch.randn(4, 2, generator=gen()), torch.zeros(2)]
    params = [p.requires_grad_() for p in params]
    grads = mlp_grads(x, yb, *params)
    for out in (mlp(x, *params), F.linear(F.relu(x @ params[0] + params[1]), params[2].T, params[3])):
        for p in params: p.grad = None
        F.cross_entropy(out, yb).backward()
        for p, grad in zip(params, grads, strict=True): test_close(grad, p.grad)

def test_mlp_grads_refuses_bad_labels():
    params = torch.zeros(3, 4), torch.zeros(4), torch.zeros(4, 2), torch.zeros(2)
    with expect_error(ValueError, 'label -1'): mlp_grads(torch.zeros(1, 3), torch.tensor([-1]), *params)


# ---- accuracy and report

@given(sizes, sizes, seeds)
def test_accuracy_counts(n, nc, seed):
    out, yb = torch.randn(n, nc, generator=gen(seed)), torch.randint(nc, (n,), generator=gen(seed))
    want = sum(max(range(nc), key=row.__getitem__) == y for row, y in zip(out.tolist(), yb.tolist(), strict=True)) / n
    res = accuracy(out, yb)
    test_eq((res.shape, res.dtype), ((), torch.float32))
    test_close(res, want, 1e-6)
    test_close(accuracy(out, yb.to(torch.uint8)), want, 1e-6)

def test_accuracy_of_images():
    out = torch.randn(2, 3, 4, 5, generator=gen())
    test_eq(accuracy(out, out.argmax(dim=1)), 1.)

def test_accuracy_refuses():
    with expect_error(ValueError, 'labels (4, 1)'): accuracy(torch.zeros(4, 2), torch.zeros(4, 1))
    with expect_error(ValueError, 'labels (3,)'): accuracy(torch.zeros(4, 2), torch.zeros(3))
    with expect_error(ValueError, 'scores (4,)'): accuracy(torch.zeros(4), torch.zeros(4))
    with expect_error(ValueError, '0 items'): accuracy(torch.zeros(0, 2), torch.zeros(0))

@pytest.mark.parametrize('loss', [0.5, torch.tensor(0.5, requires_grad=True), np.float32(0.5)])
def test_report(loss, capsys):
    report(loss, torch.tensor([[1., 0.], [1., 0.], [1., 0.], [0., 1.]]), torch.tensor([0, 0, 1, 1]))
    test_eq(capsys.readouterr().out, 'loss 0.500, accuracy 0.750\n')


# ---- data set, samplers, loader

@pytest.mark.parametrize('make', [torch.tensor, np.array, list])
def test_dataset(make):
    ds = Dataset(make([[1, 2], [3, 4], [5, 6]]), make([7, 8, 9]))
    test_eq(len(ds), 3)
    test_eq(ds[1], ([3, 4], 8))
    test_eq(ds[-1], ([5, 6], 9))
    test_eq(ds[:2], ([[1, 2], [3, 4]], [7, 8]))
    test_eq(len(list(ds)), 3)
    with expect_error(IndexError): ds[3]

def test_dataset_refuses_other_lengths():
    with expect_error(ValueError, '3 items and 2 labels'): Dataset([1, 2, 3], [1, 2])

@given(st.integers(0, 30), st.integers(1, 12), st.booleans())
def test_samplers_agree_with_torch(n, bs, drop_last):
    items = range(n)
    ours, theirs = BatchSampler(Sampler(items), bs, drop_last), TorchBatchSampler(SequentialSampler(items), bs, drop_last)
    test_eq(list(ours), list(theirs))
    test_eq(len(ours), len(theirs))
    test_eq(len(ours), len(list(ours)))
    test_eq(len(Sampler(items)), n)

@given(st.integers(1, 30), seeds)
def test_shuffle_is_a_new_order_each_pass(n, seed):
    sampler = Sampler(range(n), shuffle=True, generator=gen(seed))
    first, second = list(sampler), list(sampler)
    test_eq(sorted(first), list(range(n)))
    test_eq(sorted(second), list(range(n)))
    test_eq(first, list(RandomSampler(range(n), generator=gen(seed))))
    if n > 20: test_eq(first != second, True)

def test_shuffle_follows_the_global_seed():
    set_seed(3)
    first = list(Sampler(range(50), shuffle=True))
    set_seed(3)
    test_eq(list(Sampler(range(50), shuffle=True)), first)

@pytest.mark.parametrize('bs', [0, -1])
def test_batch_size_of_nothing_is_refused(bs):
    with expect_error(ValueError, f'1 or more, got {bs}'): BatchSampler(Sampler(range(3)), bs)

def test_collate():
    test_eq(collate([(torch.zeros(2, 3), 1), (torch.ones(2, 3), 2)]), (torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]), torch.tensor([1, 2])))
    test_eq(collate([(np.float32(1), torch.tensor(2))])[1].dtype, torch.int64)
    with expect_error(ValueError, 'at least one'): collate([])
    with expect_error(ValueError): collate([(1, 2), (3, 4, 5)])      # zip must not cut to the shorter
    with expect_error(RuntimeError, 'equal size'): collate([(torch.zeros(2), 1), (torch.zeros(3), 1)])

@pytest.mark.parametrize('n', [0, 1, BS-1, BS, BS+1, 2*BS])
@pytest.mark.parametrize('drop_last', [False, True])
def test_mini_loader_gives_the_batches_of_torch(n, drop_last):
    ds = make_ds(n)
    dl = MiniDataLoader(ds, BatchSampler(Sampler(ds), BS, drop_last))
    want = list(DataLoader(ds, batch_size=BS, drop_last=drop_last))
    test_eq(list(dl), want)
    test_eq(list(dl), want)         # a second pass
    test_eq(len(dl), len(want))

def test_our_parts_fit_into_torch():
    ds = make_ds(20)
    dl = MiniDataLoader(ds, BatchSampler(Sampler(ds, shuffle=True, generator=gen(5)), BS))
    theirs = DataLoader(ds, batch_sampler=BatchSampler(Sampler(ds, shuffle=True, generator=gen(5)), BS), collate_fn=collate)
    test_eq(list(dl), list(theirs))

@pytest.mark.parametrize('n', [1, BS-1, BS, BS+1])
def test_get_dls_sizes(n):
    train_dl, valid_dl = get_dls(make_ds(n), make_ds(n), BS, drop_last=True)
    test_eq([len(xb) for xb, _ in train_dl], [BS]*(n//BS))
    test_eq([len(xb) for xb, _ in valid_dl], [n])       # nothing is dropped, and a batch may have 2*BS items
    train_dl, _ = get_dls(make_ds(n), make_ds(n), BS)
    test_eq(sum(len(xb) for xb, _ in train_dl), n)

def test_get_dls_order():
    ds = make_ds(50)
    train_dl, valid_dl = get_dls(ds, ds, 50, generator=gen())
    first, second = next(iter(train_dl))[1], next(iter(train_dl))[1]
    test_eq(torch.equal(first, second), False)
    test_eq(next(iter(valid_dl))[1], ds.y)

def test_get_dls_refuses():
    with expect_error(ValueError, 'train_ds has no items'): get_dls(make_ds(0), make_ds(3), 4)
    with expect_error(ValueError, 'valid_ds has no items'): get_dls(make_ds(3), make_ds(0), 4)
    with expect_error(ValueError, 'batch_size'): get_dls(make_ds(3), make_ds(3), 0)

@pytest.mark.parametrize('method', [m for m in ('fork', 'spawn', 'forkserver') if m in multiprocessing.get_all_start_methods()])
def test_workers_give_the_same_batches(method):
    ds = make_ds(2*BS+1)
    alone, _ = get_dls(ds, ds, BS, generator=gen(1))
    helped, _ = get_dls(ds, ds, BS, generator=gen(1), num_workers=2, multiprocessing_context=method)
    test_eq(list(helped), list(alone))


# ---- seeds

def test_set_seed_reaches_all_generators():
    def draw(): return random.random(), np.random.rand(), torch.rand(2), torch.randperm(9)
    set_seed(1)
    first = draw()
    other = draw()
    set_seed(1)
    test_eq(draw(), first)
    for a, b in zip(first, other, strict=True): test_eq(np.array_equal(a, b), False)

def test_set_seed_deterministic():
    try:
        set_seed(1, deterministic=True)
        test_eq(torch.are_deterministic_algorithms_enabled(), True)
        set_seed(1)
        test_eq(torch.are_deterministic_algorithms_enabled(), False)
    finally: torch.use_deterministic_algorithms(False)

def train(seed, n=30, **kwargs):
    set_seed(seed)
    model = make_model(seed=seed)
    res = fit(2, model, F.cross_entropy, sgd(model), *get_dls(make_ds(n), make_ds(9, seed=1), BS, **kwargs))
    return res, weights(model)

@pytest.mark.parametrize('kwargs', [{}, {'num_workers': 2}])
def test_same_seed_same_weights(kwargs):
    test_eq(train(7, **kwargs), train(7))
    test_eq(torch.equal(train(8)[1][0], train(7)[1][0]), False)


# ---- fit

def reference_fit(epochs, model, opt, batches, xv, yv):
    "The loop with nothing left out and nothing added"
    for _ in range(epochs):
        for xb, yb in batches:
            opt.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            opt.step()
    with torch.no_grad(): out = model(xv)
    return F.cross_entropy(out, yv), (out.argmax(1) == yv).double().mean()

@pytest.mark.parametrize('n', [1, BS-1, BS, BS+1, 3*BS])
def test_fit_against_the_plain_loop(n, capsys):
    train_ds, valid_ds = make_ds(n), make_ds(BS+1, seed=1)
    a, b = make_model(), make_model()
    train_dl, valid_dl = DataLoader(train_ds, batch_size=BS), DataLoader(valid_ds, batch_size=BS)   # 8 items and 1
    loss, acc = fit(3, a, F.cross_entropy, sgd(a), train_dl, valid_dl)
    want = reference_fit(3, b, sgd(b), list(train_dl), valid_ds.x, valid_ds.y)
    test_eq((type(loss), type(acc)), (float, float))
    test_close([loss, acc], torch.stack(want), 1e-6)
    test_eq(weights(a), weights(b))
    lines = capsys.readouterr().out.splitlines()
    test_eq([line.split(':')[0] for line in lines], ['epoch 0', 'epoch 1', 'epoch 2'])
    assert f'valid loss {loss:.4f}, accuracy {acc:.4f}' in lines[-1]

def test_averages_are_over_items(capsys):
    "A model that knows the first 8 items and is wrong about the 9th, in batches of 8 and 1"
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad(): model.weight.copy_(torch.tensor([[1.], [0.]]))
    ds = Dataset(torch.full((9, 1), 5.), torch.tensor([0]*8 + [1]))
    dl = DataLoader(ds, batch_size=8)
    loss, acc = evaluate(model, F.cross_entropy, dl)
    test_close(acc, 8/9, 1e-6)
    test_close(loss, F.cross_entropy(model(ds.x), ds.y), 1e-6)
    test_eq(fit(1, model, F.cross_entropy, sgd(model, lr=0.), dl, dl), (loss, acc))
    assert f'train loss {loss:.4f}' in capsys.readouterr().out

def test_fit_0_only_validates(capsys):
    model, ds = make_model().train(), make_ds(20)
    before = weights(model)
    dl = DataLoader(ds, batch_size=BS)
    res = fit(0, model, F.cross_entropy, None, None, dl)
    test_eq(res, evaluate(model, F.cross_entropy, dl))
    test_eq(weights(model), before)
    test_eq([p.grad for p in model.parameters()], [None]*4)
    test_eq(capsys.readouterr().out, '')

def test_phases():
    "train() while training, eval() and no gradients while validating"
    class Watch(nn.Linear):
        seen = ()
        def forward(self, x):
            self.seen += (self.training, torch.is_grad_enabled()),
            return super().forward(x)
    model, dl = Watch(5, 3), DataLoader(make_ds(5), batch_size=5)
    fit(2, model, F.cross_entropy, sgd(model), dl, dl)
    test_eq(model.seen, ((True, True), (False, False))*2)
    test_eq(model.training, False)

def test_gradients_left_over_do_not_count():
    a, b, dl = make_model(), make_model(), DataLoader(make_ds(20), batch_size=BS)
    for p in a.parameters(): p.grad = torch.full_like(p, 100.)
    fit(1, a, F.cross_entropy, sgd(a), dl, dl)
    fit(1, b, F.cross_entropy, sgd(b), dl, dl)
    test_eq(weights(a), weights(b))

def test_fit_takes_our_parts_and_plain_lists(capsys):
    ds = make_ds(20)
    a, b = make_model(), make_model()
    mini = MiniDataLoader(ds, BatchSampler(Sampler(ds), BS))
    fit(2, a, cross_entropy, sgd(a), mini, mini)
    fit(2, b, F.cross_entropy, sgd(b), list(mini), list(mini))
    for p, q in zip(weights(a), weights(b), strict=True): test_close(p, q, 1e-6)

def test_fit_learns():
    model, dl = make_model(), DataLoader(make_ds(60), batch_size=BS)
    start = fit(0, model, F.cross_entropy, None, None, dl)
    end = fit(10, model, F.cross_entropy, sgd(model), dl, dl)
    test_eq((end[0] < start[0], end[1] > 0.8), (True, True))

def test_fit_on_images_of_scores():
    model = nn.Conv2d(1, 3, 1)
    dl = [(torch.randn(2, 1, 4, 4, generator=gen()), torch.zeros(2, 4, 4).long())]
    loss, acc = fit(1, model, F.cross_entropy, sgd(model), dl, dl)
    test_eq(math.isfinite(loss) and 0 <= acc <= 1, True)


# ---- what fit refuses

def run_with(train=None, valid=None, model=None, opt=None, epochs=2, loss_func=F.cross_entropy, lr=0.1):
    model = model or make_model()
    ok = DataLoader(make_ds(20), batch_size=BS)
    return fit(epochs, model, loss_func, opt or sgd(model, lr), ok if train is None else train, ok if valid is None else valid)

def broken(n=20, at=10, label=None, pixel=None):
    "A loader of batches of 8, in order, with something wrong at one item"
    ds = make_ds(n)
    if label is not None: ds.y[at] = label
    if pixel is not None: ds.x[at, 0] = pixel
    return DataLoader(ds, batch_size=BS)

@pytest.mark.parametrize('label', [3, -1, -100, 1000])
def test_label_outside_the_classes(label):
    with expect_error(ValueError, f'epoch 0, training, batch 1: label {label} is outside the 3 classes'): run_with(train=broken(label=label))
    with expect_error(ValueError, f'epoch 0, validation, batch 1: label {label} is outside'): run_with(valid=broken(label=label))
    with expect_error(ValueError, f'validation, batch 1: label {label} is outside'): run_with(valid=broken(label=label), epochs=0)

@pytest.mark.parametrize('pixel', [torch.nan, torch.inf])
def test_broken_input_is_named(pixel):
    with expect_error(FloatingPointError, 'epoch 0, training, batch 2: the loss is nan; the inputs hold nan'): run_with(train=broken(pixel=pixel, at=17))
    with expect_error(FloatingPointError, 'epoch 0, validation, batch 2: the loss is nan; the inputs hold nan'): run_with(valid=broken(pixel=pixel, at=17))

def test_learning_rate_too_large_is_named():
    model = make_model()
    before = weights(model)
    with expect_error(FloatingPointError, 'epoch 0, training, batch 1: the loss is nan; the inputs are finite: try a smaller'): run_with(model=model, lr=1e30)
    test_eq(torch.equal(weights(model)[0], before[0]), False)

def test_nan_in_a_later_epoch_is_placed_there():
    calls = []
    def loss_func(preds, yb):
        calls.append(len(preds))
        return F.cross_entropy(preds, yb) * (torch.nan if len(calls) == 8 else 1.)     # 3 training, 3 validation, 2 training
    with expect_error(FloatingPointError, 'epoch 1, training, batch 1: the loss is nan'): run_with(loss_func=loss_func)

def test_weights_survive_a_nan_loss():
    "The check comes before the step"
    model = make_model()
    with expect_error(FloatingPointError): run_with(model=model, train=broken(pixel=torch.nan, at=0))
    test_eq(weights(model), weights(make_model()))

@pytest.mark.parametrize('empty', [[], DataLoader(make_ds(0)), DataLoader(make_ds(5), batch_size=BS, drop_last=True)])
def test_empty_loaders(empty):
    with expect_error(ValueError, 'train_dl is empty: it gives no batches'): run_with(train=empty)
    with expect_error(ValueError, 'valid_dl is empty: it gives no batches'): run_with(valid=empty)
    with expect_error(ValueError, 'valid_dl is empty'): run_with(valid=empty, epochs=0)
    with expect_error(ValueError, 'validation: the loader is empty'): evaluate(make_model(), F.cross_entropy, empty)

def test_empty_loaders_that_do_not_know_their_length():
    with expect_error(ValueError, 'epoch 0: train_dl is empty'): run_with(train=(b for b in ()))
    with expect_error(ValueError, 'epoch 0, validation: the loader is empty'): run_with(valid=(b for b in ()))
    with expect_error(ValueError, 'validation: the loader is empty'): run_with(valid=(b for b in ()), epochs=0)

def test_an_empty_loader_is_refused_before_training():
    model = make_model()
    with expect_error(ValueError, 'valid_dl is empty'): run_with(model=model, valid=[])
    test_eq(weights(model), weights(make_model()))

def test_a_loader_used_up_after_one_epoch():
    with expect_error(ValueError, 'epoch 1: train_dl is empty'): run_with(train=(b for b in broken()))

@pytest.mark.parametrize('batch,error,words', [
    ((torch.zeros(0, 5), torch.zeros(0).long()), ValueError, 'the batch has no items'),
    ((torch.zeros(2, 5), torch.zeros(2)), TypeError, 'torch.float32'),
    ((torch.zeros(2, 5), torch.zeros(2, 1).long()), ValueError, 'labels (2, 1)'),
    ((torch.zeros(2, 5), torch.zeros(3).long()), ValueError, 'labels (3,)'),
    ({'image': torch.zeros(2, 5), 'label': torch.zeros(2).long()}, TypeError, 'got a dict of 2'),
    ((torch.zeros(2, 5),), TypeError, 'got a tuple of 1'),
    (torch.zeros(2, 5), TypeError, 'got a Tensor of 2')])
def test_bad_batches(batch, error, words):
    good = (torch.zeros(2, 5), torch.zeros(2).long())
    for kw in ({'train': [good, batch]}, {'valid': [good, batch]}):
        with expect_error(error, 'batch 1: '): run_with(**kw)
        with expect_error(error, words): run_with(**kw)

def test_loss_must_be_one_number():
    with expect_error(ValueError, 'epoch 0, training, batch 0: loss_func must return one number'):
        run_with(loss_func=nn.CrossEntropyLoss(reduction='none'))

def test_bad_epochs_and_optimizers():
    with expect_error(ValueError, 'got -1'): run_with(epochs=-1)
    with expect_error(TypeError): run_with(epochs=1.5)
    with expect_error(ValueError, 'no parameter of this model'): run_with(opt=sgd(make_model()))
    model = make_model()
    run_with(model=model, opt=torch.optim.SGD(model[2].parameters(), lr=0.1))      # some of them are enough
    test_eq(weights(model)[:2], weights(make_model())[:2])


# ---- the module

def test_star_import_gives_the_course_names():
    names = {}
    exec('from miniai.training import *', names)
    for name in ('accuracy', 'report', 'Dataset', 'fit', 'get_dls', 'set_seed'): assert name in names, name
    for name in ('DataLoader', 'default_collate', 'F', 'nn', 'torch', 'np'): assert name not in names, f'{name} would replace the reader\'s own'

def test_import_is_light():
    code = """
import sys, torch
before = set(sys.modules)
import miniai.training
print(sorted({m.partition('.')[0] for m in set(sys.modules) - before}))
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    test_eq(out.strip(), "['miniai']")
