"Named columns become batches: the same from every source, in every kind of worker, whichever way they are loaded"
import contextlib
import io
import math
import multiprocessing as mp
import os
import pickle
import subprocess
import sys
import warnings
from multiprocessing.reduction import ForkingPickler

import datasets as hf
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

import miniai.datasets as md
from miniai import plots
from miniai.datasets import (
    DataLoaders,
    Decoded,
    collate_dict,
    dataset_dict,
    decode_once,
    inplace,
    load_dataset_dict,
    load_decoded,
    show_batch,
    show_overview,
    to_float,
)
from miniai.idx import RawData
from miniai.testing import expect_error, test_close, test_eq
from miniai.training import fit, set_seed

hf.disable_progress_bars()


@pytest.fixture(autouse=True)
def tidy(monkeypatch):
    "No warning passes unseen, no figure and no source of data is left over"
    monkeypatch.delenv('MINIAI_DATA', raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', message='.*use of fork.*', category=DeprecationWarning)
        yield
    plt.close('all')

def make_raw(n=30, m=10, shape=(6, 5), seed=0, names=('cat', 'dog', 'eel')):
    "Random images; the first byte of each is its number"
    rng = np.random.default_rng(seed)
    xs = [rng.integers(0, 256, (k, *shape), dtype=np.uint8) for k in (n, m)]
    for x in xs: x.reshape(len(x), math.prod(shape))[:, 0] = np.arange(len(x))
    ys = [rng.integers(0, len(names), k, dtype=np.uint8) for k in (n, m)]
    return RawData(xs[0], ys[0], xs[1], ys[1], names)

GRAY, COLOR = make_raw(), make_raw(shape=(6, 5, 3), seed=1)

def chw(x): return torch.from_numpy(x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2).copy())

def pixels_of(im):
    x = torch.from_numpy(np.array(im))
    return (x[None] if x.ndim == 2 else x.permute(2, 0, 1)).float()/255

@inplace
def to_tensors(b): b['image'] = [pixels_of(im) for im in b['image']]

def both_ways(raw):
    "The same data from picture files and from memory"
    dd = dataset_dict(raw)
    return {'files': dd.with_transform(to_tensors), 'memory': decode_once(dd, progress=False)}

def table(images, **columns):
    features = hf.Features(image=hf.Image(), **{k: hf.Value(kind) for k, (kind, _) in columns.items()})
    return hf.Dataset.from_dict({'image': images, **{k: v for k, (_, v) in columns.items()}}, features=features)

def pil(*shape, mode=None, value=7): return Image.fromarray(np.full(shape, value, np.uint8)).convert(mode)


# --- picture files ---

@given(h=st.integers(1, 40), w=st.integers(1, 40), color=st.booleans(), seed=st.integers(0, 99))
def test_png(h, w, color, seed):
    im = np.random.default_rng(seed).integers(0, 256, (h, w, 3) if color else (h, w), dtype=np.uint8)
    file = Image.open(io.BytesIO(md._png(im)))
    file.verify()
    test_eq(np.asarray(Image.open(io.BytesIO(md._png(im)))), im)
    test_eq((file.format, file.mode), ('PNG', 'RGB' if color else 'L'))

def test_png_of_a_view(): test_eq(np.asarray(Image.open(io.BytesIO(md._png(GRAY.x_train[0].T)))), GRAY.x_train[0].T)

@pytest.mark.parametrize('im', [np.zeros((4, 4)), np.zeros((4, 4), np.int8), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses(im):
    with expect_error(ValueError, str(im.shape)): md._png(im)

@pytest.mark.parametrize('raw', [GRAY, COLOR], ids=['gray', 'color'])
def test_dataset_dict(raw):
    dd = dataset_dict(raw)
    test_eq(dd.num_rows, {'train': 30, 'test': 10})
    for split, x, y in (('train', raw.x_train, raw.y_train), ('test', raw.x_valid, raw.y_valid)):
        test_eq(dd[split].features, hf.Features(image=hf.Image(), label=hf.ClassLabel(names=list(raw.names))))
        test_eq(np.stack([np.asarray(im) for im in dd[split]['image']]), x)
        test_eq(dd[split][:]['label'], y.tolist())

def test_dataset_dict_refuses():
    with expect_error(ValueError, '30 images and 29 labels'): dataset_dict(GRAY._replace(y_train=GRAY.y_train[1:]))
    with expect_error(ValueError): dataset_dict(GRAY._replace(names=('cat', 'dog')))     # a label without a name


# --- sources ---

SCHEMA = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=list(GRAY.names)))

def check_same(dd, raw=GRAY):
    test_eq(list(dd), ['train', 'test'])
    for ds in dd.values(): test_eq((ds.features, ds.column_names), (SCHEMA, ['image', 'label']))
    test_eq(dd['test'][:]['label'], raw.y_valid.tolist())
    test_eq(np.asarray(dd['test'][3]['image']), raw.x_valid[3])

def no_hub(*args, **kwargs): raise AssertionError('the hub was asked')

@pytest.fixture
def hub(monkeypatch):
    "A hub that has everything, in tables with other names, another order and one split more; returns what was asked for"
    asked = []
    def load(name):
        asked.append(name)
        dd = dataset_dict(GRAY).rename_columns({'image': 'img'})
        dd = hf.DatasetDict({k: ds.select_columns(['label', 'img']).add_column('id', list(range(len(ds)))) for k, ds in dd.items()})
        return hf.DatasetDict(test=dd['test'], train=dd['train'], unsupervised=dd['test'])
    monkeypatch.setattr(md.hf, 'load_dataset', load)
    return asked

def test_digits(monkeypatch):
    monkeypatch.setattr(md.hf, 'load_dataset', no_hub)
    dd = load_dataset_dict()
    test_eq(dd.num_rows, {'train': 1437, 'test': 360})
    test_eq((dd['train'].features['label'].names, dd['train'][0]['image'].size), (list('0123456789'), (28, 28)))
    with expect_error(ValueError, 'scikit-learn'): load_dataset_dict('digits', path='here')

@pytest.mark.parametrize('name, full', [('mnist', 'ylecun/mnist'), ('cifar10', 'uoft-cs/cifar10'), ('fashion_mnist', 'zalando-datasets/fashion_mnist')])
def test_hub(hub, monkeypatch, capsys, name, full):
    def absent(*args, **kwargs): raise FileNotFoundError('not here')
    monkeypatch.setattr(md, 'load_raw', absent)
    check_same(load_dataset_dict(name))
    test_eq(hub, [full])
    assert full in capsys.readouterr().out
    test_eq(load_decoded(name, say=None)['test']['image'], chw(GRAY.x_valid))
    test_eq(capsys.readouterr().out, '')

def test_local_idx(monkeypatch):
    monkeypatch.setattr(md.hf, 'load_dataset', no_hub)
    monkeypatch.setattr(md, 'load_raw', lambda name, path, download, say: GRAY)
    check_same(load_dataset_dict('fashion_mnist'))

def test_saved(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(md.hf, 'load_dataset', no_hub)
    other = make_raw(seed=5)
    for raw, folder in ((GRAY, 'path/cifar10'), (other, 'home/cifar10'), (other, 'home/mnist')):
        dataset_dict(raw).rename_columns({'image': 'img'}).save_to_disk(tmp_path/folder)
    monkeypatch.setenv('MINIAI_DATA', str(tmp_path/'home'))
    check_same(load_dataset_dict('cifar10'), other)
    for path in ('path', 'path/cifar10'):                        # goes before MINIAI_DATA
        capsys.readouterr()
        check_same(load_dataset_dict('cifar10', tmp_path/path))
        test_eq(capsys.readouterr().out, f'cifar10: read from {tmp_path/"path/cifar10"}\n')
    monkeypatch.setenv('MINIAI_DATA', str(tmp_path/'home/mnist'))
    with expect_error(FileNotFoundError, 'cifar10 is not'): load_dataset_dict('cifar10', hub=False)     # never another's data

def test_label_names_are_tidied():
    raw = GRAY._replace(names=('T - shirt / top', 'Ankle boot', 'x-y'))
    dd = md._same_schema(dataset_dict(raw))
    test_eq(dd['train'].features['label'].names, ['T-shirt/top', 'Ankle boot', 'x-y'])
    test_eq(dd['train'][:]['label'], raw.y_train.tolist())
    test_eq(decode_once(dd, progress=False)['train']['image'], chw(raw.x_train))

def test_schema_refuses():
    dd = dataset_dict(GRAY)
    two = hf.DatasetDict({k: ds.add_column('more', [0]*len(ds), feature=hf.ClassLabel(names=['a'])) for k, ds in dd.items()})
    for bad in (dd.remove_columns('label'), dd.remove_columns('image'), two):
        with expect_error(ValueError, 'one Image and one ClassLabel'): md._same_schema(bad)

def test_absent(monkeypatch):
    def broken(name): raise ConnectionError('no route')
    monkeypatch.setattr(md.hf, 'load_dataset', broken)
    for part in ('no route', 'ylecun/mnist', 'save_to_disk', 'MINIAI_DATA', "'digits'"):
        with expect_error(FileNotFoundError, part): load_dataset_dict('mnist')
    monkeypatch.setattr(md.hf, 'load_dataset', no_hub)
    with expect_error(FileNotFoundError, 'was not asked'): load_decoded('mnist', hub=False)
    with expect_error(ValueError, "'imagenet'"): load_dataset_dict('imagenet')

def test_absent_path(tmp_path, capsys):
    with expect_error(FileNotFoundError): load_dataset_dict('mnist', tmp_path, hub=False)
    assert 'looking further' in capsys.readouterr().out


# --- to the hub's door, and through it to a worker, from a program that nobody can import ---

PROGRAM = '''
import sys
from miniai.datasets import *
assert 'sklearn' not in sys.modules and 'numba' not in sys.modules
import datasets, torch, numpy as np
from miniai.datasets import load_dataset_dict
from miniai.idx import RawData
for name in ('mnist', 'cifar10'):
    try: load_dataset_dict(name)
    except FileNotFoundError as e: print(e)
scale = 255
def pixels(im): return torch.tensor(np.array(im))[None]/scale
@inplace
def transform(b): b['image'] = [pixels(im) for im in b['image']]
if __name__ == '__main__':
    from miniai.datasets import dataset_dict
    x, y = np.arange(8*4, dtype=np.uint8).reshape(8, 2, 2), np.arange(8) % 2
    dd = dataset_dict(RawData(x, y, x, y, ('a', 'b'))).with_transform(transform)
    dls = DataLoaders.from_dd(dd, 2, num_workers=2, multiprocessing_context='spawn')
    for xb, yb in dls.valid: print('batch', (xb*255).flatten().round().int().tolist(), yb.tolist())
'''

def test_program_without_network(tmp_path):
    env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path)}
    res = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, env=env, cwd=tmp_path)
    noise = [line for line in res.stderr.splitlines() if 'resource_tracker' not in line and not line.startswith('  warnings.warn(')]      # on a lock of a worker that just ends
    test_eq((res.returncode, noise), (0, []))
    for text in ('mnist is not on this machine', 'cifar10 is not on this machine', 'uoft-cs/cifar10', 'offline', 'unset HF_HUB_OFFLINE'):
        assert text.lower() in res.stdout.lower(), res.stdout
    batches = [line for line in res.stdout.splitlines() if line.startswith('batch')]
    test_eq(batches, [f'batch {list(range(16*i, 16*i+16))} [0, 1, 0, 1]' for i in range(2)])


# --- inplace ---

def test_inplace():
    @inplace
    def f(b):
        "What it does"
        b['x'] += 1
    b = {'x': 1}
    test_eq(f(b) is b, True)
    test_eq((b, f.__name__, f.__doc__), ({'x': 2}, 'f', 'What it does'))
    test_eq(inplace(dict.clear)({'x': 1}), {})
    test_eq(inplace(lambda b: b.pop('x'))({'x': 1, 'y': 2}), {'y': 2})
    test_eq(inplace(lambda b: b)({'x': 1}), {'x': 1})
    with expect_error(TypeError, 'would be lost'): inplace(lambda b: {})({'x': 1})
    with expect_error(TypeError, 'wanted a function'): inplace(3)

class Callable:
    def __init__(self, k): self.k = k
    def __call__(self, b): b['x'] = self.k

def test_inplace_travels():
    k = 5
    def local(b): b['x'] = k
    for f in (inplace(local), inplace(lambda b: b.update(x=k)), inplace(Callable(k))):
        there = pickle.loads(ForkingPickler.dumps(f))
        test_eq(there({'x': 1}), {'x': 5})
    test_eq(pickle.loads(ForkingPickler.dumps(to_tensors)) is to_tensors, True)      # by name
    test_eq(pickle.loads(ForkingPickler.dumps(to_float)) is to_float, True)
    again = inplace(to_tensors.f)                                                     # the same name, another object
    test_eq(pickle.loads(ForkingPickler.dumps(again)) is to_tensors, False)

def test_inplace_in_map():
    "`map` finds its earlier results by a fingerprint of the function, which must depend on the code and only on the code"
    def add(k): return inplace(lambda b: b.update(label=b['label'] + k))
    test_eq(Hasher.hash(add(1)), Hasher.hash(add(1)))
    test_eq(Hasher.hash(add(1)) == Hasher.hash(add(2)), False)
    ds = dataset_dict(GRAY)['test'].cast_column('label', hf.Value('int64'))
    test_eq(ds.map(add(1))[:]['label'], (GRAY.y_valid + 1).tolist())


# --- collate ---

def test_collate_dict_order():
    ds = hf.Dataset.from_dict({'b': [1, 2, 3], 'a': [4., 5., 6.], 'c': [7, 8, 9]})
    rows = [{'c': 7, 'a': 4., 'b': 1, 'extra': 0}, {'a': 5., 'c': 8, 'b': 2, 'extra': 0}]
    out = collate_dict(ds)(rows)
    test_eq(type(out), tuple)
    test_eq(out, (torch.tensor([1, 2]), torch.tensor([4., 5.]), torch.tensor([7, 8])))
    test_eq(collate_dict(ds.select_columns(['a']))(rows), (torch.tensor([4., 5.]),))
    test_eq(pickle.loads(pickle.dumps(collate_dict(ds)))(rows), out)

def test_collate_dict_refuses():
    dd = dataset_dict(GRAY)
    collate = collate_dict(dd['train'])
    with expect_error(TypeError, 'with_transform'): collate([dd['train'][0]])
    with expect_error(TypeError, 'one shape'): collate([{'image': torch.zeros(2), 'label': 0}, {'image': torch.zeros(3), 'label': 0}])
    with expect_error(ValueError, "no ['label']"): collate([{'image': torch.zeros(2)}])
    with expect_error(TypeError, 'list'): collate_dict([1, 2])


# --- loaders ---

@pytest.mark.parametrize('way', ['files', 'memory'])
@pytest.mark.parametrize('raw', [GRAY, COLOR], ids=['gray', 'color'])
def test_batches(raw, way):
    dls = DataLoaders.from_dd(both_ways(raw)[way], 4)
    for ds_x, ds_y, dl, bs in ((raw.x_train, raw.y_train, dls.train, 4), (raw.x_valid, raw.y_valid, dls.valid, 8)):
        batches = list(dl)
        test_eq([len(xb) for xb, _ in batches[:-1]], [bs]*(len(batches) - 1))
        xb, yb = (torch.cat(col) for col in zip(*batches, strict=True))
        test_eq((xb.dtype, yb.dtype), (torch.float32, torch.int64))
        order = (xb.flatten(1)[:, 0]*255).round().long()
        test_eq(order.sort().values, torch.arange(len(ds_x)))
        test_eq(bool((order == torch.arange(len(ds_x))).all()), dl is dls.valid)      # only training is shuffled
        test_close(xb, chw(ds_x)[order].float()/255, eps=0)
        test_eq(yb, torch.from_numpy(ds_y)[order])
    first, second = ([yb for _, yb in dls.train] for _ in range(2))
    test_eq(torch.equal(torch.cat(first), torch.cat(second)), False)                # anew in each epoch

def test_same_seed_same_batches_either_way():
    seen = []
    for dd in both_ways(GRAY).values():
        dls = DataLoaders.from_dd(dd, 7, generator=torch.Generator().manual_seed(3))
        seen.append([list(dls.train), list(dls.train), list(dls.valid)])
    test_eq(seen[0], seen[1])
    theirs = DataLoader(range(30), 7, shuffle=True, generator=torch.Generator().manual_seed(3))
    test_eq([yb for _, yb in seen[0][0]], [torch.from_numpy(GRAY.y_train)[idxs].long() for idxs in theirs])

@pytest.mark.parametrize('way', ['files', 'memory'])
@pytest.mark.parametrize('n', [1, 3, 4, 5])
def test_sizes(n, way):
    dls = DataLoaders.from_dd(both_ways(make_raw(n, n))[way], 4)
    test_eq([len(yb) for _, yb in dls.train], {1: [1], 3: [3], 4: [4], 5: [4, 1]}[n])
    test_eq([len(yb) for _, yb in dls.valid], [n])
    test_eq(len(dls.train), 2 if n == 5 else 1)

@pytest.mark.parametrize('way', ['files', 'memory'])
@pytest.mark.parametrize('n, m', [(0, 4), (4, 0)])
def test_no_items(n, m, way):
    with expect_error(ValueError, 'has no items'): DataLoaders.from_dd(both_ways(make_raw(n, m))[way], 4)

@pytest.mark.parametrize('way', ['files', 'memory'])
def test_options(way):
    dd = both_ways(GRAY)[way]
    b = next(iter(DataLoaders.from_dd(dd, 4, as_tuple=False).valid))
    test_eq((type(b), list(b), b['image'].shape), (dict, ['image', 'label'], (8, 1, 6, 5)))
    test_eq([len(yb) for _, yb in DataLoaders.from_dd(dd, 4, drop_last=True).train], [4]*7)
    test_eq(next(iter(DataLoaders.from_dd(dd, 4, collate_fn=len).valid)), 8 if way == 'files' else 2)

def test_splits():
    ds = decode_once(dataset_dict(GRAY), progress=False)
    train, test = ds['train'], ds['test']
    for names in (['test'], ['valid', 'test'], ['test', 'validation']):
        dls = DataLoaders.from_dd({'train': train, **{k: (train if k == 'test' and len(names) > 1 else test) for k in names}}, 4)
        test_eq((len(dls.train.dataset), len(dls.valid.dataset)), (30, 10))
    test_eq(len(DataLoaders.from_dd({'test': test, 'train': train}, 4).train.dataset), 30)     # by name, not by place
    for bad in ({'train': train}, {'test': test}, {'train': train, 'dev': test}):
        with expect_error(ValueError, str(list(bad))): DataLoaders.from_dd(bad, 4)

def test_dataloaders():
    dls = DataLoaders([1], [2], [3])
    test_eq((dls.train, dls.valid, dls.others), ([1], [2], [[3]]))
    with expect_error(ValueError, 'a training and a validation loader, got 1'): DataLoaders([1])
    text = repr(DataLoaders.from_dd(both_ways(GRAY)['memory'], 4))
    assert '30 items, 8 batches of 4' in text and '10 items, 2 batches of 8' in text, text

@pytest.mark.parametrize('start', mp.get_all_start_methods())
def test_workers(start):
    "Two processes and a transform that has no name there; files under 'spawn' are in `test_program_without_network`, to save time"
    ctx, k = mp.get_context(start), 255
    if start == 'forkserver': ctx.set_forkserver_preload(['miniai.datasets'])
    @inplace
    def local(b): b['image'] = [torch.as_tensor(np.array(im)).reshape(1, 6, 5)/k for im in b['image']]
    @inplace
    def scale(b): b['image'] = b['image']/k
    dd = dataset_dict(GRAY)
    memory, files = decode_once(dd, transform=scale, progress=False), dd.with_transform(local)
    for data in [memory] if start == 'spawn' else [memory, files]:
        def gen(): return torch.Generator().manual_seed(0)
        want = DataLoaders.from_dd(data, 8, generator=gen())
        dls = DataLoaders.from_dd(data, 8, generator=gen(), num_workers=2, multiprocessing_context=ctx)
        test_eq(list(dls.train), list(want.train))
        if start == 'fork': test_eq(list(dls.valid), list(want.valid))


# --- in memory ---

@given(idxs=st.lists(st.integers(-10, 9), max_size=20), color=st.booleans())
def test_decoded_rows(idxs, color):
    raw = COLOR if color else GRAY
    x, y = chw(raw.x_valid), torch.from_numpy(raw.y_valid).long()
    ds = Decoded({'image': x, 'label': y}, SCHEMA)
    for b in (ds.__getitems__(idxs), ds[idxs], ds.__getitems__(torch.tensor(idxs, dtype=torch.int64))):
        test_eq(list(b), ['image', 'label'])
        test_close(b['image'], x[idxs].float()/255, eps=0)
        test_eq(b['label'], y[idxs])

@given(start=st.none() | st.integers(-12, 12), stop=st.none() | st.integers(-12, 12), step=st.sampled_from([None, 1, 2, -1]))
def test_decoded_slices(start, stop, step):
    ds = Decoded({'x': torch.arange(10)}, {'x': None})
    test_eq(ds[start:stop:step]['x'].tolist(), list(range(10))[start:stop:step])

def test_decoded():
    x, y = chw(GRAY.x_train), torch.from_numpy(GRAY.y_train)
    ds = Decoded({'image': x, 'label': y}, SCHEMA)
    test_eq((len(ds), ds.nbytes), (30, x.nbytes + y.nbytes))
    test_eq([row['label'].item() for row in ds], GRAY.y_train.tolist())               # a row at a time, and it ends
    test_eq(ds[-1]['image'].shape, (1, 6, 5))
    test_eq(ds[np.int64(3)]['label'], y[3])
    for i in (30, -31):
        with expect_error(IndexError): ds[i]
    with expect_error(IndexError): ds[[0, 30]]
    for i in (1.5, None, (1, 2)):
        with expect_error(TypeError): ds[i]
    for idxs in ([1.5], [True, False], torch.tensor([0.])):
        with expect_error(TypeError, 'whole numbers'): ds.__getitems__(idxs)
    with expect_error(KeyError, 'labels'): ds['labels']
    bytes_ds = ds.with_transform(None)
    test_eq(bytes_ds[2:4]['image'], x[2:4])
    test_eq(bytes_ds['image'] is ds['image'], True)                                   # shared, not copied
    test_eq('Decoded' in repr(ds) and 'uint8 (30, 1, 6, 5)' in repr(ds), True)

def test_decoded_refuses():
    x, y = chw(GRAY.x_train), torch.from_numpy(GRAY.y_train)
    with expect_error(ValueError, "'label': 29"): Decoded({'image': x, 'label': y[1:]}, SCHEMA)
    with expect_error(ValueError, 'feature for each'): Decoded({'image': x}, SCHEMA)
    with expect_error(ValueError, 'meta'): Decoded({'image': x.to('meta'), 'label': y}, SCHEMA)
    with expect_error(TypeError, 'collate_fn=collate_dict'): next(iter(DataLoader(Decoded({'image': x, 'label': y}, SCHEMA), 4)))
    with expect_error(KeyError, 'lable'): Decoded({'image': x, 'label': y}, SCHEMA)[:2]['lable']

def test_transforms_cannot_harm_the_data():
    x = chw(GRAY.x_train)
    kept = x.clone()
    ds = Decoded({'image': x, 'label': torch.from_numpy(GRAY.y_train)}, SCHEMA, inplace(lambda b: b['image'].zero_()))
    for b in (ds[:], ds[:5], ds[0], ds.__getitems__([1, 2]), next(iter(DataLoader(ds, 30, collate_fn=collate_dict(ds))))[0]):
        test_eq(int((b['image'] if isinstance(b, dict) else b).sum()), 0)
    test_eq(x, kept)

def test_to_float():
    x, label = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), torch.tensor([3], dtype=torch.uint8)
    b = {'image': x, 'label': label, 'z': torch.tensor([1.5])}
    test_eq(to_float(b) is b, True)
    test_eq(b['image'], x.float()/255)
    test_eq((b['label'] is label, b['z']), (True, torch.tensor([1.5])))


# --- decode once ---

@pytest.mark.parametrize('raw', [GRAY, COLOR], ids=['gray', 'color'])
def test_decode_once(raw, capsys):
    dd = dataset_dict(raw)
    decoded = decode_once(dd)
    assert '40 items take 0.0 MB' in capsys.readouterr().out
    test_eq(list(decoded), ['train', 'test'])
    for split, x, y in (('train', raw.x_train, raw.y_train), ('test', raw.x_valid, raw.y_valid)):
        test_eq(decoded[split].columns, {'image': chw(x), 'label': torch.from_numpy(y).long()})
        test_eq(decoded[split].features, dd[split].features)
        test_eq(decoded[split].nbytes, x.nbytes + 8*len(y))
        test_eq(decoded[split]['image'].is_contiguous(), True)
    decode_once(dd, progress=False)
    test_eq(capsys.readouterr(), ('', ''))

def test_memory_is_that_of_the_pixels():
    decoded = load_decoded('digits', say=None)
    for ds in (decoded['train'], decode_once(load_dataset_dict('digits'), progress=False)['train']):
        pixels = 1437*28*28
        stored = sum(t.untyped_storage().nbytes() for t in ds.columns.values())
        assert pixels < stored <= 1.05*pixels, (stored, pixels)

@pytest.fixture(scope='module')
def bad_files():
    "Files that are no images, or not whole ones; what comes after `as it should be` opens"
    good = md._png(GRAY.x_train[0])
    broken = bytearray(good)
    broken[40] ^= 255
    return {'empty': b'', 'signature only': good[:8], 'header only': good[:33], 'cut': good[:50], 'web page': b'<!DOCTYPE html><title>log in</title>',
            'bit flips': bytes(broken), 'an array': np.arange(30).tobytes(), 'as it should be': good}

def with_files(files, labels=None):
    labels = list(range(len(files))) if labels is None else labels
    features = hf.Features(image=hf.Image(), label=hf.Value('int64'))
    return hf.Dataset.from_dict({'image': [None if b is None else {'bytes': b, 'path': None} for b in files], 'label': labels}, features=features)

@pytest.mark.parametrize('what', ['empty', 'signature only', 'header only', 'cut', 'web page', 'bit flips', 'an array', 'missing'])
def test_an_image_that_cannot_be_opened_is_named(bad_files, what, capsys):
    good, bad = bad_files['as it should be'], bad_files.get(what)
    ds = with_files([good]*3 + [bad] + [good])
    with expect_error(ValueError, "image[3] of 'dev' cannot be opened: "): decode_once({'train': ds.select([0]), 'dev': ds}, progress=False)
    capsys.readouterr()
    out = decode_once({'train': ds.select([0]), 'dev': ds}, progress=False, on_error='skip')
    test_eq(capsys.readouterr().out, "decode_once: left out 1 of 5 rows of 'dev', because their images cannot be opened: 3\n")
    test_eq((out['dev']['label'], out['dev']['image'], len(out['train'])), ([0, 1, 2, 4], chw(GRAY.x_train[[0]*4]), 1))

def test_the_cause_is_kept(bad_files):
    with pytest.raises(ValueError, match='UnidentifiedImageError: cannot identify image file;') as e: decode_once({'train': with_files([b'no image'])}, progress=False)
    assert isinstance(e.value.__cause__, OSError)

@given(bad=st.sets(st.integers(0, 11)), second=st.sets(st.integers(0, 11)))
def test_skipping_leaves_out_exactly_the_bad_rows(bad, second):
    "Two columns of images: a row goes if either of its images cannot be opened"
    x, features = make_raw(12).x_train, hf.Features(image=hf.Image(), other=hf.Image(), label=hf.Value('int64'))
    def column(bad): return [{'bytes': b'?' if i in bad else md._png(im), 'path': None} for i, im in enumerate(x)]
    ds = hf.Dataset.from_dict({'image': column(bad), 'other': column(second), 'label': list(range(12))}, features=features)
    keep = [i for i in range(12) if i not in bad | second]
    said = io.StringIO()
    if len(bad) == 12 or len(second) == 12: return
    with contextlib.redirect_stdout(said):
        if not keep:
            with pytest.raises(ValueError, match="none of the 12 images of 'train' can be opened"): decode_once({'train': ds}, progress=False, on_error='skip')
            return
        out = decode_once({'train': ds}, progress=False, on_error='skip')['train']
    test_eq((out['label'].tolist(), out['image'], out['other']), (keep, chw(x[keep]), chw(x[keep])))
    lost = sorted(bad | second)
    test_eq(said.getvalue(), '' if not lost else f"decode_once: left out {len(lost)} of 12 rows of 'train', because their images cannot be opened: "
            + ', '.join(map(str, lost[:10])) + (', …' if len(lost) > 10 else '') + '\n')

def test_skipping_is_for_what_cannot_be_opened_only(bad_files):
    "Another shape, another mode, another word are errors all the same"
    both = {'train': table([pil(2, 3), pil(3, 2)])}
    with expect_error(ValueError, 'one shape'): decode_once(both, progress=False, on_error='skip')
    with expect_error(ValueError, "mode 'RGBA'"): decode_once({'train': table([pil(2, 3), pil(2, 3, 3, mode='RGBA')])}, progress=False, on_error='skip')
    with expect_error(ValueError, "got 'ignore'"): decode_once(both, on_error='ignore')
    with expect_error(ValueError, "none of the 2 images of 'train'"): decode_once({'train': with_files([b'', b''])}, progress=False, on_error='skip')

def test_memory_error_is_not_skipped(monkeypatch):
    def no_memory(*args): raise MemoryError
    monkeypatch.setattr(hf.Image, 'decode_example', no_memory)
    with pytest.raises(MemoryError): decode_once(dataset_dict(GRAY), progress=False, on_error='skip')

@pytest.mark.parametrize('num_workers', [0, 2])
def test_the_loader_names_what_cannot_be_opened(bad_files, num_workers):
    "The table opens its images for each batch; batches are fetched as a whole, and the culprit is found afterwards"
    ds = with_files([bad_files['as it should be']]*9 + [bad_files['cut']] + [bad_files['as it should be']]*3).with_transform(to_tensors)
    batches = iter(DataLoaders.from_dd({'train': ds, 'test': ds}, 3, num_workers=num_workers).valid)
    test_eq(next(batches)[1].tolist(), list(range(6)))
    with pytest.raises(OSError) as e: next(batches)
    where = 'This was at item 9 of valid_ds (Dataset of 13 items)'
    if num_workers: assert f'{where}, in worker 1 of 2' in str(e.value)
    else: test_eq(e.value.__notes__, [where])

def test_columns_of_numbers():
    ds = table([pil(2, 2)]*3, i=('int16', [1, -2, 3]), u=('uint8', [200, 0, 9]), f=('float64', [.5, None, 2.]), b=('bool', [True, False, True]))
    out = decode_once({'train': ds}, progress=False)['train']
    test_eq({k: v.dtype for k, v in out.columns.items()},
            {'image': torch.uint8, 'i': torch.int64, 'u': torch.int64, 'f': torch.float32, 'b': torch.bool})
    test_eq((out['i'].tolist(), out['b'].tolist(), out['f'].isnan().tolist()), ([1, -2, 3], [True, False, True], [False, True, False]))
    with expect_error(ValueError, 'i has missing'): decode_once({'train': table([pil(2, 2)]*2, i=('int64', [1, None]))}, progress=False)
    with expect_error(TypeError, 's: Value'): decode_once({'train': table([pil(2, 2)], s=('string', ['x']))}, progress=False)

def test_shuffled_and_selected_tables():
    ds = dataset_dict(GRAY)['train'].select([5, 3, 5, 20])
    test_eq(decode_once({'train': ds}, progress=False)['train']['image'], chw(GRAY.x_train[[5, 3, 5, 20]]))
    formatted = dataset_dict(GRAY).with_format('torch', columns=['label'])
    test_eq(decode_once(formatted, progress=False)['train']['image'], chw(GRAY.x_train))

def test_more_than_one_chunk():
    raw = make_raw(1203, 3, shape=(2, 2))
    test_eq(decode_once(dataset_dict(raw), progress=False)['train']['image'], chw(raw.x_train))

def test_modes():
    gray, color = pil(2, 3), pil(2, 3, 3)
    both = {'train': table([gray, color])}
    with expect_error(ValueError, '(3, 2, 3) at image[1]'): decode_once(both, progress=False)
    test_eq(decode_once(both, mode='RGB', progress=False)['train']['image'].shape, (2, 3, 2, 3))
    test_eq(decode_once(both, mode='L', progress=False)['train']['image'], torch.full((2, 1, 2, 3), 7, dtype=torch.uint8))
    for im in (pil(2, 3, mode='1'), pil(2, 3, mode='I'), pil(2, 3, 3, mode='RGBA'), color.quantize(4)):
        with expect_error(ValueError, f"mode '{im.mode}'"): decode_once({'train': table([gray, im])}, progress=False)
        decode_once({'train': table([gray, im])}, mode='RGB', progress=False)
    with expect_error(ValueError, 'at image[1]'): decode_once({'train': table([gray, pil(3, 2)])}, progress=False)
    with expect_error(ValueError, "image[1] of 'train' cannot be opened: ValueError: there is no image"): decode_once({'train': table([gray, None])}, progress=False)

def test_limit():
    dd = dataset_dict(GRAY)
    size = 40*(6*5 + 8)
    decode_once(dd, limit=size, progress=False)
    for part in ('40 items', 'limit=', 'ds.select', 'num_workers'):
        with expect_error(MemoryError, part): decode_once(dd, limit=size - 1)
    big = table([pil(500, 400, 3)]).select([0]*4000)
    with expect_error(MemoryError, '2,400.0 MB'): decode_once({'train': big})

def test_decode_refuses():
    dd = dataset_dict(GRAY)
    with expect_error(ValueError, "'train' has a transform"): decode_once(dd.with_transform(to_tensors))
    with expect_error(TypeError, "{'train': ds}"): decode_once(dd['train'])
    with expect_error(TypeError, 'IterableDataset'): decode_once({'train': dd['train'].to_iterable_dataset()})

def test_no_rows():
    out = decode_once({'train': dataset_dict(GRAY)['train'].select([])}, progress=False)['train']
    test_eq((len(out), out['label'].dtype), (0, torch.int64))

def test_progress(monkeypatch):
    "The bar counts every image, and is there only if asked for"
    bars = []
    class Bar(md.tqdm):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, 'delay': 0, 'file': io.StringIO()})
            bars.append(self)
            self.asked = not self.disable
    monkeypatch.setattr(md, 'tqdm', Bar)
    decode_once(dataset_dict(GRAY))
    test_eq((bars[0].n, bars[0].total, bars[0].asked), (40, 40, True))
    decode_once(dataset_dict(GRAY), progress=False)
    test_eq(bars[1].asked, False)

def test_load_decoded():
    short, long = load_decoded('digits', say=None), decode_once(load_dataset_dict('digits'), progress=False)
    for split in ('train', 'test'):
        test_eq(short[split].columns, long[split].columns)
        test_eq(short[split].features, long[split].features)
        test_eq([short[split][k].dtype for k in ('image', 'label')], [torch.uint8, torch.int64])
    test_eq(load_decoded('digits', transform=None)['test'][0]['image'].dtype, torch.uint8)

def test_arrays_in_color():
    out = md._from_arrays(COLOR.x_train, COLOR.y_train, COLOR.names, None)
    test_eq(out['image'], chw(COLOR.x_train))
    test_eq(out['image'].is_contiguous(), True)

@pytest.mark.slow
def test_fashion_mnist():
    try: short = load_decoded('fashion_mnist', hub=False)
    except FileNotFoundError as e: pytest.skip(str(e).splitlines()[0])
    dd = load_dataset_dict('fashion_mnist', hub=False)
    test_eq((len(short['train']), dd.num_rows), (60_000, {'train': 60_000, 'test': 10_000}))
    long = decode_once({'test': dd['test']})['test']
    test_eq((short['test'].columns, short['test'].features), (long.columns, long.features))
    assert short['train'].nbytes <= 1.05*60_000*28*28

@pytest.mark.parametrize('raw', [GRAY, COLOR], ids=['gray', 'color'])
def test_it_trains(raw):
    weights = []
    for _ in range(2):
        set_seed(1)
        dls = DataLoaders.from_dd(decode_once(dataset_dict(raw), progress=False), 8)
        nc = dls.train.dataset.features['label'].num_classes
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(next(iter(dls.valid))[0][0].numel(), nc))
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(2, model, torch.nn.functional.cross_entropy, opt, dls.train, dls.valid)
        weights.append([p.detach().clone() for p in model.parameters()])
    test_eq(*weights)


# --- looking ---

def drawn(ax): return np.asarray(ax.images[0].get_array())

def test_show_batch():
    xb, yb = next(iter(DataLoaders.from_dd(both_ways(COLOR)['memory'], 8).train))
    axs = show_batch((xb, yb), COLOR.names, n=5, nrows=1)
    test_eq([ax.get_title() for ax in axs], [COLOR.names[y] for y in yb[:5]])
    for ax, im in zip(axs, xb, strict=False): test_eq(drawn(ax), (im*255).round().permute(1, 2, 0))
    test_eq(len(show_batch((xb, yb), COLOR.names)), 8)

@pytest.mark.parametrize('raw', [GRAY, COLOR], ids=['gray', 'color'])
def test_show_overview(raw):
    x = chw(raw.x_train)
    bars, mean, hist = show_overview(decode_once(dataset_dict(raw), progress=False)['train'])
    test_eq([bar.get_width() for bar in bars.patches], np.bincount(raw.y_train, minlength=3).tolist())
    test_eq([label.get_text() for label in bars.get_yticklabels()], list(raw.names))
    want = (x.double()/255).mean(0)
    if len(want) == 1: test_close(drawn(mean), want[0], 1e-5)
    else: test_close(drawn(mean)/255, want.permute(1, 2, 0), 1/255)
    test_eq(len(hist.patches), x.shape[1])
    for i, line in enumerate(hist.patches):
        test_close(line.get_data().values, np.bincount(raw.x_train[..., i].ravel() if x.shape[1] > 1 else raw.x_train.ravel(), minlength=256)/(30*30))

def test_overview_in_parts():
    "The mean is summed in parts of 1,000 images"
    x = torch.randint(0, 256, (2100, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ds = Decoded({'image': x, 'label': torch.zeros(2100, dtype=torch.int64)}, SCHEMA)
    test_close(drawn(show_overview(ds)[1]), x[:, 0].double().mean(0)/255, 1e-5)


# --- the course's names ---

def test_star():
    space = {}
    exec('from miniai.datasets import *', space)
    for name in 'inplace collate_dict show_image subplots get_grid show_images DataLoaders'.split(): assert name in space, name
    for name in 'show_image subplots get_grid show_images'.split(): test_eq(space[name] is getattr(plots, name), True)
