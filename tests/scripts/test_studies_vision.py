"""The vision studies on the embedded models: they run whole on a few scenes, and ask what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from heedful.explain.evaluation import CONTROLS, Method
from heedful.scripts.studies_vision import STUDIES, vision_methods

FEW = (Method("generic", "generic"), Method("rollout", "rollout"))


@pytest.mark.parametrize(
    "name", [name for name in STUDIES if name not in ("tokens-32", "tokens-48", "tokens-96", "tokens-128")]
)
def test_a_study_measures_every_test_of_every_method(name: str, tmp_path: Path) -> None:
    study = STUDIES[name](2, "cpu", methods=FEW)
    tables = study.run(tmp_path, batch_size=2)

    assert study.name == name
    assert list(tables) == [test.name for test in study.tests]
    for test, table in tables.items():
        if test != "agreement":
            assert {entry.method for entry in table.entries} == {"generic", "rollout", *CONTROLS}
        assert "fresh emoji scenes" in str(table.protocol["data"])
        assert not any(entry.value != entry.value for entry in table.entries if entry.n)


def test_the_models_know_most_of_what_they_are_asked() -> None:
    for name, least in (("classifier", 7), ("classifier-pairs", 7), ("judge-pairs", 7), ("clip", 6)):
        asked = STUDIES[name](8, "cpu", methods=FEW).asked(range(8))
        assert int(asked.correct.sum()) >= least, name


def test_a_second_subject_is_asked_for_in_all_pairs() -> None:
    for name in ("classifier-pairs", "judge-pairs", "clip-pairs"):
        asked = STUDIES[name](2, "cpu", methods=FEW[:1]).asked([0, 1])
        own, other = (asked.maps("image", of)["generic"] for of in ("own", "other"))
        assert own.shape == (2, 8, 8)
        assert not torch.allclose(own, other), name
        assert not torch.equal(asked.maps("image")["random"], asked.maps("image", "other")["random"])


def test_methods_are_all_but_the_ablation_that_changes_nothing() -> None:
    names = [each.name for each in vision_methods()]

    assert "generic, no normalisation" not in names
    assert "generic, no aggregation" in names
    assert [each.name for each in STUDIES["classifier"](1, "cpu").methods] == names


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["classifier", "clip-pairs"])
def test_studies_run_in_float16_on_a_gpu(name: str, tmp_path: Path) -> None:
    study = STUDIES[name](4, methods=FEW)

    assert next(study.model.parameters()).dtype == torch.float16
    assert all(table.entries for table in study.run(tmp_path).values())
