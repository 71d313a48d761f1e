"""Checks of `search.space`: distributions, conditions, and the values that they propose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from stray.config import (
    ChoiceConfig,
    DistributionConfig,
    IntUniformConfig,
    QuantizedUniformConfig,
    Recipe,
    SimplexConfig,
    WhenConfig,
)
from stray.errors import Problem
from stray.recipe.findings import Finding, finding, repeated_in
from stray.recipe.paths import flatten, suggest
from stray.recipe.schema import Tree, valid_paths

Space = Mapping[str, DistributionConfig]
Attempt = Callable[[Tree], tuple[Recipe | None, list[Problem]]]
"""Decodes the recipe with dotted changes."""


def paths_of(name: str, dist: DistributionConfig) -> tuple[str, ...]:
    """Return the recipe paths that the parameter `name` sets."""
    return dist.paths if isinstance(dist, SimplexConfig) else (name,)


def owners(space: Space) -> dict[str, str]:
    """Return the parameter that sets each recipe path."""
    return {path: name for name, dist in space.items() for path in paths_of(name, dist)}


def drawing_order(space: Space) -> tuple[str, ...]:
    """Return the parameters, each after the one that its condition looks at. The conditions form no cycle."""
    return tuple(sorted(space, key=lambda name: len(_ancestors(space, name))))


def _ancestors(space: Space, name: str) -> tuple[str, ...]:
    """Return the chain of parameters that the condition of `name` rests on; it ends before a repetition."""
    own, found = owners(space), []
    while (when := space[name].when) is not None and (parent := own.get(when.path)) is not None:
        if parent in found:
            break
        found.append(parent)
        name = parent
    return tuple(found)


def space_contradictions(recipe: Recipe) -> Iterator[Finding]:
    """Yield every contradiction within `search.space`."""
    space = recipe.search.space
    for name, dist in space.items():
        place = f"search.space.{name}"
        if isinstance(dist, ChoiceConfig):
            if repeated := repeated_in(dist.values):
                yield finding(f"{place}.values", f"{', '.join(repeated)} given more than once", "give each once")
        elif isinstance(dist, SimplexConfig):
            yield from _simplex(dist, place)
        elif dist.low >= dist.high:
            what = f"low {dist.low:g} is not below high {dist.high:g}"
            yield finding(f"{place}.low", what, "exchange them, or take the setting out of the space", f"{place}.high")
        elif isinstance(dist, IntUniformConfig | QuantizedUniformConfig):
            yield from _steps(dist, place)
        if dist.when is not None:
            yield from _condition(space, name, dist.when)
    yield from _twice(space)
    yield from _cycles(space)


def _simplex(dist: SimplexConfig, place: str) -> Iterator[Finding]:
    if repeated := repeated_in(dist.paths):
        yield finding(f"{place}.paths", f"{', '.join(repeated)} given more than once", "give each once")
    elif dist.low * len(dist.paths) >= 1:
        what = f"{dist.low:g} is too large: {len(dist.paths)} weights cannot all reach it and sum to one"
        yield finding(f"{place}.low", what, f"give less than {1 / len(dist.paths):.3g}", f"{place}.paths")


def _steps(dist: IntUniformConfig | QuantizedUniformConfig, place: str) -> Iterator[Finding]:
    if isinstance(dist, IntUniformConfig) and dist.log:
        if dist.low < 1:
            what, remedy = f"{dist.low} has no logarithm", "give 1 or more, or set log to false"
            yield finding(f"{place}.low", what, remedy, f"{place}.log")
        if dist.step != 1:
            what, remedy = f"steps of {dist.step} cannot be log-uniform", "set step to 1, or log to false"
            yield finding(f"{place}.step", what, remedy, f"{place}.log")
        return
    steps = (dist.high - dist.low) / dist.step
    if abs(steps - round(steps)) > 1e-8:
        last = dist.low + math.floor(steps) * dist.step
        what = f"{dist.high:g} is not reached from {dist.low:g} in steps of {dist.step:g}"
        remedy = f"set high to {last:g} or {last + dist.step:g}" if steps > 1 else "give a smaller step"
        yield finding(f"{place}.high", what, remedy, f"{place}.low", f"{place}.step")


def _condition(space: Space, name: str, when: WhenConfig) -> Iterator[Finding]:
    place = f"search.space.{name}.when"
    if not when.complete:
        what = "says neither `above` nor `equals`" if when.above is None else "says both `above` and `equals`"
        yield finding(place, what, "give one of them, such as `above: 0`")
    if when.path not in owners(space) and when.path not in valid_paths():
        yield finding(f"{place}.path", f"no setting {when.path!r}", suggest(when.path, []))


def _users(space: Space) -> dict[str, list[str]]:
    """Return the parameters of each path."""
    found: dict[str, list[str]] = {}
    for name, dist in space.items():
        for path in dict.fromkeys(paths_of(name, dist)):
            found.setdefault(path, []).append(name)
    return found


def _twice(space: Space) -> Iterator[Finding]:
    for path, users in _users(space).items():
        if len(users) < 2:
            continue
        what = f"{path} is set by {len(users)} parameters: {', '.join(users)}"
        places = [f"search.space.{user}" for user in users]
        yield finding(places[-1], what, "keep it in one of them", *places[:-1])


def _cycles(space: Space) -> Iterator[Finding]:
    seen: set[str] = set()
    for name in space:
        chain = _ancestors(space, name)
        if name in chain and name not in seen:
            seen.update(chain)
            circle = [name, *chain[: chain.index(name) + 1]]
            what = f"the conditions form a circle: {' -> '.join(circle)}"
            others = [f"search.space.{other}.when" for other in circle[1:-1]]
            yield finding(f"search.space.{name}.when.path", what, "remove one of these conditions", *others)


def value_problems(space: Space, attempt: Attempt) -> list[Problem]:
    """Return the problems of the values that the space proposes: each choice, and both ends of each range, tried where
    the parameter is drawn.
    """
    own = owners(space)
    if any(name in _ancestors(space, name) for name in space) or any(len(u) > 1 for u in _users(space).values()):
        return []
    recipe, known = attempt({})
    seen = {(problem.place, problem.what) for problem in known}
    plain = flatten(recipe) if recipe is not None else {}
    reached = {name: _reach(space, own, plain, name) for name in space}
    found = {base.place: base for base in reached.values() if isinstance(base, Problem)}
    for name, values, changes in extreme_points(space, plain):
        for problem in attempt(changes)[1]:
            if (problem.place, problem.what) not in seen:
                moved = _moved(problem, own, space, name, values)
                found.setdefault(moved.place, moved)
    return list(found.values())


def extreme_points(space: Space, plain: Tree) -> Iterator[tuple[str, Tree, Tree]]:
    """Yield, for each choice and both ends of each range, the parameter, its values by path, and a whole point of the
    space in which it has them; `plain` holds the settings of the tuned method. What is never drawn is left out.
    """
    own = owners(space)
    for name, dist in space.items():
        base = _reach(space, own, plain, name)
        if isinstance(base, Problem):
            continue
        for values in _candidates(name, dist):
            yield name, values, _completed(space, plain, {**base, **values})


def _reach(space: Space, own: Mapping[str, str], plain: Tree, name: str) -> Tree | Problem:
    """Return values of other parameters under which `name` is drawn, or what prevents it."""
    changes: Tree = {}
    while (when := space[name].when) is not None:
        if (parent := own.get(when.path)) is None:
            if when.path in valid_paths() and when.complete and not when.holds(plain.get(when.path)):
                what = f"never holds: {when.path} is {plain.get(when.path, 'not a setting of this recipe')}"
                remedy = "change it in the recipe, add it to the space, or remove this parameter"
                return Problem(f"search.space.{name}.when", what, remedy)
            break
        option = _satisfying(parent, space[parent], when)
        if option is None:
            what = f"never holds: the space proposes no such value ({when})"
            return Problem(f"search.space.{name}.when", what, "change the condition, or that distribution")
        changes = {**option, **changes}
        name = parent
    return changes


def _satisfying(name: str, dist: DistributionConfig, when: WhenConfig) -> Tree | None:
    options = _candidates(name, dist)
    given = when.equals if isinstance(when.equals, tuple) else (when.equals,)
    if isinstance(dist, SimplexConfig):
        if when.above is not None and when.above < 1:
            large = (1 + max(0.0, when.above)) / 2
            rest = (1 - large) / (len(dist.paths) - 1)
            return {path: large if path == when.path else rest for path in dist.paths}
    elif isinstance(dist, IntUniformConfig | QuantizedUniformConfig):
        numbers = [value for value in given if isinstance(value, int | float) and dist.low <= value <= dist.high]
        options += [{name: value} for value in numbers if abs(math.remainder(value - dist.low, dist.step)) < 1e-8]
    elif not isinstance(dist, ChoiceConfig) and when.above is None:
        return None  # A real number is never drawn twice.
    return next((option for option in options if when.holds(option[when.path])), None)


def _candidates(name: str, dist: DistributionConfig) -> list[Tree]:
    if isinstance(dist, SimplexConfig):
        equal = dict.fromkeys(dist.paths, 1 / len(dist.paths))
        alone = [{path: float(path == one) for path in dist.paths} for one in dist.paths]
        return [equal, *alone] if dist.low > 0 else [equal]
    return [{name: value} for value in (dist.values if isinstance(dist, ChoiceConfig) else (dist.low, dist.high))]


def _completed(space: Space, plain: Tree, changes: Tree) -> Tree:
    """Return `changes` with the first value of every other parameter that is drawn beside them."""
    for name in drawing_order(space):
        when = space[name].when
        if set(paths_of(name, space[name])) & changes.keys():
            continue
        if when is None or when.holds(changes.get(when.path, plain.get(when.path))):
            changes = {**changes, **_candidates(name, space[name])[0]}
    return changes


def _moved(problem: Problem, own: Mapping[str, str], space: Space, name: str, values: Tree) -> Problem:
    """Return the problem at its place in the space: the parameter that it is about, else the one that was tried."""
    if problem.place in own:
        place, what = place_in_space(problem.place, space), problem.what
    else:
        place, what = f"search.space.{name}", f"{problem.place}: {problem.what}"
    remedy = problem.remedy
    if "whole number" in what and any(isinstance(value, float) for value in values.values()):
        remedy = "draw whole numbers: `kind: int`, or list them: `kind: choice`"
    return Problem(place, what, remedy)


def place_in_space(path: str, space: Space) -> str:
    """Return where the space names the recipe path `path`."""
    name = owners(space)[path]
    dist = space[name]
    if isinstance(dist, SimplexConfig):
        return f"search.space.{name}.paths.{dist.paths.index(path)}"
    return f"search.space.{name}"


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the end of each dotted path, as long as it takes to tell it from the others, two parts at least."""

    def ends(path: str) -> list[str]:
        parts = path.split(".")
        return [".".join(parts[-n:]) for n in range(min(2, len(parts)), len(parts) + 1)]

    return {path: next(end for end in ends(path) if sum(end in ends(other) for other in paths) == 1) for path in paths}
