"""Many flows on one graph: the same on one process and on several, also where the helpers fail."""

from __future__ import annotations

import numpy as np
import pytest
from heedful.explain import solver
from heedful.explain.solver import maximum_flows
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow


@pytest.fixture
def edges() -> csr_array:
    capacities = np.random.default_rng(3).integers(0, 1000, (12, 12)).astype(np.int32)
    return csr_array(np.triu(capacities, 1))


SINKS = np.array([11, 4, 9, 7, 10])


@pytest.mark.parametrize("helpers", ["none", "two", "broken"])
def test_flows_do_not_depend_on_the_helpers(
    edges: csr_array, helpers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [maximum_flow(edges, 0, int(sink)).flow_value for sink in SINKS]
    started: list[object] = []
    real = solver._started
    monkeypatch.setattr(solver, "_started", lambda *args: started.append(args) or real(*args))
    monkeypatch.setattr(solver.os, "cpu_count", lambda: 3)
    if helpers != "none":
        monkeypatch.setattr(solver, "WORTH", 1)
    if helpers == "broken":
        monkeypatch.setattr(solver.sys, "executable", "/bin/false")
    assert maximum_flows(edges, 0, SINKS).tolist() == expected
    assert len(started) == (0 if helpers == "none" else 2)


def test_no_sinks_no_flows(edges: csr_array) -> None:
    assert maximum_flows(edges, 0, SINKS[:0]).tolist() == []
