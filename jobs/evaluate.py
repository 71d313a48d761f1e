"""Score trained encoders anew, without training, on the cluster that this job runs on.

    ray job submit --working-dir . -- python jobs/evaluate.py her2st --set eval.knn_k=5

Takes what `stray evaluate` takes; `python jobs/evaluate.py --help` lists it.
"""

from __future__ import annotations

import sys

from stray.cli import program

if __name__ == "__main__":
    sys.exit(program(["evaluate", *sys.argv[1:]]))
