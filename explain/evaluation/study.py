"""Studies: one model, one source of cases with known truth, many methods, many tests, one file of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError, UnsupportedMethodError
from ..models.family import Target
from ..relevance import Relevance, explain
from .asking import Ask, Inputs, probabilities, remembered, row_count
from .choice import Method
from .controls import CONTROLS, controls, randomised
from .parts import Told
from .records import Experiment, Measured, Record, columns, records, tabulate
from .run import Processes, Progress, run
from .table import Table

Kind = Literal["image", "text", "regions"]
Whose = Literal["own", "other"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Cases with their truth: one row an item.

    Attributes:
        items: the numbers of the rows in the data.
        inputs: as the model and `explain` take them.
        target: what `explain` is asked, one a row; None only where the inputs ask (CLIP's texts).
        labels: the index of the same target among the answers of `ask`.
        truth: the right label, or how right each label is (0..1); None where it is not known.
        masks: where the target is, in pixels of any size.
        other: a second subject of every row, for class specificity.
        other_inputs: the inputs that ask about it, where they do; None: `inputs`.
        other_masks: where that is.
        pieces: which words or regions decide, for pointing.
        beside: what `ask` is told besides the inputs, and `explain` is not: which box, which claim is meant.
        pictures: what a person sees, and `titles` for it.
        extra: whatever else a test of one's own needs, tensors with one entry a row.

    Raises:
        InputError: anything that is not as long as `items`.
    """

    items: tuple[int, ...]
    inputs: Inputs
    target: Target
    labels: Int[Tensor, "row"]
    truth: Int[Tensor, "row"] | Float[Tensor, "row label"] | None = None
    masks: Bool[Tensor, "row height width"] | None = None
    other: Target | None = None
    other_inputs: Inputs | None = None
    other_masks: Bool[Tensor, "row height width"] | None = None
    pieces: Bool[Tensor, "row piece"] | None = None
    beside: Inputs = field(default_factory=dict)
    pictures: tuple[Image.Image, ...] | None = None
    titles: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.items)
        names = ("labels", "truth", "masks", "other_masks", "pieces", "pictures")
        counts = {name: len(one) for name in names if (one := getattr(self, name)) is not None}
        counts |= {"inputs": row_count(self.asked)}
        counts |= {"titles": len(self.titles)} if self.titles else {}
        if wrong := {name: count for name, count in counts.items() if count != rows}:
            raise InputError(f"wanted one entry for each of {rows} items; not so in: {wrong}")

    @property
    def asked(self) -> dict[str, Any]:
        """What `ask` is given: the inputs, and what is said beside them."""
        return {**self.inputs, **self.beside}


Source = Callable[[Sequence[int]], Batch]
"""Makes the cases of these items; an item is the same in every batch."""


class Asked:
    """One batch, and what tests share of it, each made once and only when it is needed."""

    def __init__(
        self, model: nn.Module, ask: Ask, batch: Batch, methods: Sequence[Method], *,
        with_controls: bool = True, blind: nn.Module | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        """`blind`: the model with random weights, if it is at hand."""
        self.model, self.batch, self.methods = model, batch, tuple(methods)
        self.ask = remembered(ask)
        """What a row was answered once is not asked again."""
        self.left_out: dict[str, str] = {}
        """Methods that the family refuses, with the reason; known once `found` is."""
        self._controls, self._blind, self._seed = with_controls, blind, seed

    @cached_property
    def found(self) -> dict[str, Relevance]:
        """The relevance for the target by every method, then the controls."""
        return self._relevance(self.batch.inputs, self.batch.target, self._seed)

    @cached_property
    def found_other(self) -> dict[str, Relevance]:
        """The same for the second subject; its random map is another one.

        Raises:
            InputError: where the source names no other target.
        """
        batch = self.batch
        if batch.other is None and batch.other_inputs is None:
            raise InputError("this source has no second target: set Batch.other")
        inputs = batch.inputs if batch.other_inputs is None else batch.other_inputs
        return self._relevance(inputs, batch.other, self._seed + 1000)

    def maps(self, kind: Kind, of: Whose = "own") -> dict[str, Tensor]:
        """The maps of one modality, of every method and control that has one.

        Raises:
            InputError: where none has.
        """
        found = self.found if of == "own" else self.found_other
        maps = {name: each.maps[kind] for name, each in found.items() if kind in each.maps}
        if not maps:
            there = sorted({kind for each in found.values() for kind in each.maps})
            raise InputError(f"no method found relevance of {kind} here, only of {', '.join(there)}")
        return maps

    @cached_property
    def answered(self) -> Float[Tensor, "row label"]:
        """The probabilities of all answers, on the CPU in float64."""
        return probabilities(self.ask, self.batch.asked)

    @property
    def predicted(self) -> Int[Tensor, "row"]:
        """The likeliest answer."""
        return self.answered.argmax(1)

    @cached_property
    def correct(self) -> Bool[Tensor, "row"]:
        """Whether the likeliest answer is right, of soft truth by at least one half.

        Raises:
            InputError: where the truth is not known.
        """
        if (truth := self.batch.truth) is None:
            raise InputError("this source tells no truth: set Batch.truth")
        if truth.is_floating_point():
            return truth.cpu().gather(1, self.predicted[:, None])[:, 0] >= 0.5
        return self.predicted == truth.cpu()

    def _relevance(self, inputs: Inputs, target: Target, seed: int) -> dict[str, Relevance]:
        found: dict[str, Relevance] = {}
        for each in self.methods:
            try:
                found[each.name] = explain(self.model, inputs, target, each.rule, **each.settings)
            except UnsupportedMethodError as problem:
                self.left_out[each.name] = str(problem)
        if not found:
            raise InputError(f"no method is left: {'; '.join(self.left_out.values()) or 'none was given'}")
        if self._controls:
            like = next(iter(found.values()))
            found |= controls(
                self.model, inputs, like, self.batch.items, target, seed=seed, blind=self._blind
            )
        return found


@runtime_checkable
class Test(Protocol):
    """A protocol, and what of a batch it is given."""

    @property
    def name(self) -> str:
        """Among the tests of a study; letters, digits and hyphens."""

    @property
    def experiment(self) -> Experiment:
        """The protocol."""

    @property
    def correct_only(self) -> bool:
        """Whether its table is only of rows that the model answers rightly."""

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """By method what it measured of every row."""


@dataclass(frozen=True, eq=False)
class Study:
    """A model under several tests, for several methods.

    Attributes:
        name: of the file of records.
        model_name: as tables show it.
        count: how many items there are.
        controls: measure `CONTROLS` beside the methods.
        about: what else belongs to the protocol (the data, how they were drawn).
        seed: of random maps and random weights.
    """

    name: str
    model_name: str
    model: nn.Module
    ask: Ask
    source: Source
    count: int
    methods: tuple[Method, ...]
    tests: tuple[Test, ...]
    controls: bool = True
    about: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for what, names in (("methods", self.method_names), ("tests", [test.name for test in self.tests])):
            if not names or len(set(names)) != len(names):
                raise InputError(f"wanted {what} of different names, got: {', '.join(names) or 'none'}")
        if taken := set(self.method_names) & set(CONTROLS):
            raise InputError(f"a method has the name of a control: {', '.join(sorted(taken))}")

    @property
    def method_names(self) -> tuple[str, ...]:
        """The names of all methods, without the controls."""
        return tuple(method.name for method in self.methods)

    def run(
        self, folder: str | Path, *, batch_size: int = 16, progress: Progress | None = None,
        processes: Processes | None = None,
    ) -> dict[str, Table]:  # fmt: skip
        """Measure what `folder` does not hold yet, and make the tables.

        Args:
            folder: `NAME.jsonl` in it takes the records, as `evaluation.run` has it.

        Raises:
            InputError: records of other settings, and as tests and protocols say.
        """
        return self.tables(self.records(folder, batch_size, progress, processes))

    def records(
        self, folder: str | Path, batch_size: int = 16, progress: Progress | None = None,
        processes: Processes | None = None,
    ) -> list[Record]:  # fmt: skip
        """The record of every item, of which those in the folder are not made again."""
        return run(
            self.measure, self.count, Path(folder) / f"{self.name}.jsonl", batch_size=batch_size,
            about=self.settings, progress=progress, processes=processes,
        )  # fmt: skip

    def measure(self, items: Sequence[int]) -> list[Record]:
        """One record for each of these items, with all tests."""
        asked = self.asked(items)
        values = {test.name: test.measure(asked) for test in self.tests}
        made = {name: records(items, each) for name, each in values.items()}
        found: list[Record] = []
        for row, item in enumerate(items):
            record: Record = {"item": int(item)}
            if asked.batch.truth is not None:
                record["correct"] = bool(asked.correct[row])
            if asked.left_out:
                record["left out"] = dict(asked.left_out)
            record["tests"] = {name: each[row]["values"] for name, each in made.items()}
            found.append(record)
        return found

    def asked(self, items: Sequence[int]) -> Asked:
        """These items, ready for tests and pictures."""
        return Asked(
            self.model, self.ask, self.source(items), self.methods, with_controls=self.controls,
            blind=self._blind if self.controls else None, seed=self.seed,
        )  # fmt: skip

    def tables(self, found: Sequence[Record]) -> dict[str, Table]:
        """The table of every test, by its name, from the records of `run`."""
        about = {**self.about, **self._told_methods(found)}
        return {
            test.name: tabulate(
                test.experiment, of_test(found, test.name), model=self.model_name,
                correct_only=test.correct_only, about=about,
            )
            for test in self.tests
        }  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """All that a record depends on, as JSON takes it."""
        return {
            "study": self.name,
            "model": self.model_name,
            "methods": {each.name: {"rule": each.rule, **each.settings} for each in self.methods},
            "controls": self.controls,
            "seed": self.seed,
            "tests": {test.name: dict(test.experiment.told) for test in self.tests},
            "about": dict(self.about),
        }

    @cached_property
    def _blind(self) -> nn.Module:
        return randomised(self.model, self.seed)

    def _told_methods(self, found: Sequence[Record]) -> Told:
        told: Told = {}
        own = [f"{each.name}: {_listed(each.settings)}" for each in self.methods if each.settings]
        if own:
            told["settings"] = "; ".join(own)
        out = {name: why for record in found for name, why in record.get("left out", {}).items()}
        if out:
            told["left out"] = "; ".join(f"{name}: {why}" for name, why in out.items())
        return told


def of_test(found: Sequence[Record], test: str) -> list[Record]:
    """The records of one test in the form that `tabulate` and `columns` take.

    Raises:
        InputError: for a test that a record does not hold.
    """
    for record in found:
        if test not in record.get("tests", {}):
            there = ", ".join(record.get("tests", {})) or "none"
            raise InputError(f'item {record.get("item")} holds no test "{test}"; it holds: {there}')
    return [{**record, "values": record["tests"][test]} for record in found]


def columns_of(found: Sequence[Record], test: str, method: str) -> dict[str, Shaped[np.ndarray, "row *_"]]:
    """What one test measured of one method, over all records."""
    return columns(of_test(found, test), method)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
