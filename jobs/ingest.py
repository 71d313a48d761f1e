"""Make a paired dataset as a job of a Ray cluster; the arguments are those of `stray ingest`.

    ray job submit --working-dir . -- python jobs/ingest.py s3://bucket/cohort --recipe s3://bucket/cohort.yaml

Sources are read by the nodes: give paths that every node sees.
"""

from __future__ import annotations

import sys

from stray.cli import program

if __name__ == "__main__":
    sys.exit(program(["ingest", *sys.argv[1:]]))
