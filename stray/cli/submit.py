"""Run a command as a job on a Ray cluster, and follow its log until it ends.

  stray submit -- train her2st --set dataset=s3://bucket/her2st --set output=s3://bucket/runs
  stray submit --address http://head:8265 --env MLFLOW_TRACKING_URI=http://mlflow:5000 -- search her2st
  stray submit -- python jobs/benchmark.py

The working directory is sent along, without what .gitignore and .rayignore name. The exit code is the job's own. Ctrl-C
stops the following, not the job.
"""

from __future__ import annotations

import argparse
import sys

from stray.cli import VERBS
from stray.cli.console import say
from stray.cli.safe import visible
from stray.errors import Problem, raise_if_any

HELP = "run a command as a job on a Ray cluster and follow its log"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray submit`."""
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard, such as http://127.0.0.1:8265")
    parser.add_argument(
        "--working-dir", metavar="DIR", default=".", help="folder to upload with the job (default: this one)"
    )
    parser.add_argument(
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="environment variable of the job; may be repeated",
    )
    parser.add_argument("--no-follow", action="store_true", help="submit, print the job's name and return")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="a verb of stray, or any command"
    )


def run(args: argparse.Namespace) -> int:
    """Submit and follow. Returns the job's exit code. Raises InputError when nothing could be submitted."""
    command, environment = _read(args)
    from stray.on_ray.submit import submit

    if command[0] in {verb for verbs in VERBS.values() for verb in verbs}:
        command = ["python", "-m", "stray", *command]
    job = submit(command, address=args.address, working_dir=args.working_dir, environment=environment)
    if args.no_follow:
        print(job.job_id)
        return 0
    say(f"job {job.job_id}: {' '.join(command)}")
    try:
        code = job.follow(_write)
    except KeyboardInterrupt:
        say(f"the job keeps running: `ray job logs -f {job.job_id}` follows it, `ray job stop {job.job_id}` ends it")
        raise
    say(f"job {job.job_id} succeeded" if code == 0 else f"job {job.job_id} ended with code {code}: {job.message()}")
    return code


def _read(args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    problems = []
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        problems.append(Problem("stray submit", "nothing to run", "write it after `--`: stray submit -- train smoke"))
    environment = {}
    for text in args.env:
        name, equals, value = text.partition("=")
        if not equals or not name:
            problems.append(Problem(f"--env {text}", "is not NAME=VALUE", "write the name, `=` and the value"))
        environment[name] = value
    raise_if_any(problems)
    return command, environment


def _write(text: str) -> None:
    sys.stdout.write(visible(text, colours=True))
    sys.stdout.flush()
