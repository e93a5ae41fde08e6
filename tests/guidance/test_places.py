"""Maps against regions: AUC and focus by slow twins, planted places found, what does not fit refused."""

from __future__ import annotations

import pytest
import torch
from heedful.guidance import GuidanceError, TokenNotFoundError, record
from heedful.guidance.places import place_scores, places, places_in
from heedful.guidance.regions import coverage, region
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_pipeline

PROMPT = "a cat and a frog"


def some(*shape: int, seed: int = 0, levels: int | None = None) -> torch.Tensor:
    """Random values; with few levels many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.rand(*shape, generator=generator)
    return torch.randint(levels, shape, generator=generator).float()


def slow_scores(attention: list[list[float]], covered: list[list[float]]) -> tuple[float, float]:
    values = [value for row in attention for value in row]
    inside = [value for row in covered for value in row]
    won = pairs = 0.0
    for a, c in zip(values, inside, strict=True):
        for b, d in zip(values, inside, strict=True):
            pairs += c * (1 - d)
            won += c * (1 - d) * (1.0 if a > b else 0.5 if a == b else 0.0)
    share = sum(a * c for a, c in zip(values, inside, strict=True)) / sum(values)
    return won / pairs, share / (sum(inside) / len(inside))


@given(
    grid=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([None, 3]),
    soft=st.booleans(),
)
def test_scores_equal_the_slow_twin(grid: tuple[int, int], seed: int, levels: int | None, soft: bool) -> None:
    maps = some(2, 3, *grid, seed=seed, levels=levels) + 0.25
    covered = some(*grid, seed=seed + 1) if soft else (some(*grid, seed=seed + 1) > 0.5).float()
    covered[0, 0], covered[0, 1] = 1.0, 0.0
    auc, focus = place_scores(maps.double(), covered)
    for one in range(2):
        for other in range(3):
            wanted = slow_scores(maps[one, other].tolist(), covered.tolist())
            found = float(auc[one, other]), float(focus[one, other])
            assert found == pytest.approx(wanted, abs=1e-6)


def test_the_twin_tells_a_map_from_its_mirror_image() -> None:
    maps, covered = some(3, 5), torch.zeros(3, 5)
    covered[:, :2] = 1
    auc, _ = place_scores(maps, covered)
    wanted, _ = slow_scores(maps.flip(1).tolist(), covered.tolist())

    assert abs(float(auc) - wanted) > 0.05


@given(seed=st.integers(0, 10**6), levels=st.sampled_from([None, 2, 4]))
def test_turned_maps_and_turned_regions_have_the_rest_of_the_chance(seed: int, levels: int | None) -> None:
    maps, covered = some(4, 3, 5, seed=seed, levels=levels), some(3, 5, seed=seed + 1)
    auc, focus = place_scores(maps, covered)

    torch.testing.assert_close(place_scores(-maps, covered)[0], 1 - auc, atol=1e-5, rtol=0)
    torch.testing.assert_close(place_scores(maps, 1 - covered)[0], 1 - auc, atol=1e-5, rtol=0)
    torch.testing.assert_close(place_scores(3 * maps, covered)[1], focus)
    assert ((auc >= -1e-6) & (auc <= 1 + 1e-6)).all()


def test_even_maps_know_nothing_and_perfect_ones_all() -> None:
    covered = coverage(region((0.2, 0.0, 0.6, 1.0)), (3, 5))
    even, zero, perfect = torch.full((3, 5), 0.2), torch.zeros(3, 5), covered.float()
    found = [place_scores(maps, covered) for maps in (even, zero, perfect)]

    assert [float(auc) for auc, _ in found] == pytest.approx([0.5, 0.5, 1.0])
    assert [float(focus) for _, focus in found] == pytest.approx([1.0, 1.0, 2.5])


def test_a_planted_head_is_ranked_first() -> None:
    mask = torch.zeros(64, 48)
    mask[:32, :24] = 1
    maps = {"down": some(2, 2, 3, 4, 4), "up": some(2, 2, 2, 8, 6, seed=1)}
    maps["up"][:, 0, 1] = coverage(mask.double(), (8, 6)).float()
    maps["up"][:, 1, 1] = 1 - coverage(mask.double(), (8, 6)).float()
    found = places(maps, [mask, 1 - mask], ["cat", "frog"], steps=[900.0, 100.0])
    best = found.carriers()

    assert (best[0].layer, best[0].head, best[0].value) == ("up", 1, 1.0)
    assert len(best) == 5
    assert [each.value for each in best] == sorted((each.value for each in best), reverse=True)
    assert found.by_layer().shape == (2, 2)
    assert found.by_layer("focus")[1, 0] == pytest.approx(float(found.focus["up"][0].mean()))
    assert found.areas.tolist() == pytest.approx([0.25, 0.75])
    assert (found.layers, found.steps) == (("down", "up"), (900.0, 100.0))
    assert places({"down": maps["down"]}, [mask, 1 - mask]).words == ("word 0", "word 1")


def test_a_record_is_compared_word_by_word() -> None:
    pipe = tiny_pipeline()
    with record(pipe, words=["cat", "frog"], resolve=["step", "layer", "head"]) as recording:
        pipe([PROMPT, PROMPT], num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    kept = recording.record
    box, mask = (0.0, 0.0, 0.5, 1.0), some(9, 7) > 0.5
    found = places_in(kept, {"frog": box, "cat": mask.float()}, image=1)
    layer = kept.layers[0]
    maps = kept.layer_maps[layer][1]

    assert found.words == ("frog", "cat")
    assert found.steps == kept.steps
    assert set(found.layers) == set(kept.layers)
    wanted, _ = place_scores(maps[:, 1], coverage(region(box), (maps.shape[3], maps.shape[4])))
    torch.testing.assert_close(found.auc[layer][:, 0], wanted)
    with pytest.raises(TokenNotFoundError, match="dog"):
        places_in(kept, {"dog": box})


def test_a_record_without_layers_is_refused() -> None:
    pipe = tiny_pipeline()
    with record(pipe) as recording:
        pipe(PROMPT, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    with pytest.raises(GuidanceError, match='resolve=\\["layer", "head"\\]'):
        places_in(recording.record, {"cat": (0, 0, 1, 0.5)})


BOX = (0.0, 0.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: places({}, [BOX]), "0 layers"),
        (lambda: places({"a": some(1, 2, 3, 4, 4)}, [BOX]), "and 1 words"),
        (lambda: places({"a": some(1, 1, 3, 4, 4)}, [BOX], steps=[1, 2]), "with 2 steps"),
        (lambda: places({"a": some(1, 1, 3, 4, 4)}, [BOX], ["cat", "frog"]), "2 names"),
        (lambda: places({"a": some(1, 1, 3, 4, 4)}, [(0, 0, 1, 1)]), "whole image"),
        (lambda: places({"a": some(1, 1, 3, 4, 4)}, [torch.zeros(4, 4)]), "not empty"),
        (lambda: places({"a": some(1, 1, 3, 4, 4)}, [BOX]).by_layer("iou"), "auc, focus"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, words: str) -> None:
    with pytest.raises(GuidanceError, match=words):
        call()  # type: ignore[operator]


@pytest.mark.gpu
def test_maps_on_cuda_are_compared_there() -> None:
    maps, mask = {"up": some(1, 1, 2, 8, 6).cuda().half()}, (some(32, 24) > 0.5).float()
    wanted = places({"up": maps["up"].cpu().float()}, [mask])

    torch.testing.assert_close(
        places(maps, [mask]).auc["up"].cpu().float(), wanted.auc["up"], atol=0.01, rtol=0
    )
