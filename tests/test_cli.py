"The command `miniai`, as a person types it"
import json
import subprocess
import sys

import pytest

from miniai import __version__
from miniai.cli import main
from miniai.matmul import MATMULS

def shell(*args, **kwargs):
    return subprocess.run([sys.executable, '-c', 'import sys; from miniai.cli import main; sys.exit(main())', *args], capture_output=True, text=True, **kwargs)

def test_ladder_prints_every_variant(capsys):
    assert main(['ladder', '--rows', '1']) == 0
    out = capsys.readouterr().out
    assert 'digits: (1, 784) @ (784, 10)' in out
    for name in MATMULS: assert name in out
    for column in ('variant', 'Python loops', 'median time', 'GFLOP/s', 'speed-up', 'largest difference'): assert column in out

def test_ladder_writes_files(tmp_path, capsys):
    plot, record = tmp_path/'l.png', tmp_path/'l.json'
    assert main(['ladder', '--rows', '1', '--plot', str(plot), '--json', str(record)]) == 0
    assert plot.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n' and plot.stat().st_size > 20_000
    data = json.loads(record.read_text())
    assert [r['name'] for r in data['rungs']] == list(MATMULS)
    assert data['left'] == [1, 784] and data['right'] == [784, 10] and data['data'] == 'digits'
    assert all(r['seconds'] > 0 and r['max_diff'] < 1e-3 for r in data['rungs'])

@pytest.mark.parametrize('args, wanted', [
    (['ladder', '--rows', '0'], "got '0'"), (['ladder', '--rows', 'x'], "got 'x'"), (['ladder', '--data', 'cats'], 'cats'),
    (['ladder', '--plot', 'l.doc'], '.png'), (['ladder', '--plot', 'nowhere/l.png'], 'nowhere'), (['ladder', '--json', 'l.png'], '.json'),
    (['ladder', '--rows', '1438'], '1,437 training images'), (['climb'], 'climb'), ([], 'COMMAND'), (['ladder', 'more'], 'more'),
])
def test_bad_arguments_are_one_clear_line(args, wanted, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and wanted in err and err.startswith('miniai')

def test_version_and_help_are_quick_and_quiet():
    res = shell('--version')
    assert (res.returncode, res.stdout, res.stderr) == (0, f'miniai {__version__}\n', '')
    assert 'ladder' in shell('--help').stdout
    code = 'import sys, miniai.cli; print("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'False\n'

def test_output_in_a_pipe_holds_no_control_characters():
    res = shell('ladder', '--rows', '1')
    assert res.returncode == 0 and res.stderr == '' and not set('\r\x1b') & set(res.stdout)

@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_progress_is_shown_in_a_terminal():
    import fcntl
    import os
    import pty
    import struct
    import termios
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 100, 0, 0))     # a screen of 100 columns
    with subprocess.Popen([sys.executable, '-c', 'import sys; from miniai.cli import main; sys.exit(main())', 'ladder', '--rows', '1'], stdout=subprocess.PIPE, stderr=theirs) as p:
        os.close(theirs)
        out, seen = p.stdout.read(), b''
        while True:
            try: chunk = os.read(ours, 4096)
            except OSError: break
            if not chunk: break
            seen += chunk
    os.close(ours)
    assert p.returncode == 0 and b'matmul_loops' in seen and b'%' in seen
    assert b'matmul_torch' in out

def test_train_writes_what_came_out(tmp_path, capsys):
    import csv

    import torch
    out = tmp_path/'new'/'run'
    assert main(['train', '--epochs', '1', '--model', 'mlp', '--bs', '32', '--lr', '.01', '--out', str(out)]) == 0
    text = capsys.readouterr().out
    assert 'valid_accuracy' in text and '360 validation images' in text
    for name in ('curves', 'confusion', 'predictions'): assert (out/f'{name}.png').read_bytes()[:4] == b'\x89PNG'
    rows = list(csv.DictReader((out/'history.csv').open()))
    assert len(rows) == 1 and .3 < float(rows[0]['valid_accuracy']) <= 1
    weights = torch.load(out/'weights.pt', weights_only=True)
    assert sorted(tuple(w.shape) for w in weights.values()) == [(10,), (10, 50), (50,), (50, 784)]
    before = {p: p.read_bytes() for p in out.rglob('*.*') if p.is_file()}
    assert main(['train', '--epochs', '1', '--out', str(out)]) == 2
    assert 'already holds a run' in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob('*.*') if p.is_file()} == before

@pytest.mark.parametrize('args, wanted', [
    (['--epochs', '0'], "got '0'"), (['--bs', '-1'], "got '-1'"), (['--lr', '0'], 'above 0'), (['--lr', 'nan'], 'above 0'), (['--model', 'rnn'], 'rnn'),
    (['--data', 'cats'], 'cats'), (['--out', __file__], 'is a file'),
    (['--resume'], '--out DIR'), (['--every', '0'], "got '0'"),
])
def test_bad_arguments_of_train(args, wanted, capsys):
    assert main(['train', *args]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and wanted in err

def test_same_seed_same_history(capsys):
    runs = []
    for _ in range(2):
        assert main(['train', '--epochs', '1', '--model', 'mlp', '--seed', '3']) == 0
        runs.append([line.split()[:5] for line in capsys.readouterr().out.splitlines()])
    assert runs[0] == runs[1]

def test_defaults_reach_97_percent(capsys):
    assert main(['train']) == 0
    assert float(capsys.readouterr().out.splitlines()[-1].split('%')[0]) >= 97

def test_resume_keeps_the_settings(tmp_path, capsys):
    out = str(tmp_path/'run')
    assert main(['train', '--out', out, '--resume', '--model', 'mlp', '--epochs', '1', '--bs', '128']) == 0
    assert 'starting from the beginning' in capsys.readouterr().err
    assert main(['train', '--out', out, '--resume', '--bs', '64']) == 2
    err = capsys.readouterr().err
    assert '--bs 128' in err and 'leave out --bs' in err and err.count('\n') == 1
    assert main(['train', '--out', out, '--resume']) == 0
    assert 'resumed from checkpoint-' in capsys.readouterr().out

def test_an_old_run_without_checkpoints_is_left_alone(tmp_path, capsys):
    (tmp_path/'history.csv').write_text('epoch\n')
    for more in ([], ['--resume']): assert main(['train', '--out', str(tmp_path), *more]) == 2
    assert 'already holds a run' in (err := capsys.readouterr().err) and 'it has no checkpoints' in err
    assert [p.name for p in tmp_path.iterdir()] == ['history.csv']

# -- exercises

def test_exercises_are_listed(capsys):
    assert main(['exercises', '--chapter', '01']) == 0
    assert 'trace' in capsys.readouterr().out
    assert main(['exercises', '--json']) == 0
    assert {'name', 'chapter', 'level', 'task'} == set(json.loads(capsys.readouterr().out)[0])
    assert main(['exercises', '--name', 'trace']) == 0
    assert 'Rule: ' in capsys.readouterr().out

def test_a_workbook_from_start_to_progress(tmp_path, capsys):
    book = tmp_path/'book'
    assert main(['start', str(book)]) == 0
    out, err = capsys.readouterr()
    assert f'wrote {len(out.splitlines())} notebooks' in err
    for file in book.glob('*.ipynb'):
        if file.stem != '01_matmul': file.unlink()
    assert main(['progress', str(book)]) == 0
    assert '0 of' in capsys.readouterr().out
    assert main(['progress', str(book), '--json']) == 0
    assert json.loads(capsys.readouterr().out)[0]['right'] == 0

@pytest.mark.parametrize('answer,status', [('x.diagonal().sum()', 0), ('x.sum()', 1)])
def test_check_says_right_or_wrong(answer, status, tmp_path, capsys):
    file = tmp_path/'mine.py'
    file.write_text(f'def trace(x): return {answer}\n')
    assert main(['check', str(file)]) == status
    out, err = capsys.readouterr()
    assert out.startswith('wrong' if status else 'right') and f'{1 - status} of 1 right' in err and '\033' not in out
    assert main(['check', str(file), '--json', '--exercise', 'trace']) == status
    assert json.loads(capsys.readouterr().out)['verdicts'][0]['passed'] is (status == 0)

def test_check_of_a_file_without_answers(tmp_path, capsys):
    file = tmp_path/'mine.py'
    file.write_text('x = 1\n1/0')
    assert main(['check', str(file)]) == 1
    err = capsys.readouterr().err
    assert 'ZeroDivisionError' in err and 'answers no exercise' in err

@pytest.mark.parametrize('args, wanted', [(['check', 'nowhere.py'], 'there is no file'), (['exercises', '--name', 'trase'], "do you mean 'trace'"), (['exercises', '--chapter', '77'], 'no exercises belong'),
                                          (['progress', 'nowhere'], 'miniai start nowhere'), (['start', __file__], 'is a file'), (['check'], 'FILE'), (['exercises', '--name', 'trace', '--json'], '--json')])
def test_bad_arguments_for_exercises(args, wanted, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and wanted in err
