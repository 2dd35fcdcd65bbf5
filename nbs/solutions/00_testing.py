"Answers to the exercises of 00_testing"
import torch


def nested_shape(x):
    if not isinstance(x, list): return ()
    return (len(x), *(nested_shape(x[0]) if x else ()))

def tensors_close(a, b, eps): return a.shape == b.shape and bool(((a - b).abs() <= eps).all())

def byte_difference(a, b): return (a.long() - b.long()).abs()

def worst_place(a, b):
    place = (a - b).abs().argmax()
    return tuple(int(i) for i in torch.unravel_index(place, a.shape))
