"Tests of miniai.exercises"
import json
import types

import pytest

import miniai.exercises as module
from miniai.exercises import Listing, Sheet, check, check_file, exercises, progress, start
from miniai.testing import test_eq

RIGHT = 'def trace(x): return x.diagonal().sum()\n'

def notebook(path, *cells):
    path.write_text(json.dumps(dict(cells=[dict(cell_type='code', metadata={}, source=c.splitlines(True), outputs=[], execution_count=None) for c in cells],
                                    metadata={}, nbformat=4, nbformat_minor=5)))
    return path

def test_list():
    names = [e['name'] for e in exercises()]
    assert len(set(names)) == len(names) and all(n.isidentifier() for n in names) and 'trace' in names
    assert isinstance(exercises('01'), Listing) and 'trace' in str(exercises('01')) and '<code>trace</code>' in exercises('01')._repr_html_()
    with pytest.raises(ValueError, match='no exercises belong to'): exercises('nope')

def test_check_counts_attempts(monkeypatch):
    monkeypatch.setattr(module, '_ATTEMPTS', module.Counter())
    hints = [check('trace', lambda x: x).hint for _ in range(3)]
    assert len(set(hints)) == 3 and check('trace', lambda x: x.diagonal().sum())
    assert isinstance(check('trace'), Sheet)
    with pytest.raises(ValueError, match="do you mean 'trace'"): check('trac', len)

@pytest.mark.parametrize('name', [e['name'] for e in exercises()])
def test_sheets(name):
    sheet = check(name)
    assert sheet.markdown().count('```') % 2 == 0
    assert 'NotImplementedError' in sheet.stub
    compile(sheet.stub, name, 'exec')

def reachable(thing, depth=4, seen=None):
    "Everything that can be reached from a module through attributes, globals, closures and containers of its own"
    seen = {} if seen is None else seen
    if id(thing) in seen or depth == 0: return seen
    seen[id(thing)] = thing
    inside = []
    if isinstance(thing, types.ModuleType) and thing.__name__.startswith('miniai'): inside = vars(thing).values()
    elif isinstance(thing, types.FunctionType) and thing.__module__.startswith('miniai'):
        inside = [*thing.__globals__.values(), *(c.cell_contents for c in thing.__closure__ or ()), *(thing.__defaults__ or ())]
    elif isinstance(thing, dict): inside = thing.values()
    elif isinstance(thing, list | tuple | set | frozenset): inside = thing
    elif isinstance(thing, type) and thing.__module__.startswith('miniai'): inside = vars(thing).values()
    for x in list(inside): reachable(x, depth - 1, seen)
    return seen

def test_specifications_are_out_of_reach():
    check('trace', lambda x: x)
    found = reachable(module).values()
    tasks = list(module._tasks().values())
    assert len(found) > 50 and not [t.name for t in tasks for x in found if x is t or x is t.spec or x is t.judge and t.judge is not None and t.judge.__module__.startswith('miniai')]

# -- workbooks

def test_start_writes_valid_notebooks_and_keeps_yours(tmp_path):
    import nbformat
    files = start(tmp_path/'book')
    assert {f.stem for f in files} == {e['chapter'] for e in exercises()}
    for f in files: nbformat.validate(nbformat.read(f, 4))
    mine = tmp_path/'book'/'01_matmul.ipynb'
    mine.write_text('mine')
    test_eq(start(tmp_path/'book'), [])
    test_eq(mine.read_text(), 'mine')
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='is a file, wanted a folder'): start(tmp_path/'file')

def test_an_untouched_workbook_is_all_open(tmp_path):
    start(tmp_path)
    for file in tmp_path.glob('*.ipynb'):
        if file.stem != '01_matmul': file.unlink()
    row, = progress(tmp_path)
    test_eq((row['right'], row['wrong'], row['open']), (0, 0, len(exercises('01'))))
    with pytest.raises(ValueError, match='miniai start'): progress(tmp_path/'nothing')

def test_answers_in_a_notebook(tmp_path):
    nb = notebook(tmp_path/'01_matmul.ipynb', '%matplotlib inline\nimport torch', 'def trace(x):\n    return x.sum()', "from miniai.exercises import check\ncheck('trace', trace)", '!ls')
    records, failed = check_file(nb)
    test_eq([(r['name'], r['passed'], r['started']) for r in records], [('trace', False, True)])
    test_eq(failed, [])
    assert 'not the diagonal alone' in records[0]['diagnosis'] and '\033[31m' in records[0]['colored']

def test_what_is_handed_to_check_counts(tmp_path):
    nb = notebook(tmp_path/'a.ipynb', 'def trace(x): return 1', f"from miniai.exercises import check\n{RIGHT.replace('trace', 'mine')}\ncheck('trace', mine)")
    assert check_file(nb)[0][0]['passed']

@pytest.mark.parametrize('bad,words', [('1/0', 'ZeroDivisionError'), ('def broken(:', 'SyntaxError'), ('while True: pass', 'did not end within 0.5 seconds'), ('import sys; sys.exit(3)', 'SystemExit')])
def test_a_bad_cell_does_not_hide_the_others(tmp_path, bad, words):
    records, failed = check_file(notebook(tmp_path/'a.ipynb', bad, RIGHT), seconds=.5)
    assert records[0]['passed'] and words in failed[0], failed

def test_a_file_that_kills_its_process(tmp_path):
    (tmp_path/'a.py').write_text('import os\n' + RIGHT + 'os._exit(0)')
    records, failed = check_file(tmp_path/'a.py')
    test_eq(records, [])
    assert 'ended by itself' in failed[0]

def test_hints_of_files_are_remembered_in_a_workbook(tmp_path):
    start(tmp_path)
    (tmp_path/'a.py').write_text('def trace(x): return x')
    first, second = (check_file(tmp_path/'a.py', 'trace')[0][0]['hint'] for _ in range(2))
    assert first and second and first != second

def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match='there is no file'): check_file(tmp_path/'a.py')
    with pytest.raises(ValueError, match='wanted a notebook'): check_file(tmp_path/'a.txt')
    (tmp_path/'a.py').write_text(RIGHT)
    with pytest.raises(ValueError, match='there is no exercise'): check_file(tmp_path/'a.py', 'nope')
    (tmp_path/'b.ipynb').write_text('{')
    with pytest.raises(ValueError, match='is not a notebook'): check_file(tmp_path/'b.ipynb')
    test_eq(check_file(tmp_path/'a.py')[0][0]['passed'], True)
    (tmp_path/'c.py').write_text('x = 1')
    test_eq(check_file(tmp_path/'c.py'), ([], []))
