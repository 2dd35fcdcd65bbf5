"The site: the extension that makes pages of notebooks, the pages, and what a browser makes of them"
import base64
import importlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
needs = "the site needs packages of its own: python -m pip install -c constraints.txt -e '.[docs]'"
for package in ('sphinx', 'myst_nb', 'furo', 'sphinx_copybutton', 'bs4'): pytest.importorskip(package, reason=needs)
from bs4 import BeautifulSoup  # noqa: E402

sys.path.insert(0, str(ROOT/'docs'))
from miniai_site import api, chapters, figures, pages, style, terms  # noqa: E402

NBS = sorted((ROOT/'nbs').glob('*.ipynb'))
MODULES = sorted(p.stem for p in (ROOT/'miniai').glob('*.py') if not p.stem.startswith('_'))
INK = figures.ink_of(ROOT/'nbs')

# -- a chapter that is planted into the copy that is built

def png(pixels):
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(out, 'PNG')
    return base64.b64encode(out.getvalue()).decode()

def drawing():
    "A transparent picture with a square in the ink, half of it half transparent, and a blue one"
    pixels = np.zeros((40, 60, 4))
    pixels[5:15, 5:25], pixels[5:15, 15:25, 3], pixels[20:30, 5:25] = (*INK, 255), 128, (42, 98, 228, 255)
    return pixels

IDS = (f'cell{i}' for i in itertools.count())
def code(source, *outputs): return dict(cell_type='code', id=next(IDS), metadata={}, execution_count=None, source=source, outputs=list(outputs))
def said(text): return dict(output_type='stream', name='stdout', text=text)
def shown(**data): return dict(output_type='display_data', metadata={}, data={k.replace('_', '/'): v for k, v in data.items()})
def words(text): return dict(cell_type='markdown', id=next(IDS), metadata={}, source=text)

def planted():
    wide = '<table><tr>' + ''.join(f'<td>column{i}</td>' for i in range(60)) + '</tr></table>'
    cells = [words('# Planted\n> Why a quaxolotl?'),
             words('## Words\n\nA gradient and a second gradient, and `matmul_loops`, and `code with a gradient`.\n\n### The learning rate\n\nMath: $x^2$ and\n\n$$' + 'x_1 + '*80 + 'x$$'),
             code('import os\nfrom pathlib import (Path,\n    PurePath)'), code('#| hide\nsecret_cell = 1', said('secret_output')),
             code('#| export\ndef exported_cell(): pass'), code('#| code-fold: true\nfolded_cell = 1', said('folded_output')),
             code('#| echo: false\nsilent_cell = 1', said('loud_output')), code('#| output: false\nloud_cell = 1', said('silent_output')),
             code('#| fig-alt: "A blue square under a gray one"\ndraw()', shown(image_png=png(drawing()))),
             code('#| fig-alt: Nothing but white\nblank()', shown(image_png=png(np.full((40, 60, 3), 255)))),
             code('table()', shown(text_html=wide, text_plain='table')), code('x'*300, said('y'*300))]
    return dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)

# -- the site, built once

def build(docs, out, *options):
    return subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-E', '-W', '--keep-going', '-b', 'html', *options, str(docs), str(out)],
                          capture_output=True, text=True, env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site, with one chapter more than the book has"
    project = tmp_path_factory.mktemp('project')
    for name in ('docs', 'nbs', 'miniai'):
        shutil.copytree(ROOT/name, project/name, ignore=shutil.ignore_patterns('__pycache__', '.*', *(['*.py'] if name == 'nbs' else [])))
    shutil.copy(ROOT/'pyproject.toml', project)
    (project/'nbs/98_planted.ipynb').write_text(json.dumps(planted()))
    res = build(project/'docs', project/'_docs')
    assert res.returncode == 0, res.stdout + res.stderr
    assert {p.name for p in project.iterdir()} == {'docs', 'nbs', 'miniai', 'pyproject.toml', '_docs'}, 'building leaves files elsewhere'
    return project/'_docs'

@pytest.fixture(scope='session')
def html(site):
    "Every page of the built site: name → parsed HTML"
    return {p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser') for p in sorted(site.rglob('*.html'))}

@pytest.fixture(scope='session')
def page(html): return html['98_planted.html'].article

def cell_with(page, text): return next(c for c in page.select('div.cell') if text in c.text)

def test_every_notebook_has_a_page(html):
    for path in NBS: assert f'{chapters.docname_of(path)}.html' in html
    sidebar = [a['href'] for a in html['glossary.html'].select('.sidebar-tree a')]
    for path in NBS: assert f'{chapters.docname_of(path)}.html' in sidebar, f'{path.name} is not in the sidebar'

def test_head_of_a_page(page):
    assert page.h1.text.startswith('98 Planted')
    why = page.select_one('.why')
    assert why.find_previous('h1') and 'Why read this' in why.text and 'Why a quaxolotl?' in why.text
    assert page.select_one('.facts a[download]')['href'].endswith('/98_planted.ipynb')
    assert not page.select('a[href*="colab"]')

def test_directives(page):
    assert '#|' not in page.text
    assert 'secret_cell' not in page.text and 'secret_output' not in page.text
    assert 'tag_export' in cell_with(page, 'exported_cell')['class']
    folded = cell_with(page, 'folded_cell')
    assert 'folded_cell' in folded.details.text and 'folded_output' not in folded.details.text and 'folded_output' in folded.text
    assert 'PurePath' in cell_with(page, 'PurePath').details.text
    assert 'silent_cell' not in page.text and 'loud_output' in page.text
    assert 'loud_cell' in page.text and 'silent_output' not in page.text

def test_split_directives():
    assert pages.split_directives('#| hide\n#|fig-alt: a: b\n\nx = 1\n#| echo: false') == ({'hide': '', 'fig-alt': 'a: b'}, 'x = 1\n#| echo: false')
    assert pages.split_directives('x = 1') == ({}, 'x = 1')

def read_png(path): return np.asarray(Image.open(path))

def test_a_transparent_picture_has_two_inks(page, site):
    images = page.find_all('img', alt='A blue square under a gray one')
    assert len(images) == 2
    for theme, img in zip(('only-light', 'only-dark'), images, strict=True):
        assert theme in img['class'] and img['src'].startswith('_images/')
        pixels, ink = read_png(site/img['src']), figures.INKS[theme]
        assert tuple(pixels[7, 7]) == (*ink, 255) and tuple(pixels[7, 20]) == (*ink, 128)
        assert tuple(pixels[25, 10]) == (42, 98, 228, 255) and not pixels[35:, :, 3].any()
    [plain] = page.find_all('img', alt='Nothing but white')
    assert 'opaque' in plain['class']

def test_recolor_takes_that_color_only():
    pixels = np.array([[[*INK, 255], [*INK, 7], [INK[0]+1, *INK[1:], 255], [INK[0]+9, *INK[1:], 20], [*INK, 0]]], dtype=np.uint8)
    new = figures.recolor(pixels, INK, (1, 2, 3))
    assert [tuple(p) for p in new[0]] == [(1, 2, 3, 255), (1, 2, 3, 7), (INK[0]+1, *INK[1:], 255), (1, 2, 3, 20), (*INK, 0)]
    assert tuple(pixels[0, 0]) == (*INK, 255), 'the original was written to'

def test_ink_is_that_of_the_notebooks(tmp_path):
    assert f'text.color:       {bytes(INK).hex()}' in (ROOT/'nbs/matplotlibrc').read_text()
    assert figures.ink_of(tmp_path) is None

def luminance(color):
    parts = [int(color[i:i+2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(p/12.92 if p <= .04045 else ((p+.055)/1.055)**2.4) for w, p in zip((.2126, .7152, .0722), parts, strict=True))

def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high+.05)/(low+.05)

@pytest.mark.parametrize('theme', [style.Light, style.Dark])
def test_code_is_readable(theme):
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    for token, rules in theme: assert not rules['color'] or contrast(f'#{rules["color"]}', theme.background_color) >= 4.5, token

# -- glossary and names

def test_first_occurrence_of_a_term_is_a_link(page, html):
    links = page.select('a.glossary-term')
    assert [a.text for a in links].count('gradient') == 1
    first = next(a for a in links if a.text == 'gradient')
    assert first['title'].startswith('The slope of') and '→' not in first['title'] and first['href'] == 'glossary.html#term-gradient'
    assert not page.select('h1 a.glossary-term, h2 a.glossary-term, h3 a.glossary-term, code a.glossary-term, pre a.glossary-term')
    name = page.select_one('a.name')
    assert name.text == 'matmul_loops' and name['href'] == '01_matmul.html#miniai.matmul.matmul_loops'

def test_term_patterns():
    ordered, regex = terms.matcher(['batch', 'SGD', 'loss', 'over-fitting', 'learning rate', 'batch normalization', 'accuracy'])
    def found(text): return [name for _, name in terms.split(text, regex, ordered, set()) if name]
    assert found('Losses and a loss') == ['loss'] and found('gloss, lossy') == [] and found('accuracies') == ['accuracy']
    assert found('sgd') == [] and found('SGD') == ['SGD'] and found('batch normalization of a batch') == ['batch normalization', 'batch']
    assert found('learning\nrates, Over-fitting, minibatch, batch_size, a-batch') == ['learning rate', 'over-fitting']
    assert terms.split('a loss', regex, ordered, {'loss'}) == [] and ''.join(t for t, _ in terms.split('a loss!', regex, ordered, set())) == 'a loss!'

def glossary_terms(html):
    for dd in html['glossary.html'].select('dl.glossary dd'):
        names, dt = [], dd.find_previous_sibling('dt')
        while dt is not None and dt.name == 'dt': names, dt = [dt.find(string=True), *names], dt.find_previous_sibling()
        yield names, dd

def test_glossary_has_words_that_the_chapters_use(html):
    prose = '\n'.join(''.join(c['source']) for p in NBS for c in json.loads(p.read_text())['cells'] if c['cell_type'] == 'markdown')
    entries = list(glossary_terms(html))
    assert 60 <= len(entries) <= 110
    for names, dd in entries:
        assert dd.select('a[href$=".html"]'), f'{names} names no chapter'
        for name in names: assert re.search(terms.pattern_of(re.sub(r' \(.*', '', name)), prose), f'no chapter says {name}'
    linked = {unquote(a['href'].split('#')[1]) for p in html.values() for a in p.select('a.glossary-term')}
    alone = [dt.text for dt in html['glossary.html'].select('dl.glossary dt') if dt['id'] not in linked and '(' not in dt.text]
    assert len(alone) <= 3, f'no page links to {alone}'      # a word that stands in headings only is not linked

def test_names_of_the_course_are_there():
    rows = [r.split('|')[1:-1] for r in (ROOT/'docs/from_course.md').read_text().splitlines() if r.startswith('| `miniai.')]
    assert len(rows) == 10
    for theirs, names, here in rows:
        module = re.findall(r'`miniai\.(\w+)`', theirs + here)[-1]
        for name in re.findall(r'`(\w+)`', names): assert hasattr(importlib.import_module(f'miniai.{module}'), name), f'miniai.{module}.{name}'
        if 'no module' in here or 'no chapter' in here: assert theirs.strip()[8:-1] not in MODULES, f'{theirs} exists by now'

# -- the reference

@pytest.mark.parametrize('module', MODULES)
def test_reference_agrees_with_the_module(module):
    "Read from the source, and asked of the imported module: the same names, parameters and defaults"
    mod, found = importlib.import_module(f'miniai.{module}'), {e.name: e for e in api.exports(ROOT/f'miniai/{module}.py')}
    own = [n for n in mod.__all__ if getattr(getattr(mod, n), '__module__', mod.__name__) == mod.__name__]
    assert {n for n in own if inspect.isclass(getattr(mod, n)) or inspect.isfunction(getattr(mod, n))} <= found.keys() <= set(mod.__all__)
    for name, e in found.items():
        obj = getattr(mod, name)
        if not inspect.isfunction(obj) and not inspect.isclass(obj): continue
        assert e.about.split('\n')[0].strip() == (obj.__doc__ or obj.__init__.__doc__ or '').strip().split('\n')[0].strip(), name
        if inspect.isfunction(obj):
            params = inspect.signature(obj).parameters.values()
            wanted = [(p.name, p.default is not p.empty) for p in params]
            assert [(p.name.lstrip('*'), p.default != '') for p in e.params if p.name != '*'] == wanted, name

def test_reference_of_a_function():
    found = {e.name: e for e in api.exports(ROOT/'miniai/matmul.py')}
    median = found['median_time']
    assert [(p.name, p.type, p.default) for p in median.params] == [('f', 'Callable', ''), ('*args', '', ''), ('repeats', 'int', '7'), ('budget', 'float', '1.0')]
    assert median.params[2].about == 'how many timings to take the median of' and median.returns == ('float', 'seconds for one call')
    assert [p.about for p in found['Variant'].params][0] == 'the function'
    learner = next(e for e in api.exports(ROOT/'miniai/learner.py') if e.name == 'Learner')
    assert {'fit', 'add_cbs'} <= {m.name for m in learner.methods}, 'methods that are patched in later belong to the class as well'

def test_comments_that_share_a_line(tmp_path):
    (tmp_path/'m.py').write_text('__all__ = ["f", "g"]\ndef f(a, b=1): # a: one; b: two\n    "F"\ndef g(a,\n  b, # the b\n  *, c=2, d=3): # sth\n    "G"\n')
    f, g = api.exports(tmp_path/'m.py')
    assert [(p.name, p.about) for p in f.params] == [('a', 'one'), ('b', 'two')]
    assert [(p.name, p.about) for p in g.params] == [('a', ''), ('b', 'the b'), ('*', ''), ('c', ''), ('d', '')]

@pytest.mark.parametrize('path', [p for p in NBS if chapters.module_of(p)], ids=lambda p: p.stem)
def test_page_has_its_reference(path, html):
    module, index = chapters.module_of(path), {a['href'] for a in html['api.html'].select('article td a')}
    entries = {dt['id']: dt for dt in html[f'{path.stem}.html'].select('dl.py > dt[id]')}
    for e in api.exports(ROOT/f'miniai/{module}.py'):
        assert f'miniai.{module}.{e.name}' in entries, e.name
        entry = entries[f'miniai.{module}.{e.name}']
        text = re.sub(r'\W', '', entry.find_next_sibling('dd').text)
        if e.kind != 'data': assert entry.select_one('.viewcode-link').parent['href'] == f'_modules/miniai/{module}.html#{e.name}', e.name
        for p in e.params:
            assert re.sub(r'\W', '', p.about) in text, (e.name, p.name)
        assert f'{path.stem}.html#miniai.{module}.{e.name}' in index, f'{e.name} is not in the index'

# -- links, headings, pictures

def test_links_and_anchors_resolve(html, site):
    ids = {name: {e['id'] for e in soup.select('[id]')} for name, soup in html.items()}
    broken = []
    for name, soup in html.items():
        for tag, attr in (('a', 'href'), ('img', 'src'), ('link', 'href'), ('script', 'src')):
            for e in soup.select(f'{tag}[{attr}]'):
                address, anchor = urldefrag(unquote(e[attr]))
                if re.match(r'\w+:', address):
                    if tag != 'a' and not address.startswith('data:'): broken.append(f'{name} loads {address}')
                    continue
                target = ((site/name).parent/address.split('?')[0]).resolve() if address else site/name
                if not target.is_file() or not target.is_relative_to(site.resolve()) or '.doctrees' in target.parts: broken.append(f'{name}: {e[attr]}')
                elif anchor and target.suffix == '.html' and anchor not in ids[target.relative_to(site.resolve()).as_posix()]: broken.append(f'{name}: {e[attr]}')
    assert not broken, '\n'.join(broken)

def test_headings_are_in_order(html):
    for name, soup in html.items():
        if name == 'search.html': continue      # its heading is made by a script
        levels = [int(h.name[1]) for h in soup.article.select('h1, h2, h3, h4, h5, h6')] if soup.article else [1]
        assert levels.count(1) == 1 and levels[0] == 1, f'{name}: {levels}'
        assert all(b <= a+1 for a, b in zip(levels, levels[1:], strict=False)), f'{name} skips a level: {levels}'

def test_every_picture_has_an_alternative_text(html):
    without = [f'{name}: picture {i} of {len(images)}' for name, soup in html.items() for images in [soup.select('article img')]
               for i, img in enumerate(images) if (len(img.get('alt', '').strip()) < 10 or img['alt'].endswith(('.png', '.svg'))) and not img.find_parent(class_='output text_html')]
    assert not without, f'{len(without)} pictures without `#| fig-alt: …`:\n' + '\n'.join(without)

# -- addresses, times, commands

def test_colab(tmp_path):
    path = ROOT/'nbs/01_matmul.ipynb'
    wanted = 'https://colab.research.google.com/github/some-one/a.book/blob/main/nbs/01_matmul.ipynb'
    for url in ('https://github.com/some-one/a.book', 'https://github.com/some-one/a.book.git', 'https://github.com/some-one/a.book/'):
        assert pages.colab_url({'Source': url}, path) == wanted
    assert pages.colab_url({}, path) is None and pages.colab_url({'Home': 'https://example.org/a/b'}, path) is None
    (tmp_path/'docs').mkdir()
    (tmp_path/'nbs').mkdir()
    shutil.copytree(ROOT/'docs/miniai_site', tmp_path/'docs/miniai_site', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT/'docs/conf.py', tmp_path/'docs')
    for folder in ('_static', '_templates'): shutil.copytree(ROOT/'docs'/folder, tmp_path/'docs'/folder)
    (tmp_path/'pyproject.toml').write_text('[project]\nauthors = [{name = "A"}]\n[project.urls]\nSource = "https://github.com/some-one/a.book"\n')
    (tmp_path/'docs/index.md').write_text('# A\n\n```{chapters}\n```\n\n```{toctree}\nglossary\n```\n')
    (tmp_path/'docs/glossary.md').write_text('# Glossary\n\n```{glossary}\nword\n  One. → [x](../nbs/01_matmul.ipynb)\n```\n')
    (tmp_path/'nbs/01_matmul.ipynb').write_text(json.dumps(planted()))
    res = build(tmp_path/'docs', tmp_path/'_docs')
    assert res.returncode == 0, res.stderr
    assert f'href="{wanted}"' in (tmp_path/'_docs/01_matmul.html').read_text()

def test_times(html):
    times = json.loads((ROOT/'docs/times.json').read_text())
    assert times['cores'] >= 1 and times['pages'] and all(t > 0 for t in times['pages'].values())
    for name, seconds in times['pages'].items():
        if name != 'index' and f'{name}.html' in html:
            assert f'Runs in {pages.human_seconds(seconds)} on {times["cores"]} core' in html[f'{name}.html'].select_one('.facts').text
    assert [pages.human_seconds(s) for s in (.4, 1.2, 61, 150)] == ['less than a second', 'about 1 second', 'about 61 seconds', 'about 2 minutes']
    assert pages.running_time({}, 'x') == ''

def test_times_are_those_of_a_run(tmp_path):
    spec = importlib.util.spec_from_file_location('times_script', ROOT/'docs/times.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    nb = dict(planted(), cells=[words('# A'), code('import time; time.sleep(.5)'), code('#| slow\nopen("slow cell", "w").close()')])
    (tmp_path/'a.ipynb').write_text(json.dumps(nb))
    assert script.seconds_of(tmp_path/'a.ipynb') > .5 and (tmp_path/'slow cell').exists()
    (tmp_path/'b.ipynb').write_text(json.dumps(dict(nb, cells=[words('# B'), code('1/0')])))
    with pytest.raises(RuntimeError, match='b.ipynb does not run'): script.seconds_of(tmp_path/'b.ipynb')

def test_one_command_everywhere():
    command = next(line for line in (ROOT/'README.md').read_text().splitlines() if "'.[docs]'" in line)
    assert f'run: {command}\n' in (ROOT/'.github/workflows/docs.yml').read_text()
    extras = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']['optional-dependencies']
    assert set(extras['docs']) <= set(extras['dev'])

def test_the_extension_is_short_and_clean():
    import ast
    for p in [*(ROOT/'docs').glob('*.py'), *(ROOT/'docs/miniai_site').glob('*.py')]:
        assert len(p.read_text().splitlines()) <= 220, p.name
        for n in ast.walk(ast.parse(p.read_text())):
            if isinstance(n, ast.FunctionDef): assert n.end_lineno - n.lineno < 50, f'{p.name}: {n.name}'
    res = subprocess.run([sys.executable, '-m', 'ruff', 'check', str(ROOT/'docs')], capture_output=True, text=True)
    assert res.returncode == 0, res.stdout

# -- in a browser

@pytest.fixture
def tab(browser):
    "A page of the browser, and a list of what it complains about"
    context = browser.new_context(viewport=dict(width=1280, height=800), color_scheme='light')
    tab, context.complaints = context.new_page(), []
    complain = context.complaints.append
    tab.on('console', lambda m: complain(f'{m.type}: {m.text}') if m.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda e: complain(f'exception: {e}'))
    tab.on('request', lambda r: None if r.url.startswith(('file:', 'data:', 'blob:')) else complain(f'asks another host: {r.url}'))
    tab.on('requestfailed', lambda r: complain(f'does not load: {r.url}'))
    yield tab
    context.close()

TOO_WIDE = '''() => ['html', '.main', '.content'].filter(s => {
  const e = document.querySelector(s);
  return e && e.scrollWidth > e.clientWidth + 1 }).concat(document.documentElement.scrollWidth > innerWidth ? ['page'] : [])'''
HIDDEN = '''() => ['only-light', 'only-dark'].map(c => [...document.querySelectorAll('img.' + c)].map(e => getComputedStyle(e).display == 'none'))'''

def test_every_page_loads(tab, site):
    "No error, no other host, no scrolling sideways, and of each picture the one for the theme: four times on each page"
    problems = []
    for path in sorted(site.glob('*.html')):
        tab.goto(path.as_uri())
        for scheme in ('light', 'dark'):
            tab.emulate_media(color_scheme=scheme)
            for width in (1280, 390):
                tab.set_viewport_size(dict(width=width, height=800))
                if wide := tab.evaluate(TOO_WIDE): problems.append(f'{path.name} scrolls sideways at {width}: {wide}')
            light, dark = tab.evaluate(HIDDEN)
            if any(light) != (scheme == 'dark' and bool(light)) or any(dark) != (scheme == 'light' and bool(dark)): problems.append(f'{path.name} in {scheme}: {light} {dark}')
        problems += [f'{path.name}: {c}' for c in tab.context.complaints]
        tab.context.complaints.clear()
    assert not problems, '\n'.join(problems)

def test_wide_content_scrolls_in_itself(tab, site):
    tab.set_viewport_size(dict(width=390, height=800))
    tab.goto((site/'98_planted.html').as_uri())
    tab.wait_for_selector('mjx-container[display="true"]')
    for selector in ('.output.text_html', '.cell_output .stream pre', '.cell_input pre', 'mjx-container[display="true"]'):
        boxes = tab.evaluate('s => [...document.querySelectorAll(s)].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => [getComputedStyle(e).overflowX, e.tabIndex])', selector)
        assert boxes and all(overflow in ('auto', 'scroll') and index == 0 for overflow, index in boxes), f'{selector}: {boxes}'

@pytest.mark.parametrize(('query', 'target'), [('quaxolotl', '98_planted.html'), ('conv2d_im2col', '08_im2col.html'), ('overfitting over-fitting', '06_')])
def test_search(tab, site, query, target):
    tab.goto((site/'index.html').as_uri())
    tab.fill('.sidebar-search', query.split()[-1])
    tab.press('.sidebar-search', 'Enter')
    tab.wait_for_selector('#search-results li a', timeout=10_000)
    tab.wait_for_function("document.querySelector('.search-summary').textContent.length > 20")
    found = tab.eval_on_selector_all('#search-results li a', 'es => es.map(e => e.getAttribute("href"))')
    assert any(target in href for href in found), found
    assert not tab.context.complaints

def test_front_page_fits_on_one_screen(tab, site):
    tab.goto((site/'index.html').as_uri())
    box = tab.locator('.doors').bounding_box()
    assert box['y'] + box['height'] <= 800
    assert tab.locator('.door a').count() == 3 and tab.locator('.show img:visible').count() == 1
    assert 'pip install' in tab.locator('pre').first.inner_text()

def test_keyboard(tab, site):
    tab.goto((site/'01_matmul.html').as_uri())
    tab.keyboard.press('Tab')
    assert tab.evaluate('document.activeElement.className').startswith('skip-to-content')
    for _ in range(4):
        tab.keyboard.press('Tab')
        ring = tab.evaluate('(() => { const s = getComputedStyle(document.activeElement); return [document.activeElement.tagName, s.outlineStyle, parseFloat(s.outlineWidth)] })()')
        assert ring[1] == 'solid' and ring[2] >= 2, ring

REPRESENTATIVE = ['index', '98_planted', 'start', '12_metrics', '17_cli', 'glossary', 'from_course', 'search']

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_accessibility(tab, site, scheme):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='needs axe-playwright-python').Axe()
    tab.emulate_media(color_scheme=scheme)
    problems = []
    for name in REPRESENTATIVE:
        tab.goto((site/f'{name}.html').as_uri())
        for v in axe.run(tab, options={'resultTypes': ['violations']}).response['violations']:
            if v['impact'] in ('serious', 'critical'):
                problems += [f'{name}: {v["id"]}: {n["html"][:150]} {n["any"][0]["message"][:200] if n["any"] else ""}' for n in v['nodes'][:3]]
    assert not problems, '\n'.join(problems)
