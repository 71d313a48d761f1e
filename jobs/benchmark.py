"""How fast stray is on this cluster, and how good its gene codes are beside scvi-tools'.

    python jobs/benchmark.py                              each stage through Ray, on the demo's cohort
    python jobs/benchmark.py --set dataset=PATH           on your own
    python jobs/benchmark.py gene --against scvi-tools    the gene stage and scvi-tools in one race
    python jobs/benchmark.py contrastive                  the contrastive stage against a DataLoader, and loading alone
    python jobs/benchmark.py quality --set dataset=PATH   their codes, on patients held out
    python jobs/benchmark.py scale --spots 50000 200000   what a spot costs in larger cohorts

`python jobs/benchmark.py --help` tells more.
"""

from __future__ import annotations

import sys

from stray.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
