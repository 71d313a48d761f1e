"""Bad inputs are refused by name, or read with what is wrong said: no traceback, no dead process, no hang.

All bad files of `careless_cases.py` stand in one cohort beside good ones, so each is named beside all others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.sources import make_plan
from stray.config.ingest import (
    H5adSourceConfig,
    Her2stSourceConfig,
    IngestConfig,
    LabelTableConfig,
    PatchConfig,
)
from stray.errors import InputError
from stray.recipe import apply, load_recipe
from tests.support.careless import Case, Outcome, good_h5ad, run_apart, run_cases, special
from tests.support.careless_cases import CASES
from tests.support.tiny import make_h5ad

HERE = [case for case in CASES if not case.deadly]
APART = [case for case in CASES if case.deadly]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Outcome]:
    """What became of every case: of those that could end a process, in another."""
    found = {}
    for cases, run in ((APART, run_apart), (HERE, run_cases)):
        found |= dict(zip(cases, run(cases, tmp_path_factory.mktemp("careless") / "run"), strict=True))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}: {case.name}" for case in CASES])
def test_a_bad_input_is_refused_by_name_or_read_with_a_word(case: Case, outcomes: dict[Case, Outcome]) -> None:
    outcome = outcomes[case]
    if case.read:
        assert outcome.read, outcome.problems
        assert not case.says or case.says in "\n".join(outcome.said)
        return
    assert outcome.problems
    assert case.says in "\n".join(f"{what}\n{remedy}" for _, what, remedy in outcome.problems)
    assert all(remedy for _, _, remedy in outcome.problems)
    assert all(len(what) < 400 for _, what, _ in outcome.problems)
    assert not outcome.left


def test_there_are_cases_of_every_kind() -> None:
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) >= 250


TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "lacks the columns"),
    "no-header": (b"good,2x1,tumour\ngood,3x1,tumour\n", "lacks the columns"),
    "other-columns": (b"slide,barcode,class\ngood,2x1,tumour\n", "lacks the columns section, spot, label"),
    "header-only": (b"section,spot,label\n", "holds no label"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "NUL bytes"),
    "geojson": (b'{"type": "FeatureCollection", "features": [' + b'{"type": "Feature"},' * 999 + b"]}", "lacks the"),
    "nul": (b"section,spot,label\ngood,2x\x001,tumour\n", "NUL bytes"),
    "ragged": (b"section,spot,label\ngood,2x1\n", "has 2 cells for 3 columns"),
    "huge-field": (b"section,spot,label\ngood,2x1," + b"x" * 200_000 + b"\n", "cannot be read"),
    "open-quote": (b'section,spot,label\ngood,"2x1,tumour\n' + b"x" * 200_000, "cannot be read"),
    "nobody": (b"section,spot,label\nnowhere,2x1,tumour\n", "labels sections that no source holds: nowhere"),
    "twice": (b"section,spot,label\ngood,2x1,tumour\ngood,2x1,fat\n", "both 'tumour' and 'fat'"),
    "no-spot": (b"section,spot,label\ngood,,tumour\n", "names no spot"),
    "utf16-half": (b"\xff\xfes\0e\0c", "NUL bytes"),
}


@pytest.fixture
def good(tmp_path: Path) -> H5adSourceConfig:
    data = make_h5ad("good", "P")
    data.write_h5ad(tmp_path / "good.h5ad")
    return H5adSourceConfig(path=str(tmp_path / "good.h5ad"))


def test_every_bad_label_table_is_named_beside_a_bad_file(good: H5adSourceConfig, tmp_path: Path) -> None:
    for name, (content, _) in TABLES.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
    special("fifo.csv", "fifo")(tmp_path)
    special("folder.csv", "folder")(tmp_path)
    special("zero.csv", "/dev/zero")(tmp_path)
    others = {
        "fifo.csv": "is a device, pipe",
        "folder.csv": "is a folder",
        "zero.csv": "is a device",
        "none.csv": "is missing",
        "a\0b.csv": "null byte",
        "~nobodyhere/labels.csv": "cannot be read",
    }
    paths = {**{f"{name}.csv": says for name, (_, says) in TABLES.items()}, **others}
    tables = tuple(
        LabelTableConfig(name=f"t{k}", path=name if name.startswith("~") else str(tmp_path / name))
        for k, name in enumerate(paths)
    )
    with pytest.raises(InputError) as caught:
        make_plan(IngestConfig(sources=(good,), labels=tables))
    for name, says in paths.items():
        found = [problem for problem in caught.value.problems if name in problem.place]
        assert found, name
        assert says in found[0].what
        assert found[0].remedy
        assert len(found[0].what) < 400
    (tmp_path / "bad.h5ad").write_bytes(b"not yet")
    bad = H5adSourceConfig(path=str(tmp_path / "bad.h5ad"))
    with pytest.raises(InputError) as caught:
        make_plan(IngestConfig(sources=(good, bad), labels=tables))
    places = " ".join(problem.place for problem in caught.value.problems)
    assert "bad.h5ad" in places
    assert "picture.csv" in places
    assert "nobody.csv" not in places  # its section may be one of those that could not be listed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "lacks the columns section"),
        (b"slide,kit\nS1,a\n", "lacks the columns section"),
        (b"section\ngood\n", "has no column beside `section`"),
        (b"section,kit\ngood,a\ngood,b\n", "describes section good again"),
        (b"section,kit,kit\ngood,a,b\n", "names the column kit 2 times"),
        (b"section,patient\ngood,Q\n", "patient is known of every section already"),
        (b"section,\ngood,a\n", "has a column without a name"),
        (b"section,kit\nother,a\n", "describes sections that no source holds: other"),
        (b"section,kit\n,a\n", "names no section"),
        (b"section,kit\ngood,a,b,c\n", "has 4 cells for 2 columns"),
        (bytes(range(256)), "NUL bytes"),
    ],
)
def test_a_bad_section_table_is_named(good: H5adSourceConfig, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "sections.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"sections\.csv") as caught:
        make_plan(IngestConfig(sources=(good,), sections=str(tmp_path / "sections.csv")))
    assert says in str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems)


def test_every_path_that_is_none_is_named(good: H5adSourceConfig, tmp_path: Path) -> None:
    (tmp_path / "ranger/outs/spatial").mkdir(parents=True)
    (tmp_path / "ranger/outs/filtered_feature_bc_matrix.h5").write_bytes(good_h5ad())
    (tmp_path / "empty").mkdir()
    paths = ["a\0b.h5ad", "~nobodyhere/x.h5ad", str(tmp_path / "none.h5ad"), str(tmp_path / "empty"), "x" * 5000]
    paths += [str(tmp_path / "ranger"), str(tmp_path / "ranger/outs"), "/dev/zero", "", "/proc/self/mem"]
    sources = [kind(path=path) for path in paths for kind in (H5adSourceConfig, Her2stSourceConfig)]
    with pytest.raises(InputError) as caught:
        make_plan(IngestConfig(sources=(good, *sources)))
    text = str(caught.value)
    for path in ("b.h5ad", "nobodyhere", "none.h5ad", "empty", "xxxx", "ranger", "outs", "/dev/zero", "/mem"):
        assert text.count(path) >= 2, path
    assert len(caught.value.problems) == len(sources)
    assert all(problem.remedy for problem in caught.value.problems)


WRONG = [0, -1, float("inf"), float("nan"), 1e9, "wide", [1, 2], None]


@pytest.mark.parametrize("value", WRONG, ids=map(str, WRONG))
@pytest.mark.parametrize("setting", ["patch.size_um", "patch.size_px", "sources.0.pitch_um"])
def test_a_number_that_is_none_is_refused_in_a_recipe_and_in_python(
    good: H5adSourceConfig, setting: str, value: object
) -> None:
    if value is None and setting == "sources.0.pitch_um":
        return  # null: the file says it
    recipe = apply(load_recipe(None), {"ingest.sources": [{"kind": "h5ad", "path": good.path}]})
    with pytest.raises(InputError, match=f"ingest.{setting}"):
        apply(recipe, {f"ingest.{setting}": value})
    config = IngestConfig(sources=(good,))
    if setting == "sources.0.pitch_um":
        config = IngestConfig(sources=(H5adSourceConfig(path=good.path, pitch_um=value),))  # type: ignore[arg-type]
    else:
        config = IngestConfig(sources=(good,), patch=PatchConfig(**{setting.removeprefix("patch."): value}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=setting.rpartition(".")[2]) as caught:
        make_plan(config)
    assert caught.value.problems[0].remedy
