from __future__ import annotations

from types import SimpleNamespace

import pytest

from stray.config import GeneConfig, OptimConfig, ScviConfig
from stray.stages.gene.run import _selection
from stray.training.selection import Selection


def history(*values: float) -> list[dict[str, float]]:
    return [{"validation_elbo": value} for value in values]


def test_the_best_epoch_is_the_first_of_the_highest_and_never_before_the_start() -> None:
    assert Selection("validation_elbo").best(history(1, 3, 3, 2)) == 1
    assert Selection("validation_elbo", start=2).best(history(9, 8, 3, 4)) == 3
    assert Selection("validation_elbo", start=5).best(history(9, 8)) is None


def test_an_epoch_whose_metric_is_nan_is_never_the_best() -> None:
    nan = float("nan")
    assert Selection("validation_elbo").best(history(nan, 1, nan, 2)) == 3
    assert Selection("validation_elbo", patience=2).stops(history(2, nan, nan))


@pytest.mark.parametrize(
    ("values", "stops"),
    [((1, 2, 1), False), ((1, 2, 1, 1), True), ((9, 1, 2, 1), False), ((9, 1, 2, 1, 1), True)],
    ids=["one epoch after the best", "two after", "the best lies before the start", "counted from the start"],
)
def test_training_stops_when_patience_has_passed_since_the_best(values: tuple[float, ...], stops: bool) -> None:
    start = 1 if values[0] == 9 else 0
    assert Selection("validation_elbo", start=start, patience=2).stops(history(*values)) is stops


def test_without_patience_it_never_stops() -> None:
    assert not Selection("validation_elbo").stops(history(2, *[1] * 500))


def test_every_plateau_lowers_the_rate_as_torchs_scheduler_does() -> None:
    import torch

    values = [1.0, 2.0, 1.5, 1.6, 1.7, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0]
    optim = OptimConfig(lr=1.0, schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    torchs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torchs, mode="max", factor=0.5, patience=2, threshold=0.0, threshold_mode="abs"
    )
    for count, value in enumerate(values, start=1):
        scheduler.step(value)
        ours = Selection("validation_elbo").rate_factor(history(*values[:count]), optim)
        assert ours == torchs.param_groups[0]["lr"]
    assert ours < 0.5


def test_other_schedules_are_left_alone() -> None:
    assert Selection("validation_elbo").rate_factor(history(*[1] * 100), OptimConfig()) == 1.0


def test_nothing_is_decided_before_the_kl_weight_has_risen_by_steps() -> None:
    model = ScviConfig(kl_warmup_steps=25)
    stage = SimpleNamespace(config=GeneConfig(model=model, epochs=10, patience=2))
    task = SimpleNamespace(n_held_out=8, plan=SimpleNamespace(steps=10))
    found = _selection(stage, task)  # pyright: ignore[reportArgumentType]
    assert found is not None
    assert found.start == 3
