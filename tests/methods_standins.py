"""Studies whose records are made up, so that what a summary must say of them is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from heedful.explain.evaluation import CONTROLS, Batch, Method, PointingGame, Study, Test, records
from heedful.explain.evaluation.tests import AgreementTest, PointingTest
from heedful.scripts.explain_methods import Outcome
from heedful.scripts.methods_summary import Summary, summary

COUNT = 60
SHARES: Mapping[str, float] = {
    "good": 0.95, "fair": 0.75, "poor": 0.1, "random": 0.2, "edges": 0.25, "random weights": 0.15,
}  # fmt: skip
"""How often each of them points rightly."""


def nothing(items: Any) -> Batch:
    raise AssertionError("a stand-in has no cases")


def hits(share: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(COUNT) < share).double()


def study(name: str = "stand-in", tests: tuple[Test, ...] = (PointingTest(PointingGame()),)) -> Study:
    methods = tuple(Method(name, "generic") for name in SHARES if name not in CONTROLS)
    model = torch.nn.Linear(1, 1)
    return Study(name, "Stand-in", model, lambda inputs: torch.zeros(1, 2), nothing, COUNT, methods, tests)


def outcome(name: str = "stand-in", seed: int = 0) -> Outcome:
    """Pointing alone, with agreement between three of the methods."""
    made = study(name, (PointingTest(), AgreementTest()))
    pointing = {
        method: {"hit": hits(share, seed + place), "inside": torch.ones(COUNT), "chance": torch.zeros(COUNT)}
        for place, (method, share) in enumerate(SHARES.items())
    }
    alike = {
        pair: {"spearman": torch.full((COUNT,), value)}
        for pair, value in {"good ~ fair": 0.5, "good ~ random": -0.25, "fair ~ random": 0.0}.items()
    }
    items = range(COUNT)
    both = {"pointing": records(items, pointing), "agreement": records(items, alike)}
    found = [
        {"item": row, "correct": True, "tests": {test: each[row]["values"] for test, each in both.items()}}
        for row in items
    ]
    return Outcome(made, found, made.tables(found))


def summarised(name: str = "stand-in", seed: int = 0) -> Summary:
    return summary(outcome(name, seed))
