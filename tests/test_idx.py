"IDX files: every type and shape, every kind of damage; where data is found, and how it is fetched"
import contextlib
import gzip
import hashlib
import http.server
import math
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniai import idx
from miniai.idx import MIRRORS, IdxError, RawData, fetch_idx, load_raw, read_idx, write_idx
from miniai.testing import test_close, test_eq

CODES = {'uint8': 0x08, 'int8': 0x09, 'int16': 0x0b, 'int32': 0x0c, 'float32': 0x0d, 'float64': 0x0e}
LETTERS = {0x08: 'B', 0x09: 'b', 0x0b: 'h', 0x0c: 'i', 0x0d: 'f', 0x0e: 'd'}


def make(code, shape, values):
    "An IDX file from nothing but `struct`"
    return struct.pack(f'>HBB{len(shape)}I', 0, code, len(shape), *shape) + struct.pack(f'>{len(values)}{LETTERS[code]}', *values)


def slow_read(content):
    "The judge: one number at a time, no checks"
    _, code, rank = struct.unpack('>HBB', content[:4])
    shape = struct.unpack(f'>{rank}I', content[4:4+4*rank])
    return shape, [v for v, in struct.iter_unpack('>' + LETTERS[code], content[4+4*rank:])]


GOOD = make(0x0b, (2, 3), [1, -2, 300, -400, 32767, -32768])


def refuse(path, *words):
    "`read_idx` refuses the file with an `IdxError` that names the file and says these words"
    with pytest.raises(IdxError) as e: read_idx(path)
    for word in (str(path), 'wanted', 'got', *words): assert word in str(e.value), f'{word!r} is not in: {e.value}'
    return str(e.value)


# ---- good files

VALUES = {
    'uint8': [0, 1, 127, 128, 255], 'int8': [-128, -1, 0, 1, 127], 'int16': [-32768, -1, 0, 258, 32767],
    'int32': [-2**31, -1, 0, 16909060, 2**31 - 1], 'float32': [-0.0, 1.5, math.inf, -math.inf, 2.0**-149],
    'float64': [-0.0, 0.1, math.inf, 1.7976931348623157e308, 5e-324]}


@pytest.mark.parametrize('pack', [False, True], ids=['plain', 'gzip'])
@pytest.mark.parametrize('name', CODES)
def test_values_of_every_type(tmp_path, name, pack):
    content = make(CODES[name], (5, 1), VALUES[name])
    (tmp_path/'x').write_bytes(gzip.compress(content) if pack else content)
    x = read_idx(tmp_path/'x')
    test_eq(x, np.array(VALUES[name], dtype=name).reshape(5, 1))
    test_eq((x.dtype.name, x.dtype.isnative, x.flags.writeable, x.flags.c_contiguous, x.flags.aligned), (name, True, True, True, True))
    test_eq(np.signbit(x[0, 0]), math.copysign(1, VALUES[name][0]) < 0)
    write_idx(tmp_path/'y', x)
    test_eq((tmp_path/'y').read_bytes(), content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(CODES)), st.lists(st.integers(0, 4), max_size=5), st.booleans(), st.integers(0, 2**32 - 1))
def test_round_trip(tmp_path, name, shape, pack, seed):
    size = math.prod(shape)*np.dtype(name).itemsize
    x = np.frombuffer(np.random.default_rng(seed).bytes(size), dtype=name).reshape(shape)     # any bits, nan too
    path = tmp_path/('x.gz' if pack else 'x')
    write_idx(path, x)
    content = path.read_bytes()
    if pack: content = gzip.decompress(content)
    y = read_idx(path)
    test_eq((y.shape, y.dtype), (x.shape, x.dtype))
    test_eq(y.tobytes(), x.tobytes())
    slow_shape, slow_values = slow_read(content)
    test_eq(slow_shape, x.shape)
    test_close(np.array(slow_values, dtype='f8'), y.ravel(), eps=0)


@pytest.mark.parametrize('rank', [0, 1, 64])
def test_rank(tmp_path, rank):
    (tmp_path/'x').write_bytes(make(0x08, (1,)*rank, [7]))
    x = read_idx(tmp_path/'x')
    test_eq((x.shape, x.item()), ((1,)*rank, 7))


@pytest.mark.parametrize('x', [
    np.arange(24, dtype='>i4').reshape(4, 6), np.arange(24, dtype='<i2').reshape(4, 6).T, np.arange(24, dtype='i1')[::-2],
    np.broadcast_to(np.float32(3), (2, 3)), np.float64(2.5)], ids=['big-endian', 'transposed', 'backwards', 'broadcast', 'number'])
def test_write_any_layout(tmp_path, x):
    before = x.copy()
    write_idx(tmp_path/'x', x)
    test_eq(read_idx(tmp_path/'x'), x)
    test_eq(x, before)


@pytest.mark.parametrize('x', [np.arange(3), np.zeros(2, bool), np.zeros(2, 'u2'), np.zeros(2, 'f2'), np.array(['a']), np.array([None])])
def test_write_refuses_other_types(tmp_path, x):
    with pytest.raises(TypeError, match=str(x.dtype)): write_idx(tmp_path/'x', x)
    assert not (tmp_path/'x').exists()


def test_array_is_yours(tmp_path):
    write_idx(tmp_path/'x', np.arange(6, dtype='u1'))
    a, b = read_idx(tmp_path/'x'), read_idx(str(tmp_path/'x'))
    a[0] = 99
    test_eq(b[0], 0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        test_eq(torch.from_numpy(a), [99, 1, 2, 3, 4, 5])


def test_name_does_not_decide_packing(tmp_path):
    (tmp_path/'plain.gz').write_bytes(GOOD)
    (tmp_path/'packed.idx').write_bytes(gzip.compress(GOOD))
    test_eq(read_idx(tmp_path/'plain.gz'), read_idx(tmp_path/'packed.idx'))


def test_gzip_in_several_members(tmp_path):
    (tmp_path/'x.gz').write_bytes(b''.join(gzip.compress(GOOD[i:i+5]) for i in range(0, len(GOOD), 5)))
    test_eq(read_idx(tmp_path/'x.gz').ravel(), slow_read(GOOD)[1])


def test_same_content_same_file(tmp_path):
    for name in ('a.gz', 'b.gz'): write_idx(tmp_path/name, np.arange(6, dtype='u1'))
    test_eq((tmp_path/'a.gz').read_bytes(), (tmp_path/'b.gz').read_bytes())
    test_eq((tmp_path/'a.gz').read_bytes()[4:8], bytes(4))               # where gzip would put the time of day


# ---- bad files

@pytest.mark.parametrize('content, words', [
    (b'', ['0 bytes']),
    (GOOD[:3], ['at least 4 bytes', '3 bytes']),
    (GOOD[:4], ['2 sizes', '0 bytes']),
    (GOOD[:11], ['2 sizes', '7 bytes']),
    (GOOD[:12], ['24 bytes', 'int16', '(2, 3)', '12 bytes']),
    (GOOD[:-1], ['24 bytes', '23 bytes']),
    (GOOD + b'\0', ['24 bytes', '25 bytes']),
    (b'\x01' + GOOD[1:], ['00 00', '01 00 0b 02']),
    (b'\0\x01' + GOOD[2:], ['00 00', '00 01 0b 02']),
    (b'\0\0\0\0', ['08, 09, 0b, 0c, 0d, 0e', '00']),
    (b'\0\0\x0a' + GOOD[3:], ['0a']),
    (b'\0\0\x0f' + GOOD[3:], ['0f']),
    (struct.pack('>HBBI', 0, 8, 1, 2**32 - 1), ['4294967303', '(4294967295,)', '8 bytes']),
    (struct.pack('>HBB255I', 0, 14, 255, *[2**32 - 1]*255), ['...', '1024 bytes']),
    (struct.pack('>HBB65I', 0, 8, 65, *[1]*65) + b'\7', ['numpy', '64']),
    (struct.pack('>HBB4I', 0, 8, 4, 0, *[2**32 - 1]*3), ['numpy']),
    (b'PK\x03\x04' + GOOD, ['50 4b 03 04']),
    (b'<!DOCTYPE html><title>log in</title>', ['3c 21 44 4f', '<!DO']),
    (b'\x1f\x8b', []),
    (b'\x1f\x8b' + bytes(30), ['gzip']),
], ids=lambda o: None)
def test_bad_content(tmp_path, content, words):
    (tmp_path/'bad.idx').write_bytes(content)
    assert len(refuse(tmp_path/'bad.idx', *words)) < 1000
    if content[:2] != b'\x1f\x8b':
        (tmp_path/'bad.gz').write_bytes(gzip.compress(content))
        assert len(refuse(tmp_path/'bad.gz')) < 1000


def test_every_length_but_the_right_one(tmp_path):
    for content in (GOOD, gzip.compress(GOOD)):
        for n in range(len(content)):
            (tmp_path/'x').write_bytes(content[:n])
            refuse(tmp_path/'x')
        (tmp_path/'x').write_bytes(content + b'garbage')
        refuse(tmp_path/'x')
        (tmp_path/'x').write_bytes(content)
        test_eq(read_idx(tmp_path/'x').ravel(), slow_read(GOOD)[1])


def test_every_flipped_bit_in_gzip(tmp_path):
    packed, seen = gzip.compress(GOOD, mtime=0), 0
    for bit in range(8*len(packed)):
        content = bytearray(packed)
        content[bit//8] ^= 1 << bit % 8
        (tmp_path/'x').write_bytes(content)
        try: test_eq(read_idx(tmp_path/'x').ravel(), slow_read(GOOD)[1])    # the date and such do not matter
        except IdxError as e:
            assert str(tmp_path/'x') in str(e)
            seen += 1
    assert seen > 8*(len(packed) - 10)*0.9


def test_trailing_bytes_in_gzip(tmp_path):
    for extra in (b'\0', b'\0'*(2 << 20)):
        (tmp_path/'x').write_bytes(gzip.compress(GOOD + extra))
        refuse(tmp_path/'x', '24 bytes', 'more')
    (tmp_path/'x').write_bytes(gzip.compress(GOOD) + gzip.compress(b'!'))
    refuse(tmp_path/'x', 'more')


@contextlib.contextmanager
def peak_below(limit):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert peak < limit, f'{peak} bytes of memory'


def test_bomb(tmp_path):
    (tmp_path/'bomb.gz').write_bytes(gzip.compress(GOOD + bytes(64 << 20), 1))
    with peak_below(2 << 20): refuse(tmp_path/'bomb.gz', 'more')


def test_memory_of_an_honest_file(tmp_path):
    "The content, what a growing bytearray keeps in reserve (an eighth), and a few pieces of 1 MiB"
    n = 16 << 20
    write_idx(tmp_path/'x.gz', np.zeros(n, 'u1'))
    with peak_below(1.125*n + (4 << 20)): read_idx(tmp_path/'x.gz')
    write_idx(tmp_path/'x', np.zeros(n, 'u1'))
    with peak_below(1.125*n + (4 << 20)): read_idx(tmp_path/'x')


def test_absurd_header_takes_no_memory(tmp_path):
    head = struct.pack('>HBBI', 0, 8, 1, 1 << 30)
    (tmp_path/'plain').write_bytes(head + bytes(1 << 20))
    with peak_below(1 << 20): refuse(tmp_path/'plain', str((1 << 30) + 8))
    (tmp_path/'small.gz').write_bytes(gzip.compress(head + bytes(1 << 20)))
    with peak_below(1 << 20): refuse(tmp_path/'small.gz', 'at the very most')
    noise = np.random.default_rng(0).bytes(3 << 20)                     # 3 MiB of gzip could hold 3 GiB, and hold 3 MiB
    (tmp_path/'noise.gz').write_bytes(gzip.compress(head + noise, 1))
    with peak_below(6 << 20): refuse(tmp_path/'noise.gz', f'got {(3 << 20) + 8}')


def test_best_packing_is_not_refused(tmp_path):
    write_idx(tmp_path/'x.gz', np.zeros(20_000_000, 'u1'))
    ratio = 20_000_000/(tmp_path/'x.gz').stat().st_size
    (tmp_path/'best.gz').write_bytes(gzip.compress(struct.pack('>HBBI', 0, 8, 1, 20_000_000) + bytes(20_000_000), 9))
    test_eq(read_idx(tmp_path/'best.gz').shape, (20_000_000,))
    assert 900 < ratio < 1032


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing_here'): read_idx(tmp_path/'nothing_here')
    refuse(tmp_path, 'directory')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    refuse(tmp_path/'pipe', 'pipe')


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_fuzz(tmp_path, data):
    "Cut, repeat, overwrite and insert: whatever comes out is read, or refused with an IdxError that names the file"
    content = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD, mtime=0), make(0x08, (3, 2, 2), range(12)), bytes(4)])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(at, min(len(content), at + 8)))
        content[at:end] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()): content = gzip.compress(content)
    (tmp_path/'x').write_bytes(content)
    try: x = read_idx(tmp_path/'x')
    except IdxError as e: assert str(tmp_path/'x') in str(e)
    else:
        plain = content
        while plain[:2] == b'\x1f\x8b': plain = gzip.decompress(plain)
        test_eq(x.shape, slow_read(plain)[0])
        test_close(x.ravel(), np.array(slow_read(plain)[1], dtype=x.dtype), eps=0)


# ---- digits

def test_digits():
    from sklearn.datasets import load_digits
    raw, small = load_raw('digits'), load_digits()
    test_eq([(a.shape, a.dtype.name) for a in raw[:4]],
            [((1437, 28, 28), 'uint8'), ((1437,), 'uint8'), ((360, 28, 28), 'uint8'), ((360,), 'uint8')])
    test_eq(raw.names, tuple('0123456789'))
    test_eq(np.concatenate([raw.y_train, raw.y_valid]), small.target)
    test_eq(type(raw), RawData)
    assert 'x_train: uint8 (1437, 28, 28)' in repr(raw) and len(repr(raw)) < 300


def test_digits_are_the_same_everywhere():
    "Whole numbers only: new pixel i mixes two old ones in 14ths, level 16 becomes 255"
    from sklearn.datasets import load_digits
    small, weights = load_digits().images.astype(int), np.zeros((28, 8), dtype=int)
    for i in range(28):
        left, part = divmod(4*i - 5, 14)
        weights[i, max(left, 0)] += 14 - part
        weights[i, min(left + 1, 7)] += part
    exact = np.einsum('ia,nab,jb->nij', weights, small, weights)
    raw = load_raw()
    x = np.concatenate([raw.x_train, raw.x_valid])
    test_eq(x, (2*255*exact + 3136)//(2*3136))
    test_eq(hashlib.sha256(x.tobytes()).hexdigest(), DIGITS_SHA)


DIGITS_SHA = '28e94d53a2698536df9e8e4e8d9be89f3fdfc2bcb87ab0ac952a1b34c5fead10'


def test_digits_are_fresh():
    a, b = load_raw(), load_raw()
    a.x_train[:], a.y_train[:] = 7, 7
    test_eq(b.y_train[:3], [0, 1, 2])
    assert b.x_train.max() == 255 and a.x_valid.max() == 255


def test_light_import():
    code = 'import sys, miniai.idx; print([m for m in ("sklearn", "matplotlib", "datasets", "numba", "pandas") if m in sys.modules])'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    test_eq(out.stdout.strip(), '[]')


# ---- where Fashion-MNIST is found: a tiny one with the same four names

@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "Four small arrays in place of Fashion-MNIST, and no folder of this machine in sight"
    arrays = {name: np.full((2, 3), i, dtype='u1') for i, name in enumerate(idx._fashion_files)}
    for name, x in arrays.items():
        write_idx(tmp_path/'one', x)
        monkeypatch.setitem(idx._fashion_files, name, hashlib.sha256((tmp_path/'one').read_bytes()).hexdigest())
    monkeypatch.setattr(idx, '_debian', tmp_path/'debian')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'xdg'))
    monkeypatch.delenv('MINIAI_DATA', raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return arrays


def fill(folder, arrays, end='.gz'):
    folder.mkdir(parents=True, exist_ok=True)
    for name, x in arrays.items(): write_idx(folder/f'{name}{end}', x)
    return folder


def load(**kwargs):
    lines = []
    return load_raw('fashion_mnist', say=lines.append, **{'mirrors': ()} | kwargs), lines


def test_order_of_the_sources(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('MINIAI_DATA', str(tmp_path/'env'))
    places = {'the path': tmp_path/'path', '$MINIAI_DATA': tmp_path/'env', 'the cache': tmp_path/'xdg'/'miniai'/'fashion-mnist',
              "Debian's package": tmp_path/'debian'}
    for folder in places.values(): fill(folder, tiny)
    for what, folder in places.items():
        raw, lines = load(path=tmp_path/'path')
        test_eq([x[0, 0] for x in raw[:4]], [0, 1, 2, 3])
        test_eq(raw.names[9], 'Ankle boot')
        assert f'({what})' in lines[-1] and 'read from' in lines[-1]
        test_eq(len(lines), 1 + ['the path', '$MINIAI_DATA', 'the cache', "Debian's package"].index(what) - (what == "Debian's package"))
        for file in folder.iterdir(): file.unlink()
    with pytest.raises(FileNotFoundError) as e: load(path=tmp_path/'path')
    for word in [*map(str, places.values()), *places, 'apt-get install dataset-fashion-mnist', 'MINIAI_DATA', 'network', "load_raw('digits')"]:
        assert word.removesuffix('/fashion-mnist') in str(e.value), word


def test_damage_is_never_skipped(tiny, tmp_path, monkeypatch):
    fill(tmp_path/'debian', tiny)
    bad = fill(tmp_path/'mine', tiny)
    write_idx(bad/'t10k-images-idx3-ubyte.gz', np.full((2, 3), 9, dtype='u1'))
    cases = [dict(path=bad), dict()]
    for case in cases:
        if not case: monkeypatch.setenv('MINIAI_DATA', str(bad))
        with pytest.raises(IdxError, match='t10k-images-idx3-ubyte.gz: wanted content with the SHA-256'): load(**case)
    monkeypatch.delenv('MINIAI_DATA')
    fill(tmp_path/'xdg'/'miniai'/'fashion-mnist', tiny)
    (tmp_path/'xdg'/'miniai'/'fashion-mnist'/'train-labels-idx1-ubyte.gz').write_bytes(b'\x1f\x8b')
    with pytest.raises(IdxError, match='train-labels-idx1-ubyte.gz: wanted a whole gzip file'): load()


def test_incomplete_folder_is_named_and_passed_over(tiny, tmp_path):
    fill(tmp_path/'debian', tiny)
    mine = fill(tmp_path/'mine', tiny)
    (mine/'train-labels-idx1-ubyte.gz').unlink()
    raw, lines = load(path=str(mine))
    assert 'lacks train-labels-idx1-ubyte; looking further' in lines[0] and str(mine) in lines[0]
    assert "Debian's package" in lines[1] and len(lines) == 2
    test_eq(raw.y_train[0, 0], 1)


def test_forms_of_a_folder(tiny, tmp_path, monkeypatch):
    fill(tmp_path/'plain', tiny, end='')
    fill(tmp_path/'nested'/'fashion-mnist', tiny)
    for name in ('plain', 'nested'): test_eq(load(path=tmp_path/name)[0].y_valid[0, 0], 3)
    monkeypatch.setenv('HOME', str(tmp_path))
    raw, lines = load(path='~/plain')
    test_eq(lines, [f'fashion_mnist: read from ~{os.sep}plain (the path)'])
    monkeypatch.setenv('MINIAI_DATA', '~/nested')
    test_eq(load()[1], [f'fashion_mnist: read from ~{os.sep}nested ($MINIAI_DATA)'])


def test_own_folder_goes_before_the_one_inside(tiny, tmp_path):
    fill(tmp_path/'mine', tiny, end='')
    fill(tmp_path/'mine'/'fashion-mnist', {k: x + 1 for k, x in tiny.items()}, end='')
    test_eq(load(path=tmp_path/'mine')[0].y_valid[0, 0], 3)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'x'))
    test_eq(idx._cache(), tmp_path/'x'/'miniai')
    for value in ('', 'relative/folder'):                   # the standard says: a relative one is to be ignored
        monkeypatch.setenv('XDG_CACHE_HOME', value)
        test_eq(idx._cache(), tmp_path/'.cache'/'miniai')
    monkeypatch.setenv('MINIAI_DATA', '')                   # empty means not set
    test_eq(list(idx._sources()), ['the cache', "Debian's package"])
    monkeypatch.setattr(os.path, 'expanduser', lambda p: p)  # nobody's home
    assert idx._cache().is_absolute()


def test_said_aloud_once(tiny, tmp_path, capsys):
    fill(tmp_path/'debian', tiny)
    load_raw('fashion_mnist', download=False)
    test_eq(capsys.readouterr(), (f"fashion_mnist: read from {tmp_path/'debian'} (Debian's package)\n", ''))
    load_raw('fashion_mnist', say=None)
    load_raw('digits')
    test_eq(capsys.readouterr(), ('', ''))


@pytest.mark.parametrize('name', ['mnist', 'Digits', '', None, 0])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="'digits' or 'fashion_mnist'"): load_raw(name)


def test_unused_path_is_refused():
    with pytest.raises(ValueError, match='wanted no path'): load_raw('digits', path='somewhere')


@pytest.mark.skipif(not idx._debian.exists(), reason='apt-get install dataset-fashion-mnist')
def test_the_real_one():
    raw = load_raw('fashion_mnist', path=idx._debian, download=False, say=None)
    test_eq([a.shape for a in raw[:4]], [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)])
    test_eq(np.bincount(raw.y_train), [6000]*10)
    test_eq(np.bincount(raw.y_valid), [1000]*10)
    test_eq(raw.y_train[:10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5])
    test_close([raw.x_train.mean(), raw.x_train.std()], [72.94, 90.02], eps=0.01)


# ---- downloads, from a server on this machine

class Handler(http.server.BaseHTTPRequestHandler):
    "Answers as its `answers` say: path → a function that gets the handler"
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answers.get(self.path, lambda h: h.send_error(404))(self)

    def log_message(self, *args): pass


def answer(content, size=None, status=200):
    "Send `content`, and say that it has `size` bytes"
    def send(h):
        h.send_response(status)
        if size != 0: h.send_header('Content-Length', str(size or len(content)))
        h.end_headers()
        h.wfile.write(content)
    return send


def endless(h):
    "Send far more than anybody wants, until nobody listens anymore"
    h.send_response(200)
    h.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(500): h.wfile.write(bytes(1 << 16))


def redirect(to):
    def send(h):
        h.send_response(302)
        h.send_header('Location', to)
        h.end_headers()
    return send


def nonsense(h): h.wfile.write(b'this is not HTTP\r\n\r\n')
def bad_length(h): answer(b'', size='many')(h)


@pytest.fixture
def server(monkeypatch):
    for name in ('no_proxy', 'NO_PROXY'): monkeypatch.setenv(name, '127.0.0.1')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as s:
        s.answers, s.asked, s.url = {}, [], f'http://127.0.0.1:{s.server_port}'
        thread = threading.Thread(target=s.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        thread.start()
        yield s
        s.shutdown()
        thread.join()


SHA, PACKED = hashlib.sha256(GOOD).hexdigest(), gzip.compress(GOOD, mtime=0)


def test_fetch(server, tmp_path, capfd):
    server.answers['/good/x.gz'] = answer(PACKED)
    for mirror in (f'{server.url}/good', f'{server.url}/good/'):
        path = fetch_idx('x.gz', tmp_path/'deep'/'cache', SHA, [mirror])
        test_eq((path, path.read_bytes()), (tmp_path/'deep'/'cache'/'x.gz', PACKED))
    test_eq(os.listdir(tmp_path/'deep'/'cache'), ['x.gz'])
    out, err = capfd.readouterr()
    test_eq(out, '')
    assert 'x.gz: 100%' in err                                  # the progress bar


@pytest.mark.parametrize('bad, words', [
    (lambda h: h.send_error(404), ['404']),
    (lambda h: h.send_error(503), ['503']),
    (answer(b'<!DOCTYPE html><title>Please log in</title>'), ['wanted an IDX file', '<!DO']),
    (answer(b''), ['at least 4 bytes']),
    (answer(PACKED[:-9], size=len(PACKED)), [f'wanted {len(PACKED)} bytes', f'got {len(PACKED) - 9}']),
    (answer(PACKED[:-9]), ['gzip']),
    (answer(PACKED[:-9], size=0), ['gzip']),
    (answer(gzip.compress(make(0x0b, (2, 3), [0]*6))), ['SHA-256', SHA]),
    (endless, ['at most 1000000 bytes']),
    (nonsense, ['this is not HTTP']),
    (bad_length, ['many']),
    (lambda h: redirect(h.path)(h), ['redirect']),
    (lambda h: None, ['closed']),
], ids=['404', '503', 'login page', 'empty', 'cut', 'cut before', 'cut, no length', 'other content', 'endless', 'no HTTP', 'bad length',
        'redirect loop', 'no answer'])
def test_failed_download(server, tmp_path, bad, words, capfd):
    "A bad mirror is reported and leaves nothing behind; a good one after it is used"
    server.answers |= {'/bad/x.gz': bad, '/good/x.gz': answer(PACKED)}
    with pytest.raises(OSError, match='x.gz could not be downloaded') as e:
        fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/bad'], limit=1_000_000)
    for word in (f'{server.url}/bad/x.gz: ', *words): assert word in str(e.value), f'{word!r} is not in: {e.value}'
    test_eq(str(e.value).count('/bad/x.gz'), 1)
    assert '.part' not in str(e.value)
    test_eq(os.listdir(tmp_path), [])
    fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/bad', f'{server.url}/good'], limit=1_000_000)
    test_eq((os.listdir(tmp_path), (tmp_path/'x.gz').read_bytes()), (['x.gz'], PACKED))


def test_failure_keeps_what_was_there(server, tmp_path):
    (tmp_path/'x.gz').write_bytes(PACKED)
    server.answers['/bad/x.gz'] = answer(b'<html>')
    with pytest.raises(OSError): fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/bad'])
    test_eq((os.listdir(tmp_path), (tmp_path/'x.gz').read_bytes()), (['x.gz'], PACKED))


def test_all_mirrors_are_listed(server, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        closed = f'http://127.0.0.1:{s.getsockname()[1]}'                # bound, but nobody listens
        with pytest.raises(OSError) as e: fetch_idx('x.gz', tmp_path, SHA, [closed, f'{server.url}/none', 'not an address'])
    for word in (f'{closed}/x.gz: ', 'refused', f'{server.url}/none/x.gz: ', '404', 'not an address'): assert word in str(e.value)
    with pytest.raises(OSError, match='no mirror'): fetch_idx('x.gz', tmp_path, SHA, [])


def test_silent_server(tmp_path, monkeypatch):
    real = urllib.request.urlopen
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    def impatient(url, timeout):
        assert timeout <= 30
        return real(url, timeout=0.1)
    monkeypatch.setattr(idx, 'urlopen', impatient)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        with pytest.raises(OSError, match='timed out'): fetch_idx('x.gz', tmp_path, SHA, [f'http://127.0.0.1:{s.getsockname()[1]}'])
    test_eq(os.listdir(tmp_path), [])


def test_renamed_not_overwritten(server, tmp_path):
    "Whoever has the old file open keeps it whole, and nobody ever sees a half-written one"
    server.answers['/x.gz'] = answer(PACKED)
    fetch_idx('x.gz', tmp_path, SHA, [server.url])
    with open(tmp_path/'x.gz', 'rb') as old:
        fetch_idx('x.gz', tmp_path, SHA, [server.url])
        assert os.fstat(old.fileno()).st_ino != os.stat(tmp_path/'x.gz').st_ino


def test_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    server.answers['/x.gz'] = answer(PACKED)
    def interrupted(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(idx, '_read_checked', interrupted)
    with pytest.raises(KeyboardInterrupt): fetch_idx('x.gz', tmp_path, SHA, [server.url])
    test_eq(os.listdir(tmp_path), [])


def test_name_appears_only_after_the_check(server, tmp_path, monkeypatch):
    server.answers['/x.gz'] = answer(PACKED)
    check, seen = idx._read_checked, []
    monkeypatch.setattr(idx, '_read_checked', lambda *a, **k: (seen.extend(os.listdir(tmp_path)), check(*a, **k)))
    fetch_idx('x.gz', tmp_path, SHA, [server.url])
    assert len(seen) == 1 and seen[0].startswith('x.gz.') and seen[0].endswith('.part')


def fetch_in_process(folder, url, barrier):
    barrier.wait(120)
    for _ in range(20): fetch_idx('x.gz', folder, SHA, [url])
    test_eq(read_idx(Path(folder)/'x.gz').shape, (2, 3))


def test_several_processes_at_once(server, tmp_path):
    server.answers['/x.gz'] = answer(PACKED)
    context = multiprocessing.get_context('spawn')
    barrier = context.Barrier(2)
    workers = [context.Process(target=fetch_in_process, args=(tmp_path, server.url, barrier), daemon=True) for _ in range(2)]
    for w in workers: w.start()
    for w in workers: w.join(180)
    test_eq([w.exitcode for w in workers], [0]*2)
    test_eq((os.listdir(tmp_path), (tmp_path/'x.gz').read_bytes()), (['x.gz'], PACKED))


def test_load_downloads_what_is_missing(tiny, server, tmp_path):
    source, cache = fill(tmp_path/'source', tiny), tmp_path/'xdg'/'miniai'/'fashion-mnist'
    for file in source.iterdir(): server.answers[f'/{file.name}'] = answer(file.read_bytes())
    late = server.answers.pop('/t10k-labels-idx1-ubyte.gz')
    with pytest.raises(FileNotFoundError) as e: load(mirrors=[server.url])
    for word in (f'{server.url}/t10k-labels-idx1-ubyte.gz: ', '404', 'apt-get'): assert word in str(e.value)
    test_eq(len(os.listdir(cache)), 3)
    server.asked.clear()
    server.answers['/t10k-labels-idx1-ubyte.gz'] = late
    raw, lines = load(mirrors=[server.url])
    test_eq(server.asked, ['/t10k-labels-idx1-ubyte.gz'])            # goes on where it stopped
    test_eq([x[0, 0] for x in raw[:4]], [0, 1, 2, 3])
    test_eq(lines, [f"fashion_mnist: downloading to {tmp_path/'xdg'/'miniai'}",
                    f"fashion_mnist: read from {tmp_path/'xdg'/'miniai'} (the cache)"])
    server.asked.clear()
    load(mirrors=[server.url])
    test_eq(server.asked, [])


def test_download_only_if_wanted(tiny, server):
    with pytest.raises(FileNotFoundError, match='No download was tried'): load(mirrors=[server.url], download=False)
    test_eq(server.asked, [])


def test_cache_that_cannot_be_written(tiny, server, tmp_path):
    (tmp_path/'xdg').write_text('a file where a folder should be')
    with pytest.raises(FileNotFoundError, match='xdg'): load(mirrors=[server.url])


def test_mirrors():
    assert len(MIRRORS) >= 2 and len({m.split('/')[2] for m in MIRRORS}) == len(MIRRORS)
    assert all(m.startswith(('http://', 'https://')) and m.endswith('/') for m in MIRRORS)


# ---- bad luck on the way into the cache

def reset(h):
    "Send a half, then have the connection break off hard"
    answer(PACKED[:len(PACKED)//2], size=len(PACKED))(h)
    h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    h.connection.close()


def test_connection_breaks_off(server, tmp_path):
    server.answers |= {'/bad/x.gz': reset, '/good/x.gz': answer(PACKED)}
    with pytest.raises(OSError, match='x.gz could not be downloaded'): fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/bad'])
    test_eq(os.listdir(tmp_path), [])
    test_eq(fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/bad', f'{server.url}/good']).read_bytes(), PACKED)


def serve_tiny(server, tiny, tmp_path, at='/good'):
    for file in fill(tmp_path/'source', tiny).iterdir(): server.answers[f'{at}/{file.name}'] = answer(file.read_bytes())


def test_captive_portal(tiny, server, tmp_path):
    "A page to log in to the network comes in place of each file, with status 200; after the login all is well"
    page = answer(b'\n<html><body>Welcome to our hotel! Please accept our terms.</body></html>')
    for name in tiny: server.answers[f'/good/{name}.gz'] = page
    with pytest.raises(FileNotFoundError, match='looks like a web page, perhaps one to log in to a network') as e: load(mirrors=[f'{server.url}/good'])
    assert 'train-images-idx3-ubyte.gz' in str(e.value) and 'Ways to get it' in str(e.value)
    cache = tmp_path/'xdg'/'miniai'/'fashion-mnist'
    test_eq(os.listdir(cache), [])
    serve_tiny(server, tiny, tmp_path)
    test_eq([x[0, 0] for x in load(mirrors=[f'{server.url}/good'])[0][:4]], [0, 1, 2, 3])
    test_eq(sorted(os.listdir(cache)), sorted(f'{name}.gz' for name in tiny))


@pytest.fixture(params=['fake', 'real'])
def full_disk(request, tmp_path, monkeypatch):
    "A folder on a disk with hardly any room, and a function that makes more room"
    folder = tmp_path/'disk'
    folder.mkdir()
    if request.param == 'real':
        size = 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)
        if sys.platform != 'linux' or os.geteuid() or subprocess.run(size, capture_output=True).returncode: pytest.skip('may not mount a small disk here')
        yield folder, lambda: subprocess.run(['mount', '-o', 'remount,size=8m', str(folder)], check=True)
        subprocess.run(['umount', str(folder)], check=True)
    else:
        real = open
        class Full:
            def __init__(self, f): self.f = f
            def __getattr__(self, name): return getattr(self.f, name)
            def __enter__(self): return self
            def __exit__(self, *args): self.f.close()
            def write(self, b):
                self.f.write(b[:10])
                raise OSError(28, 'No space left on device')
        def full(path, mode='r', *args): return Full(real(path, mode, *args)) if mode == 'xb' else real(path, mode, *args)
        monkeypatch.setattr(idx, 'open', full, raising=False)
        yield folder, lambda: monkeypatch.setattr(idx, 'open', real, raising=False)


def test_disk_full(server, full_disk):
    "It is said so at once, no other mirror is asked, nothing is left, and with more room it works"
    folder, more_room = full_disk
    noise = make(0x08, (1 << 20,), np.random.default_rng(0).bytes(1 << 20))
    server.answers |= {'/a/x.gz': answer(gzip.compress(noise)), '/b/x.gz': answer(gzip.compress(noise))}
    sha, mirrors = hashlib.sha256(noise).hexdigest(), [f'{server.url}/a', f'{server.url}/b']
    with pytest.raises(OSError, match='no space left for x.gz; free some') as e: fetch_idx('x.gz', folder, sha, mirrors)
    test_eq((e.value.errno, e.value.filename, server.asked), (28, str(folder), ['/a/x.gz']))
    test_eq(os.listdir(folder), [])
    more_room()
    test_eq(read_idx(fetch_idx('x.gz', folder, sha, mirrors)).shape, (1 << 20,))


def test_disk_full_is_not_called_missing(tiny, server, tmp_path, monkeypatch):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(idx, '_download', full)
    with pytest.raises(OSError, match='no space left for train-images') as e: load(mirrors=['http://127.0.0.1'])
    assert not isinstance(e.value, FileNotFoundError)


def endless_wait(h):
    answer(PACKED[:40], size=len(PACKED))(h)
    h.wfile.flush()
    h.server.waiting.set()
    h.server.go_on.wait(60)


def test_killed_in_the_middle_of_a_download(server, tmp_path):
    "What it leaves never has the name of the file; the next attempt works, and later ones sweep it away"
    server.waiting, server.go_on = threading.Event(), threading.Event()
    server.answers |= {'/slow/x.gz': endless_wait, '/good/x.gz': answer(PACKED)}
    program = f'from miniai.idx import fetch_idx; fetch_idx("x.gz", {str(tmp_path)!r}, {SHA!r}, ["{server.url}/slow"])'
    child = subprocess.Popen([sys.executable, '-c', program], stderr=subprocess.DEVNULL)     # nothing of this process, such as the lock of tqdm, dies with it
    assert server.waiting.wait(60)
    end = time.monotonic() + 60
    while not os.listdir(tmp_path) and time.monotonic() < end: time.sleep(0.01)
    child.kill()
    child.wait(60)
    server.go_on.set()
    left = os.listdir(tmp_path)
    assert len(left) == 1 and left[0].endswith('.part')
    fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/good'])
    test_eq(sorted(os.listdir(tmp_path)), sorted(['x.gz', *left]))            # it might still be at work
    os.utime(tmp_path/left[0], (0, 0))
    (tmp_path/'other.gz.1.part').write_bytes(b'')
    os.utime(tmp_path/'other.gz.1.part', (0, 0))
    fetch_idx('x.gz', tmp_path, SHA, [f'{server.url}/good'])
    test_eq(sorted(os.listdir(tmp_path)), ['other.gz.1.part', 'x.gz'])


def first_use(url, barrier, results, i):
    barrier.wait(60)
    raw = load_raw('fashion_mnist', say=None, mirrors=[f'{url}/bad', f'{url}/good'])
    results[i] = sum((x[0, 0] == k) + x.size for k, x in enumerate(raw[:4]))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
def test_eight_processes_use_the_cache_for_the_first_time(tiny, server, tmp_path):
    "From a mirror that breaks off and one that works: one good copy of each file, and nothing else"
    serve_tiny(server, tiny, tmp_path)
    server.answers |= {f'/bad/{name}.gz': reset for name in tiny}
    context = multiprocessing.get_context('fork')        # so that they know the tiny files
    barrier, results = context.Barrier(8), context.Array('i', 8)
    workers = [context.Process(target=first_use, args=(server.url, barrier, results, i), daemon=True) for i in range(8)]
    for w in workers: w.start()
    for w in workers: w.join(120)
    test_eq([w.exitcode for w in workers], [0]*8)
    test_eq(list(results), [4 + 4*6]*8)
    cache = tmp_path/'xdg'/'miniai'/'fashion-mnist'
    test_eq(sorted(os.listdir(cache)), sorted(f'{name}.gz' for name in tiny))
    for name in tiny: test_eq((cache/f'{name}.gz').read_bytes(), (tmp_path/'source'/f'{name}.gz').read_bytes())
