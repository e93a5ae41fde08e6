"""The losses against their slow twins, and the properties that hold for any maps."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from heedful.guidance.errors import GridMismatchError, GuidanceError, TokenNotFoundError
from heedful.guidance.losses import (
    attend_and_excite,
    kernel,
    normalise_over_text,
    overlap,
    peaks,
    smooth,
    subject_maps,
    word_maps,
)
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.tokens import Span
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

CAT, FROG, BOW = Span("cat", (2,)), Span("frog", (5,)), Span("red bow", (3, 4))
seeds = st.integers(0, 10_000)


def random_maps(
    batch: int = 2, seed: int = 0, grid: tuple[int, int] = (3, 4), tokens: int = 9
) -> AttentionMaps:
    """Two layers in float64 in which the start token holds most of the attention."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, heads in (("down", 2), ("up", 3)):
        logits = torch.randn(batch, heads, *grid, tokens, generator=generator, dtype=torch.float64)
        logits[..., 0] += 4
        layers[name] = logits.softmax(-1)
    return AttentionMaps(layers)


def hand_made(place: tuple[int, int], token: int, grid: tuple[int, int] = (4, 6)) -> AttentionMaps:
    """One layer in which one position attends to one token, all others to the start token."""
    layer = torch.zeros(1, 1, *grid, 9, dtype=torch.float64)
    layer[..., 0] = 1
    layer[0, 0, *place] = 0
    layer[0, 0, *place, token] = 1
    return AttentionMaps({"mid": layer})


def oracle_maps(
    maps: AttentionMaps, image: int, spans: list[Span], last: int | None, **reading: object
) -> list:
    layers = {name: layer.detach().numpy() for name, layer in maps.layers.items()}
    grid = next(iter(maps.grids.values()))
    return [
        oracles.subject_map(layers, image, span.indices, last=last, grid=grid, **reading) for span in spans
    ]


READINGS = [
    ({}, {}),
    ({"published": True}, {"published": True}),
    ({"temperature": 10.0, "sigma": 0.8, "kernel_size": 5}, {"temperature": 10.0, "sigma": 0.8, "size": 5}),
    ({"temperature": None}, {"temperature": None}),
]


@pytest.mark.parametrize("last", [None, [7, 6]])
@pytest.mark.parametrize(("reading", "slow"), READINGS)
@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_attend_and_excite_equals_its_slow_twin(
    last: list[int] | None, reading: dict, slow: dict, reduction: str
):
    maps, spans = random_maps(), [[CAT, FROG, BOW], [FROG]]
    expected = [
        oracles.attend_and_excite(oracle_maps(maps, i, own, last and last[i], **slow), reduction)
        for i, own in enumerate(spans)
    ]

    found = attend_and_excite(maps, spans, last=last, reduction=reduction, **reading)

    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("last", [None, [7, 6]])
@pytest.mark.parametrize(("reading", "slow"), READINGS)
def test_overlap_equals_its_slow_twin(last: list[int] | None, reading: dict, slow: dict):
    maps, spans = random_maps(seed=1), [[CAT, FROG, BOW], [FROG, BOW]]
    expected = [
        oracles.overlap(oracle_maps(maps, i, own, last and last[i], **slow)) for i, own in enumerate(spans)
    ]

    np.testing.assert_allclose(overlap(maps, spans, last=last, **reading).numpy(), expected, rtol=1e-9)


def test_the_comparisons_with_the_twins_can_fail():
    """The twin that reads the maps otherwise gives another number: each setting matters."""
    maps, spans = random_maps(), [[CAT, FROG, BOW], [FROG]]
    found = attend_and_excite(maps, spans, last=[7, 6])
    others = [{"published": True}, {"temperature": 50.0}, {"sigma": 0.8}, {"size": 5, "sigma": 0.8}]
    for slow in others:
        twin = [
            oracles.attend_and_excite(oracle_maps(maps, i, own, 7 - i, **slow)) for i, own in enumerate(spans)
        ]
        assert not np.allclose(found.numpy(), twin, rtol=1e-6), slow
    without_end = oracles.attend_and_excite(oracle_maps(maps, 0, spans[0], None))
    assert not np.isclose(found[0].item(), without_end, rtol=1e-6)
    assert not np.allclose(overlap(maps, [[CAT, FROG], []]).numpy(), overlap(maps, [[CAT, BOW], []]).numpy())


@pytest.mark.parametrize(("sigma", "size", "published"), [(0.5, 3, False), (0.5, 3, True), (1.3, 7, True)])
def test_the_kernel_equals_its_slow_twin(sigma: float, size: int, published: bool):
    found = kernel(sigma, size, published)

    np.testing.assert_allclose(found.numpy(), oracles.gaussian(sigma, size, published), rtol=1e-12)
    assert not np.allclose(found.numpy(), oracles.gaussian(sigma, size, not published))


def test_the_published_kernel_is_a_gaussian_wider_by_the_root_of_two():
    torch.testing.assert_close(kernel(0.5, 3, published=True), kernel(0.5 * math.sqrt(2), 3))


@given(seeds, st.sampled_from([(2, 2), (3, 5), (7, 4)]), st.booleans())
def test_smoothing_equals_its_slow_twin_up_to_the_reflected_edges(
    seed: int, grid: tuple[int, int], wide: bool
):
    image = torch.rand(grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = 5 if wide and min(grid) > 2 else 3

    found = smooth(image[None], 0.7, size)[0].numpy()

    np.testing.assert_allclose(
        found, oracles.smoothed(image.numpy(), oracles.gaussian(0.7, size)), rtol=1e-10
    )


def test_smoothing_with_zeros_beyond_the_edge_would_be_noticed():
    image = torch.rand(4, 6, dtype=torch.float64)
    weights = kernel(0.7)
    zeros = torch.nn.functional.conv2d(image[None, None], weights[None, None], padding=1)[0, 0]

    assert not np.allclose(zeros.numpy(), oracles.smoothed(image.numpy(), weights.numpy()))


@given(seeds)
def test_losses_and_peaks_keep_their_ranges(seed: int):
    maps, spans = random_maps(seed=seed), [[CAT, FROG, BOW], [CAT, FROG]]

    for reading in ({}, {"last": [7, 6], "published": True}, {"sigma": None}):
        for reduction in ("max", "mean"):
            loss = attend_and_excite(maps, spans, reduction=reduction, **reading)
            assert ((loss >= 0) & (loss <= 1)).all()
        assert (
            (overlap(maps, spans, **reading) >= 0) & (overlap(maps, spans, **reading) <= 0.5 + 1e-12)
        ).all()
        assert all(((peak >= 0) & (peak <= 1 + 1e-12)).all() for peak in peaks(maps, spans, **reading))


@given(seeds, st.permutations([0, 1, 2]))
def test_images_in_another_order_give_their_losses_in_that_order(seed: int, order: list[int]):
    maps, spans, last = random_maps(3, seed), [[CAT, FROG], [BOW], []], [7, 6, 3]
    shuffled = AttentionMaps({name: layer[order] for name, layer in maps.layers.items()})

    for loss in (attend_and_excite, overlap):
        found = loss(shuffled, [spans[i] for i in order], last=[last[i] for i in order])
        torch.testing.assert_close(found, loss(maps, spans, last=last)[order])


@given(seeds)
def test_a_batch_of_two_equals_two_singles_in_value_and_gradient(seed: int):
    maps, spans, last = random_maps(2, seed), [[CAT, FROG], [BOW, FROG]], [7, 6]
    together = _gradients(maps, spans, last)
    apart = [
        _gradients(AttentionMaps({k: v[i : i + 1] for k, v in maps.layers.items()}), [spans[i]], [last[i]])
        for i in range(2)
    ]

    torch.testing.assert_close(together, torch.cat(apart))


def _gradients(maps: AttentionMaps, spans: list[list[Span]], last: list[int]) -> Tensor:
    layers = {name: layer.detach().clone().requires_grad_() for name, layer in maps.layers.items()}
    own = AttentionMaps(layers)
    (attend_and_excite(own, spans, last=last) + overlap(own, spans, last=last)).sum().backward()
    return torch.cat([layer.grad for layer in layers.values() if layer.grad is not None], dim=1)


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (1, 4), (3, 0)])
@pytest.mark.parametrize("last", [None, [7]])
def test_a_peak_on_a_non_square_grid_is_found_where_it_was_put(
    place: tuple[int, int], last: list[int] | None
):
    maps = hand_made(place, token=5)

    frog, cat = subject_maps(maps, [[FROG, CAT]], last=last)[0]

    assert divmod(int(frog.argmax()), 6) == place
    assert divmod(int(cat.argmax()), 6) != place


def test_the_worst_span_alone_gets_a_gradient_where_it_is_neglected():
    layers = hand_made((1, 4), token=5).layers
    layer = layers["mid"].clone().requires_grad_()

    attend_and_excite(AttentionMaps({"mid": layer}), [[FROG, CAT]], temperature=3.0).sum().backward()

    assert layer.grad is not None
    assert layer.grad[..., 2].min() < 0, "more attention to the neglected cat must lower the loss"
    assert (layer.grad[..., 2] <= 0).all()
    assert (layer.grad[..., 5] >= 0).all()
    assert not layer.grad[..., 0].any(), "the start token is not read"


def test_the_mean_excites_every_neglected_span_at_once():
    layer = random_maps(1).layers["up"].clone().requires_grad_()

    attend_and_excite(AttentionMaps({"up": layer}), [[FROG, CAT]], reduction="mean").sum().backward()

    assert layer.grad is not None
    assert layer.grad[..., 2].min() < 0
    assert layer.grad[..., 5].min() < 0


def test_a_span_of_several_tokens_is_their_sum():
    maps = random_maps(1)
    parts = subject_maps(maps, [[Span("red", (3,)), Span("bow", (4,))]])[0]

    torch.testing.assert_close(subject_maps(maps, [[BOW]])[0][0], parts.sum(0))


def test_what_is_fully_attended_to_costs_nothing_and_moves_nothing():
    layer = torch.zeros(1, 1, 4, 6, 9, dtype=torch.float64)
    layer[..., 2] = 1
    layer.requires_grad_()

    loss = attend_and_excite(AttentionMaps({"mid": layer}), [[CAT]], temperature=1000.0)
    loss.sum().backward()

    assert loss.item() == 0
    assert layer.grad is not None
    assert not layer.grad.any()


def test_images_without_spans_cost_nothing_yet_stay_in_the_graph():
    layer = random_maps(2).layers["up"].clone().requires_grad_()
    maps = AttentionMaps({"up": layer})
    loss = attend_and_excite(maps, [[], []], last=[1, 7]) + overlap(maps, [[], [CAT]], last=[1, 7])

    loss.sum().backward()

    assert loss.tolist() == [0, 0]
    assert layer.grad is not None
    assert not layer.grad.any()


def test_equal_maps_overlap_by_half_and_disjoint_ones_not_at_all():
    same = torch.zeros(1, 1, 4, 6, 9, dtype=torch.float64)
    same[..., 2] = same[..., 5] = 0.5
    apart = torch.zeros(1, 1, 4, 6, 9, dtype=torch.float64)
    apart[:, :, :, :3, 2] = apart[:, :, :, 3:, 5] = 1.0

    assert overlap(AttentionMaps({"m": same}), [[CAT, FROG]]).item() == pytest.approx(0.5)
    assert overlap(AttentionMaps({"m": apart}), [[CAT, FROG]], sigma=None).item() == pytest.approx(
        0, abs=1e-12
    )


@given(seeds, st.sampled_from([None, [7, 4], [1, 9]]))
def test_the_softmax_keeps_positions_and_leaves_out_what_is_not_text(seed: int, last: list[int] | None):
    mean = random_maps(2, seed).mean()

    found = normalise_over_text(mean, last, temperature=20.0)

    for image in range(2):
        kept = range(1, 8 if last is None else last[image])
        np.testing.assert_allclose(
            found[image].numpy(), oracles.softmax_over(mean[image].numpy(), kept, 20.0), atol=1e-12
        )
        assert not found[image][..., [t for t in range(9) if t not in kept]].any()


def test_an_empty_prompt_gives_no_nan_in_the_gradient():
    mean = random_maps(1).mean().requires_grad_()

    normalise_over_text(mean, [1]).sum().backward()

    assert mean.grad is not None
    assert mean.grad.isfinite().all()


def test_float16_attention_is_read_in_float32():
    maps = AttentionMaps({name: layer.half() for name, layer in random_maps().layers.items()})

    assert attend_and_excite(maps, [[CAT], [FROG]]).dtype == torch.float32


def test_word_maps_has_one_map_a_span():
    mean = random_maps(2).mean()

    assert [tuple(image.shape) for image in word_maps(mean, [[CAT, BOW], []])] == [(2, 3, 4), (0, 3, 4)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: attend_and_excite(m, [[CAT]]),
            GuidanceError,
            "one sequence of spans an image, 2 in all; got 1",
        ),
        (lambda m: attend_and_excite(m, [[CAT], []], last=[7]), GuidanceError, r"got \[7\] for 2 images"),
        (
            lambda m: attend_and_excite(m, [[CAT], []], last=[7, 10]),
            GuidanceError,
            r"within 1\.\.9 for 9 tokens",
        ),
        (
            lambda m: attend_and_excite(m, [[CAT], []], reduction="sum"),
            GuidanceError,
            "reduction is .* got 'sum'",
        ),
        (
            lambda m: overlap(m, [[FROG], []], last=[5, 5]),
            TokenNotFoundError,
            r"'frog' of image 0 .*\[5\].* 1\.\.4",
        ),
        (lambda m: overlap(m, [[], [Span("", ())]]), TokenNotFoundError, "of image 1"),
        (lambda m: overlap(m, [[Span("a", (0,))], []]), TokenNotFoundError, r"\[0\]"),
        (
            lambda m: peaks(m, [[CAT], []], kernel_size=9),
            GridMismatchError,
            "3x4 grid is too small .* kernel of 9",
        ),
        (lambda m: peaks(m, [[CAT], []], kernel_size=4), GuidanceError, "odd number of cells"),
        (lambda m: peaks(m, [[CAT], []], sigma=0.0), GuidanceError, "above 0; got 0"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_choices(call, error: type, message: str):
    with pytest.raises(error, match=message):
        call(random_maps())
