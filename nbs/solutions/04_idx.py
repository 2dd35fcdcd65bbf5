"Answers to the exercises of 04_idx"
import struct

import numpy as np
import torch

_TYPES = {8: '>u1', 9: '>i1', 11: '>i2', 12: '>i4', 13: '>f4', 14: '>f8'}

def number_from_bytes(data):
    number = 0
    for byte in data: number = 256*number + byte
    return number

def idx_header(data): return data[2], struct.unpack_from(f'>{data[3]}I', data, 4)

def idx_bytes(x):
    code = next(c for c, t in _TYPES.items() if t[1:] == x.dtype.str[1:])
    header = struct.pack(f'>HBB{x.ndim}I', 0, code, x.ndim, *x.shape)
    return header + x.astype(_TYPES[code]).tobytes()

def idx_tensor(data):
    code, shape = idx_header(data)
    x = np.frombuffer(data, _TYPES[code], offset=4 + 4*len(shape)).reshape(shape)
    return torch.from_numpy(x.astype(x.dtype.newbyteorder('=')))
