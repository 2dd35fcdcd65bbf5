"Settings of the site. Build it from the project's root: sphinx-build -E -W --keep-going -b html docs _docs"
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
_project = tomllib.loads((HERE.parent/'pyproject.toml').read_text(encoding='utf-8'))['project']

project, author = 'miniai', _project['authors'][0]['name']
html_title = 'miniai'
language = 'en'
extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx.ext.viewcode', 'sphinx_copybutton', 'miniai_site']
exclude_patterns = ['miniai_site', '_static', '_templates']
templates_path = ['_templates']

# the book: its notebooks, its modules, its addresses
book_notebooks = str(HERE.parent/'nbs')
book_modules = str(HERE.parent/'miniai')
book_urls = dict(_project.get('urls', {}))
book_times = str(HERE/'times.json')

# pages: nothing is executed
nb_execution_mode = 'off'
nb_merge_streams = True
nb_output_stderr = 'show'
nb_number_source_lines = False
nb_code_prompt_show = 'The code'
nb_render_text_lexer = 'none'
myst_enable_extensions = ['dollarmath', 'attrs_inline', 'attrs_block', 'colon_fence', 'fieldlist', 'deflist']
myst_heading_anchors = 3
myst_links_external_new_tab = False
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries = False
viewcode_follow_imported_members = False

# everything that a page loads lies beside it
mathjax_path = 'mathjax/tex-chtml.js'
html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['book.css']
html_js_files = [('book.js', {'priority': 400})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
html_domain_indices = False
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#0b6b4b', 'color-brand-content': '#0b6b4b', 'color-brand-visited': '#0b6b4b'},
    'dark_css_variables': {'color-brand-primary': '#6fd3a8', 'color-brand-content': '#6fd3a8', 'color-brand-visited': '#6fd3a8'},
    'top_of_page_buttons': [],
}
pygments_style = 'miniai_site.style.Light'
pygments_dark_style = 'miniai_site.style.Dark'
copybutton_selector = 'div.cell_input pre, div.highlight-bash pre, div.highlight-python pre'
