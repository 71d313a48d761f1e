"""What is wrong in a recipe is said all at once, each problem with its place and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.recipe import for_method, load_recipe, shipped_recipes


def problems_of(*overrides: str, recipe: str | None = None) -> dict[str, Problem]:
    with pytest.raises(InputError) as caught:
        load_recipe(recipe, overrides)
    found = {problem.place: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "a place is named once"
    return found


def test_an_unknown_method_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean `clip_scvi`"):
        for_method(Recipe(), "clip_svi")


@pytest.mark.parametrize(
    ("override", "place", "what", "remedy"),
    [
        ("contrastive.lr=3", "contrastive.lr", "unknown setting (value 3)", "`contrastive.optim.lr`"),
        ("contrastive.trains={kind: all}", "contrastive.trains", "unknown setting", "`contrastive.trainable`"),
        (
            "contrastive.gene_tower={kind: tuned, rate_share: 0.1}",
            "contrastive.gene_tower.rate_share",
            "unknown setting",
            "`contrastive.gene_tower.lr_multiplier`",
        ),
        ("contrastive.trainable.kind=nothing", "contrastive.trainable.kind", "'none', found \"nothing\"", ""),
        ("gene.epoch=3", "gene.epoch", "unknown setting", "`gene.epochs`"),
        ("gene.optim.lrr=3", "gene.optim.lrr", "unknown setting", "`gene.optim.lr`"),
        ("sedes=[1]", "sedes", "unknown setting", "`seeds`"),
        ("methods.x.tran=nothing", "methods.x.tran", "unknown setting", "`methods.x.train`"),
        ("ingest.patch.size=3", "ingest.patch.size", "unknown setting", "size_um"),
        ("ingest.sources=[{kind: synthetic, seeds: 1}]", "ingest.sources.0.seeds", "unknown setting", "seed"),
        ("contrastive.gene_tower.n_hidden=3", "contrastive.gene_tower.n_hidden", "`kind: frozen` has no such", "mlp"),
        ("contrastive.gene_tower.kind=mpl", "contrastive.gene_tower.kind", "'mlp', 'tuned', found \"mpl\"", ""),
        ("gene.model.likelihood=nbb", "gene.model.likelihood", "'nb' or 'zinb', found \"nbb\"", ""),
        ("gene.epochs=many", "gene.epochs", 'expected a whole number, found "many"', ""),
        ("gene.epochs=true", "gene.epochs", "found true", "give a number"),
        ("gene.epochs=3.0", "gene.epochs", "found 3.0", "write 3"),
        ("gene.epochs=0", "gene.epochs", "greater than or equal to 1, found 0", ""),
        ("gene.epochs=null", "gene.epochs", "found null", ""),
        ("contrastive.augment.flips=1", "contrastive.augment.flips", "true or false, found 1", ""),
        ("contrastive.optim.lr=.inf", "contrastive.optim.lr", "finite", "finite"),
        ("contrastive.optim.lr=.nan", "contrastive.optim.lr", "finite", "finite"),
        ("seeds=3", "seeds", "expected a list, found 3", "[3]"),
        ("seeds=[-1]", "seeds.0", "greater than or equal to 0", ""),
        ("folds.held_out=[1]", "folds.held_out.0", "expected text, found 1", "'1'"),
        ("run.workers=some", "run.workers", 'a whole number, found "some"', ""),
        ("gene=3", "gene", "expected a group of settings, found 3", ""),
        ("name.x=3", "name.x", "`name` is a value", "name=VALUE"),
        ("ingest.sources.3.seed=1", "ingest.sources.3.seed", "list without a member '3'", "ingest.sources=[...]"),
        ("ingest.sources=[{seed: 1}]", "ingest.sources.0", "`kind` must be given", "add `kind`"),
        ("ingest.sources=[{kind: her2st}]", "ingest.sources.0.path", "must be given", "add `path`"),
        (
            "search.space={contrastive.optim.lr: {kind: uniform, low: 1}}",
            "search.space.contrastive.optim.lr.high",
            "",
            "",
        ),
        ("gene.epochs", "--set gene.epochs", "is not a.b=value", "write"),
        ("=3", "--set =3", "is not a.b=value", "write"),
        ("a..b=3", "--set a..b=3", "is not a.b=value", "write"),
        ("name=[", "--set name=[, line 1, column 2", "not YAML", ""),
    ],
)
def test_one_wrong_override_is_one_problem(override: str, place: str, what: str, remedy: str) -> None:
    found = problems_of(override)
    assert list(found) == [place]
    assert what in found[place].what
    assert remedy in found[place].remedy


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["folds.kind=none", "folds.held_out=[A]"], "folds.held_out"),
        (["folds.held_out=[A, A]"], "folds.held_out"),
        (["seeds=[1, 1]"], "seeds"),
        (["seeds=[]"], "seeds"),
        (["methods={}"], "methods"),
        (["name=a/b"], "name"),
        (["output=''"], "output"),
        (["output=x", "dataset=x"], "output"),
        (["track.uri=mlruns"], "track.uri"),
        (["track.uri='file:///tmp/mlruns'"], "track.uri"),
        (["methods={'a b': {}}"], "methods.a b"),
        (["methods.untrained.set.gene.epochs=3"], "methods.untrained.set.gene.epochs"),
        (["gene.batch_size=2", "run.workers=4"], "gene.batch_size"),
        (["contrastive.losses.clip.weight=0"], "contrastive.losses.clip.weight"),
        (["contrastive.losses.clip.temperature=0.001"], "contrastive.losses.clip.temperature"),
        (["contrastive.losses.guided.weight=1", "contrastive.losses.guided.temperature=0.001"],
         "contrastive.losses.guided.temperature"),
        (["contrastive.losses.clip.weight=0", "contrastive.losses.expression.weight=0"],
         "contrastive.losses.clip.weight"),
        (["methods={m: {}}", "contrastive.losses.expression.weight=1", "contrastive.gene_tower.kind=mlp"],
         "contrastive.losses.expression.weight"),
        (["methods={m: {}}", "contrastive.losses.expression.weight=1", "gene.model.kind=pca"],
         "contrastive.losses.expression.weight"),
        (["methods={m: {set: {contrastive.losses.expression.weight: 1, gene.model.kind: log_counts}}}"],
         "methods.m.set.contrastive.losses.expression.weight"),
        (["contrastive.trainable.kind=none"], "contrastive.trainable.cached_views"),
        (["contrastive.trainable={kind: none, cached_views: 4}", "contrastive.augment={flips: false, rotations: false, "
          "brightness: 0, contrast: 0, saturation: 0, hue: 0}"], "contrastive.trainable.cached_views"),
        (["contrastive.trainable={kind: none, cached_views: 4}", "contrastive.projection.kind=none"],
         "contrastive.projection.kind"),
        (["contrastive.image={kind: callable, factory: timm.create_model}"], "contrastive.image.factory"),
        (["contrastive.image.kind=callable"], "contrastive.image.factory"),
        (["methods.m.set={contrastive.gene_tower.kind: tuned, gene.model.kind: pca}"],
         "methods.m.set.contrastive.gene_tower.kind"),
        (["gene.panel.exclude=['MT-', 'RP[']"], "gene.panel.exclude.1"),
        (["eval.label_sources.trusted=[other]"], "eval.label_sources.trusted"),
        (["eval.label_sources.train=[]"], "eval.label_sources.train"),
        (["eval.probe_c=[]"], "eval.probe_c"),
        (["search.method=clip"], "search.method"),
        (["search.method=untrained"], "search.method"),
        (["methods.codes={train: gene}", "search.method=codes"], "search.method"),
        (["methods.best={choose: [clip_mlp]}"], "methods.best.choose"),
        (["methods.best={choose: [clip_mlp, clip_mlp]}"], "methods.best.choose"),
        (["methods.best={choose: [clip_mlp, clip_svi]}"], "methods.best.choose.1"),
        (["methods.best={choose: [clip_mlp, best]}"], "methods.best.choose.1"),
        (["methods.best={choose: [clip_mlp, clip_scvi], train: nothing}"], "methods.best.train"),
        (
            ["methods.best={choose: [clip_mlp, clip_scvi], set: {gene.epochs: 3}}"],
            "methods.best.set.gene.epochs",
        ),
        (["methods.codes={train: gene}", "methods.best={choose: [clip_mlp, codes]}"], "methods.best.choose"),
        (["methods.best={choose: [clip_mlp, clip_scvi]}", "search.method=best"], "search.method"),
        (["gene.panel.kind=file"], "gene.panel.path"),
        (["gene.panel.path=genes.txt"], "gene.panel.path"),
        (["gene.patience=3", "gene.validation_share=0"], "gene.patience"),
        (["gene.keep=best", "gene.validation_share=0"], "gene.keep"),
        (["gene.optim.schedule=plateau", "gene.validation_share=0"], "gene.optim.schedule"),
        (["contrastive.optim.schedule=plateau"], "contrastive.optim.schedule"),
        (["search.held_out=[A]", "search.validation=[B, A]"], "search.validation"),
        (["search.space.contrastive.optim.lr.low=1"], "search.space.contrastive.optim.lr.low"),
        (["search.space={gene.epochs: {kind: int, low: 5, high: 5}}"], "search.space.gene.epochs.low"),
        (["search.space={contrastive.projection.size: {kind: choice, values: [4, 4]}}"],
         "search.space.contrastive.projection.size.values"),
        (["search.space={contrastive.lr: {kind: uniform, low: 0.1, high: 0.2}}"], "search.space.contrastive.lr"),
        (["search.space={gene.epochs: {kind: uniform, low: 1, high: 9}}"], "search.space.gene.epochs"),
        (["search.space={contrastive.augment.hue: {kind: uniform, low: 0, high: 0.9}}"],
         "search.space.contrastive.augment.hue"),
        (["search.space={eval.knn_k: {kind: int, low: 1, high: 9}}"], "search.space.eval.knn_k"),
        (["methods.m.set={contrastive.lr: 1}"], "methods.m.set.contrastive.lr"),
        (["methods.m.set={seeds: [1]}"], "methods.m.set.seeds"),
        (["methods.m.set={contrastive.batch_size: 2}", "run.workers=3", "gene.batch_size=3"],
         "methods.m.set.contrastive.batch_size"),
        (["ingest.labels=[{name: annotated, path: x}]"], "ingest.labels.0.name"),
        (["ingest.labels=[{name: w, path: x}, {name: w, path: y}]"], "ingest.labels"),
        (["ingest.sources=[{kind: synthetic}, {kind: synthetic}]"], "ingest.sources.1"),
        (["ingest.prefer=[h5ad]"], "ingest.prefer.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_settings_that_contradict_each_other_are_one_problem(overrides: list[str], place: str) -> None:
    found = problems_of(*overrides)
    assert list(found) == [place]
    assert found[place].remedy or place in ("seeds", "methods") or "search.space" in place


def test_a_method_that_chooses_is_not_the_one_that_a_search_tunes_and_a_wrong_name_in_it_is_guessed() -> None:
    assert load_recipe(None, ["methods.best={choose: [clip_mlp, clip_scvi]}"]).tuned == "clip_scvi"
    (problem,) = problems_of("methods.best={choose: [clip_mlp, clip_svi]}").values()
    assert "did you mean `clip_scvi`?" in problem.remedy


def test_all_problems_come_at_once_and_faulty_values_cause_no_others() -> None:
    found = problems_of(
        "nonsense", "contrastive.lr=1", "gene.epochs=-1", "folds.held_out=[A, A]", "search.method=nobody",
        "methods.m.set={gene.batch_size: 1}", "seeds=[x]", "eval.label_sources.train=annotated",
    )  # fmt: skip
    assert set(found) == {
        "--set nonsense", "contrastive.lr", "gene.epochs", "folds.held_out", "search.method",
        "methods.m.set.gene.batch_size", "seeds.0", "eval.label_sources.train",
    }  # fmt: skip


def test_problems_of_the_file_and_of_the_overrides_come_together(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("gene: {epochs: x}\n", encoding="utf-8")
    assert set(problems_of("seeds=1", recipe=str(file))) == {"gene.epochs", "seeds"}


def test_a_missing_recipe_names_what_is_near_and_what_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (problem,) = problems_of(recipe=str(tmp_path / "mien.yaml")).values()
    assert problem.what == "no such recipe"
    assert "mine.yaml" in problem.remedy
    assert all(name in problem.remedy for name in shipped_recipes())
    (problem,) = problems_of(recipe="dmeo").values()
    assert "did you mean demo" in problem.remedy


@pytest.mark.parametrize(
    ("text", "line"),
    [("gene:\n  epochs: 3\n bad: 1\n", 3), ("name: a\nname: b\n", 2), ("a: [1\n", 2), ("a: 'x\n", 2), ("\tname: x", 1)],
    ids=["a wrong indentation", "a repeated name", "an open list", "an open quote", "a tab"],
)
def test_what_is_not_yaml_is_refused_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    (place,) = problems_of(recipe=str(file))
    assert place.startswith(f"{file}, line {line}, column ")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- a\n- b\n", b"just text"], ids=["bytes", "a list", "a text"])
def test_a_file_without_settings_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    assert len(problems_of(recipe=str(file))) == 1


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (problem,) = problems_of(recipe=str(tmp_path)).values()
    assert "cannot be read" in problem.what
