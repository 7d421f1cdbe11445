"""test/bench/run's measurements: bench.py NAME..."""
import importlib
import sys

import harness

if __name__ == '__main__':
    db = harness.prepare()
    for name in sys.argv[1:]:
        harness.log('measuring', name)
        print(f'\n## {name}')
        importlib.import_module(name).run(db)
