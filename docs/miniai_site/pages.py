"From a stored notebook to a page: directives become cell tags, the first cell becomes the head of the page"
import json
import re
from pathlib import Path

from myst_nb.sphinx_ import HideCodeCellNode

from . import api
from .chapters import module_of, number_of

DIRECTIVE = re.compile(r'#\s*\|\s*([\w-]+):?[ \t]*(.*)')
LANGUAGE = {'name': 'python', 'pygments_lexer': 'ipython3'}
TAGS = {('code-fold', 'true'): 'hide-input', ('echo', 'false'): 'remove-input', ('output', 'false'): 'remove-output'}

def split_directives(source):
    "The `#|` lines at the top of a cell as a dict, and the rest of its source"
    lines, found = source.splitlines(), {}
    while lines and (m := DIRECTIVE.match(lines[0])):
        found[m[1]] = m[2].strip()
        lines.pop(0)
    return found, '\n'.join(lines).strip('\n')

def rewrite_code(cell):
    "A code cell as its page shows it, or None if the page leaves it out"
    found, source = split_directives(''.join(cell['source']))
    if 'hide' in found or not source: return None
    only_imports = all(re.match(r'(import|from)\b|\s|\)|#|$', line) for line in source.splitlines())
    if only_imports: found.setdefault('code-fold', 'true')
    tags = [tag for (name, value), tag in TAGS.items() if found.get(name) == value]
    if found.keys() & {'export', 'exports'}: tags.append('export')
    metadata = {**cell.get('metadata', {}), 'tags': tags}
    if only_imports: metadata['mystnb'] = {'code_prompt_show': 'The imports'}
    if alt := found.get('fig-alt'): metadata.setdefault('mystnb', {})['image'] = {'alt': alt.strip('"\'')}
    return {**cell, 'source': source, 'metadata': metadata}

def colab_url(urls, path):
    "Address that opens a notebook in Colab, if one of the project's addresses is a repository on GitHub; otherwise None"
    for url in urls.values():
        if found := re.match(r'https?://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?$', url):
            return f'https://colab.research.google.com/github/{found[1]}/{found[2]}/blob/main/nbs/{path.name}'
    return None

def human_seconds(seconds):
    "A running time in words that promise no more than it can keep"
    if seconds < 1: return 'less than a second'
    if seconds < 90: return f'about {seconds:.0f} second{"s" if round(seconds) != 1 else ""}'
    return f'about {seconds/60:.0f} minutes'

def running_time(times, name):
    "How long a page takes to run, as a sentence, or nothing if it was not measured"
    if name not in times.get('pages', {}): return ''
    cores = times['cores']
    return f'Runs in {human_seconds(times["pages"][name])} on {cores} core{"s" if cores != 1 else ""}'

def head(path, first, urls, times):
    "Markdown for the top of a page: title with its number, why to read it, what to do with it"
    title, *rest = first.splitlines()
    number, why = number_of(path.stem)[0], ' '.join(line.removeprefix('>').strip() for line in rest)
    title = 'Start here' if path.stem == 'index' else title.removeprefix('# ')
    facts = [f'{{download}}`Download the notebook <{path.name}>`']
    if url := colab_url(urls, path): facts.append(f'[Open in Colab]({url})')
    if module := module_of(path): facts.append(f'[Reference of `miniai.{module}`](#reference-{module})')
    if time := running_time(times, path.stem): facts.append(time)
    return '\n'.join([f'# [{number}]{{.number}} {title}' if number else f'# {title}', '',
                      '::::{container} why', '**Why read this**', '', why, '::::', '',
                      '::::{container} facts', *(f'- {fact}' for fact in facts), '::::'])

def rewrite(text, path, urls, times, reference=''):
    "The text of a notebook as its page shows it, with its reference at the end"
    nb = json.loads(text)
    first = ''.join(nb['cells'][0]['source'])
    cells = [{**nb['cells'][0], 'source': head(path, first, urls, times)}]
    for cell in nb['cells'][1:]:
        cell = rewrite_code(cell) if cell['cell_type'] == 'code' else cell
        if cell: cells.append(cell)
    if reference: cells.append(dict(cell_type='markdown', id='reference', metadata={}, source=reference))
    nb['cells'], nb['metadata'] = cells, {'language_info': LANGUAGE}
    return json.dumps(nb)

def read_times(file):
    "How long the pages take, as docs/times.py has measured it"
    return json.loads(Path(file).read_text(encoding='utf-8')) if file and Path(file).is_file() else {}

def _on_read(app, docname, content):
    path = Path(app.env.doc2path(docname))
    if path.suffix != '.ipynb': return
    config, module = app.config, module_of(path)
    reference = api.reference(Path(config.book_modules)/f'{module}.py') if module else ''
    content[0] = rewrite(content[0], path, config.book_urls, read_times(config.book_times), reference)

def _open_fold(self, node): self.body.append(f'<details class="fold"><summary>{self.encode(node["prompt_show"])}</summary>\n')
def _close_fold(self, node): self.body.append('</details>\n')

def setup(app):
    app.connect('source-read', _on_read)
    app.add_node(HideCodeCellNode, override=True, html=(_open_fold, _close_fold))
