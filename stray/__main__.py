"""`python -m stray VERB ...`: the command line where no console script is installed, as on a cluster's nodes."""

from __future__ import annotations

import sys

from stray.cli import main

if __name__ == "__main__":
    sys.exit(main())
