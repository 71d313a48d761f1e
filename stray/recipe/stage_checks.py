"""Contradictions between settings of the gene stage and of the contrastive stage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stray.config import CallableConfig, Recipe, ScviConfig, TorchvisionConfig, TrainableNoneConfig
from stray.recipe.findings import Finding, finding


def stage_contradictions(recipe: Recipe) -> Iterator[Finding]:
    """Yield every contradiction between settings of the gene stage and of the contrastive stage."""
    for stage, batch in {"gene": recipe.gene.batch_size, "contrastive": recipe.contrastive.batch_size}.items():
        if isinstance(recipe.run.workers, int) and recipe.run.workers > batch:
            what = f"a batch of {batch} spots cannot be shared by {recipe.run.workers} workers"
            yield finding(f"{stage}.batch_size", what, "a larger batch, or fewer `run.workers`", "run.workers")
    patients = recipe.contrastive.batches.patients_per_batch
    if patients is not None and patients > recipe.contrastive.batch_size:
        place, what = "contrastive.batches.patients_per_batch", f"{patients} patients in a batch of fewer spots"
        yield finding(place, what, "fewer patients, or a larger batch", "contrastive.batch_size")
    for number, pattern in enumerate(recipe.gene.panel.exclude):
        try:
            re.compile(pattern)
        except re.error as error:
            place = f"gene.panel.exclude.{number}"
            yield finding(place, f"{pattern!r} is no regular expression: {error}", "escape what is meant literally")
    yield from _gene(recipe)
    yield from _losses(recipe)
    yield from _towers(recipe)
    yield from _accumulation(recipe)


def _towers(recipe: Recipe) -> Iterator[Finding]:
    contrastive, place = recipe.contrastive, "contrastive.trainable.cached_views"
    trains, augment, gene = contrastive.trainable, contrastive.augment, recipe.gene.model.kind
    image = contrastive.image
    if isinstance(image, CallableConfig) and not re.fullmatch(r"[\w.]+:[\w.]+", image.factory):
        what, remedy = f"{image.factory!r} names no callable", "write it as package.module:callable"
        yield finding("contrastive.image.factory", what, remedy)
    if isinstance(trains, TrainableNoneConfig):
        on = [f"contrastive.augment.{name}" for name in augment.acting]
        if on and trains.cached_views == 0:
            what = "features of a frozen encoder are computed once, and augmentation would change them at every step"
            remedy = f"set {place}=8 (augmented views of each patch), or turn off {', '.join(on)}"
            yield finding(place, what, remedy, "contrastive.trainable.kind", *on)
        elif trains.cached_views > 0 and not on:
            what = f"{trains.cached_views} views of a patch would be the same: no augmentation is on"
            yield finding(place, what, "set it to 0, or turn on a part of contrastive.augment", "contrastive.augment")
        if contrastive.projection.kind == "none":
            what = "nothing is left to train on the side of the pictures: `contrastive.trainable.kind` is none"
            remedy = "take a linear or mlp head, or train the encoder"
            yield finding("contrastive.projection.kind", what, remedy, "contrastive.trainable.kind")
    if contrastive.gene_tower.kind == "tuned" and gene not in ("scvi", "scanvi"):
        what = f"a tuned gene tower starts from the encoder of scVI or scANVI, the gene model is {gene}"
        remedy = "set contrastive.gene_tower.kind=frozen, or gene.model.kind=scvi"
        yield finding("contrastive.gene_tower.kind", what, remedy, "gene.model.kind")


def _accumulation(recipe: Recipe) -> Iterator[Finding]:
    contrastive, place = recipe.contrastive, "contrastive.accumulate"
    chunks, other = contrastive.accumulate, "contrastive.accumulate_batch_norm"
    if chunks > contrastive.batch_size:
        what = f"{chunks} chunks of a batch of {contrastive.batch_size} spots"
        yield finding(place, what, "fewer chunks, or a larger batch", "contrastive.batch_size")
    tower, model = contrastive.gene_tower.kind, recipe.gene.model
    tuned = tower == "tuned" and isinstance(model, ScviConfig) and model.norm == "batch"
    # Other models are looked at when they are built.
    batch_norms = {
        "contrastive.image.name": isinstance(contrastive.image, TorchvisionConfig)
        and contrastive.image.name.startswith(("resnet", "resnext", "wide_resnet"))
        and contrastive.trainable.kind in ("all", "last_stage"),
        "contrastive.gene_tower.kind": tower == "mlp" or tuned,
        "contrastive.projection.kind": contrastive.projection.kind == "mlp",
    }
    having = [path for path, has in batch_norms.items() if has]
    if chunks > 1 and contrastive.accumulate_batch_norm == "refuse" and having:
        what = f"batch norm of {', '.join(having)} takes the statistics of the batch, which chunks of it do not have"
        yield finding(place, what, f"set {other}=per_chunk (a chunk's statistics), or to 1", other, *having)


def _losses(recipe: Recipe) -> Iterator[Finding]:
    losses, place = recipe.contrastive.losses, "contrastive.losses"
    if not losses.weights:
        what = "every loss has weight 0: nothing is minimised"
        others = [f"{place}.{name}.weight" for name in ("smoothed", "guided", "siglip", "expression")]
        yield finding(f"{place}.clip.weight", what, "give a weight above 0, to this loss or another", *others)
    tower, model = recipe.contrastive.gene_tower.kind, recipe.gene.model.kind
    if losses.expression.weight > 0 and (tower != "frozen" or model not in ("scvi", "scanvi")):
        what = f"needs the decoder of a frozen scVI or scANVI: the gene tower is {tower}, the gene model {model}"
        remedy = "set the weight to 0, or contrastive.gene_tower.kind=frozen and gene.model.kind=scvi"
        yield finding(f"{place}.expression.weight", what, remedy, "contrastive.gene_tower.kind", "gene.model.kind")
    for name, loss in losses.contrasts.items():
        start, largest = 1 / loss.temperature, loss.max_logit_scale
        if start > largest:
            what = f"{loss.temperature} starts at a logit scale of {start:g}, above {largest:g}"
            remedy = "a higher temperature, or a higher `max_logit_scale`"
            yield finding(f"{place}.{name}.temperature", what, remedy, f"{place}.{name}.max_logit_scale")


def _gene(recipe: Recipe) -> Iterator[Finding]:
    gene = recipe.gene
    if gene.panel.kind == "file" and not gene.panel.path:
        yield finding("gene.panel.path", "is empty", "give a text file with a gene symbol a line", "gene.panel.kind")
    if gene.panel.path and gene.panel.kind != "file":
        what = f"{gene.panel.path} is not read: `gene.panel.kind` is {gene.panel.kind}"
        yield finding("gene.panel.path", what, "set gene.panel.kind=file, or remove it", "gene.panel.kind")
    for place in gene.watches_held_out if gene.validation_share == 0 else ():
        what = "watches the ELBO on held-out spots, and `gene.validation_share` is 0"
        yield finding(place, what, "hold out a share, such as 0.1", "gene.validation_share")
    if recipe.contrastive.optim.schedule == "plateau":
        what = "the contrastive stage has no held-out loss: losses at two temperatures do not compare"
        yield finding("contrastive.optim.schedule", what, "take `cosine` or `constant`")
