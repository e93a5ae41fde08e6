"""Carries out `heedful explain-methods`: builds the studies, measures what is not measured yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..explain.errors import InputError
from ..explain.evaluation.choice import ABLATIONS, Method, all_methods
from ..explain.evaluation.records import Record
from ..explain.evaluation.run import Progress
from ..explain.evaluation.study import Study
from ..explain.evaluation.table import Table
from .machine import choose_here
from .methods_settings import ALL, QUICK_COUNT, MethodsSettings
from .settings import UsageError
from .studies import builder


@dataclass(frozen=True, eq=False)
class Task:
    """A study that is to be run, and what of its data is left out, each with the reason."""

    study: Study
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A study with everything that was measured: the record of every item, the table of every test."""

    study: Study
    records: list[Record]
    tables: Mapping[str, Table]


def resolve(settings: MethodsSettings) -> MethodsSettings:
    """The settings with a device and a type; of several processes on GPUs each takes its own.

    Raises:
        UsageError: a device that is not there, or float16 on a CPU.
    """
    device, dtype = choose_here(settings.device, settings.dtype)
    return replace(settings, device=device, dtype=dtype)


def tasks(settings: MethodsSettings) -> Iterator[Task]:
    """The studies that were asked for, each built when it is its turn.

    Raises:
        UsageError: a model that is not there, or a study without any of the protocols.
        ExplainError: data that do not fit.
    """
    device, dtype = settings.device or "cpu", getattr(torch, settings.dtype or "float32")
    if settings.own:
        from .studies_folder import folder_study

        chosen = methods(settings) or all_methods(quick=True)
        study, left_out = folder_study(settings, device, dtype, chosen)
        yield Task(study, left_out)
    for name in settings.chosen:
        count = QUICK_COUNT if settings.quick and settings.count is None else settings.count
        given = {} if settings.seed is None else {"seed": settings.seed}
        study = builder(name)(count, device, dtype, methods(settings), **given)
        yield Task(_measuring(study, settings))


def measure(task: Task, out: Path, batch_size: int, progress: Progress | None = None) -> Outcome:
    """Everything that the study measures; what `out` holds already is not measured again.

    Raises:
        UsageError: if `out` holds rows of other settings.
        ExplainError: as the study says.
    """
    try:
        records = task.study.records(out, batch_size, progress)
    except InputError as problem:
        if "other settings" not in str(problem):
            raise
        raise UsageError(f"{problem}; --out takes another folder") from problem
    return Outcome(task.study, records, task.study.tables(records))


def methods(settings: MethodsSettings) -> tuple[Method, ...] | None:
    """The methods that were asked for; None for the study's own."""
    every = {each.name: each for each in (*all_methods(), *ABLATIONS)}
    if ALL in settings.methods:
        return None if settings.chosen else tuple(every.values())
    if settings.methods:
        return tuple(every[name] for name in settings.methods)
    return all_methods(quick=True) if settings.quick else None


def _measuring(study: Study, settings: MethodsSettings) -> Study:
    """The study with the tests that are wanted alone."""
    kept = tuple(test for test in study.tests if settings.measures(test.name))
    if not kept:
        there = ", ".join(test.name for test in study.tests)
        raise UsageError(
            f'--protocol {", ".join(settings.protocols)} has nothing to do in the study "{study.name}", '
            f"whose tests are {there}"
        )
    return replace(study, tests=kept)
