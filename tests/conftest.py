"Settings that all test files share"
import os
import shutil
import signal

import matplotlib
import pytest
from hypothesis import settings

matplotlib.use('agg')   # figures without a display
settings.register_profile('dev', max_examples=40, deadline=None)
settings.register_profile('ci', max_examples=40, deadline=None, derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'dev')
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)      # a shell starts jobs in the background so

QUIET = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()

@pytest.fixture(scope='session')
def browser():
    "Debian's Chromium, driven by Playwright"
    sync_api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    path = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not path: pytest.skip('no Chromium found; on Debian and Ubuntu: apt-get install chromium')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()

FRAME = ('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>figures</title><style>body {{ margin: 20px; font-family: sans-serif; color: #222; }} '
         'body.dark {{ background: #131416; color: #ddd; }}</style></head><body class="{theme}"><main><h1>figures</h1>{body}</main></body></html>')

@pytest.fixture
def show(browser, tmp_path):
    "Put figures on a page; a request to another host or an error in a script fails the test"
    contexts, problems = [], []
    def _show(*figures, width=1280, theme='light', scripts=True):
        context = browser.new_context(viewport=dict(width=width, height=1000), java_script_enabled=scripts)
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda m: problems.append(m.text) if m.type in ('error', 'warning') else None)
        page.on('pageerror', lambda e: problems.append(str(e)))
        page.on('request', lambda r: problems.append(r.url) if not r.url.startswith(('file:', 'data:')) else None)
        file = tmp_path/f'page{len(contexts)}.html'
        file.write_text(FRAME.format(theme=theme, body='\n'.join(f._repr_html_() for f in figures)))
        page.goto(file.as_uri())
        if scripts and figures: page.wait_for_selector('.miniai-figure[data-awake=yes] .say')
        return page
    yield _show
    for context in contexts: context.close()
    assert not problems, problems
