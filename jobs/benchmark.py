"""How fast each stage is on this cluster, and how much of the time it waits for data.

    python jobs/benchmark.py                     both stages on the demo's cohort of about 1,000 spots
    python jobs/benchmark.py --set dataset=PATH  on your own

Prints, for each stage, spots a second through Ray Data and Ray Train after the first epoch, the share of time spent
waiting for data, and the ratio to the same loop in one plain process on data in its own memory, measured in
the same run.
"""

from __future__ import annotations

import sys

from stray.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
