"Run every page with nbdev's runner and write down how long each takes: python docs/times.py [NAME ...]"
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT/'docs/times.json'
# The clock starts in a fresh process, before the page's first import; cells that are marked as slow run, too
RUN = '''
import sys, time
from nbdev.test import test_nb
start = time.perf_counter()
good, _ = test_nb(sys.argv[1], force_flags=['slow'])
print('seconds', time.perf_counter() - start)
sys.exit(not good)
'''

def cores():
    "Processor cores that this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()

def seconds_of(path):
    "How long one page takes to run, all of its cells"
    res = subprocess.run([sys.executable, '-c', RUN, str(path)], cwd=ROOT, capture_output=True, text=True)
    if res.returncode: raise RuntimeError(f'{path.name} does not run:\n{res.stderr[-3000:]}')
    return float(next(line for line in reversed(res.stdout.splitlines()) if line.startswith('seconds ')).split()[1])

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='pages without .ipynb, such as 01_matmul; all of them if left out')
    names = parser.parse_args().names or sorted(p.stem for p in (ROOT/'nbs').glob('*.ipynb'))
    pages = json.loads(TIMES.read_text())['pages'] if TIMES.exists() else {}
    for name in names:
        pages[name] = round(seconds_of(ROOT/f'nbs/{name}.ipynb'), 1)
        print(f'{name:30}{pages[name]:8.1f} s', flush=True)
        kept = {n: pages[n] for n in sorted(pages) if (ROOT/f'nbs/{n}.ipynb').exists()}
        TIMES.write_text(json.dumps(dict(cores=cores(), pages=kept), indent=1) + '\n')

if __name__ == '__main__': main()
