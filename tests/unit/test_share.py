"""Commands on one cluster share its slots: who has more than its part lets go of it while another waits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from stray.on_ray.share import GONE_S, NOTE_S, Share


class Notes:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def write(self, key: str, note: str) -> None:
        self.kept[key] = note

    def read(self) -> Mapping[str, str]:
        return dict(self.kept)

    def delete(self, key: str) -> None:
        del self.kept[key]


class Cluster:
    """Some slots, pools that want them, and a clock."""

    def __init__(self, slots: int, *wants: int) -> None:
        self.now, self.slots, self.wants = 0.0, slots, list(wants)
        self.notes = Notes()
        self.pools = [Share(self.notes, lambda: self.now) for _ in wants]
        self.has = [0] * len(wants)

    def room(self) -> bool:
        return sum(self.has) < self.slots

    def tick(self, *present: int) -> None:
        """Let pools in `present` (none: all) take and let go of one slot each."""
        self.now += NOTE_S
        for pool in present or range(len(self.pools)):
            allowed = self.pools[pool].allowed(self.has[pool], self.wants[pool], self.room)
            if self.has[pool] > min(allowed, self.wants[pool]):
                self.has[pool] -= 1
            elif self.has[pool] < min(allowed, self.wants[pool]) and self.room():
                self.has[pool] += 1


@pytest.mark.parametrize(
    ("slots", "wants", "expected"),
    [
        (8, (20, 20), [4, 4]),
        (3, (20, 20), [2, 1]),
        (8, (20, 2), [6, 2]),
        (2, (9, 9, 9), [1, 1, 0]),
        (6, (9, 9, 9), [2, 2, 2]),
    ],
)
def test_pools_come_to_equal_parts_of_what_they_want(slots: int, wants: tuple[int, ...], expected: list[int]) -> None:
    cluster = Cluster(slots, *wants)
    for _ in range(2 * slots):
        cluster.tick(0)  # the first command fills the cluster before the others come
    assert cluster.has[0] == slots
    for _ in range(4 * slots):
        cluster.tick()
    assert sorted(cluster.has, reverse=True) == expected
    before = list(cluster.has)
    for _ in range(10):
        cluster.tick()
    assert cluster.has == before, "slots go to and fro"


def test_alone_a_pool_may_have_all() -> None:
    cluster = Cluster(4, 9)
    cluster.tick()
    assert cluster.pools[0].allowed(4, 9, cluster.room) == math.inf


@pytest.mark.parametrize("how", ["leaves", "dies"])
def test_what_another_command_leaves_is_taken_up_again(how: str) -> None:
    cluster = Cluster(4, 9, 9)
    for _ in range(20):
        cluster.tick()
    assert cluster.has == [2, 2]
    cluster.has[1] = 0
    if how == "leaves":
        cluster.pools[1].leave()
    for _ in range(math.ceil(GONE_S / NOTE_S) + 5):
        cluster.tick(0)
    assert cluster.has[0] == 4
