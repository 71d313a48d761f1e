"""Train and score every cell of a recipe on the cluster that this job runs on.

    ray job submit --working-dir . -- python jobs/train.py smoke --set output=s3://bucket/runs

Takes what `stray train` takes; `python jobs/train.py --help` lists it. Progress is plain lines in the job's log, the
exit code is 0 when every cell is done and 2 when the input is at fault.
"""

from __future__ import annotations

import sys

from stray.cli import program

if __name__ == "__main__":
    sys.exit(program(["train", *sys.argv[1:]]))
