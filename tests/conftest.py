"Settings that all test files share"
import os

import matplotlib
from hypothesis import settings

matplotlib.use('agg')   # figures without a display
settings.register_profile('dev', max_examples=40, deadline=None)
settings.register_profile('ci', max_examples=40, deadline=None, derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'dev')
