"""Contradictions between settings that are each valid by themselves."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from urllib.parse import urlparse

from stray.columns import ANNOTATED
from stray.config import CmaesSamplerConfig, Recipe, TpeSamplerConfig
from stray.recipe.findings import Finding, finding, repeated_in
from stray.recipe.space import space_contradictions
from stray.recipe.stage_checks import stage_contradictions


def contradictions(recipe: Recipe) -> Iterator[Finding]:
    """Yield every contradiction in `recipe`, with the settings that it rests on."""
    yield from _names(recipe)
    yield from _grid(recipe)
    yield from _choices(recipe)
    yield from stage_contradictions(recipe)
    yield from _evaluation(recipe)
    yield from _search(recipe)
    yield from _ingest(recipe)


def _names(recipe: Recipe) -> Iterator[Finding]:
    if not re.fullmatch(r"\w[\w.-]*", recipe.name):
        yield finding("name", f"{recipe.name!r} cannot name a folder", "use letters, digits, `.`, `_` and `-`")
    if not recipe.output:
        yield finding("output", "is empty", "give a folder or a URI")
    elif recipe.output == recipe.dataset:
        yield finding("output", f"is the dataset itself ({recipe.dataset})", "give a folder of its own", "dataset")
    uri = recipe.track.uri
    if uri is not None and (urlparse(uri).scheme in ("", "file") and uri != "databricks"):
        remedy = "give `sqlite:///PATH/mlflow.db` or the address of a server; MLflow no longer keeps runs in folders"
        yield finding("track.uri", f"{uri!r} is a folder, not a store", remedy)
    if recipe.track.experiment == "":
        yield finding("track.experiment", "is empty", "give a name, or null for the recipe's own")


def _grid(recipe: Recipe) -> Iterator[Finding]:
    for path, values in {"seeds": recipe.seeds, "folds.held_out": recipe.folds.held_out}.items():
        if repeated := repeated_in(values):
            yield finding(path, f"{', '.join(repeated)} given more than once", "give each once")
    if recipe.folds.kind == "none" and recipe.folds.held_out:
        patients = ", ".join(recipe.folds.held_out)
        remedy = "set folds.kind to leave_one_out, or folds.held_out to []"
        yield finding("folds.held_out", f"{patients} held out although `folds.kind` is none", remedy, "folds.kind")
    for name, method in recipe.methods.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            remedy = "use letters, digits, `_` and `-`"
            yield finding(f"methods.{name}", f"{name!r} cannot be part of a dotted path", remedy)
        for path in method.set if method.train == "nothing" and not method.choose else ():
            if not path.startswith("contrastive.image"):
                what = "has no effect: the method trains nothing"
                yield finding(f"methods.{name}.set.{path}", what, "remove it, or set `train: contrastive`")


def _choices(recipe: Recipe) -> Iterator[Finding]:
    for name, method in recipe.methods.items():
        if not method.choose:
            continue
        place = f"methods.{name}.choose"
        for path in method.set:
            what = "has no effect: the method is one of those that it chooses among"
            yield finding(f"methods.{name}.set.{path}", what, "set it in those methods", place)
        if method.train != "contrastive":
            what = "has no effect: the methods that it chooses among say what they train"
            yield finding(f"methods.{name}.train", what, "remove it", place)
        if repeated := repeated_in(method.choose):
            yield finding(place, f"{', '.join(repeated)} given more than once", "give each once")
        elif len(method.choose) < 2:
            yield finding(
                place, f"{', '.join(method.choose)} alone leaves nothing to choose", "name two methods or more"
            )
        for number, candidate in enumerate(method.choose):
            if candidate not in recipe.methods:
                what = f"no method {candidate!r}"
                yield finding(f"{place}.{number}", what, _near(candidate, recipe), "methods")
            elif recipe.methods[candidate].choose:
                what, remedy = f"{candidate!r} chooses among methods itself", "name the methods that are trained"
                yield finding(f"{place}.{number}", what, remedy, f"methods.{candidate}.choose")
        known = [recipe.methods[candidate] for candidate in method.choose if candidate in recipe.methods]
        if len({one.train == "gene" for one in known if not one.choose}) > 1:
            what = "some score gene codes and some pictures, which are not scored on the same spots"
            others = [f"methods.{candidate}.train" for candidate in method.choose]
            yield finding(place, what, "choose among the ones or the others", *others)


def _near(name: str, recipe: Recipe) -> str:
    near = difflib.get_close_matches(name, recipe.methods, n=1)
    return f"did you mean `{near[0]}`?" if near else f"methods: {', '.join(recipe.methods)}"


def _evaluation(recipe: Recipe) -> Iterator[Finding]:
    sources = recipe.eval.label_sources
    place = "eval.label_sources"
    for name, values in {"train": sources.train, "score": sources.score, "trusted": sources.trusted}.items():
        if repeated := repeated_in(values):
            yield finding(f"{place}.{name}", f"{', '.join(repeated)} given more than once", "give each once")
        if not values and name != "trusted":
            remedy = f"give a source, such as {ANNOTATED}"
            yield finding(f"{place}.{name}", "is empty: nothing could be evaluated", remedy)
    unused = [name for name in sources.trusted if name not in sources.train + sources.score]
    if unused:
        what = f"{', '.join(unused)} trusted, but neither trained on nor scored"
        remedy = f"add it to `{place}.train` or `{place}.score`, or remove it here"
        yield finding(f"{place}.trusted", what, remedy, f"{place}.train", f"{place}.score")
    if not recipe.eval.probe_c:
        yield finding("eval.probe_c", "is empty: the probe has no strength to choose", "give at least one number")
    elif repeated := repeated_in(recipe.eval.probe_c):
        yield finding("eval.probe_c", f"{', '.join(repeated)} given more than once", "give each once")


def _search(recipe: Recipe) -> Iterator[Finding]:
    search = recipe.search
    if search.method is not None and search.method not in recipe.methods:
        yield finding("search.method", f"no method {search.method!r}", _near(search.method, recipe), "methods")
    elif search.method is not None and recipe.methods[search.method].choose:
        what, remedy = f"{search.method!r} chooses among other methods", "name one of them"
        yield finding("search.method", what, remedy, f"methods.{search.method}.choose")
    elif search.method is not None and recipe.methods[search.method].train != "contrastive":
        remedy = "name a method that trains both stages"
        yield finding("search.method", f"{search.method!r} trains no image encoder to tune", remedy, "methods")
    named = {"held_out": search.held_out, "validation": search.validation, "seeds": tuple(map(str, search.seeds))}
    for path, values in named.items():
        if repeated := repeated_in(values):
            yield finding(f"search.{path}", f"{', '.join(repeated)} given more than once", "give each once")
    if both := sorted(set(search.validation) & set(search.held_out)):
        what = f"{', '.join(both)} would score trials, but is in `search.held_out`"
        yield finding("search.validation", what, "take it out of one of them", "search.held_out")
    if search.objectives not in (("score",), ("score", "hours")):
        yield finding("search.objectives", f"is {list(search.objectives)}", "take [score] or [score, hours]")
    elif len(search.objectives) > 1 and isinstance(search.sampler, CmaesSamplerConfig):
        what, remedy = "CMA-ES has one objective", "take [score], or another sampler such as nsga2"
        yield finding("search.objectives", what, remedy, "search.sampler.kind")
    if isinstance(search.sampler, TpeSamplerConfig) and search.sampler.group and not search.sampler.multivariate:
        what = "groups are modelled jointly, and `multivariate` is off"
        yield finding(
            "search.sampler.group", what, "set it to false, or multivariate to true", "search.sampler.multivariate"
        )
    yield from space_contradictions(recipe)


def _ingest(recipe: Recipe) -> Iterator[Finding]:
    ingest = recipe.ingest
    if repeated := repeated_in(table.name for table in ingest.labels):
        yield finding("ingest.labels", f"{', '.join(repeated)} names more than one table", "give each its own name")
    for number, table in enumerate(ingest.labels):
        if table.name == ANNOTATED:
            what = f"{ANNOTATED!r} is the name of the labels that sections bring themselves"
            yield finding(f"ingest.labels.{number}.name", what, "choose another name")
    for number, source in enumerate(ingest.sources):
        if source in ingest.sources[:number]:
            yield finding(f"ingest.sources.{number}", "is given twice", "remove one")
    for number, text in enumerate(ingest.prefer):
        if not re.fullmatch(r"[^:]+:[^:]+", text):
            yield finding(f"ingest.prefer.{number}", f"{text!r} is not SOURCE:SECTION", "write it like `h5ad:A1`")
