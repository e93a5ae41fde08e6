"""Similar positions and principal filters: planted ones are found, on every family."""

from __future__ import annotations

import math

import pytest
import torch
from explain_tiny import tiny
from heedful.emoji import load_classifier
from heedful.explain.errors import InputError
from heedful.explain.probing.embeddings import (
    embeddings_of,
    position_embeddings,
    position_similarity,
    principal_filters,
)
from heedful.explain.probing.tower import tower_of
from hypothesis import given
from hypothesis import strategies as st

NAMES = ["vit", "deit", "dinov2", "dinov2_registers", "clip", "siglip"]


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), columns=st.integers(1, 5))
def test_similarity_equals_the_slow_twin(seed: int, rows: int, columns: int) -> None:
    positions = torch.randn(rows * columns, 6, generator=torch.Generator().manual_seed(seed))
    found = position_similarity(positions, (rows, columns))
    for one in range(rows * columns):
        for other in range(rows * columns):
            a, b = positions[one].double().tolist(), positions[other].double().tolist()
            wanted = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            place = (one // columns, one % columns, other // columns, other % columns)
            assert float(found[place]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_positions_are_those_that_the_model_adds(name: str) -> None:
    """What the embedding module gives for black patches differs among patches by the positions alone."""
    tower = tower_of(tiny(name)[0])
    module = tower.module.embeddings
    blank = torch.zeros(1, 3, 24, 40)
    known = {} if tower.interpolates else {"interpolate_pos_encoding": True}
    given = module(blank, **known)[0, tower.specials :]
    positions, grid = position_embeddings(tower, (24, 40))

    assert grid == (3, 5)
    torch.testing.assert_close(given - given[:1], positions - positions[:1], atol=1e-5, rtol=1e-4)
    trained, grid = position_embeddings(tower)
    assert grid == (4, 4)
    assert len(trained) == 16


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_of_every_family(name: str) -> None:
    model, _ = tiny(name)
    found = embeddings_of(model, size=(24, 40), filters=5)

    assert found.similarity.shape == (3, 5, 3, 5)
    assert found.filters.shape == (5, 3, 8, 8)
    assert not found.filters.requires_grad
    assert found.model == type(model).__name__
    own = found.similarity.flatten(2).flatten(0, 1).diagonal()
    torch.testing.assert_close(own, torch.ones(15))


def test_planted_components_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 2, generator=generator)).Q.T
    weight = (
        5 * torch.randn(30, 1, generator=generator) * basis[0]
        + torch.randn(30, 1, generator=generator) * (basis[1])
    )
    found, shares = principal_filters((weight + 3).unflatten(1, (3, 4, 4)), 3)

    assert abs(float(found[0].flatten() @ basis[0])) == pytest.approx(1, abs=0.01)
    assert float(shares[:2].sum()) == pytest.approx(1, abs=1e-4)
    assert shares.tolist() == sorted(shares.tolist(), reverse=True)
    assert (found.flatten(1).amax(1) == found.flatten(1).abs().amax(1)).all()
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(3))


def test_trained_positions_are_alike_where_they_are_near() -> None:
    similarity = embeddings_of(load_classifier("cpu")).similarity
    middle = range(2, 6)
    beside = torch.stack([similarity[row, column, row, column + 1] for row in middle for column in (2, 3, 4)])
    apart = torch.stack([similarity[row, column, row, 0] for row in middle for column in (3, 4, 5)])

    assert float(beside.mean()) > float(apart.mean()) + 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: position_similarity(torch.ones(5, 3), (2, 3)), "2 x 3 does not hold 5"),
        (lambda: position_similarity(torch.zeros(6, 3), (2, 3)), "no direction"),
        (lambda: principal_filters(torch.ones(4, 3, 2, 2), 5), "and 5"),
        (lambda: embeddings_of(tiny("vit")[0], size=(4, 40)), "images of 4 x 40"),
        (lambda: embeddings_of(tiny("vit")[0], filters=0), "at least 1 component"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()  # type: ignore[operator]


@pytest.mark.gpu
def test_half_precision_on_cuda_agrees_with_the_cpu() -> None:
    wanted, found = embeddings_of(load_classifier("cpu")), embeddings_of(load_classifier())

    torch.testing.assert_close(found.similarity, wanted.similarity, rtol=0, atol=0.01)
    torch.testing.assert_close(found.shares, wanted.shares, rtol=0.02, atol=1e-3)
