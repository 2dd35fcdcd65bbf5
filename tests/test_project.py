"What holds the project together: notebooks, modules, settings and README agree"
import ast
import base64
import configparser
import importlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NBS = sorted((ROOT/'nbs').glob('*.ipynb'))
CHAPTERS = [p for p in NBS if p.stem != 'index']
MODULES = sorted(p.stem for p in (ROOT/'miniai').glob('*.py') if not p.stem.startswith('_'))
TOML = tomllib.loads((ROOT/'pyproject.toml').read_text())
README = (ROOT/'README.md').read_text()
each_notebook = pytest.mark.parametrize('path', NBS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize('module', MODULES)

def run(*args, cwd=ROOT, **env):
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})

def python(code, **env):
    res = run(sys.executable, '-c', code, **env)
    assert res.returncode == 0, res.stderr
    return res.stdout

def cells(path, kind='code'): return [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]

def parse(source):
    "Syntax tree of a cell, without its magics"
    return ast.parse('\n'.join('pass' if line.lstrip().startswith(('%', '!')) else line for line in source.splitlines()))

def module_of(path):
    "The module that a notebook is exported to"
    found = [m[1] for s in cells(path) for m in [re.search(r'#\|\s*default_exp\s+(\w+)', s)] if m]
    assert len(found) == 1, f'{path.name} has {len(found)} default_exp directives'
    return found[0]

# -- notebooks and their printout

def copy_of_project(tmp_path):
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('*.py', '.*'))
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    (tmp_path/'miniai').mkdir()
    shutil.copy(ROOT/'miniai/__init__.py', tmp_path/'miniai')
    return tmp_path

def test_export_gives_no_difference(tmp_path):
    project = copy_of_project(tmp_path)
    res = run(sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=project)
    assert res.returncode == 0, res.stderr
    new, old = ({p.name: p.read_text() for p in (d/'miniai').glob('*.py')} for d in (project, ROOT))
    assert new.keys() == old.keys()
    for name in old: assert new[name] == old[name], f'miniai/{name} is not what its notebook exports; run nbdev_export'

def test_notebooks_are_clean(tmp_path):
    project = copy_of_project(tmp_path)
    res = run(sys.executable, '-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()', cwd=project)
    assert res.returncode == 0, res.stderr
    for p in NBS: assert (project/'nbs'/p.name).read_text() == p.read_text(), f'{p.name} is not clean; run nbdev-clean'

@each_notebook
def test_notebook_is_a_chapter(path):
    nb = json.loads(path.read_text())
    first = cells(path, 'markdown')[0].splitlines()
    assert nb['cells'][0]['cell_type'] == 'markdown' and first[0].startswith('# ') and first[1].startswith('> ') and len(first) == 2
    assert len(nb['cells']) <= 110
    sources = [''.join(c['source']).strip() for c in nb['cells']]
    assert all(sources), 'an empty cell'
    code = [s for s in cells(path) if not s.startswith('#|')]
    assert len(set(code)) == len(code), 'a cell stands there twice'

@each_notebook
def test_outputs_are_stored_and_tidy(path):
    nb = json.loads(path.read_text())
    outputs = [o for c in nb['cells'] for o in c.get('outputs', [])]
    assert outputs, 'the page was not executed'
    for o in outputs:
        assert o['output_type'] != 'error'
        text = json.dumps(o.get('text', '')) + json.dumps({k: v for k, v in o.get('data', {}).items() if not k.startswith('image')})
        assert not re.search(r'/(tmp|home|root|work|Users)/', text), 'a path of one machine'
        if o.get('name') == 'stderr': assert '\\r' not in text and 'Warning' not in text, text

def test_every_chapter_has_its_module_and_its_tests():
    found = {module_of(p): p.stem for p in CHAPTERS}
    assert sorted(found) == MODULES
    for m in MODULES: assert (ROOT/f'tests/test_{m}.py').is_file(), f'tests/test_{m}.py is missing'

# -- pictures

def directives(source):
    "The `#|` lines at the top of a cell: name → value"
    lines = re.match(r'(?:#\|.*\n?)*', source)[0].splitlines()
    return {k: v for k, v in re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', '\n'.join(lines), re.M)}

@each_notebook
def test_pictures_have_words_and_no_background(path):
    for cell in json.loads(path.read_text())['cells']:
        data, where = [o.get('data', {}) for o in cell.get('outputs', [])], f'{path.name}, cell {cell["id"]}'
        for tag in re.findall(r'<img\b[^>]*>', ''.join(''.join(d.get('text/html', '')) for d in data)):
            assert re.search(r'\balt="[^"]{20,}"', tag), f'{where}: an <img> without alt'
        pngs = [''.join(d['image/png']) for d in data if 'image/png' in d]
        if not pngs: continue
        alt = directives(''.join(cell['source'])).get('fig-alt', '')
        assert len(alt.strip('"\' ')) >= 20, f'{where}: say in words what the picture shows, at the top of the cell: #| fig-alt: …'
        assert alt[0] in '"\'' or not re.search(r'^\W|: | #', alt), f'{where}: no valid YAML; leave out the colon, or put the text in quotes'
        for png in pngs:
            image = Image.open(io.BytesIO(base64.b64decode(png)))
            corners = [image.convert('RGBA').getpixel((x, y))[3] for x in (0, image.width-1) for y in (0, image.height-1)]
            assert image.mode == 'RGBA' and corners == [0]*4, f'{where}: a picture with a background; run the page in its folder, where the matplotlibrc is'

def test_ink_and_colors_can_be_read_on_white_and_on_black():
    import matplotlib as mpl
    rc = mpl.rc_params_from_file(ROOT/'nbs/matplotlibrc', use_default_template=False)
    def luminance(color): return sum(w*(v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4) for w, v in zip((.2126, .7152, .0722), mpl.colors.to_rgb(color), strict=True))
    def contrasts(color): return 1.05/(luminance(color) + .05), (luminance(color) + .05)/(luminance('#131416') + .05)
    ink = rc['text.color']
    assert min(contrasts(ink)) > 4.2 and max(contrasts(ink)) - min(contrasts(ink)) < .1
    assert len(set(mpl.colors.to_rgb(ink))) == 3, 'this ink occurs in gray images'
    colors = rc['axes.prop_cycle'].by_key()['color']
    assert len(colors) >= 6 and min(min(contrasts(c)) for c in colors) >= 3
    for name in mpl.colormaps: assert ink not in map(mpl.colors.to_hex, mpl.colormaps[name](range(mpl.colormaps[name].N))), name

def test_text_is_stored_in_one_ink():
    "In the folder of the notebooks, as Jupyter draws: only the opacity of text, axes and grid varies"
    code = '''
import io
import matplotlib.pyplot as plt
import numpy as np
from IPython.core.pylabtools import print_figure
from PIL import Image
fig, ax = plt.subplots()
ax.set(title='title', xlabel='x', ylabel='y')
ax.grid()
ax.text(.3, .5, 'text')
ax.add_patch(plt.Rectangle((.6, .6), .2, .2, fill=False))
ax.legend(*ax.get_legend_handles_labels(), title='legend')
pixels = np.asarray(Image.open(io.BytesIO(print_figure(fig, 'png'))))
seen = pixels[pixels[..., 3] > 4]
print(plt.rcParams['text.color'], {'%02x%02x%02x' % tuple(p[:3]) for p in seen.tolist()}, len(np.unique(seen[:, 3])) > 100)
'''
    res = run(sys.executable, '-c', code, cwd=ROOT/'nbs', MPLBACKEND='agg')
    assert res.returncode == 0, res.stderr
    ink = res.stdout[1:7]
    assert res.stdout == f"#{ink} {{'{ink}'}} True\n"

# -- imports

@each_module
def test_module_imports_alone(module):
    assert python(f'import miniai.{module}; print("fine")') == 'fine\n'

HEAVY = {'cli': {'torch', 'numba', 'matplotlib', 'sklearn', 'datasets', 'pandas', 'IPython'}, 'testing': {'numba', 'matplotlib', 'sklearn', 'datasets', 'pandas'},
         'matmul': {'matplotlib', 'sklearn', 'datasets', 'pandas'}, 'idx': {'numba', 'matplotlib', 'sklearn', 'datasets', 'pandas'},
         'training': {'numba', 'matplotlib', 'sklearn', 'datasets', 'pandas'}, 'learner': {'numba', 'matplotlib', 'sklearn', 'datasets', 'pandas'}}

@pytest.mark.parametrize('module', sorted(HEAVY.keys() & set(MODULES)))
def test_heavy_packages_wait(module):
    loaded = set(python(f'import sys, miniai.{module}; print(*(m for m in sys.modules if "." not in m))').split())
    assert not loaded & HEAVY[module], f'import miniai.{module} loads {loaded & HEAVY[module]}'

def imported(source):
    "Names of miniai's modules that a cell imports"
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module or '', *(f'{node.module}.{a.name}' for a in node.names)]
        else: continue
        yield from (n.split('.')[1] for n in names if n.startswith('miniai.') and n.split('.')[1] in MODULES)

@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_imports_point_only_up_the_house(path):
    place = {module_of(p): i for i, p in enumerate(CHAPTERS)}
    here = place[module_of(path)]
    for source in cells(path):
        shown = set() if re.search(r'#\|\s*export', source) else {'explorers', 'exercises', module_of(path)}     # a page may show them; what it exports may not
        for name in set(imported(source)) - shown: assert place[name] < here, f'{path.name} imports {name}, a later chapter'

@each_module
def test_no_star_imports(module):
    tree = ast.parse((ROOT/f'miniai/{module}.py').read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and any(a.name == '*' for a in n.names)]

# -- exported names

def own_names(module):
    mod = importlib.import_module(f'miniai.{module}')
    for name in mod.__all__:
        obj = getattr(mod, name)
        if getattr(obj, '__module__', mod.__name__) == mod.__name__: yield name, obj

@each_module
def test_exported_names_are_documented(module):
    for name, obj in own_names(module):
        if inspect.isclass(obj) or inspect.isfunction(obj):
            assert obj.__doc__ and not obj.__doc__.startswith(f'{name}('), f'{module}.{name} has no docstring'

def names_in_checks():
    "Every identifier in the test files and in the cells of the pages that are not exported"
    sources = [p.read_text() for p in (ROOT/'tests').glob('test_*.py')]
    sources += [s for p in CHAPTERS for s in cells(p) if not re.search(r'#\|\s*export', s)]
    for s in sources:
        for node in ast.walk(parse(s)):
            if isinstance(node, ast.Name): yield node.id
            elif isinstance(node, ast.Attribute): yield node.attr
            elif isinstance(node, ast.alias): yield node.name
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier(): yield node.value

def test_exported_names_are_checked():
    used = set(names_in_checks())
    unused = [f'{m}.{name}' for m in MODULES for name, _ in own_names(m) if name not in used]
    assert not unused, f'exported, but in no check: {unused}'

@each_module
def test_functions_are_short(module):
    tree = ast.parse((ROOT/f'miniai/{module}.py').read_text())
    for n in ast.walk(tree):
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef): assert n.end_lineno - n.lineno < 50, f'{module}.{n.name}'

# -- settings

def test_settings_agree():
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini')
    ini, project, nbdev = ini['DEFAULT'], TOML['project'], TOML['tool']['nbdev']
    import miniai
    assert ini['version'] == miniai.__version__
    for theirs, ours in [('lib_name', project['name']), ('description', project['description']), ('author', project['authors'][0]['name']),
                         ('lib_path', nbdev['lib_path']), ('nbs_path', nbdev['nbs_path']), ('doc_path', nbdev['doc_path']), ('title', nbdev['title']),
                         ('tst_flags', nbdev['tst_flags']), ('min_python', project['requires-python'].removeprefix('>=')),
                         ('keywords', ', '.join(project['keywords'])), ('requirements', ' '.join(project['dependencies'])),
                         ('dev_requirements', ' '.join(project['optional-dependencies']['dev'])),
                         ('recursive', str(nbdev['recursive'])), ('jupyter_hooks', str(nbdev['jupyter_hooks'])),
                         ('allowed_out_metadata_keys', ' '.join(nbdev['allowed_out_metadata_keys']))]:
        assert ini[theirs] == ours, theirs
    scripts = dict(line.split('=') for line in ini['console_scripts'].split())
    assert scripts == project['scripts']
    assert project['license'] == 'Apache-2.0' and ini['license'] == 'apache2' and 'Apache License' in (ROOT/'LICENSE').read_text()

def test_constraints_pin_every_dependency():
    pins = dict(line.split('==') for line in (ROOT/'constraints.txt').read_text().splitlines() if line and not line.startswith('#'))
    pins = {k.lower().replace('_', '-'): v for k, v in pins.items()}
    wanted = TOML['project']['dependencies'] + [d for extra in TOML['project']['optional-dependencies'].values() for d in extra]
    for dep in wanted:
        name, low = re.fullmatch(r'([\w-]+)(?:\[\w+\])?>=([\d.]+)', dep).groups()
        assert name in pins, f'constraints.txt does not pin {name}'
        assert [int(n) for n in re.findall(r'\d+', pins[name])] >= [int(n) for n in low.split('.')], name
    assert pins['torch'] == '2.13.0'

def test_no_address_is_invented():
    urls = TOML['project'].get('urls', {})
    own = '\n'.join(s for p in NBS for s in cells(p, 'markdown')) + README
    if not urls: assert not re.search(r'https://(?:colab|mybinder|img\.shields)\S*miniai', own)

@pytest.mark.parametrize('command', ['miniai', 'nbdev_test', 'nbdev_export', 'nbdev-test', 'nbdev-export', 'nbdev-clean'])
def test_commands_are_installed(command):
    assert (Path(sys.executable).parent/command).exists(), f'{command} is missing; python -m pip install -e .'

def test_readme_commands_are_those_of_ci():
    listed = run('bash', '.ci/run', '--list').stdout.splitlines()
    blocks = re.findall(r'```bash\n(.*?)```', README, re.S)
    written = [line for b in blocks for line in b.splitlines() if line.startswith('python -m pip install')]
    assert listed == written and len(listed) >= 2
    assert '&& miniai ladder' in listed[0] and '&& nbdev_test && pytest' in listed[1]
    assert "'.[docs]' && sphinx-build" in listed[2] and listed[2].endswith(' -b html docs _docs')

def test_readme_and_changelog_are_true():
    for p in CHAPTERS: assert f'(nbs/{p.name})' in README, f'{p.name} is not on the map'
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', README): assert (ROOT/target).exists(), target
    import miniai
    assert f'## {miniai.__version__}' in (ROOT/'CHANGELOG.md').read_text()
    assert 'pip install miniai\n' not in README and 'pip install miniai`' not in README

# -- the outside world

GUARD = '''
import socket
_connect = socket.socket.connect
def connect(self, address, *args):
    host = address[0] if isinstance(address, tuple) else 'localhost'
    if str(host) not in ('localhost', '127.0.0.1', '::1'): raise OSError(f'this test allows no network, but somebody connects to {address}')
    return _connect(self, address, *args)
socket.socket.connect = socket.socket.connect_ex = connect
'''

@pytest.mark.slow
def test_no_notebook_needs_the_network(tmp_path):
    (tmp_path/'sitecustomize.py').write_text(GUARD)
    env = dict(PYTHONPATH=str(tmp_path), HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path/'hf'))
    probe = run(sys.executable, '-c', 'import socket; socket.create_connection(("192.0.2.1", 80), timeout=1)', **env)
    assert 'allows no network' in probe.stderr
    res = run(sys.executable, '-c', 'from nbdev.test import nbdev_test; nbdev_test()', **env)
    assert res.returncode == 0 and 'Success' in res.stdout, res.stderr[-3000:]

def test_ruff_is_content():
    res = run(sys.executable, '-m', 'ruff', 'check', 'miniai', 'tests', 'benchmarks', *(str(p) for p in NBS))
    assert res.returncode == 0, res.stdout
