"""Spots of the training patients that are set aside to watch the training."""

from __future__ import annotations

import numpy as np


def hold_out(
    places: np.ndarray, group_N: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of `places` that train, and the `share` of each group that does not; both in ascending order.

    `group_N` numbers or names the group at each place there is. At least one spot of a group always trains.
    """
    held_out = [places[:0]]
    for group in np.unique(group_N[places]):
        members = generator.permutation(places[group_N[places] == group])
        held_out.append(members[: min(round(share * len(members)), len(members) - 1)])
    watched = np.sort(np.concatenate(held_out))
    return np.setdiff1d(places, watched), watched
