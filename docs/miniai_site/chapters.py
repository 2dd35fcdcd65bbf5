"Which pages there are: the notebooks of another folder join the documents of this one"
import json
import re
from pathlib import Path

from sphinx.project import Project
from sphinx.util.docutils import SphinxDirective

GROUPS = [('Foundations', 0, 3), ('Data', 4, 7), ('Convolutions', 8, 10), ('The loop', 11, 14), ('Play and practice', 15, 16), ('From a shell', 17, 99)]

def docname_of(path):
    "The page of a notebook; the page `index` is taken by the site's front page"
    return 'start' if path.stem == 'index' else path.stem

def notebooks(folder): return sorted(Path(folder).glob('*.ipynb'))

def number_of(name):
    "The number in front of a chapter's name, as text and as a number: '09b', 9"
    found = re.match(r'((\d+)[a-z]?)_', name)
    return (found[1], int(found[2])) if found else ('', -1)

def title_of(path):
    "Title and description in the first cell of a notebook"
    first = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()
    return first[0].removeprefix('# '), first[1].removeprefix('> ') if len(first) > 1 else ''

def module_of(path):
    "The module that a notebook is exported to, or None"
    found = re.search(r'#\|\s*default_exp\s+(\w+)', path.read_text(encoding='utf-8'))
    return found[1] if found else None

class Book(Project):
    "The documents of the source folder, and the notebooks"
    notebooks = ''

    def discover(self, *args, **kwargs):
        super().discover(*args, **kwargs)
        for path in notebooks(self.notebooks):
            name = docname_of(path)
            self.docnames.add(name)
            self._docname_to_path[name], self._path_to_docname[path] = path, name
        return self.docnames

def _adopt(app):
    "Let the project of this build find the notebooks as well"
    app.project.__class__ = Book
    app.project.notebooks = app.config.book_notebooks

class ChaptersDirective(SphinxDirective):
    "The tables of contents of the chapters, one for each group, for the sidebar"
    def run(self):
        found = [p for p in notebooks(self.config.book_notebooks) if number_of(p.stem)[0]]
        lines = []
        for caption, low, high in GROUPS:
            names = [p.stem for p in found if p.stem in self.env.found_docs and low <= number_of(p.stem)[1] <= high]
            if names: lines += ['```{toctree}', ':hidden:', f':caption: {caption}', '', *names, '```', '']
        return self.parse_text_to_nodes('\n'.join(lines))

def setup(app):
    app.connect('builder-inited', _adopt)
    app.add_directive('chapters', ChaptersDirective)
