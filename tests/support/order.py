"""Order in which files are tested, and which of them share a process."""

from __future__ import annotations

SESSION = (
    "tests/e2e/test_smoke.py",
    "tests/ray/test_training.py",
    "tests/ray/test_pool.py",
    "tests/ray/test_scale.py",
    "tests/ray/test_ingest.py",
    "tests/e2e/test_gene_methods.py",
    "tests/e2e/test_search.py",
    "tests/e2e/test_choice.py",
)
"""Files that share a session of Ray: one process tests them, one after the other."""

LONG = (
    "tests/e2e/test_readme.py",
    "tests/e2e/test_tutorials.py",
    "tests/unit/train/test_towers_train.py",
    "tests/ray/test_submit.py",
    "tests/unit/train/test_edges.py",
    "tests/unit/train/test_stages.py",
    "tests/ray/test_session.py",
    "tests/unit/track/test_mlflow.py",
)
"""Files that take longest, in this order: what is left for the end should be short."""

ALONE = (
    "tests/e2e/test_demo.py",
    "tests/ray/test_autoscaling.py",
    "tests/ray/test_endings.py",
    "tests/ray/test_faults.py",
    "tests/ray/test_gene_training.py",
    "tests/ray/test_pool.py",
    "tests/ray/test_search_faults.py",
    "tests/ray/test_training.py",
    "tests/ray/test_waiting.py",
    "tests/unit/track/test_mlflow_server.py",
)
"""Files whose slow tests kill processes, end sessions or wait for what others hold."""

SHARED = "session"
"""Name of the group of the files of `SESSION`."""

_FIRST = (*SESSION, *LONG)


def group(nodeid: str) -> str:
    """Return the name of the group of files that one process tests: `SHARED`, or the file of the test."""
    file = nodeid.partition("::")[0]
    return SHARED if file in SESSION else file


def rank(nodeid: str) -> int:
    """Return the place of a test's file in the order; files of no particular place come last."""
    file = nodeid.partition("::")[0]
    return _FIRST.index(file) if file in _FIRST else len(_FIRST)
