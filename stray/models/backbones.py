"""The networks inside image encoders: torchvision's without their classifiers, and modules that a callable returns."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torchvision.models import MaxVit, MNASNet, VisionTransformer

from stray.config import CallableConfig, ImageConfig, TorchvisionConfig
from stray.errors import InputError, Problem

PLACE = "contrastive.image"
HEADS = ("fc", "classifier", "head", "heads")
"""Names of torchvision's classifiers."""
SIDE_HEADS = ("AuxLogits", "aux1", "aux2")
"""Classifiers beside the network, which act in training alone."""

_FITTING = "a state_dict of this model"
_SAVE = "write it with `torch.save(model.state_dict(), PATH)`, where the model is known and trusted"


class Backbone(NamedTuple):
    """A network that gives features."""

    module: nn.Module
    dim: int | None
    """Width of the features; None where a try must tell."""
    size_px: int | None
    """The size of the pictures that it takes; None: any."""


def build_backbone(config: ImageConfig) -> Backbone:
    """Return the network of `config`, with random weights from torch's current generator or those that `config` names.

    Raises InputError when there is no such network, or the weights cannot be loaded.
    """
    return _torchvision(config) if isinstance(config, TorchvisionConfig) else _called(config)


def restored(config: ImageConfig) -> ImageConfig:
    """Return the settings by which an encoder is built whose weights come from a folder of stray."""
    if isinstance(config, CallableConfig):
        return replace(config, weights="none", options={**config.options, **config.restore_options})
    if config.weights == "DEFAULT" and config.name.startswith(("vit_", "maxvit_")):
        # Some weights were made for larger pictures, and their size is in the shape of the weights.
        weights: Any = torchvision.models.get_model_weights(config.name)
        return replace(config, weights="none", size_px=int(weights.DEFAULT.meta["min_size"][0]))
    return replace(config, weights="none")


def _torchvision(config: TorchvisionConfig) -> Backbone:
    names = torchvision.models.list_models(torchvision.models)
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=5)
        remedy = f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(names)}"
        raise InputError(
            Problem(f"{PLACE}.name", f"torchvision has no classification model called {config.name!r}", remedy)
        )
    from_file = config.weights not in ("none", "DEFAULT")
    try:
        model: Any = torchvision.models.get_model(
            config.name, weights="DEFAULT" if config.weights == "DEFAULT" else None, **_options(config)
        )
    except (OSError, RuntimeError) as error:  # what came may also have another hash
        if config.weights != "DEFAULT":
            raise
        what = f"torchvision's weights could not be downloaded ({error})"
        remedy = "download the weights where there is a network and give the file's path"
        raise InputError(Problem(f"{PLACE}.weights", what, remedy)) from error
    except (ValueError, AssertionError) as error:
        what = f"{config.name} cannot be built for pictures of {config.size_px} pixels: {error}"
        raise InputError(Problem(f"{PLACE}.size_px", what, "224, or remove the setting")) from error
    whole = set(model.state_dict())
    dim = _cut(model)
    if from_file:
        # A classifier of another number of classes does not matter: it is cut off.
        _load(model, config.weights, config.name, ignored=whole - set(model.state_dict()))
    size_px = _size_px(model, config)
    if isinstance(model, MNASNet):
        # It refuses weights without a version number, which averages of weights do not have.
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = nn.Sequential(OrderedDict(layers=model.layers, pool=pool, classifier=model.classifier))
    return Backbone(model, dim, size_px)


def _options(config: TorchvisionConfig) -> dict[str, Any]:
    if config.name in ("googlenet", "inception_v3") and config.weights != "DEFAULT":
        return {"init_weights": True}  # asked for, since the default is to change
    if config.size_px is None:
        return {}
    if config.name.startswith("vit_"):
        return {"image_size": config.size_px}
    return {"input_size": (config.size_px, config.size_px)} if config.name.startswith("maxvit_") else {}


def _size_px(model: nn.Module, config: TorchvisionConfig) -> int | None:
    if config.size_px is not None:
        return config.size_px
    if isinstance(model, VisionTransformer):
        return model.image_size
    return 224 if isinstance(model, MaxVit) else None


def _cut(model: Any) -> int:
    """Replace the last layer of the classifier, and of classifiers beside it, by nothing; returns how many features it
    took.
    """
    for name in SIDE_HEADS:
        if hasattr(model, name):
            setattr(model, name, None)
    if hasattr(model, "aux_logits"):
        model.aux_logits = False
    head_name = next(name for name in HEADS if hasattr(model, name))
    layers = [(f"{head_name}.{name}".rstrip("."), layer) for name, layer in getattr(model, head_name).named_modules()]
    place, last = [(name, layer) for name, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    owner, _, name = place.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Identity())
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _load(model: nn.Module, path: str, name: str, ignored: set[str]) -> None:
    """Load a state_dict file that must have every weight of `model`, and beside them `ignored` ones alone."""
    place = f"{PLACE}.weights"
    if not Path(path).is_file():
        raise InputError(Problem(place, f"no file {path!r}", "`none`, `DEFAULT` or the path of a state_dict"))
    state = _state(path, place)
    for key in ignored & state.keys():
        del state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise InputError(Problem(place, f"{path} does not fit {name}: {error}", _FITTING)) from error
    if bad := [*missing, *unexpected]:
        raise InputError(Problem(place, f"{path} does not fit {name}: {', '.join(bad[:5])}", _FITTING))


def _state(path: str, place: str) -> dict[str, Any]:
    """Return the state_dict in a file. Raises InputError when it holds something else, or what only code could
    unpack.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise errors of many types
        what = f"{path} cannot be read as weights ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
        raise InputError(Problem(place, what, _SAVE)) from error
    if not isinstance(state, Mapping):
        raise InputError(Problem(place, f"{path} holds a {type(state).__name__}, not a state_dict", _SAVE))
    if bad := [key for key, value in state.items() if not _is_weight(key, value)]:
        shown = ", ".join(f"{key!r} ({type(state[key]).__name__})" for key in bad[:5])
        inner = next((key for key in bad if isinstance(state[key], Mapping)), None)
        unwrap = f"save what is under {inner!r} alone: torch.save(torch.load(OLD)[{inner!r}], NEW)"
        remedy = _SAVE if inner is None else unwrap
        raise InputError(Problem(place, f"{path} holds other things than named tensors: {shown}", remedy))
    if not state:
        raise InputError(Problem(place, f"{path} holds no weights", _SAVE))
    return dict(state)


def _is_weight(key: object, value: object) -> bool:
    return isinstance(key, str) and (isinstance(value, torch.Tensor) or key.endswith("_extra_state"))


def _called(config: CallableConfig) -> Backbone:
    place = f"{PLACE}.factory"
    factory = _imported(config.factory, place)
    try:
        module = factory(**config.options)
    except Exception as error:  # foreign code may raise anything
        what = f"{config.factory} raised {type(error).__name__}: {error}"
        remedy = f"call it by hand with the keyword arguments of {PLACE}.options: {config.options}"
        raise InputError(Problem(place, what, remedy)) from error
    if not isinstance(module, nn.Module):
        what = f"{config.factory} returned {type(module).__name__}, not a torch.nn.Module"
        raise InputError(Problem(place, what, "name a callable that returns the module, or write one"))
    if config.weights != "none":
        _load(module, config.weights, config.factory, ignored=set())
    return Backbone(module, None, config.size_px)


def _imported(path: str, place: str) -> Any:
    if not re.fullmatch(r"[\w.]+:[\w.]+", path):
        raise InputError(Problem(place, f"{path!r} names no callable", "write it as package.module:callable"))
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # foreign code may raise anything
        what = f"{module_name} cannot be imported ({type(error).__name__}: {error})"
        remedy = "install it where the workers run, or put its folder on PYTHONPATH"
        raise InputError(Problem(place, what, remedy)) from error
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        near = difflib.get_close_matches(name, dir(module), n=3)
        remedy = f"did you mean {' or '.join(near)}?" if near else "name a callable that it has"
        raise InputError(Problem(place, f"{module_name} has no {name!r}", remedy)) from error
    if not callable(found):
        what = f"{path} is {type(found).__name__}, which cannot be called"
        raise InputError(Problem(place, what, "name a callable that returns a torch.nn.Module"))
    return found
