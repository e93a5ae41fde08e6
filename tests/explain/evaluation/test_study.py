"""Studies: every method under every test, one record an item, nothing made twice or silently left out."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from explain_tiny import images, tiny
from heedful.explain import METHODS, InputError
from heedful.explain.evaluation import (
    CONTROLS,
    BlankOut,
    BlankOutTest,
    Method,
    Patches,
    Perturbation,
    PerturbationTest,
    PointingTest,
    SpecificityTest,
    Study,
    all_methods,
    columns_of,
    logits_of,
)
from heedful.explain.evaluation.asking import remembered
from heedful.explain.evaluation.run import Alone
from heedful.explain.evaluation.study import Batch
from torch import Tensor, nn

GRID = (3, 5)
COUNT = 5
FEW = (Method("generic", "generic"), Method("last", "raw_attention", {"layer": -1}))
TESTS = (
    PerturbationTest(Perturbation((Patches(GRID),), (0.0, 0.5)), correct_only=True),
    BlankOutTest(BlankOut(Patches(GRID))),
    PointingTest(),
    SpecificityTest(),
)


def source(items: Sequence[int]) -> Batch:
    """Images, and masks of their left and right half; an item is the same in every batch."""
    pixels = torch.cat([images(batch=1, seed=item) for item in items])
    left = (torch.arange(40) < 20).expand(len(items), 24, 40)
    labels = torch.tensor([item % 5 for item in items])
    return Batch(
        tuple(items), {"pixel_values": pixels, "interpolate_pos_encoding": True}, labels.tolist(), labels,
        truth=labels, masks=left, other=((labels + 1) % 5).tolist(), other_masks=~left,
    )  # fmt: skip


def study(**changed: Any) -> Study:
    model, _ = tiny("vit")
    settings: dict[str, Any] = {
        "name": "halves", "model_name": "tiny ViT", "model": model, "ask": logits_of(model), "source": source,
        "count": COUNT, "methods": FEW, "tests": TESTS, "about": {"data": "noise"}, **changed,
    }  # fmt: skip
    return Study(**settings)


def test_every_test_has_every_method_and_control(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tables = study().run(tmp_path, batch_size=2, progress=lambda done, whole: told.append((done, whole)))

    assert list(tables) == ["perturbation", "blank-out", "pointing", "specificity"]
    for table in tables.values():
        methods = list(dict.fromkeys(entry.method for entry in table.entries))
        assert methods == ["generic", "last", *CONTROLS]
        assert table.protocol["data"] == "noise"
        assert table.protocol["settings"] == "last: layer -1"
        assert "left out" not in table.protocol
    assert tables["perturbation"].protocol["items"] == "those the model answers correctly"
    assert tables["pointing"].get("generic", "pointing").n == COUNT
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_what_the_folder_holds_is_not_made_again(tmp_path: Path) -> None:
    whole = study().run(tmp_path, batch_size=2)

    def gone(items: Sequence[int]) -> Batch:
        raise AssertionError(f"{items} were made again")

    assert study(source=gone).run(tmp_path) == whole
    with pytest.raises(InputError, match="methods differ"):
        study(methods=FEW[:1]).run(tmp_path)


def test_an_item_is_the_same_in_every_batch_and_on_every_process(tmp_path: Path) -> None:
    alone = study().records(tmp_path / "one", batch_size=1)
    together = study().records(tmp_path / "all", batch_size=5)
    meeting = threading.Barrier(2, timeout=120)

    class Two(Alone):
        num_processes = 2

        def __init__(self, process_index: int) -> None:
            self.process_index = process_index

        def wait_for_everyone(self) -> None:
            meeting.wait()

    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda state: study().records(tmp_path / "two", batch_size=2, processes=state),
                (Two(0), Two(1)),
            )
        )
    for found in (together, *both):
        assert [record["item"] for record in found] == list(range(COUNT))
        for test in TESTS:
            for method in ("generic", "random", "random weights"):
                first, second = (columns_of(each, test.name, method) for each in (alone, found))
                for name, values in first.items():
                    assert values == pytest.approx(second[name], abs=2e-3), (test.name, method, name)


def test_records_hold_all_tests_and_whether_the_answer_is_right(tmp_path: Path) -> None:
    found = study().records(tmp_path)
    model, _ = tiny("vit")
    batch = source(range(COUNT))

    best = model(**batch.inputs).logits.argmax(1)
    assert [record["correct"] for record in found] == (best == batch.truth).tolist()
    assert columns_of(found, "pointing", "generic")["hit"].shape == (COUNT,)
    with pytest.raises(InputError, match='holds no test "attack"; it holds: perturbation'):
        columns_of(found, "attack", "generic")
    about = json.loads((tmp_path / "halves.about.json").read_text())
    assert about["methods"]["last"] == {"rule": "raw_attention", "layer": -1}


def test_a_method_that_the_family_refuses_is_left_out_and_said_so(tmp_path: Path) -> None:
    model, inputs = tiny("lxmert")

    def questions(items: Sequence[int]) -> Batch:
        rows = {name: value[: len(items)] for name, value in inputs.items() if isinstance(value, Tensor)}
        labels = torch.zeros(len(items), dtype=torch.long)
        pieces = torch.ones(rows["visual_feats"].shape[:2], dtype=torch.bool)
        return Batch(tuple(items), rows, labels.tolist(), labels, labels, pieces=pieces)

    from heedful.explain.evaluation import PiecePointingTest, PointingAtPieces, Regions

    test = PiecePointingTest(PointingAtPieces(Regions(("visual_feats", "visual_pos"))), "regions")
    asked = {
        "model": model, "ask": logits_of(model), "source": questions, "count": 2, "tests": (test,),
    }  # fmt: skip
    methods = (*FEW[:1], Method("legrad", "legrad"))
    table = study(**asked, methods=methods).run(tmp_path)["pointing"]

    assert str(table.protocol["left out"]).startswith('legrad: "legrad" has no meaning for LXMERT')
    assert {entry.method for entry in table.entries} == {"generic", *CONTROLS} - {"edges"}
    with pytest.raises(InputError, match="no method is left"):
        study(**asked, methods=methods[1:]).run(tmp_path / "none")


def test_all_methods_are_all_and_stated() -> None:
    every = all_methods()

    assert [each.name for each in every[: len(METHODS)]] == list(METHODS)
    assert [each.name for each in every[len(METHODS) :]] == [
        "generic, no normalisation",
        "generic, no aggregation",
    ]
    assert {each.rule for each in all_methods(quick=True)} < set(METHODS)
    assert all(each.rule in METHODS for each in all_methods(ablations=False))


def test_a_row_is_asked_once_unless_gradients_are_wanted() -> None:
    asked: list[int] = []

    def ask(inputs: Any) -> Tensor:
        asked.append(len(inputs["x"]))
        return inputs["x"] * 2.0 + inputs.get("shift", 0)

    once, given = remembered(ask), {"x": torch.tensor([[1.0], [2.0], [1.0]])}
    with torch.no_grad():
        assert once(given).tolist() == [[2], [4], [2]]
        assert once({"x": torch.tensor([[2.0], [3.0]])}).tolist() == [[4], [6]]
        assert once({**given, "shift": 1}).tolist() == [[3], [5], [3]]
    assert asked == [2, 1, 2]
    wanted = torch.ones(1, 1, requires_grad=True)
    assert once({"x": wanted}).requires_grad


def test_batches_and_studies_that_do_not_fit_are_refused() -> None:
    pixels, label = {"pixel_values": torch.zeros(2, 3, 8, 8)}, torch.tensor([0, 1])

    with pytest.raises(InputError, match=r"not so in: \{'labels': 1\}"):
        Batch((0, 1), pixels, 0, label[:1])
    with pytest.raises(InputError, match="wanted methods of different names"):
        study(methods=(FEW[0], FEW[0]))
    with pytest.raises(InputError, match="name of a control: random"):
        study(methods=(Method("random", "generic"),))
    with pytest.raises(InputError, match="no second target"):
        asked = study(source=lambda items: Batch(tuple(items), pixels, 0, label)).asked([0, 1])
        _ = asked.found_other
    with pytest.raises(InputError, match="tells no truth"):
        _ = study(source=lambda items: Batch(tuple(items), pixels, 0, label)).asked([0, 1]).correct
    with pytest.raises(InputError, match="no method found relevance of text here, only of image"):
        study(controls=False).asked([0]).maps("text")


def test_soft_truth_is_right_from_one_half() -> None:
    class Answers(nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]]).repeat(len(pixel_values), 1)

    from heedful.explain.evaluation.study import Asked

    truth = torch.tensor([[0.0, 0.6], [1.0, 0.3]])
    batch = Batch((0, 1), {"pixel_values": torch.zeros(2, 1)}, 0, torch.tensor([0, 0]), truth)
    model = Answers()
    assert Asked(model, lambda inputs: model(**inputs), batch, FEW).correct.tolist() == [True, False]
