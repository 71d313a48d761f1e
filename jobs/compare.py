"""Compare the methods of an experiment.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/compare.py --uri http://MLFLOW:5000 --out
page.html
"""

from __future__ import annotations

import sys

from stray.cli import program

if __name__ == "__main__":
    sys.exit(program(["compare", *sys.argv[1:]]))
