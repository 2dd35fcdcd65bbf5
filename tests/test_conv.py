"Layers, nets, devices, and what each number of a grid gets to see"
import random
import subprocess
import sys
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping
from copy import deepcopy
from fractions import Fraction
from functools import partial
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

import miniai.conv as conv_module
from miniai.conv import (
    ReceptiveField,
    collate_device,
    conv,
    count_params,
    effective_field,
    receptive_field,
    simple_cnn,
    to_cpu,
    to_device,
)
from miniai.testing import expect_error, test_close, test_eq

def kinds(model): return [type(o).__name__ for o in model]

# -- conv: one function for both signatures of the course

@pytest.mark.parametrize('act, names', [
    (True, ['Conv2d', 'ReLU']), (nn.ReLU, ['Conv2d', 'ReLU']), (nn.GELU, ['Conv2d', 'GELU']),
    (False, ['Conv2d']), (None, ['Conv2d']), (partial(nn.LeakyReLU, 0.1), ['Conv2d', 'LeakyReLU']), (lambda: nn.Tanh(), ['Conv2d', 'Tanh'])])
def test_activation(act, names):
    test_eq(kinds(conv(2, 3, act=act)), names)
    test_eq(kinds(conv(2, 3, 5, 1, act)), names)        # by position, in the course's order

def test_arguments_by_position():
    layer = conv(2, 3, 5, 1, nn.ReLU, nn.BatchNorm2d, True)
    test_eq((layer[0].kernel_size, layer[0].stride, layer[0].padding), ((5, 5), (1, 1), (2, 2)))
    test_eq((kinds(layer), layer[0].bias is None), (['Conv2d', 'BatchNorm2d', 'ReLU'], False))

@pytest.mark.parametrize('norm, bias, wanted', [
    (None, None, True), (False, None, True), (nn.BatchNorm2d, None, False), (nn.InstanceNorm2d, None, False), (nn.SyncBatchNorm, None, False),
    (partial(nn.BatchNorm2d, affine=False), None, False), (partial(nn.GroupNorm, 1), None, True), (nn.BatchNorm2d, True, True), (None, False, False)])
def test_bias_unless_the_norm_subtracts_it(norm, bias, wanted):
    layer = conv(2, 4, norm=norm, bias=bias)
    test_eq(layer[0].bias is not None, wanted)
    if norm: test_eq((layer[1].num_channels if isinstance(layer[1], nn.GroupNorm) else layer[1].num_features), 4)

def test_a_bias_before_batchnorm_would_be_lost():
    with_bias = conv(2, 4, norm=nn.BatchNorm2d, bias=True)
    without = deepcopy(with_bias)
    with torch.no_grad(): without[0].bias.zero_()
    x = torch.randn(8, 2, 9, 9)
    test_close(with_bias(x), without(x), 1e-5)

@pytest.mark.parametrize('ks', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_same_as_pytorch(ks, stride):
    layer, x = conv(2, 3, ks=ks, stride=stride), torch.randn(2, 2, 11, 8)
    test_close(layer(x), F.relu(F.conv2d(x, layer[0].weight, layer[0].bias, stride=stride, padding=ks//2)), 1e-6)
    test_eq(layer(x).shape, (2, 3, -(-11//stride), -(-8//stride)))       # rounded up

def test_wrong_layers_are_refused():
    for act in (nn.ReLU(), 'relu', 3):
        with expect_error(TypeError, 'act must be a class'): conv(1, 2, act=act)
    for norm in (nn.BatchNorm2d(2), True, 'batch'):
        with expect_error(TypeError, 'norm must be a class'): conv(1, 2, norm=norm)
    with expect_error(TypeError, 'act made a Tensor'): conv(1, 2, act=lambda: torch.ones(1))

# -- simple_cnn

@pytest.mark.parametrize('nfs, size', [((8, 16, 32, 64), 28), ((8, 16, 32, 64), 17), ((4,), 4), ((4, 8), (5, 8)), ((), 2)])
def test_simple_cnn(nfs, size):
    size = size if isinstance(size, tuple) else (size, size)
    model = simple_cnn(nfs, ni=3, nc=7)
    test_eq(model(torch.randn(2, 3, *size)).shape, (2, 7))
    test_eq(len(model), len(nfs) + 2)
    test_eq(count_params(model), sum(nf*(9*ni + 1) for ni, nf in zip([3, *nfs], [*nfs, 7], strict=True)))

def test_simple_cnn_last_layer_is_plain():
    model = simple_cnn(norm=nn.BatchNorm2d, act=nn.GELU)
    test_eq([kinds(o) for o in model[:-1]], [['Conv2d', 'BatchNorm2d', 'GELU']]*4 + [['Conv2d']])
    test_eq([o[0].bias is None for o in model[:-1]], [True]*4 + [False])

@pytest.mark.parametrize('size', [(33, 33), (28, 33), (64, 64)])
def test_simple_cnn_refuses_large_images(size):
    with expect_error(ValueError, 'must be 1 × 1'): simple_cnn()(torch.zeros(1, 1, *size))

def test_count_params_leaves_out_frozen_ones():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    test_eq((count_params(layer), count_params(nn.ReLU())), (6, 0))

# -- devices

def fresh(code):
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    return res.stdout.strip()

def test_def_device_is_worked_out_on_first_use():
    code = '''
import torch
def never(*args): raise AssertionError('asked for a device')
real, torch.cuda.is_available = torch.cuda.is_available, never
import miniai.conv as c
print('def_device' in vars(c), end=' ')
torch.cuda.is_available = lambda: True
print(c.def_device, end=' ')
torch.cuda.is_available = never
from miniai.conv import def_device
print(def_device)'''
    test_eq(fresh(code), 'False cuda cuda')

@pytest.mark.parametrize('cuda, mps, xpu, name', [(1, 1, 1, 'cuda'), (0, 1, 1, 'mps'), (0, 0, 1, 'xpu'), (0, 0, 0, 'cpu')])
def test_order_of_devices(cuda, mps, xpu, name, monkeypatch):
    vars(conv_module).pop('def_device', None)
    for where, here in ((torch.cuda, cuda), (torch.backends.mps, mps), (torch.xpu, xpu)):
        monkeypatch.setattr(where, 'is_available', lambda here=here: bool(here))
    test_eq(conv_module.def_device, name)
    del conv_module.def_device

def test_names_of_the_module():
    test_eq('def_device' in conv_module.__all__, True)
    with expect_error(AttributeError, "no attribute 'def_devise'"): conv_module.def_devise      # noqa: B018

def test_def_device_can_be_set(monkeypatch):
    monkeypatch.setattr(conv_module, 'def_device', 'meta')
    test_eq(to_device(torch.ones(2)).device.type, 'meta')
    test_eq(to_device(torch.ones(2), 'cpu').device.type, 'cpu')
    test_eq(collate_device([torch.ones(2)]*3).device.type, 'meta')

Point = namedtuple('Point', 'x y')
class Numbers(list): pass

CONTAINERS = [
    lambda t: t, lambda t: [t, [t]], lambda t: (t, (1, t)), lambda t: {'a': {'b': [t]}}, lambda t: Point(t, [t]), lambda t: OrderedDict(b=t, a=t),
    lambda t: defaultdict(list, a=t), lambda t: Numbers([t]), lambda t: UserDict(a=t), lambda t: MappingProxyType({'a': t}),
    lambda t: torch.return_types.max((t, t))]

def tensors(x):
    if torch.is_tensor(x): yield x
    elif isinstance(x, Mapping): yield from (t for o in x.values() for t in tensors(o))
    elif isinstance(x, (list, tuple)): yield from (t for o in x for t in tensors(o))

def types(x):
    if isinstance(x, Mapping): return type(x), {k: types(v) for k, v in x.items()}
    return (type(x), [types(o) for o in x]) if isinstance(x, (list, tuple)) else type(x)

@pytest.mark.parametrize('make', CONTAINERS)
def test_containers_keep_their_type(make):
    x = make(torch.ones(2))
    moved, back = to_device(x, 'meta'), to_cpu(x)
    test_eq({t.device.type for t in tensors(moved)}, {'meta'})
    test_eq({t.device.type for t in tensors(x)}, {'cpu'})       # a copy: the original stays
    assert types(moved) == types(x) == types(back)
    for t in tensors(back): test_eq(t, [1., 1.])

def test_defaultdict_keeps_its_default(): test_eq(to_device(defaultdict(list, a=torch.ones(1)), 'meta')['new'], [])

@pytest.mark.parametrize('x', [3, 2.5, None, 'text', b'bytes', range(3), {1, 2}, torch.Size([2, 3]), (), [], {}])
def test_what_cannot_move_stays(x):
    test_eq((to_device(x, 'meta'), to_cpu(x)), (x, x))
    assert type(to_device(x, 'meta')) is type(x)

def test_things_that_move_as_a_whole():
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device([packed], 'cpu')[0]
    assert isinstance(moved, PackedSequence) and isinstance(to_cpu(packed), PackedSequence)
    test_eq(moved.data, torch.ones(5))
    test_eq(to_device(nn.Linear(2, 2), 'meta').weight.device.type, 'meta')

@pytest.mark.parametrize('dtype, wanted', [
    (torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64),
    (torch.int64, torch.int64), (torch.uint8, torch.uint8), (torch.bool, torch.bool)])
def test_to_cpu_dtypes(dtype, wanted): test_eq(to_cpu({'a': torch.ones(2).to(dtype)})['a'].dtype, wanted)

def test_to_cpu_drops_the_history():
    w = torch.ones(2, requires_grad=True)
    test_eq([t.requires_grad for t in to_cpu([w, w*2, nn.Parameter(w.detach())])], [False]*3)
    test_eq(to_device(w*2, 'cpu').requires_grad, True)      # moving to a device keeps it

def test_collate_device():
    items = [(torch.ones(2), 1), (torch.zeros(2), 2)]
    xb, yb = collate_device(items)
    test_eq((to_cpu(xb), to_cpu(yb)), ([[1, 1], [0, 0]], [1, 2]))
    test_eq(len(list(DataLoader(items, batch_size=1, collate_fn=collate_device))), 2)

def test_collate_device_refuses_workers():
    dl = DataLoader([torch.ones(2)], batch_size=1, num_workers=1, collate_fn=collate_device)
    with pytest.raises(RuntimeError, match='num_workers=0'): next(iter(dl))

# -- receptive field

def transparent(m):
    "A copy through which every pixel that can matter has a gradient"
    if isinstance(m, nn.Sequential): return nn.Sequential(*map(transparent, m))
    if isinstance(m, nn.MaxPool2d): return nn.AvgPool2d(m.kernel_size, m.stride, m.padding)
    m = deepcopy(m).double()
    if isinstance(m, nn.Conv2d): m.weight.data.fill_(1/m.weight[0].numel())
    return m

def seen(model, shape, row, col):
    "First row, first column, last row, last column with a non-zero gradient; None if there is none"
    grad = effective_field(transparent(model), torch.ones(1, *shape, dtype=torch.float64), row=row, col=col)
    rows, cols = (grad > 0).nonzero(as_tuple=True)
    return (rows.min().item(), cols.min().item(), rows.max().item(), cols.max().item()) if len(rows) else None

def inside(model, shape, row, col):
    "Does the field of this number stay clear of all padding on the way?"
    for i in range(len(model), 0, -1):
        x = torch.zeros(1, *shape)
        for m in model[:i-1]: x = m(x)
        top, left, bottom, right = receptive_field(nn.Sequential(*model[i-1:]), x.shape[1:]).box(row, col)
        if top < 0 or left < 0 or bottom >= x.shape[2] or right >= x.shape[3]: return False
    return True

def random_layer(r, ni):
    "A layer for `ni` channels, and its own number of channels, from the random numbers `r`"
    kind, ks = r.choice(['conv', 'conv', 'conv', 'max', 'avg', 'up', 'each']), (r.randint(1, 4), r.randint(1, 4))
    if kind == 'conv':
        padding, nf = r.choice(['valid', 'same', 0, 1, (2, 0)]), r.randint(1, 2)
        stride = 1 if padding == 'same' else (r.randint(1, 3), r.randint(1, 2))
        return nn.Conv2d(ni, nf, ks, stride=stride, padding=padding, dilation=r.randint(1, 2), bias=r.random() < .5), nf
    if kind == 'up': return nn.Upsample(scale_factor=r.choice([2, (3, 2)])), ni
    if kind == 'each': return r.choice([nn.ReLU(), nn.BatchNorm2d(ni), nn.Dropout(0.5), nn.Identity()]), ni
    pool = nn.MaxPool2d if kind == 'max' else nn.AvgPool2d
    return pool(r.randint(2, 3), stride=r.choice([None, 1, 2]), padding=r.randint(0, 1), ceil_mode=r.random() < .5), ni

SHAPE = 1, 66, 60

def random_stack(r):
    "Two to six layers that leave at least one number of the grid, and not too many"
    layers, x, n = [], torch.zeros(1, *SHAPE), r.randint(2, 6)
    while len(layers) < n:
        layer, nf = random_layer(r, x.shape[1])
        try: y = layer.eval()(x)
        except RuntimeError: continue       # a window larger than what is left of the image
        if y[0, 0].numel() > 10_000: continue
        layers, x = [*layers, layer], y
    return nn.Sequential(*layers), x.shape[2:]

def check_stack(r):
    "Compare at the middle and at random places; how many of these are clear of the padding"
    model, grid = random_stack(r)
    rf, clear = receptive_field(model, SHAPE), 0
    test_eq(tuple(map(len, rf.fields)), grid)
    test_eq(rf.offset, (rf.fields[0][0][0], rf.fields[1][0][0]))
    test_eq(rf.size, tuple(max(b-a+1 for a, b in f) for f in rf.fields))
    for row, col in [(grid[0]//2, grid[1]//2), *((r.randrange(grid[0]), r.randrange(grid[1])) for _ in range(3))]:
        box, real = rf.box(row, col), seen(model, SHAPE, row, col)
        if inside(model, SHAPE, row, col):
            test_eq(box, real)
            clear += 1
        elif real: assert box[0] <= real[0] and box[1] <= real[1] and real[2] <= box[2] and real[3] <= box[3]
    return clear

@pytest.mark.filterwarnings('ignore:Using padding')
def test_receptive_field_of_20_random_stacks():
    assert sum(check_stack(random.Random(seed)) > 0 for seed in range(20)) >= 12

@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=4))
def test_formula_without_upsampling(layers):
    "Size, stride and offset by the classical recursion"
    size, stride, offset = 1, 1, 0
    for ks, s, p, d in layers: size, offset, stride = size + d*(ks-1)*stride, offset - p*stride, stride*s
    model = nn.Sequential(*[nn.Conv2d(1, 1, ks, stride=s, padding=p, dilation=d) for ks, s, p, d in layers])
    rf = receptive_field(model, (1, 500, 500))
    test_eq((rf.size, rf.stride, rf.offset), ((size, size), (stride, stride), (offset, offset)))
    for i, (a, b) in enumerate(rf.fields[0]): test_eq((a, b), (offset + i*stride, offset + i*stride + size - 1))

def test_upsampling():
    rf = receptive_field(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 2)), (1, 5, 6))
    test_eq((rf.size, rf.stride, rf.offset), ((2, 2), (Fraction(1, 2), Fraction(1, 2)), (0, 0)))
    test_eq(rf.fields[0][:3], ((0, 0), (0, 1), (1, 1)))       # windows of one and of two pixels take turns
    test_eq(receptive_field(nn.Upsample(size=(10, 18)), (1, 5, 6)).stride, (Fraction(1, 2), Fraction(1, 3)))
    for layer, words in ((nn.Upsample(size=(7, 7)), 'whole number'), (nn.Upsample(scale_factor=2, mode='bilinear'), 'bilinear')):
        with expect_error(ValueError, words): receptive_field(layer, (1, 5, 6))

@pytest.mark.parametrize('pool', [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((3, 4)), nn.AdaptiveMaxPool2d((3, 1))])
def test_adaptive_pooling(pool):
    model = nn.Sequential(nn.Conv2d(1, 1, 3), pool)
    rf = receptive_field(model, (1, 12, 13))
    mean = nn.Sequential(model[0], nn.AdaptiveAvgPool2d(pool.output_size))
    for row in range(len(rf.fields[0])):
        for col in range(len(rf.fields[1])): test_eq(rf.box(row, col), seen(mean, (1, 12, 13), row, col))

def test_one_layer_used_twice_counts_twice():
    layer = nn.Conv2d(1, 1, 3)
    test_eq(receptive_field(nn.Sequential(layer, layer), (1, 9, 9)).size, (5, 5))
    test_eq([receptive_field(nn.Sequential(layer, layer), (1, 9, 9), i).size[0] for i in (0, 1, -1)], [3, 5, 5])

def test_ways_to_name_a_layer():
    model = nn.Sequential(OrderedDict(first=conv(1, 2), second=nn.Sequential(conv(2, 3), nn.MaxPool2d(2))))
    def size(layer): return receptive_field(model, (1, 32, 32), layer).size[0]
    test_eq([size(o) for o in ('first', 'first.0', 0, model.first, model.first[1])], [3]*5)
    test_eq([size(o) for o in ('second.0', 'second.0.1', model.second[0])], [7]*3)
    test_eq([size(o) for o in (None, '', model, 1, -1, 'second', 'second.1')], [11]*7)
    for layer in ('sec', 'second.2', nn.ReLU()):
        with expect_error(ValueError, 'the names are'): size(layer)
    with expect_error(IndexError): size(2)
    test_eq(isinstance(receptive_field(nn.Conv2d(1, 1, 3), (1, 5, 5)), ReceptiveField), True)

@pytest.mark.parametrize('layer', [nn.Flatten(), nn.Linear(5, 5), nn.ConvTranspose2d(1, 1, 2), nn.GroupNorm(1, 1), nn.InstanceNorm2d(1), nn.Softmax(dim=-1)])
def test_layers_that_might_look_anywhere_are_refused(layer):
    with expect_error(ValueError, 'layer 1 is'): receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3), layer), (1, 7, 7))

def test_the_model_stays_as_it_is():
    model = nn.Sequential(conv(1, 2, norm=nn.BatchNorm2d), nn.Dropout(0.5)).train()
    before = deepcopy(model.state_dict())
    x = torch.randn(2, 1, 9, 9)
    receptive_field(model, (1, 9, 9))
    effective_field(model, x)
    test_eq(model.state_dict(), before)
    assert all(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters()) and not x.requires_grad

# -- effective field

def test_effective_field_counts_paths():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data.fill_(1)
    row = torch.tensor([0., 0, 1, 2, 3, 2, 1, 0, 0])
    test_close(effective_field(nn.Sequential(layer, layer), torch.randn(3, 1, 9, 9)), row[:, None]*row, 1e-5)
    test_close(effective_field(layer, torch.ones(1, 1, 3, 4), row=0, col=3), [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])

def test_effective_field_is_a_mean_over_images_and_channels():
    model, xb = nn.Sequential(conv(2, 4), conv(4, 3)), torch.randn(3, 2, 16, 16)
    x = xb.clone().requires_grad_()
    model(x)[:, :, 2, 2].sum().backward()
    test_close(effective_field(model, xb), x.grad.abs().mean(dim=(0, 1)), 1e-6)
    test_close(effective_field(model, xb, 0, 1, 2), effective_field(model[0], xb, row=1, col=2), 1e-7)
    with torch.no_grad(): test_close(effective_field(model, xb), x.grad.abs().mean(dim=(0, 1)), 1e-6)
    with expect_error(ValueError, '(n, c, h, w)'): effective_field(nn.Sequential(*model, nn.Flatten()), xb)
