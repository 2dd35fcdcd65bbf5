"What every exercise has to withstand; each test_tasks_*.py gives the answers"
import importlib
import runpy
from pathlib import Path

import pytest

from miniai.exercises import _stub
from miniai.judge import Draw, difference, judge

SOLUTIONS = Path(__file__).parents[1]/'nbs/solutions'

def tasks_of(part):
    "name → `Exercise` of a module of tasks"
    return {t.name: t for t in importlib.import_module(f'miniai.{part}').TASKS}

def solutions(*chapters):
    "name → answer, from the files of solutions"
    return {k: v for c in chapters for k, v in runpy.run_path(str(SOLUTIONS/f'{c}.py')).items() if callable(v)}

def stub(task):
    "The object that a learner starts with"
    names = {}
    exec('import torch, math\nimport numpy as np\nfrom torch import Tensor, nn\n' + _stub(task), names)
    return names[task.name]

def check_exercise(task, right, also_right, wrong):
    "Stub and empty function fail, wrong answers fail under the name of their mistake, two right answers pass, and it is theirs that is called"
    assert len(wrong) >= 3 and 1 <= task.level <= 3 and len(task.hints) >= 2 and task.task.endswith('.')
    for fn in (stub(task), lambda *args, **kwargs: None): assert not judge(task, fn, limit=5.), f'{task.name}: an empty answer passes'
    for fn in (right, also_right):
        verdict = judge(task, fn, limit=5., seconds=30.)
        assert verdict.passed, f'{task.name}: {verdict}'
    for fn, words in wrong:
        verdict = judge(task, fn, limit=5.)
        assert not verdict.passed, f'{task.name}: a wrong answer passes: {words}'
        assert words in f'{verdict.diagnosis} {verdict.problem}', f'{task.name}: wanted {words!r}, got {verdict}'

def check_calls(task, right):
    "The judge calls the object that it was given"
    calls = []
    if isinstance(right, type) or hasattr(right, 'py_func') or task.use is not None: pytest.skip('not called as it is')
    def counting(*args): calls.append(1); return right(*args)
    verdict = judge(task, counting)
    assert len(calls) == verdict.calls + (verdict.ratio is not None)*6 > 0

def check_judges(task):
    "Specification and PyTorch agree, on every size"
    for size in range(task.size + 1):
        for seed in range(10):
            args = task.draw(Draw(size, seed, plain=seed % 2 == 0))
            want = task.want(args)
            assert want is not None, f'{task.name}: the specification returns nothing'
            if task.judge is not None:
                other = task.judge(*args) if task.use is None else task.use(task.judge, *args)
                assert not difference(other, want, task.eps), f'{task.name}, size {size}, seed {seed}: {difference(other, want, task.eps)}'
