"Files that the pages load: MathJax, copied from an installed package, so that nothing comes from another host"
import importlib.util
import shutil
from pathlib import Path

PARTS = ['tex-chtml.js', 'output/chtml/fonts/woff-v2', 'input/tex/extensions']

def mathjax_folder():
    "Where the installed package sphinx-mathjax-offline keeps MathJax"
    spec = importlib.util.find_spec('sphinx-mathjax-offline')
    if spec is None: raise ModuleNotFoundError("the site needs the package sphinx-mathjax-offline: python -m pip install -c constraints.txt -e '.[docs]'")
    return Path(spec.origin).parent/'static/mathjax'

def _copy(app, exception):
    if exception: return
    source, target = mathjax_folder(), Path(app.outdir)/'_static/mathjax'
    for part in PARTS:
        (target/part).parent.mkdir(parents=True, exist_ok=True)
        if (source/part).is_dir(): shutil.copytree(source/part, target/part, dirs_exist_ok=True)
        else: shutil.copy(source/part, target/part)

def _repair_sidebar(app, pagename, template, context, doctree):
    "Furo calls the captions of the sidebar headings, and does not say of which level"
    tree = context.get('furo_navigation_tree', '')
    context['furo_navigation_tree'] = tree.replace('role="heading"', 'role="heading" aria-level="2"')

def setup(app):
    app.connect('build-finished', _copy)
    app.connect('html-page-context', _repair_sidebar, priority=900)
