"""Jobs: send a command with its files to a cluster, follow its log, and end as it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient

import stray
from stray.errors import InputError, Problem
from stray.on_ray.private import maybe_enable_token_auth_if_token_available
from stray.on_ray.reach import check_dashboard
from stray.recipe import shipped_recipes
from stray.track import records

EXCLUDES = [".git/", ".venv/", "stray-runs/", "stray-demo/", "*.db"]
"""Not sent along, besides what `.gitignore` and `.rayignore` of the working directory name."""

STOPPED = 143
"""Exit code of a stopped job: that of a process ended by SIGTERM."""

_POLL_S = 0.5


class Job:
    """A job on a cluster."""

    def __init__(self, client: JobSubmissionClient, job_id: str) -> None:
        self._client = client
        self._seen = 0  # Characters of the log already passed to `write`.
        self.job_id = job_id
        """Ray's id of the job."""

    def follow(self, write: Callable[[str], object]) -> int:
        """Hand every piece of the job's log to `write` until the job ends; returns its exit code.

        A connection that breaks is taken up again where it broke: the job does not depend on it.
        """
        while not self._client.get_job_status(self.job_id).is_terminal():
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
                asyncio.run(self._tail(write))
            time.sleep(_POLL_S)
        # Output between the last poll and the end.
        write(self._client.get_job_logs(self.job_id)[self._seen :])
        return self.exit_code()

    async def _tail(self, write: Callable[[str], object]) -> None:
        skip = self._seen
        async for text in self._client.tail_job_logs(self.job_id):
            new, skip = text[skip:], max(0, skip - len(text))
            self._seen += len(new)
            write(new)

    def exit_code(self) -> int:
        """Return the exit code of an ended job: its command's own, 1 where it never ran, 143 where it was stopped."""
        info = self._client.get_job_info(self.job_id)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        return STOPPED if info.status == JobStatus.STOPPED else info.driver_exit_code or 1

    def message(self) -> str:
        """Return Ray's message about the job's end, without the end of the log that it repeats."""
        return (self._client.get_job_info(self.job_id).message or "").partition(", last available logs")[0]


def submit(
    command: Sequence[str],
    *,
    address: str | None = None,
    working_dir: str = ".",
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Send `working_dir` and `command` to the cluster whose dashboard is at `address`, and start it there.

    `command` is a verb of stray with its arguments, or any command line. This process's own version of stray goes along
    unless the working directory brings one. Without `address` Ray looks at RAY_API_SERVER_ADDRESS, RAY_ADDRESS and the
    dashboard's usual place on this machine. Raises InputError when the directory is absent or no cluster answers.
    """
    folder = Path(working_dir)
    if not folder.is_dir():
        raise InputError(
            Problem("--working-dir", f"{working_dir} is not a folder", "give the folder that the job needs")
        )
    place = address or "the default address"
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # Silence messages on uploads and closed sockets.
    check_dashboard(address, "--address")
    for name in () if address else ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name):
            check_dashboard(os.environ[name], name)
            break
    # A client reads the cluster's token only if told to, and is otherwise refused with 401.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        with _package(folder) as modules:
            client = JobSubmissionClient(address)
            runtime = {
                "working_dir": str(folder.resolve()),
                "excludes": EXCLUDES,
                "env_vars": dict(environment or {}),
                **({"py_modules": modules} if modules else {}),
            }
            metadata = {records.VERSION: stray.__version__}
            job_id = client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime, metadata=metadata)
    except AuthenticationError as error:
        remedy = "put the cluster's token into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH"
        raise InputError(Problem("--address", f"{place}: the cluster asks for a token: {error}", remedy)) from error
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        remedy = "give the address of the cluster's dashboard, such as http://127.0.0.1:8265"
        raise InputError(Problem("--address", f"no job could be submitted to {place}: {error}", remedy)) from error
    return Job(client, job_id)


@contextlib.contextmanager
def _package(folder: Path) -> Iterator[list[str]]:
    """Yield the modules that bring stray along: none where `folder` holds it, else a copy of the package with its
    recipes inside.
    """
    if (folder / "stray" / "__init__.py").is_file():
        yield []
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "stray"
        shutil.copytree(Path(stray.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "recipes").mkdir(exist_ok=True)
        for file in shipped_recipes().values():
            shutil.copy(file, copy / "recipes" / file.name)
        yield [str(copy)]
