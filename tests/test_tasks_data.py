"Tests of miniai.tasks_data: every exercise of the chapters 06, 07 and 12, with right and wrong answers"
import copy
import functools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercise_checks import check_calls, check_exercise, check_judges, solutions, tasks_of

from miniai.judge import judge

TASKS = tasks_of('tasks_data')
RIGHT = solutions('06_minibatch_training', '07_datasets', '12_metrics')
each = pytest.mark.parametrize('name', TASKS)

# -- 06_minibatch_training

def relu_by_autograd(g, x):
    x.requires_grad_()
    with torch.enable_grad(): x.relu().backward(g)
    return x.grad

def step_by_optimizer(w, g, lr):
    p = torch.nn.Parameter(w.clone())
    p.grad = g
    torch.optim.SGD([p], lr).step()
    return p.data

def batches_by_popping(n, bs, drop_last):
    rest, out = list(range(n)), []
    while len(rest) >= bs: out, rest = out + [rest[:bs]], rest[bs:]
    return out + [rest] if rest and not drop_last else out

def collate_by_filling(items):
    xs = torch.empty(len(items), *items[0][0].shape)
    for i in range(len(items)): xs[i] = items[i][0]
    return [xs, torch.as_tensor([label for _, label in items])]

def log_softmax_by_max(x):
    m = x.max(dim=1, keepdim=True).values
    return x - (m + torch.log(torch.exp(x - m).sum(dim=1, keepdim=True)))

def softmax_then_log(x):
    z = torch.exp(x - x.max(dim=1, keepdim=True).values)
    return torch.log(z/z.sum(dim=1, keepdim=True))

def gradients_by_einsum(x, w, g): return torch.einsum('nh,ih->ni', g, w), torch.einsum('ni,nh->ih', x, g), torch.einsum('nh->h', g)

def gradients_by_autograd(x, w, g):
    b = torch.zeros(w.shape[1])
    with torch.enable_grad():
        for t in (x, w, b): t.requires_grad_()
        return torch.autograd.grad(x @ w + b, [x, w, b], g)

def loss_gradient_in_place(out, yb):
    p = out.exp()/out.exp().sum(1, keepdim=True)
    p[torch.arange(len(yb)), yb] -= 1
    return p/len(yb)

class Shuffled:
    def __init__(self, n): self.items = list(range(n))
    def __len__(self): return len(self.items)
    def __iter__(self):
        items = self.items.copy()
        random.shuffle(items)
        yield from items

class ShuffledOnce(Shuffled):
    def __init__(self, n):
        super().__init__(n)
        random.shuffle(self.items)
    def __iter__(self): yield from self.items

class InOrder(Shuffled):
    def __iter__(self): return iter(range(len(self)))

class WithReplacement(Shuffled):
    def __iter__(self): return (random.choice(self.items) for _ in self.items)

class UsedUp(Shuffled):
    def __init__(self, n):
        super().__init__(n)
        self.left = iter(random.sample(self.items, n))
    def __iter__(self): return self.left

class Inherited(torch.utils.data.RandomSampler):
    def __init__(self, n): super().__init__(range(n), num_samples=n) if n else super().__init__([0], num_samples=1)
    def __len__(self): return len(self.data_source)

class NoLength:
    def __init__(self, n): self.n = n
    def __iter__(self): return iter(torch.randperm(self.n).tolist())

# -- 07_datasets

def rows_by_index(columns):
    names = list(columns)
    return [{name: columns[name][i] for name in names} for i in range(len(columns[names[0]]))]

def one_row_many_times(columns):
    row, rows = {}, []
    for i in range(len(next(iter(columns.values())))):
        for name in columns: row[name] = columns[name][i]
        rows.append(row)
    return rows

def columns_by_setdefault(rows):
    out = {}
    for row in rows:
        for name in row: out.setdefault(name, []).append(row[name])
    return out

def columns_in_one_list(rows):
    out = dict.fromkeys(rows[0], [])
    for row in rows:
        for name, value in row.items(): out[name].append(value)
    return out

def batch_by_filling(rows): return {'label': torch.tensor([r['label'] for r in rows]), 'image': torch.cat([r['image'].unsqueeze(0) for r in rows])}

def batch_end_to_end(rows): return {k: torch.cat([torch.as_tensor(r[k]).reshape(-1, *torch.as_tensor(r[k]).shape[1:]) for r in rows]) for k in rows[0]}

def flat_channels(x):
    x = x.permute(1, 0, 2, 3).flatten(1)
    mean = x.sum(1)/x.shape[1]
    return mean, ((x - mean[:, None])**2).mean(1)**.5

def with_or(f): return lambda b: f(b) or b

def deaf(f):
    def transform(b): return b
    return transform

def on_a_copy(f):
    def transform(b):
        b = copy.copy(b)
        f(b)
        return b
    return transform

def doubly(f):
    def transform(b):
        for _ in range(2): f(b)
        return b
    return transform

def too_early(f):
    f(dict(x=1.))
    def transform(b): f(b); return b
    return transform

# -- 12_metrics

def confusion_by_put(preds, targ, c):
    counts = torch.zeros(c*c, dtype=torch.int64)
    return counts.index_add(0, c*targ + preds, torch.ones_like(targ)).view(c, c)

def confusion_once(preds, targ, c): return torch.zeros(c, c, dtype=torch.int64).index_put((targ, preds), torch.tensor(1))

def confusion_loop(preds, targ, c): return torch.tensor([[sum(int(p == j and t == i) for p, t in zip(preds, targ, strict=True)) for j in range(c)] for i in range(c)])

def top_k_by_rank(preds, targ, k): return ((preds > preds.gather(1, targ[:, None])).sum(1) < k).double().mean().item()

def counts_of(preds, targ, label): return int(((preds == label)*(targ == label)).sum()), int((preds == label).sum()), int((targ == label).sum())

def precision_by_counts(preds, targ, label):
    both, found, there = counts_of(preds, targ, label)
    return both/max(found, 1), both/max(there, 1)

def ratios_unguarded(preds, targ, label):
    both, found, there = counts_of(preds, targ, label)
    return both/found, both/there

def ratios_of_tensors(preds, targ, label):
    hits = torch.logical_and(preds == label, targ == label).float().sum()
    return [hits/(preds == label).float().sum(), hits/(targ == label).float().sum()]

class MeanByPairs:
    def __init__(self): self.pairs = []
    def reset(self): self.pairs.clear()
    def add(self, value, n): self.pairs.append((value, n))
    @property
    def value(self): return torch.tensor(math.fsum(v*n for v, n in self.pairs)/sum(n for _, n in self.pairs))

class MeanOfBatches(MeanByPairs):
    @property
    def value(self): return sum(v for v, _ in self.pairs)/len(self.pairs)

class NeverForgets(MeanByPairs):
    def reset(self): return None

class OnlyTheLast(MeanByPairs):
    @property
    def value(self): return self.pairs[-1][0]

class SumOnly(MeanByPairs):
    @property
    def value(self): return sum(v*n for v, n in self.pairs)

class ValueIsMethod(MeanByPairs):
    def value(self): return 0.

def balanced_by_confusion(preds, targ, c):
    counts = F.one_hot(targ, c).T @ F.one_hot(preds, c)
    there = counts.sum(1)
    return (counts.diagonal()/there).nansum()/(there > 0).sum()

def balanced_with_zeros(preds, targ, c):
    counts = (F.one_hot(targ, c).T @ F.one_hot(preds, c)).float()
    return (counts.diagonal()/counts.sum(1).clamp(min=1)).sum()/c

def balanced_over_predictions(preds, targ, c):
    counts = F.one_hot(preds, c).T @ F.one_hot(targ, c)
    return (counts.diagonal()/counts.sum(1)).nanmean()

ALSO_RIGHT = {
    'relu_gradient': lambda g, x: torch.where(x > 0, g, torch.zeros_like(g)),
    'sgd_step': lambda w, g, lr: torch.add(w, g, alpha=-lr),
    'index_batches': batches_by_popping,
    'collate_pairs': collate_by_filling,
    'log_softmax_rows': log_softmax_by_max,
    'linear_gradients': gradients_by_einsum,
    'cross_entropy_gradient': loss_gradient_in_place,
    'ShuffledIndices': Shuffled,
    'columns_to_rows': rows_by_index,
    'rows_to_columns': columns_by_setdefault,
    'collate_dicts': batch_by_filling,
    'channel_statistics': flat_channels,
    'change_and_return': with_or,
    'error_rate': lambda preds, targ: 1 - (preds.max(1)[1] == targ).sum()/len(targ),
    'confusion_counts': confusion_by_put,
    'top_k_accuracy': top_k_by_rank,
    'precision_recall': precision_by_counts,
    'WeightedMean': MeanByPairs,
    'balanced_accuracy': balanced_by_confusion}

WRONG = {
    'relu_gradient': [(lambda g, x: g.where(x >= 0, 0.), 'passes at 0 as well'), (lambda g, x: g.clamp(min=0), 'was applied to the gradient'), (lambda g, x: x.sign().clamp(min=0), 'slope of the ReLU alone'),
                      (relu_by_autograd, 'it calls'), (lambda g, x: g.mul_(x > 0), 'works in place'), (lambda g, x: (g*(x > 0)).T, 'wanted shape')],
    'sgd_step': [(lambda w, g, lr: torch.add(w, g, alpha=lr), 'goes uphill'), (lambda w, g, lr: torch.sub(w, g), 'the learning rate is missing'), (lambda w, g, lr: w.sub_(lr*g), 'works in place'),
                 (step_by_optimizer, 'it calls `torch.optim'), (lambda w, g, lr: w - torch.tensor(lr, dtype=torch.float64).view(1, 1)*g, 'became torch.float64'), (lambda w, g, lr: g.mul(-lr), 'the step alone')],
    'index_batches': [(lambda n, bs, drop_last: [list(range(b*bs, b*bs + bs)) for b in range(n//bs)], 'always left out'), (lambda n, bs, drop_last: batches_by_popping(n, bs, False), 'never left out'),
                      (lambda n, bs, drop_last: batches_by_popping(n, bs, not drop_last), 'the other way round'),
                      (lambda n, bs, drop_last: list(torch.utils.data.BatchSampler(range(n), bs, drop_last)), 'it calls `torch.utils.data')],
    'collate_pairs': [(lambda items: (torch.hstack([x for x, _ in items]), torch.tensor([y for _, y in items])), 'end to end'), (lambda items: (torch.stack([x for x, _ in items]).T, torch.tensor([y for _, y in items])), 'became a column'),
                      (lambda items: ([x for x, _ in items], [y for _, y in items]), 'lists of tensors'), (lambda items: (torch.stack([x for x, _ in items]), torch.Tensor([y for _, y in items])), 'became floats'),
                      (lambda items: torch.utils.data.default_collate(items), 'it calls `default_collate`')],
    'log_softmax_rows': [(lambda x: x - torch.log(torch.exp(x).sum(1, keepdim=True)), 'take the largest score'), (lambda x: torch.log(torch.exp(x)/torch.exp(x).sum(1, keepdim=True)), 'inf/inf is nan'),
                         (softmax_then_log, 'its logarithm is -inf'), (lambda x: torch.exp(log_softmax_by_max(x)), 'these are the probabilities'),
                         (lambda x: log_softmax_by_max(x.T).T if len(x) else x, 'along the columns'), (lambda x: F.log_softmax(x, dim=-1), 'it calls `log_softmax`')],
    'linear_gradients': [(lambda x, w, g: (g.matmul(w.T), x.T.matmul(g), g.sum(0)/g.shape[0]), 'not a mean'), (lambda x, w, g: (g.matmul(w.T), g.T.matmul(x), g.sum(0)), 'is transposed'),
                         (lambda x, w, g: (g.matmul(w.T), x.T.matmul(g), g.sum(-1)), 'the wrong axis'), (gradients_by_autograd, 'it calls `'), (lambda x, w, g: (x.T @ g, g @ w.T, g.sum(0)), 'first `x`')],
    'cross_entropy_gradient': [(lambda out, yb: out.exp()/out.exp().sum(1, keepdim=True) - torch.eye(out.shape[1])[yb], 'only 1/n'), (lambda out, yb: F.softmax(out, 1).div(len(yb)), 'the right class is missing'),
                               (lambda out, yb: (torch.eye(out.shape[1])[yb] - F.softmax(out, 1))/len(yb), 'probability minus truth'), (lambda out, yb: (F.softmax(out, 1) - torch.eye(out.shape[1])[yb])/out.shape[1], 'number of classes'),
                               (lambda out, yb: 2*(F.softmax(out, 1) - torch.eye(out.shape[1])[yb])/len(yb), 'every number is 2 times')],
    'ShuffledIndices': [(ShuffledOnce, 'drawn once and for all'), (InOrder, 'nothing is shuffled'), (WithReplacement, 'some indices come twice'), (UsedUp, 'the second pass is empty'), (Inherited, ''), (NoLength, 'TypeError')],
    'columns_to_rows': [(lambda columns: [tuple(c[i] for c in columns.values()) for i in range(len(next(iter(columns.values()))))], 'the names are lost'), (one_row_many_times, 'one and the same dictionary'),
                        (lambda columns: rows_by_index(columns)[:len(next(iter(columns.values()))) - 1], 'the last row is missing'), (lambda columns: [{k: v} for k, v in columns.items()], 'for each column'),
                        (lambda columns: rows_by_index({k: v + v[-1:] for k, v in columns.items()}), 'wanted')],
    'rows_to_columns': [(lambda rows: functools.reduce(dict.__or__, rows, {}), 'not in lists'), (lambda rows: {k: [v] for row in rows for k, v in row.items()}, 'only the last row'), (columns_in_one_list, 'one and the same list'),
                        (lambda rows: {k: v[::-1] for k, v in columns_by_setdefault(rows).items()}, 'reverse order'), (lambda rows: [columns_by_setdefault(rows)], 'wanted a dictionary')],
    'collate_dicts': [(lambda rows: batch_by_filling(rows) | dict(image=torch.vstack([r['image'] for r in rows])), 'end to end'), (columns_by_setdefault, 'the values are lists'),
                      (lambda rows: (batch_by_filling(rows)['image'], batch_by_filling(rows)['label']), 'the names are lost'), (lambda rows: batch_by_filling(rows) | dict(image=torch.dstack([r['image'] for r in rows])), 'the last one'),
                      (lambda rows: torch.utils.data.default_collate(rows), 'it calls `default_collate`')],
    'channel_statistics': [(lambda x: (x.mean(dim=[0, 2, 3]), x.std(dim=[0, 2, 3])), 'one less'), (lambda x: (x.mean(dim=(-1, -2)), x.std(dim=(-1, -2), correction=0)), 'statistics of each image'),
                           (lambda x: tuple(reversed(flat_channels(x))), 'are exchanged'), (lambda x: (flat_channels(x)[0], flat_channels(x)[1].square()), 'this is the variance'),
                           (lambda x: (torch.stack([c.mean() for c in x.unbind(1)]), flat_channels(x)[1]), 'there is a loop')],
    'change_and_return': [(lambda f: f, 'that is nothing'), (deaf, 'never called'), (on_a_copy, 'a copy was changed'), (doubly, 'called twice'), (too_early, 'at the time of decorating'), (lambda f, b: b, 'the number of parameters')],
    'error_rate': [(lambda preds, targ: (preds.max(1)[1] == targ).sum()/len(targ), 'this is the accuracy'), (lambda preds, targ: int((preds.max(1)[1] != targ).sum()), 'how many are wrong'),
                   (lambda preds, targ: (preds.min(1)[1] != targ).double().mean(), 'the lowest score'), (lambda preds, targ: sum(int(p.argmax()) != int(t) for p, t in zip(preds, targ, strict=True))/len(targ), 'loop'),
                   (lambda preds, targ: (preds.max(0).indices != targ).float().mean(), 'highest score of each class')],
    'confusion_counts': [(lambda preds, targ, c: confusion_by_put(preds, targ, c).T, 'are exchanged'), (confusion_once, 'is counted once'), (confusion_loop, 'there is a loop'),
                         (lambda preds, targ, c: F.one_hot(targ, c).float().T @ F.one_hot(preds, c).float(), 'these are floats'), (lambda preds, targ, c: np.zeros((c, c)), 'wanted a Tensor')],
    'top_k_accuracy': [(lambda preds, targ, k: top_k_by_rank(preds, targ, 1), 'plain accuracy'), (lambda preds, targ, k: top_k_by_rank(-preds, targ, k), 'k lowest'), (lambda preds, targ, k: top_k_by_rank(preds, targ, k)/k, 'divided by'),
                       (lambda preds, targ, k: (preds.argsort(1, descending=True)[:, k-1] == targ).float().mean(), 'exactly at place k'), (lambda preds, targ, k: top_k_by_rank(preds, targ, k - 1), 'one class too few')],
    'precision_recall': [(lambda preds, targ, label: precision_by_counts(targ, preds, label), 'are exchanged'), (ratios_of_tensors, '0/0 is nan'), (ratios_unguarded, 'ZeroDivisionError'),
                         (lambda preds, targ, label: (precision_by_counts(preds, targ, label)[0],)*2, 'both are the precision')],
    'WeightedMean': [(MeanOfBatches, 'counts the same'), (NeverForgets, 'does not forget'), (OnlyTheLast, 'only the last batch'), (SumOnly, 'this is a sum'), (ValueIsMethod, 'wanted a number, got method')],
    'balanced_accuracy': [(lambda preds, targ, c: int((preds == targ).sum())/len(targ), 'plain accuracy'), (balanced_with_zeros, 'count as wrong'), (balanced_over_predictions, 'precision'),
                          (lambda preds, targ, c: torch.stack([(preds[targ == k] == k).float().mean() for k in range(c)]).mean(), '0/0')]}

step_by_optimizer(torch.zeros(1), torch.zeros(1), 1.)       # loads what it needs, which takes seconds when it is watched

@each
def test_exercise(name): check_exercise(TASKS[name], RIGHT[name], ALSO_RIGHT[name], WRONG[name])

@each
def test_the_answer_is_what_is_called(name): check_calls(TASKS[name], RIGHT[name])

@each
def test_specification_and_torch_agree(name): check_judges(TASKS[name])

def other_object(mistake):
    "The same mistake, but not miniai's own object"
    return type('Mine', (), {k: v for k, v in vars(mistake).items() if k not in ('__dict__', '__weakref__', '__module__')}) if isinstance(mistake, type) else lambda *args: mistake(*args)

@each
def test_each_mistake_is_named(name):
    assert len(TASKS[name].mistakes) >= 3
    for words, mistake in TASKS[name].mistakes.items():
        verdict = judge(TASKS[name], other_object(mistake))
        assert not verdict and verdict.diagnosis == words, f'{name}: {words}: {verdict}'

def test_a_class_that_inherits_the_work_is_no_answer():
    from miniai.metrics import Metric
    class Borrowed(Metric):
        def add(self, value, n): self.total, self.n = self.total + torch.tensor(value)*n, self.n + n
    class OwnBase(MeanByPairs): pass
    assert 'it inherits from miniai.metrics.Metric' in judge(TASKS['WeightedMean'], Borrowed).problem
    assert judge(TASKS['WeightedMean'], OwnBase)
