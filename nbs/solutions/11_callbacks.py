"Answers to the exercises of 11_callbacks"
from functools import wraps

from miniai.callbacks import Callback, CancelBatchException, CancelEpochException, CancelFitException

def run_in_order(cbs, method_nm, learn=None):
    ordered = sorted(cbs, key=lambda cb: cb.order)
    if method_nm.startswith('cleanup_'): ordered.reverse()
    for cb in ordered:
        method = getattr(cb, method_nm, None)
        if method is not None: method(learn)

class FewBatchesCB(Callback):
    "Skip the rest of a training epoch after `n` batches"
    def __init__(self, n): self.n = n
    def after_batch(self, learn):
        if learn.training and learn.iter == self.n - 1: raise CancelEpochException()

_CANCELS = dict(fit=CancelFitException, epoch=CancelEpochException, batch=CancelBatchException)

def with_events(nm):
    def decorator(method):
        @wraps(method)
        def run(self, *args, **kwargs):
            try:
                self.callback(f'before_{nm}')
                method(self, *args, **kwargs)
                self.callback(f'after_{nm}')
            except _CANCELS[nm]: pass
            finally: self.callback(f'cleanup_{nm}')
        return run
    return decorator

def letter_edits(a, b):
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]     # right for the first row and the first column
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            changed = table[i-1][j-1] + (a[i-1] != b[j-1])
            table[i][j] = min(table[i-1][j] + 1, table[i][j-1] + 1, changed)
            swapped = i > 1 and j > 1 and a[i-1] == b[j-2] and a[i-2] == b[j-1]
            if swapped: table[i][j] = min(table[i][j], table[i-2][j-2] + 1)
    return table[-1][-1]
