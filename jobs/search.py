"""Search a recipe's hyperparameters on the cluster that this job runs on.

    ray job submit --working-dir . -- python jobs/search.py her2st --set dataset=s3://bucket/her2st

Takes what `stray search` takes; `python jobs/search.py --help` lists it. Submitted again with the same output, it
goes on where it stopped.
"""

from __future__ import annotations

import sys

from stray.cli import program

if __name__ == "__main__":
    sys.exit(program(["search", *sys.argv[1:]]))
