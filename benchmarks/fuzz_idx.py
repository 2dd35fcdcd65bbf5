"""Does `read_idx` stay calm, whatever is in the file? Broken and hostile files, as many as fit into a given time.

    python benchmarks/fuzz_idx.py --seconds 60
    python benchmarks/fuzz_idx.py --seed 123 --runs 1     # one file again, by the number that was printed for it

Each file is made from a good one: bytes flipped, cut off, inserted, repeated; sizes in the header replaced by 0, by huge ones, by ones
whose product overflows; packed with gzip, in several members, packed twice, damaged after packing, or blown up to a bomb. For each,
`read_idx` must either return exactly what a slow reader of its own finds in the file, or raise `IdxError` or `OSError`; it must take
no more memory than the honest content needs, and come back within seconds. Anything else is a finding, and the exit status is 1.
"""
import argparse
import math
import random
import signal
import struct
import sys
import tempfile
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from time import perf_counter

from miniai.idx import IdxError, read_idx

TYPES = {0x08: ('uint8', 1), 0x09: ('int8', 1), 0x0b: ('int16', 2), 0x0c: ('int32', 4), 0x0d: ('float32', 4), 0x0e: ('float64', 8)}
HUGE = [0, 1, 2, 3, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
SECONDS, SPARE = 20, 4 << 20     # for one file; bytes beyond an eighth more than the content

# ---- making files

def good(rng):
    "A valid IDX file"
    code, shape = rng.choice(list(TYPES)), [rng.choice([0, 1, 2, 3, 5, 28]) for _ in range(rng.randrange(5))]
    return struct.pack(f'>HBB{len(shape)}I', 0, code, len(shape), *shape) + rng.randbytes(math.prod(shape)*TYPES[code][1])

def member(content, rng):
    "One gzip member"
    packer = zlib.compressobj(rng.choice([0, 1, 9]), zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()

def mutate(b, rng):
    "One change to some bytes"
    b, at = bytearray(b), rng.randrange(len(b) + 1)
    end = min(len(b), at + rng.choice([1, 1, 2, 4, 8, 64]))
    match rng.randrange(8):
        case 0 if b: b[at % len(b)] ^= 1 << rng.randrange(8)
        case 1: b[at:end] = rng.randbytes(end - at)
        case 2: del b[at:]
        case 3: del b[at:end]
        case 4: b[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        case 5: b += bytes(rng.choice([1, 4, 512])) if rng.random() < 0.5 else b[at:end]*rng.randrange(1, 9)
        case 6 if len(b) > 3: b[rng.randrange(4)] = rng.choice([0, 1, 8, 9, 10, 11, 14, 64, 65, 255])
        case 7 if len(b) > 3:
            i = 4 + 4*rng.randrange(max(1, b[3]))
            b[i:i+4] = struct.pack('>I', rng.choice(HUGE) if rng.random() < 0.7 else rng.randrange(2**32))
    return bytes(b)

def lying_header(rng):
    "A header that asks for whatever it likes, and hardly anything behind it"
    rank = rng.choice([0, 1, 2, 3, 4, 8, 64, 65, 255])
    shape = [rng.choice(HUGE[rng.choice([0, 1]):]) for _ in range(rank)] if rng.random() < 0.5 else [1]*rank
    if rank > 1 and rng.random() < 0.3: shape[:2] = [2**31, 2**31]
    return struct.pack(f'>HBB{rank}I', 0, rng.choice(list(TYPES)), rank, *shape) + rng.randbytes(rng.choice([0, 1, 4, 8, 100]))

def make(rng):
    "A file: good, changed, packed, changed again"
    b = lying_header(rng) if rng.random() < 0.15 else good(rng)
    while rng.random() < 0.5: b = mutate(b, rng)
    if rng.random() < 0.4: return b
    if rng.random() < 0.05: b += bytes(rng.choice([1 << 16, 1 << 20, 1 << 24]))
    at = rng.randrange(len(b) + 1) if rng.random() < 0.3 else len(b)
    b = member(b[:at], rng) + (member(b[at:], rng) if at < len(b) else b'')
    if rng.random() < 0.1: b += bytes(rng.randrange(20))
    if rng.random() < 0.05: b = member(b, rng)
    while rng.random() < 0.3: b = mutate(b, rng)
    return b

# ---- the judge: a reader without numpy and without the module gzip

def unpack(b):
    "All members of a gzip file, unpacked; a ValueError, zlib.error or struct.error if anything is wrong with it"
    out, i = b'', 0
    while i < len(b):
        if b[i:i+3] != b'\x1f\x8b\x08': raise ValueError('no gzip member')
        flags, = struct.unpack_from('B', b, i + 3)
        i += 10
        if flags & 4: i += 2 + struct.unpack_from('<H', b, i)[0]
        for bit in (8, 16):
            if flags & bit: i = b.index(b'\0', i) + 1      # a name, a comment
        if flags & 2: i += 2
        if i > len(b): raise ValueError('cut off')
        stream = zlib.decompressobj(-15)
        part = stream.decompress(b[i:])
        if not stream.eof: raise ValueError('cut off')
        i = len(b) - len(stream.unused_data) + 8
        if struct.unpack_from('<II', b, i - 8) != (zlib.crc32(part), len(part) % 2**32): raise ValueError('checksum')
        out += part
        while i < len(b) and b[i] == 0: i += 1      # padding between members is allowed
    return out

BAD = ValueError, KeyError, zlib.error, struct.error

def header(b):
    "Type, shape, where the numbers begin and where they must end"
    zeros, code, rank = struct.unpack('>HBB', b[:4])
    if zeros: raise ValueError('no IDX')
    shape = struct.unpack(f'>{rank}I', b[4:4+4*rank])
    return TYPES[code][0], shape, 4 + 4*rank, 4 + 4*rank + math.prod(shape)*TYPES[code][1]

def judge(b):
    "Of the bytes of a file: (type, shape, bytes of the numbers) or None, and how many bytes an honest reader may have to hold"
    packed = b[:2] == b'\x1f\x8b'
    try: most = min(header(zlib.decompressobj(31).decompress(b, 2000) if packed else b)[-1], len(b)*(1032 if packed else 1))
    except BAD: most = 0 if not packed else len(b)*1032
    try:
        if packed: b = unpack(b)
        name, shape, begin, end = header(b)
    except BAD: return None, most
    return ((name, shape, b[begin:]) if len(b) == end else None), min(end, len(b))

def numpy_refuses(shape):
    "Shapes that numpy cannot hold: more than 64 axes, or too large if one leaves out the zeros"
    return len(shape) > 64 or math.prod(n or 1 for n in shape)*8 >= 2**63

# ---- one file, many files

def too_long(*args): raise TimeoutError(f'more than {SECONDS} seconds')

def check(b, path):
    "Read one file; what happened, and whether that is a finding"
    path.write_bytes(b)
    want, honest = judge(b)
    if hasattr(signal, 'setitimer'): signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try: x = read_idx(path)
    except IdxError as e:
        if str(path) not in str(e) or len(str(e)) > 2000: return f'a message without the file, or too long: {e}', True
        res = ('refused', False) if want is None or numpy_refuses(want[1]) else (f'refused a good file: {e}', True)
    except OSError as e: res = f'{type(e).__name__}', isinstance(e, TimeoutError)
    except BaseException as e: res = f'{type(e).__name__}: {e}', True
    else:
        if want is None: res = f'accepted a bad file as {x.dtype} {x.shape}', True
        else:
            big = x.astype(x.dtype.newbyteorder('>')).tobytes()
            same = (x.dtype.name, x.shape, big, x.dtype.isnative) == (*want, True)
            res = 'read, packed' if b[:2] == b'\x1f\x8b' else 'read, plain', not same
    finally:
        if hasattr(signal, 'setitimer'): signal.setitimer(signal.ITIMER_REAL, 0)
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > 2.25*honest + SPARE: return f'{peak} bytes of memory for a content of {honest}', True     # numbers are turned around once: twice the size
    return res

def fuzz(seed, seconds=math.inf, runs=math.inf, say=print):
    "Try files number `seed`, `seed + 1`, …; how often each outcome was seen, the findings, and the seconds of the slowest"
    outcomes, findings, slowest, end, n = Counter(), [], 0., perf_counter() + seconds, 0
    if hasattr(signal, 'SIGALRM'): before = signal.signal(signal.SIGALRM, too_long)
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as d:
            while n < runs and (start := perf_counter()) < end:
                what, bad = check(make(random.Random(seed + n)), Path(d)/'x.idx')
                slowest = max(slowest, perf_counter() - start)
                outcomes['a finding' if bad else what] += 1
                if bad:
                    findings.append((seed + n, what))
                    say(f'finding, with --seed {seed + n} --runs 1: {what}')
                n += 1
    finally:
        tracemalloc.stop()
        if hasattr(signal, 'SIGALRM'): signal.signal(signal.SIGALRM, before)
    return outcomes, findings, slowest

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=60, help='how long to go on')
    parser.add_argument('--runs', type=float, default=math.inf, help='how many files at most')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(10**9), help='the number of the first file; by default another each time')
    args = parser.parse_args()
    print(f'the first file is number {args.seed}')
    outcomes, findings, slowest = fuzz(args.seed, args.seconds, args.runs)
    for what, n in outcomes.most_common(): print(f'{n:9,} {what}')
    print(f'{sum(outcomes.values()):9,} files, the slowest took {slowest:.3f} s, with everything around it; {len(findings)} findings')
    sys.exit(bool(findings))

if __name__ == '__main__': main()
