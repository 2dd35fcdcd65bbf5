"The reference: what each module exports, read from its source without running it"
import ast
import io
import os
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

from .chapters import module_of, notebooks, number_of, title_of

@dataclass
class Param:
    "A parameter, or a field of a dataclass"
    name: str
    type: str = ''
    default: str = ''
    about: str = ''

@dataclass
class Entry:
    "An exported name with what its source says about it"
    name: str
    kind: str                       # function, class, exception or data
    about: str = ''                 # the docstring
    params: list = field(default_factory=list)
    returns: tuple = ('', '')       # type, comment
    methods: list = field(default_factory=list)

def comments_of(source):
    "The comment at the end of each line that has one: line number → text"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').strip() for t in tokens if t.type == tokenize.COMMENT}

def _text(node): return ast.unparse(node) if node is not None else ''

def _params(fn, comments):
    "Parameters of a function, each with the comment on its line if it has the line for itself"
    a, found = fn.args, []
    plain = a.posonlyargs + a.args
    defaults = [None]*(len(plain) - len(a.defaults)) + list(a.defaults)
    found += [('', arg, d) for arg, d in zip(plain, defaults, strict=True)]
    if a.vararg: found.append(('*', a.vararg, None))
    elif a.kwonlyargs: found.append(('*', None, None))
    found += [('', arg, d) for arg, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg: found.append(('**', a.kwarg, None))
    about = _comments_on(fn, [(arg, default) for _, arg, default in found if arg], comments)
    return [Param(star + (arg.arg if arg else ''), _text(arg.annotation) if arg else '', _text(default), about[arg.arg] if arg else '')
            for star, arg, default in found]

def _comments_on(fn, args, comments):
    "What the source says about each parameter: the comment on a line of its own, or the part that begins with its name"
    ends = {arg.arg: (default or arg.annotation or arg).end_lineno for arg, default in args}
    found = dict.fromkeys(ends, '')
    for line in set(ends.values()):
        names = [name for name, end in ends.items() if end == line]
        own = [name for name in names if name not in ('self', 'cls')]
        parts = re.split(rf'(?:^|[;,] ?)({"|".join(map(re.escape, own)) or "$."}): ', comments.get(line, ''))
        for name, text in zip(parts[1::2], parts[2::2], strict=True): found[name] = text
        if len(parts) == 1 and len(own) == 1 and (line > fn.lineno or fn.returns is None): found[own[0]] = parts[0]
    return found

def _returns(fn, comments):
    if fn.returns is None or _text(fn.returns) == 'None': return '', ''
    line = fn.returns.end_lineno
    return _text(fn.returns), comments.get(line, '') if line > max([fn.lineno, *(a.lineno for a in fn.args.args)]) or not fn.args.args else ''

def _decorators(node): return [_text(d.func if isinstance(d, ast.Call) else d).split('.')[-1] for d in node.decorator_list]

def _wrappers(tree):
    "Decorators of this source that put a function with parameters of its own in the place of another: name → that function"
    found = {}
    for fn in tree.body:
        inner = [n for n in fn.body if isinstance(n, ast.FunctionDef)] if isinstance(fn, ast.FunctionDef) else []
        returned = [_text(n.value) for n in getattr(fn, 'body', ()) if isinstance(n, ast.Return)]
        if len(inner) == 1 and returned == [inner[0].name] and not inner[0].args.vararg and 'wraps' not in _decorators(inner[0]): found[fn.name] = inner[0]
    return found

def _function(fn, comments, method=False, wrappers=()):
    for name in map(_text, fn.decorator_list):
        if name in wrappers:     # what callers see is what the decorator returns
            seen = _function(wrappers[name], comments)
            return Entry(fn.name, 'function', ast.get_docstring(fn) or '', seen.params, seen.returns)
    params = _params(fn, comments)
    static = 'staticmethod' in _decorators(fn)
    if method and not static: params = params[1:]
    return Entry(fn.name, 'property' if 'property' in _decorators(fn) else 'method' if method else 'function',
                 ast.get_docstring(fn) or '', params, _returns(fn, comments))

def _class(node, comments):
    methods = [_function(f, comments, True) for f in node.body if isinstance(f, ast.FunctionDef)]
    init = next((m for m in methods if m.name == '__init__'), None)
    params = init.params if init else []
    if 'dataclass' in _decorators(node):
        params = [Param(f.target.id, _text(f.annotation), _text(f.value), comments.get(f.end_lineno, '')) for f in node.body
                  if isinstance(f, ast.AnnAssign)]
    bases = [_text(b) for b in node.bases]
    kind = 'exception' if any(b.endswith(('Error', 'Exception')) for b in bases) else 'class'
    return Entry(node.name, kind, ast.get_docstring(node) or (init.about if init else ''), params,
                 methods=[m for m in methods if not m.name.startswith('_') and m.about])

def _data(name, node, comments): return Entry(name, 'data', comments.get(node.end_lineno, ''))

def exports(path):
    "The names that a module exports and defines, in the order of its source"
    source = Path(path).read_text(encoding='utf-8')
    comments, tree, found = comments_of(source), ast.parse(source), {}
    wrappers = _wrappers(tree)
    wanted = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and _text(n.targets[0]) == '__all__'), [])
    for node in tree.body:
        if isinstance(node, ast.ClassDef): entry = _class(node, comments)
        elif isinstance(node, ast.FunctionDef) and 'patch' in _decorators(node):
            owner, entry = found.get(_text(node.args.args[0].annotation)), _function(node, comments, True)
            if owner and not entry.name.startswith('_') and entry.about: owner.methods.append(entry)
            continue
        elif isinstance(node, ast.FunctionDef): entry = _function(node, comments, wrappers=wrappers)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name): entry = _data(node.targets[0].id, node, comments)
        else: continue
        if entry.name in wanted and entry.name not in found: found[entry.name] = entry
    return list(found.values())

def escape(text):
    "Text of a docstring or comment as Markdown: what is not between backticks stands for itself"
    parts = re.split(r'(`[^`]*`)', text)
    return ''.join(p if i % 2 else re.sub(r'([\\*_$<\[\]{}#~^|])', r'\\\1', p) for i, p in enumerate(parts))

def signature(entry):
    if entry.kind in ('data', 'property'): return entry.name
    params = ', '.join(p.name + (f'={p.default}' if p.default else '') for p in entry.params)
    return f'{entry.name}({params})' + (f' -> {entry.returns[0]}' if entry.returns[0] else '')

def block(entry, fence=':::::'):
    "An entry as a block of the Python domain, in Markdown"
    lines = [f'{fence}{{py:{entry.kind}}} {signature(entry)}', escape(entry.about), '']
    for p in entry.params:
        if p.name == '*' or not (p.about or p.type): continue
        lines += [f':param {p.name.lstrip("*")}: {escape(p.about)}'] + ([f':type {p.name.lstrip("*")}: {p.type}'] if p.type else [])
    if entry.returns[1]: lines.append(f':returns: {escape(entry.returns[1])}')
    for m in entry.methods: lines += ['', block(m, fence[1:])]
    return '\n'.join([*lines, fence])

def reference(path):
    "The reference section of a page, in Markdown"
    found, module = exports(path), Path(path).stem
    if not found: return ''
    return '\n\n'.join([f'(reference-{module})=\n## Reference: `miniai.{module}`', 'What this chapter exports.',
                        f'```{{py:currentmodule}} miniai.{module}\n```', *(block(e) for e in found)])

def all_exports(config):
    "Every chapter that exports something: (path of the notebook, name of the module, entries)"
    for path in notebooks(config.book_notebooks):
        module = module_of(path)
        source = Path(config.book_modules)/f'{module}.py'
        if module and source.is_file(): yield path, module, exports(source)

class IndexDirective(SphinxDirective):
    "A table of all exported names"
    def run(self):
        rows = [(e, path, m) for path, m, entries in all_exports(self.config) for e in entries]
        lines = ['| name | what it is | chapter |', '|---|---|---|']
        for e, path, m in sorted(rows, key=lambda r: r[0].name.lower()):
            link = Path(os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)).as_posix()
            about = escape(e.about.split('\n')[0]).replace('|', '\\|')
            lines.append(f'| {{py:obj}}`{e.name} <miniai.{m}.{e.name}>` | {about} | [{number_of(path.stem)[0]} {title_of(path)[0]}]({link}) |')
        return self.parse_text_to_nodes('\n'.join([':::{container} stack', *lines, ':::']))

def definitions(source):
    "Where functions, classes and methods stand in a source, those that `patch` adds to a class too: name → (kind, first line, last line)"
    found = {}
    def enter(node, owner=''):
        for n in node.body:
            if not isinstance(n, (ast.FunctionDef, ast.ClassDef)): continue
            name = f'{_text(n.args.args[0].annotation)}.{n.name}' if 'patch' in _decorators(n) else owner + n.name
            first = min([n.lineno, *(d.lineno for d in n.decorator_list)])
            found[name] = 'class' if isinstance(n, ast.ClassDef) else 'def', first, n.end_lineno
            if isinstance(n, ast.ClassDef): enter(n, f'{name}.')
    enter(ast.parse(source))
    return found

def _find_source(app, modname):
    "Source and definitions of one of our modules, so that nothing is imported"
    path = Path(app.config.book_modules)/f'{modname.split(".")[-1]}.py'
    if modname not in app.book_sources and path.is_file():
        source = path.read_text(encoding='utf-8')
        app.book_sources[modname] = source, definitions(source)
    return app.book_sources.get(modname)

def setup(app):
    app.book_sources = {}
    app.add_directive('api-index', IndexDirective)
    app.connect('viewcode-find-source', _find_source)
