"""Print a recipe as it is resolved: the file, the overrides, and the defaults of everything else.

stray config her2st --set contrastive.gene_tower.kind=mlp    the whole recipe as YAML
stray config her2st --flat                                   one dotted path a line, as --set takes them
stray config her2st --method clip_scvi                       as that method sees it
stray config --describe                                      every setting with its type, default and meaning
stray config --schema > recipe.schema.json                   the JSON schema of recipes, by which editors complete them
stray config new --dataset DATASET > mine.yaml               a recipe for a dataset: its name, label sources and folds
"""

from __future__ import annotations

import argparse
import json
import sys

from stray.cli.arguments import add_recipe, recipe_from
from stray.config import Recipe
from stray.errors import InputError, Problem, raise_if_any, without_secrets
from stray.recipe import apply, dump_yaml, flatten, for_method, parse_overrides
from stray.recipe.describe import describe, json_schema
from stray.recipe.files import inline

HELP = "print a recipe with its defaults and overrides, or describe every setting"

NEW = "new"
"""Placeholder for a recipe derived from a dataset; write `./new` for a file of that name."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray config`."""
    add_recipe(parser, optional=True)
    parser.add_argument("--dataset", metavar="DATASET", help="with `new`: paired dataset to write the recipe for")
    parser.add_argument("--method", metavar="NAME", help="apply the overrides of this method")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--flat", action="store_true", help="print one `path=value` per line")
    form.add_argument(
        "--describe", action="store_true", help="print YAML with the type, default and meaning of every setting"
    )
    form.add_argument("--schema", action="store_true", help="print the JSON schema of recipes, for editors")


def run(args: argparse.Namespace) -> int:
    """Print the recipe on stdout. Raises InputError with every problem at once."""
    if args.schema:
        sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
        return 0
    new = args.recipe == NEW
    recipe = _new(args) if new else recipe_from(args)
    if args.dataset is not None and not new:
        what, remedy = f"belongs to `stray config {NEW}`", f"--set dataset={args.dataset}"
        raise InputError(Problem("--dataset", what, remedy))
    if args.method is not None:
        recipe = for_method(recipe, args.method)
    if args.flat:
        text = "".join(f"{path}={inline(value)}\n" for path, value in flatten(recipe).items())
    else:
        text = describe(recipe) if args.describe else dump_yaml(recipe)
        if new:
            from stray.cli.new_recipe import notes

            text = notes(recipe) + text
    # Not through rich: what is printed here is read by programs, and must not be wrapped.
    sys.stdout.write(without_secrets(text))
    return 0


def _new(args: argparse.Namespace) -> Recipe:
    if args.dataset is None:
        raise InputError(Problem("--dataset", "is missing", f"stray config {NEW} --dataset DATASET"))
    from stray.cli.new_recipe import new_recipe

    changes, problems = parse_overrides(args.set)
    raise_if_any(problems)
    return apply(new_recipe(args.dataset), changes)
