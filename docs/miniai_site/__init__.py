"The site of the book: notebooks become pages, with their reference, glossary links and pictures for light and dark"
from . import api, assets, chapters, figures, pages, terms

def setup(app):
    for name, default in (('book_notebooks', ''), ('book_modules', ''), ('book_urls', {}), ('book_times', '')):
        app.add_config_value(name, default, 'env')
    for part in (chapters, pages, api, figures, terms, assets): part.setup(app)
    return dict(version='1', parallel_read_safe=False, parallel_write_safe=False)
