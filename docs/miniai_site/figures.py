"Pictures for light and dark: the one ink of a transparent plot is recolored, once for each theme"
import base64
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from PIL import Image, UnidentifiedImageError
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from .pages import split_directives

INKS = {'only-light': (38, 43, 48), 'only-dark': (214, 218, 222)}

def ink_of(folder):
    "The color of text and axes that the notebooks' matplotlibrc sets, as three bytes; None without one"
    path = Path(folder)/'matplotlibrc'
    found = re.search(r'^text\.color\s*:\s*#?([0-9a-fA-F]{6})\b', path.read_text(encoding='utf-8'), re.M) if path.is_file() else None
    return tuple(bytes.fromhex(found[1])) if found else None

def inked(pixels, ink):
    "Which of (n, 4) bytes have the color `ink`, however transparent; faint ones may be a little off, because they are rounded coarsely"
    alpha = pixels[:, 3].astype(np.int16)
    off = np.abs(pixels[:, :3].astype(np.int16) - np.array(ink, dtype=np.int16)).max(-1)
    return (alpha > 0) & (off <= np.where(alpha == 255, 0, 255//np.maximum(alpha, 1)))

def recolor(pixels, old, new):
    "A copy of (h, w, 4) bytes in which every pixel of color `old`, however transparent, has color `new`"
    res = pixels.reshape(-1, 4).copy()
    seen = np.flatnonzero(res[:, 3])
    res[seen[inked(res[seen], old)], :3] = new
    return res.reshape(pixels.shape)

def has_black_ink(pixels):
    "Whether a transparent picture has letters or lines in black, which nobody could see on a dark page: many half transparent black pixels"
    return ((pixels[..., :3] == 0).all(-1) & (pixels[..., 3] > 0) & (pixels[..., 3] < 255)).sum() > 200

def address_of(file, srcdir):
    "A file's address as Sphinx wants it: a leading slash stands for the source folder"
    return '/' + Path(os.path.relpath(file, srcdir)).as_posix()

def variants(path, folder, ink):
    "The files of a transparent picture for each theme: class → path; None for an opaque one"
    data = path.read_bytes()
    try: image = Image.open(path)
    except UnidentifiedImageError: return None
    if image.format != 'PNG' or image.mode != 'RGBA' or ink is None or image.getextrema()[3][0] == 255: return None
    if has_black_ink(np.asarray(image)): return None
    stem, files = hashlib.sha256(data + repr((ink, INKS)).encode()).hexdigest()[:16], {}
    for theme, new in INKS.items():
        files[theme] = folder/f'{stem}-{theme.removeprefix("only-")}.png'
        if not files[theme].exists(): Image.fromarray(recolor(np.asarray(image), ink, new)).save(files[theme], compress_level=4)
    return files

class ThemedPictures(SphinxTransform):
    "Put two pictures, one for each theme, in the place of each transparent one; mark the others as opaque"
    default_priority = 500      # before Sphinx collects the files of all pictures

    def apply(self, **kwargs):
        folder = Path(self.app.doctreedir)/'pictures'
        folder.mkdir(parents=True, exist_ok=True)
        ink = ink_of(self.config.book_notebooks)
        for node in list(self.document.findall(nodes.image)):
            path = Path(self.env.relfn2path(node['uri'])[1])
            if path.suffix.lower() != '.png' or not path.is_file(): continue
            if not (files := variants(path, folder, ink)):
                node['classes'].append('opaque')
                continue
            copies = []
            for theme, file in files.items():
                copies.append(copy := node.copy())
                copy['uri'] = address_of(file, self.app.srcdir)
                copy['classes'] = [*node['classes'], theme]
            node.replace_self(copies)

def stored_output(path, text):
    "The output of the first cell of a notebook that contains `text`, as HTML or PNG, and its alternative text; (None, None, '') without one"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if path.is_file() else []:
        found, source = split_directives(''.join(cell['source']))
        for output in cell.get('outputs', []) if text in source else []:
            for kind in ('text/html', 'image/png'):
                if kind in output.get('data', {}): return kind, ''.join(output['data'][kind]), found.get('fig-alt', '')
    return None, None, ''

class StoredOutput(SphinxDirective):
    "A notebook's stored output on another page, with a caption; nothing at all if there is no such output"
    required_arguments, final_argument_whitespace, has_content = 1, True, True
    option_spec = dict(cell=directives.unchanged_required, alt=directives.unchanged)

    def run(self):
        path = Path(self.config.book_notebooks)/f'{self.arguments[0]}.ipynb'
        kind, data, alt = stored_output(path, self.options['cell'])
        if kind is None: return []
        self.env.note_dependency(str(path))
        if kind == 'text/html': body = nodes.raw('', data, format='html')
        else: body = nodes.image(uri=self._file(base64.b64decode(data)), alt=alt or self.options.get('alt', ''))
        return [nodes.container('', body, *self.parse_content_to_nodes(), classes=['stored-output'])]

    def _file(self, data):
        file = Path(self.env.app.doctreedir)/'outputs'/f'{hashlib.sha256(data).hexdigest()[:16]}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return address_of(file, self.env.srcdir)

def _place_outputs(app):
    "Keep the files that myst-nb writes inside the build folder"
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=str(Path(app.doctreedir)/'outputs'))

def setup(app):
    app.add_transform(ThemedPictures)
    app.add_directive('stored-output', StoredOutput)
    app.connect('builder-inited', _place_outputs, priority=900)
