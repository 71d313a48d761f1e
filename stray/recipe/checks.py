"""Contradictions between settings that are each fine by themselves."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from urllib.parse import urlparse

from stray.columns import ANNOTATED
from stray.config import CallableConfig, ChoiceConfig, Recipe, ScviConfig, TorchvisionConfig, TrainsNothingConfig
from stray.errors import Problem

Finding = tuple[tuple[str, ...], Problem]
"""The settings that contradict each other, and the problem."""


def contradictions(recipe: Recipe) -> Iterator[Finding]:
    """Every contradiction in `recipe`, with the settings that it rests on."""
    yield from _names(recipe)
    yield from _grid(recipe)
    yield from _choices(recipe)
    yield from _stages(recipe)
    yield from _evaluation(recipe)
    yield from _search(recipe)
    yield from _ingest(recipe)


def _finding(place: str, what: str, remedy: str, *others: str) -> Finding:
    return (place, *others), Problem(place, what, remedy)


def _repeated(values: Iterable[object]) -> list[str]:
    return [str(value) for value, times in Counter(values).items() if times > 1]


def _names(recipe: Recipe) -> Iterator[Finding]:
    if not re.fullmatch(r"\w[\w.-]*", recipe.name):
        yield _finding("name", f"{recipe.name!r} cannot name a folder", "use letters, digits, `.`, `_` and `-`")
    if not recipe.output:
        yield _finding("output", "is empty", "give a folder or a URI")
    elif recipe.output == recipe.dataset:
        yield _finding("output", f"is the dataset itself ({recipe.dataset})", "give a folder of its own", "dataset")
    uri = recipe.track.uri
    if uri is not None and (urlparse(uri).scheme in ("", "file") and uri != "databricks"):
        remedy = "give `sqlite:///PATH/mlflow.db` or the address of a server; MLflow no longer keeps runs in folders"
        yield _finding("track.uri", f"{uri!r} is a folder, not a store", remedy)
    if recipe.track.experiment == "":
        yield _finding("track.experiment", "is empty", "give a name, or null for the recipe's own")


def _grid(recipe: Recipe) -> Iterator[Finding]:
    for path, values in {"seeds": recipe.seeds, "folds.held_out": recipe.folds.held_out}.items():
        if repeated := _repeated(values):
            yield _finding(path, f"{', '.join(repeated)} given more than once", "give each once")
    if recipe.folds.kind == "none" and recipe.folds.held_out:
        patients = ", ".join(recipe.folds.held_out)
        remedy = "set folds.kind to leave_one_out, or folds.held_out to []"
        yield _finding("folds.held_out", f"{patients} held out although `folds.kind` is none", remedy, "folds.kind")
    for name, method in recipe.methods.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            remedy = "use letters, digits, `_` and `-`"
            yield _finding(f"methods.{name}", f"{name!r} cannot be part of a dotted path", remedy)
        for path in method.set if method.train == "nothing" and not method.choose else ():
            if not path.startswith("contrastive.image"):
                what = "has no effect: the method trains nothing"
                yield _finding(f"methods.{name}.set.{path}", what, "remove it, or set `train: contrastive`")


def _choices(recipe: Recipe) -> Iterator[Finding]:
    for name, method in recipe.methods.items():
        if not method.choose:
            continue
        place = f"methods.{name}.choose"
        for path in method.set:
            what = "has no effect: the method is one of those that it chooses among"
            yield _finding(f"methods.{name}.set.{path}", what, "set it in those methods", place)
        if method.train != "contrastive":
            what = "has no effect: the methods that it chooses among say what they train"
            yield _finding(f"methods.{name}.train", what, "remove it", place)
        if repeated := _repeated(method.choose):
            yield _finding(place, f"{', '.join(repeated)} given more than once", "give each once")
        elif len(method.choose) < 2:
            yield _finding(
                place, f"{', '.join(method.choose)} alone leaves nothing to choose", "name two methods or more"
            )
        for number, candidate in enumerate(method.choose):
            if candidate not in recipe.methods:
                what = f"no method {candidate!r}"
                yield _finding(f"{place}.{number}", what, _near(candidate, recipe), "methods")
            elif recipe.methods[candidate].choose:
                what, remedy = f"{candidate!r} chooses among methods itself", "name the methods that are trained"
                yield _finding(f"{place}.{number}", what, remedy, f"methods.{candidate}.choose")
        known = [recipe.methods[candidate] for candidate in method.choose if candidate in recipe.methods]
        if len({one.train == "gene" for one in known if not one.choose}) > 1:
            what = "some score gene codes and some pictures, which are not scored on the same spots"
            others = [f"methods.{candidate}.train" for candidate in method.choose]
            yield _finding(place, what, "choose among the ones or the others", *others)


def _near(name: str, recipe: Recipe) -> str:
    near = difflib.get_close_matches(name, recipe.methods, n=1)
    return f"did you mean `{near[0]}`?" if near else f"methods: {', '.join(recipe.methods)}"


def _stages(recipe: Recipe) -> Iterator[Finding]:
    for stage, batch in {"gene": recipe.gene.batch_size, "contrastive": recipe.contrastive.batch_size}.items():
        if isinstance(recipe.run.workers, int) and recipe.run.workers > batch:
            what = f"a batch of {batch} spots cannot be shared by {recipe.run.workers} workers"
            yield _finding(f"{stage}.batch_size", what, "a larger batch, or fewer `run.workers`", "run.workers")
    patients = recipe.contrastive.batches.patients_per_batch
    if patients is not None and patients > recipe.contrastive.batch_size:
        place, what = "contrastive.batches.patients_per_batch", f"{patients} patients in a batch of fewer spots"
        yield _finding(place, what, "fewer patients, or a larger batch", "contrastive.batch_size")
    for number, pattern in enumerate(recipe.gene.panel.exclude):
        try:
            re.compile(pattern)
        except re.error as error:
            place = f"gene.panel.exclude.{number}"
            yield _finding(place, f"{pattern!r} is no regular expression: {error}", "escape what is meant literally")
    yield from _gene(recipe)
    yield from _losses(recipe)
    yield from _towers(recipe)
    yield from _accumulation(recipe)


def _towers(recipe: Recipe) -> Iterator[Finding]:
    contrastive, place = recipe.contrastive, "contrastive.trains.cached_views"
    trains, augment, gene = contrastive.trains, contrastive.augment, recipe.gene.model.kind
    image = contrastive.image
    if isinstance(image, CallableConfig) and not re.fullmatch(r"[\w.]+:[\w.]+", image.factory):
        what, remedy = f"{image.factory!r} names no callable", "write it as package.module:callable"
        yield _finding("contrastive.image.factory", what, remedy)
    if isinstance(trains, TrainsNothingConfig):
        on = [f"contrastive.augment.{name}" for name in augment.acting]
        if on and trains.cached_views == 0:
            what = "features of a frozen encoder are computed once, and augmentation would change them at every step"
            remedy = f"set {place}=8 (augmented views of each patch), or turn off {', '.join(on)}"
            yield _finding(place, what, remedy, "contrastive.trains.kind", *on)
        elif trains.cached_views > 0 and not on:
            what = f"{trains.cached_views} views of a patch would be the same: no augmentation is on"
            yield _finding(place, what, "set it to 0, or turn on a part of contrastive.augment", "contrastive.augment")
        if contrastive.projection.kind == "none":
            what = "nothing is left to train on the side of the pictures: `contrastive.trains.kind` is nothing"
            remedy = "take a linear or mlp head, or train the encoder"
            yield _finding("contrastive.projection.kind", what, remedy, "contrastive.trains.kind")
    if contrastive.gene_tower.kind == "tuned" and gene not in ("scvi", "scanvi"):
        what = f"a tuned gene tower starts from the encoder of scVI or scANVI, the gene model is {gene}"
        remedy = "set contrastive.gene_tower.kind=frozen, or gene.model.kind=scvi"
        yield _finding("contrastive.gene_tower.kind", what, remedy, "gene.model.kind")


def _accumulation(recipe: Recipe) -> Iterator[Finding]:
    contrastive, place = recipe.contrastive, "contrastive.accumulate"
    chunks, other = contrastive.accumulate, "contrastive.accumulate_batch_norm"
    if chunks > contrastive.batch_size:
        what = f"{chunks} chunks of a batch of {contrastive.batch_size} spots"
        yield _finding(place, what, "fewer chunks, or a larger batch", "contrastive.batch_size")
    tower, model = contrastive.gene_tower.kind, recipe.gene.model
    tuned = tower == "tuned" and isinstance(model, ScviConfig) and model.norm == "batch"
    # Other models are looked at when they are built.
    batch_norms = {
        "contrastive.image.name": isinstance(contrastive.image, TorchvisionConfig)
        and contrastive.image.name.startswith(("resnet", "resnext", "wide_resnet"))
        and contrastive.trains.kind in ("all", "last_stage"),
        "contrastive.gene_tower.kind": tower == "mlp" or tuned,
        "contrastive.projection.kind": contrastive.projection.kind == "mlp",
    }
    having = [path for path, has in batch_norms.items() if has]
    if chunks > 1 and contrastive.accumulate_batch_norm == "refuse" and having:
        what = f"batch norm of {', '.join(having)} takes the statistics of the batch, which chunks of it do not have"
        yield _finding(place, what, f"set {other}=per_chunk (a chunk's statistics), or to 1", other, *having)


def _losses(recipe: Recipe) -> Iterator[Finding]:
    losses, place = recipe.contrastive.losses, "contrastive.losses"
    if not losses.weights:
        what = "every loss has weight 0: nothing is minimised"
        others = [f"{place}.{name}.weight" for name in ("smoothed", "guided", "siglip", "expression")]
        yield _finding(f"{place}.clip.weight", what, "give a weight above 0, to this loss or another", *others)
    tower, model = recipe.contrastive.gene_tower.kind, recipe.gene.model.kind
    if losses.expression.weight > 0 and (tower != "frozen" or model not in ("scvi", "scanvi")):
        what = f"needs the decoder of a frozen scVI or scANVI: the gene tower is {tower}, the gene model {model}"
        remedy = "set the weight to 0, or contrastive.gene_tower.kind=frozen and gene.model.kind=scvi"
        yield _finding(f"{place}.expression.weight", what, remedy, "contrastive.gene_tower.kind", "gene.model.kind")
    for name, loss in losses.contrasts.items():
        start, largest = 1 / loss.temperature, loss.max_logit_scale
        if start > largest:
            what = f"{loss.temperature} starts at a logit scale of {start:g}, above {largest:g}"
            remedy = "a higher temperature, or a higher `max_logit_scale`"
            yield _finding(f"{place}.{name}.temperature", what, remedy, f"{place}.{name}.max_logit_scale")


def _gene(recipe: Recipe) -> Iterator[Finding]:
    gene = recipe.gene
    if gene.panel.kind == "file" and not gene.panel.path:
        yield _finding("gene.panel.path", "is empty", "give a text file with a gene symbol a line", "gene.panel.kind")
    if gene.panel.path and gene.panel.kind != "file":
        what = f"{gene.panel.path} is not read: `gene.panel.kind` is {gene.panel.kind}"
        yield _finding("gene.panel.path", what, "set gene.panel.kind=file, or remove it", "gene.panel.kind")
    for place in gene.watches_held_out if gene.validation_share == 0 else ():
        what = "watches the ELBO on held-out spots, and `gene.validation_share` is 0"
        yield _finding(place, what, "hold out a share, such as 0.1", "gene.validation_share")
    if recipe.contrastive.optim.schedule == "plateau":
        what = "the contrastive stage has no held-out loss: losses at two temperatures do not compare"
        yield _finding("contrastive.optim.schedule", what, "take `cosine` or `constant`")


def _evaluation(recipe: Recipe) -> Iterator[Finding]:
    sources = recipe.eval.label_sources
    place = "eval.label_sources"
    for name, values in {"train": sources.train, "score": sources.score, "trusted": sources.trusted}.items():
        if repeated := _repeated(values):
            yield _finding(f"{place}.{name}", f"{', '.join(repeated)} given more than once", "give each once")
        if not values and name != "trusted":
            remedy = f"give a source, such as {ANNOTATED}"
            yield _finding(f"{place}.{name}", "is empty: nothing could be evaluated", remedy)
    unused = [name for name in sources.trusted if name not in sources.train + sources.score]
    if unused:
        what = f"{', '.join(unused)} trusted, but neither trained on nor scored"
        remedy = f"add it to `{place}.train` or `{place}.score`, or remove it here"
        yield _finding(f"{place}.trusted", what, remedy, f"{place}.train", f"{place}.score")
    if not recipe.eval.probe_c:
        yield _finding("eval.probe_c", "is empty: the probe has no strength to choose", "give at least one number")
    elif repeated := _repeated(recipe.eval.probe_c):
        yield _finding("eval.probe_c", f"{', '.join(repeated)} given more than once", "give each once")


def _search(recipe: Recipe) -> Iterator[Finding]:
    search = recipe.search
    if search.method is not None and search.method not in recipe.methods:
        yield _finding("search.method", f"no method {search.method!r}", _near(search.method, recipe), "methods")
    elif search.method is not None and recipe.methods[search.method].choose:
        what, remedy = f"{search.method!r} chooses among other methods", "name one of them"
        yield _finding("search.method", what, remedy, f"methods.{search.method}.choose")
    elif search.method is not None and recipe.methods[search.method].train != "contrastive":
        remedy = "name a method that trains both stages"
        yield _finding("search.method", f"{search.method!r} trains no image encoder to tune", remedy, "methods")
    for path, values in {"held_out": search.held_out, "validation": search.validation}.items():
        if repeated := _repeated(values):
            yield _finding(f"search.{path}", f"{', '.join(repeated)} given more than once", "give each once")
    if both := sorted(set(search.validation) & set(search.held_out)):
        what = f"{', '.join(both)} would score trials, but is in `search.held_out`"
        yield _finding("search.validation", what, "take it out of one of them", "search.held_out")
    for path, dist in search.space.items():
        place = f"search.space.{path}"
        if isinstance(dist, ChoiceConfig):
            if repeated := _repeated(dist.values):
                yield _finding(f"{place}.values", f"{', '.join(repeated)} given more than once", "give each once")
        elif dist.low >= dist.high:
            what = f"low {dist.low:g} is not below high {dist.high:g}"
            yield _finding(f"{place}.low", what, "exchange them, or take the setting out of the space", f"{place}.high")


def _ingest(recipe: Recipe) -> Iterator[Finding]:
    ingest = recipe.ingest
    if repeated := _repeated(table.name for table in ingest.labels):
        yield _finding("ingest.labels", f"{', '.join(repeated)} names more than one table", "give each its own name")
    for number, table in enumerate(ingest.labels):
        if table.name == ANNOTATED:
            what = f"{ANNOTATED!r} is the name of the labels that sections bring themselves"
            yield _finding(f"ingest.labels.{number}.name", what, "choose another name")
    for number, source in enumerate(ingest.sources):
        if source in ingest.sources[:number]:
            yield _finding(f"ingest.sources.{number}", "is given twice", "remove one")
    for number, text in enumerate(ingest.prefer):
        if not re.fullmatch(r"[^:]+:[^:]+", text):
            yield _finding(f"ingest.prefer.{number}", f"{text!r} is not SOURCE:SECTION", "write it like `h5ad:A1`")
