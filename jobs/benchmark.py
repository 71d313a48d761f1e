"""How fast stray is on this cluster, and how good its gene codes are beside scvi-tools'.

    python jobs/benchmark.py                              each stage through Ray, on the demo's cohort
    python jobs/benchmark.py --set dataset=PATH           on your own
    python jobs/benchmark.py gene --against scvi-tools    the gene stage and scvi-tools on the same matrix, in turn
    python jobs/benchmark.py contrastive                  the contrastive stage against a DataLoader, and loading alone
    python jobs/benchmark.py quality --set dataset=PATH   their codes, on patients held out
    python jobs/benchmark.py pool                         how well a grid of runs fills slots of workers
    python jobs/benchmark.py scale --spots 50000 200000   what a spot costs in larger cohorts
    python jobs/benchmark.py search                       samplers and a scheduler on a synthetic score

`python jobs/benchmark.py --help` tells more. Submitted as a job, it needs this repository as the working directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    # `jobs.benchmarks` is not installed: this process imports it from here, and so do those that it starts.
    sys.path.insert(0, ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    from jobs.benchmarks.command import main

    sys.exit(main(sys.argv[1:]))
