"""Check of a recipe's image encoders against the size of the patches, before any worker is started."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stray.config import ImageConfig, Recipe, TorchvisionConfig
from stray.errors import InputError, Problem, raise_if_any
from stray.models.backbones import PLACE, restored
from stray.models.image_encoder import ImageEncoder
from stray.recipe import flatten, for_method
from stray.recipe.space import extreme_points, owners


def check_patch_size(recipe: Recipe, size_px: int, *, searched: bool = False) -> None:
    """Raise InputError with every image encoder of the recipe that cannot code the patches.

    Encoders are built without storage and without their weights, in milliseconds. Callables and the RegNets of
    torchvision cannot be built so: for them, `check_encoder` finds the fault on the workers.

    Args:
        recipe: Its methods are checked.
        size_px: Side of the dataset's patches in pixels.
        searched: Check the encoders of `search.space` on the tuned method instead.
    """
    found: list[Problem] = []
    known: dict[ImageConfig, Problem | None] = {}
    for place, config in _of_space(recipe) if searched else _of_methods(recipe):
        if isinstance(config, TorchvisionConfig):
            if config not in known:
                known[config] = _misfit(config, size_px)
            if (problem := known[config]) is not None:
                found.append(Problem(place or problem.place, problem.what, problem.remedy))
    raise_if_any(list(dict.fromkeys(found)))


def _of_methods(recipe: Recipe) -> Iterator[tuple[str, ImageConfig]]:
    """Yield the image encoder of each method, and its place where the method sets it; an empty place otherwise."""
    for name, method in recipe.methods.items():
        if method.train != "gene" and not method.choose:
            own = [path for path in method.set if path.startswith(PLACE)]
            yield f"methods.{name}.set.{own[0]}" if own else "", for_method(recipe, name).contrastive.image


def _of_space(recipe: Recipe) -> Iterator[tuple[str, ImageConfig]]:
    """Yield the image encoders between which the search chooses: each of its settings at its ends, the others at their
    first value.
    """
    tuned = for_method(recipe, recipe.tuned, recipe.search.set)
    if not any(path.startswith(PLACE) for path in owners(recipe.search.space)):
        yield "", tuned.contrastive.image
    for name, values, changes in extreme_points(recipe.search.space, flatten(tuned)):
        if any(path.startswith(PLACE) for path in values):
            point = for_method(recipe, recipe.tuned, {**recipe.search.set, **changes})
            yield f"search.space.{name}", point.contrastive.image


def _misfit(config: TorchvisionConfig, size_px: int) -> Problem | None:
    """Return why the encoder cannot code patches of this side, or None if it can, or if only a worker can tell."""
    bare = restored(config)
    if bare.size_px != config.size_px is not None:
        what = f"the weights of {config.name} are for pictures of {bare.size_px} pixels, found {config.size_px}"
        return Problem(f"{PLACE}.size_px", what, f"set it to {bare.size_px}, or to null")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            ImageEncoder(bare).check(size_px, size_px)
    except InputError as error:
        return error.problems[0]
    except NotImplementedError:  # building a RegNet reads values of tensors, which have none on the meta device
        return None
    return None
