"Links in the prose: terms to the glossary, names in backticks to the reference, once on each page"
import re
from collections import Counter

from docutils import nodes
from sphinx import addnodes

LEAVE = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.image, nodes.term,
         nodes.caption, nodes.rubric, addnodes.pending_xref, addnodes.desc, addnodes.toctree, addnodes.download_reference, addnodes.compact_paragraph)
UNTOUCHED = ('index', 'glossary', 'api', 'from_course')

def pattern_of(term):
    "What a term looks like in a sentence: with a plural s; in any case unless it has capitals of its own"
    text = re.sub(r'[ -]+', r'[ \\s-]+', re.escape(term).replace('\\ ', ' ').replace('\\-', '-'))
    if term.endswith('x') and len(term) > 3: plural = f'(?:{text}|{text[:-1]}ces)'
    elif term.endswith('y'): plural = f'(?:{text}|{text[:-1]}ies)'
    else: plural = f'{text}(?:s|es)?'
    return plural if any(c.isupper() for c in term) else f'(?i:{plural})'

def matcher(names):
    "One regular expression for all terms, long ones first, and a group for each"
    ordered = sorted(names, key=lambda n: (-len(n), n))
    return ordered, re.compile(r'(?<![\w/.-])(?:' + '|'.join(f'({pattern_of(n)})' for n in ordered) + r')(?![\w/-])')

def glossary_of(env):
    "Terms that may be linked: name → (anchor, definition); a name in parentheses explains another one and is never linked"
    found = {}
    for item in env.get_doctree('glossary').findall(nodes.definition_list_item):
        about = item.next_node(nodes.definition).next_node(nodes.paragraph).astext().split('→')[0].strip()
        for term in item.findall(nodes.term): found[term.astext()] = term['ids'][0], about
    return {name: value for name, value in found.items() if '(' not in name}

def split(text, regex, ordered, seen):
    "A text as a list of (piece, term or None); every term at most once on a page"
    pieces, start = [], 0
    for m in regex.finditer(text):
        name = ordered[m.lastindex-1]
        if name in seen: continue
        seen.add(name)
        pieces += [(text[start:m.start()], None), (m[0], name)]
        start = m.end()
    return [*pieces, (text[start:], None)] if pieces else []

def _in_prose(node):
    parent = node.parent
    while parent is not None:
        if isinstance(parent, LEAVE) or 'cell_output' in parent.get('classes', []) or 'facts' in parent.get('classes', []): return False
        parent = parent.parent
    return True

def link_terms(app, doctree, docname):
    "Turn the first occurrence of each term in a page's prose into a link"
    terms, (ordered, regex) = app.book_terms
    base, seen = app.builder.get_relative_uri(docname, 'glossary'), set()
    for node in list(doctree.findall(nodes.Text)):
        if not _in_prose(node): continue
        parts = []
        for text, name in split(node.astext(), regex, ordered, seen):
            if name is None: parts.append(nodes.Text(text))
            else:
                anchor, about = terms[name]
                parts.append(nodes.reference('', text, refuri=f'{base}#{anchor}', reftitle=about, internal=True, classes=['glossary-term']))
        if parts: node.parent.replace(node, parts)

def link_names(app, doctree, docname):
    "Turn the first occurrence of each exported name in backticks into a link to its reference"
    seen = set()
    for node in list(doctree.findall(nodes.literal)):
        name = node.astext().removesuffix('()')
        if name not in app.book_names or name in seen or not _in_prose(node): continue
        seen.add(name)
        target, full = app.book_names[name]
        ref = nodes.reference('', '', refuri=f'{app.builder.get_relative_uri(docname, target)}#{full}', internal=True, classes=['name'])
        node.replace_self(ref)
        ref += node

def _prepare(app, env):
    "Collect the terms and the exported names once, after all pages have been read"
    terms = glossary_of(env)
    app.book_terms = terms, matcher(terms)
    objects = env.get_domain('py').objects
    short = Counter(full.split('.')[-1] for full in objects if full.count('.') == 2)
    app.book_names = {full.split('.')[-1]: (o.docname, o.node_id) for full, o in objects.items() if full.count('.') == 2 and short[full.split('.')[-1]] == 1}

def _on_resolved(app, doctree, docname):
    if docname in UNTOUCHED: return
    link_names(app, doctree, docname)
    if app.book_terms[0]: link_terms(app, doctree, docname)

def setup(app):
    app.connect('env-updated', _prepare)
    app.connect('doctree-resolved', _on_resolved)
