"""Statistics of heads on every family: against the whole attention, image by image, and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explain_tiny import images, single, tiny
from heedful.emoji import load_classifier
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scenes
from heedful.explain.errors import InputError
from heedful.explain.probing.distance import uniform_distance
from heedful.explain.probing.files import write
from heedful.explain.probing.head_statistics import HeadStatistics, head_statistics
from heedful.explain.probing.tower import attention_of, tower_of
from PIL import Image
from torch import nn


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers", "clip", "siglip"])
def test_figures_are_those_of_the_attention(name: str) -> None:
    model, inputs = tiny(name)
    tower = tower_of(model)
    (attention,) = attention_of(tower, inputs)
    found = head_statistics(model, inputs)
    columns = torch.arange(15) % 5 * 8.0
    rows = torch.arange(15) // 5 * 8.0
    near = {"rtol": 1e-4, "atol": 1e-4}
    apart = ((columns[:, None] - columns).square() + (rows[:, None] - rows).square()).sqrt()
    for layer, each in enumerate(attention):
        kept = each[..., tower.specials :, tower.specials :].double()
        among = kept / kept.sum(-1, keepdim=True)
        wanted = (among * apart).sum(-1).mean(-1)

        torch.testing.assert_close(found.distance[:, layer].double(), wanted, **near)
        torch.testing.assert_close(found.on_patches[:, layer].double(), kept.sum(-1).mean(-1), **near)
    assert (found.grid, found.patch, found.layers) == ((3, 5), (8, 8), tower.layers)
    assert found.settings == {"images": 2, "special_tokens": tower.specials}
    assert found.model == type(model).__name__


def test_an_image_does_not_depend_on_its_company() -> None:
    model, inputs = tiny("vit")
    both = head_statistics(model, inputs, batch_size=1)
    alone = head_statistics(model, single(inputs, 1))

    torch.testing.assert_close(both.distance[1:], alone.distance)
    torch.testing.assert_close(both.entropy[1:], alone.entropy)


def test_a_head_that_looks_everywhere_alike_has_reach_one_and_is_not_local() -> None:
    model, inputs = tiny("siglip")
    for module in model.vision_model.modules():
        if hasattr(module, "q_proj"):
            nn.init.zeros_(module.q_proj.weight)
            nn.init.zeros_(module.q_proj.bias)
    found = head_statistics(model, inputs)

    assert found.uniform == pytest.approx(uniform_distance((3, 5), (8, 8)))
    torch.testing.assert_close(found.reach, torch.ones(3, 2))
    assert not found.local().any()
    assert found.local(1.01).all()
    torch.testing.assert_close(found.entropy, torch.full((2, 3, 2), 15.0).log2())


def test_progress_is_told() -> None:
    model, inputs = tiny("vit")
    told: list[tuple[int, int]] = []
    head_statistics(model, inputs, batch_size=1, progress=lambda done, of: told.append((done, of)))

    assert told == [(1, 2), (2, 2)]


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    model, inputs = tiny("clip")
    found = head_statistics(model, inputs)
    found.save(tmp_path / "heads.safetensors")
    read = HeadStatistics.load(tmp_path / "heads.safetensors")

    for name in ("distance", "entropy", "on_patches"):
        assert torch.equal(getattr(read, name), getattr(found, name))
    for name in ("grid", "patch", "layers", "model", "settings", "versions"):
        assert getattr(read, name) == getattr(found, name)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"no safetensors")
    write(tmp_path / "other", "heedful.other/1", {"distance": torch.zeros(1, 1, 1)}, {})
    write(tmp_path / "bare", "heedful.head-statistics/1", {"distance": torch.zeros(1, 1, 1)}, {})
    for name, words in (
        ("missing", "cannot read"),
        ("torn", "cannot read"),
        ("other", 'holds "heedful.other/1", wanted is "heedful.head-statistics/1"'),
        ("bare", "is damaged: 'grid'"),
    ):
        with pytest.raises(InputError, match=words):
            HeadStatistics.load(tmp_path / name)


def test_figures_that_do_not_agree_are_refused() -> None:
    with pytest.raises(InputError, match="2 layers, head"):
        HeadStatistics(
            torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), (2, 2), (8, 8), ("a", "b")
        )


def test_bad_questions_are_refused() -> None:
    model, inputs = tiny("vit")
    with pytest.raises(InputError, match="sees one patch"):
        head_statistics(model, {"pixel_values": images(8, 8), "interpolate_pos_encoding": True})
    with pytest.raises(InputError, match="got 0"):
        head_statistics(model, inputs).local(0)


def test_the_embedded_classifier_is_probed() -> None:
    pixels = to_tensor([Image.fromarray(one.image) for one in scenes(5, 4, subjects=1)])
    found = head_statistics(load_classifier("cpu"), {"pixel_values": pixels})

    assert found.distance.shape == (4, 6, 4)
    assert found.grid == (8, 8)
    assert 0.5 < float(found.reach.min()) < 0.95


@pytest.mark.gpu
def test_half_precision_on_cuda_agrees_with_the_cpu() -> None:
    pixels = {"pixel_values": images(64, 64)}
    wanted = head_statistics(load_classifier("cpu"), pixels)
    found = head_statistics(load_classifier(), pixels)

    torch.testing.assert_close(found.distance, wanted.distance, rtol=0.02, atol=0.1)
    torch.testing.assert_close(found.entropy, wanted.entropy, rtol=0.02, atol=0.02)
