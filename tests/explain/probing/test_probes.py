"""Linear probes read what is there, and no more; the result says on how many images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from explain_tiny import images, tiny
from heedful.emoji import load_classifier
from heedful.explain.errors import InputError
from heedful.explain.probing.probes import Probes, linear_probes
from PIL import Image
from torch import Tensor

Batch = tuple[Tensor, Tensor]


def planted(count: int, seed: int) -> Batch:
    """Images of noise; label 1 has a bright square in the upper left patch."""
    labels = torch.arange(count) % 2
    pixels = images(batch=count, seed=seed) * 0.3
    pixels[labels == 1, :, :8, :8] += 2.0
    return pixels, labels


@pytest.fixture(scope="module")
def found() -> Probes:
    model = tiny("vit")[0]
    seen: list[int] = []
    pixels, labels = planted(40, 1)
    train = [(pixels[:25], labels[:25]), (pixels[25:], labels[25:])]
    result = linear_probes(model, train, [planted(30, 2)], patches=15, progress=seen.append)
    assert seen == [25, 40, 70]
    return result


def test_probes_read_what_was_planted_where_it_is(found: Probes) -> None:
    assert list(found.accuracy) == ["cls", "mean", "patch"]
    first = {reads: own["vit.embeddings"] for reads, own in found.accuracy.items()}
    assert first["cls"].value == pytest.approx(0.5)
    assert first["mean"].value > 0.9
    assert 0.45 < first["patch"].value < 0.7
    assert found.accuracy["mean"]["vit.layers.2"].value > 0.9
    assert found.chance == 0.5
    assert found.images == (40, 30)
    for own in found.accuracy.values():
        assert all(each.low <= each.value <= each.high and each.n == 30 for each in own.values())


def test_a_label_that_is_nowhere_is_not_read() -> None:
    pixels, _ = planted(80, 3)
    labels = torch.randint(0, 2, (80,), generator=torch.Generator().manual_seed(0))
    noise = images(batch=80, seed=4)
    found = linear_probes(
        tiny("vit")[0],
        [(noise[:40], labels[:40])],
        [(noise[40:], labels[40:])],
        patches=0,
        layers="vit.layers.2",
    )
    assert list(found.accuracy) == ["cls", "mean"]
    assert all(each.low < 0.6 for own in found.accuracy.values() for each in own.values())
    assert len(pixels) == 80


def test_models_without_special_tokens_have_no_cls() -> None:
    found = linear_probes(tiny("siglip")[0], [planted(12, 1)], [planted(8, 2)], patches=1)
    assert list(found.accuracy) == ["mean", "patch"]


def test_it_is_saved_loaded_and_drawn(found: Probes, tmp_path: Path) -> None:
    found.save(tmp_path / "probes.safetensors")
    assert Probes.load(tmp_path / "probes.safetensors") == found
    with Image.open(found.plot(tmp_path / "probes.png")) as drawn:
        assert drawn.width > 200


def test_refusals() -> None:
    model, (pixels, labels) = tiny("vit")[0], planted(8, 1)
    with pytest.raises(InputError, match="at least two, got 1"):
        linear_probes(model, [(pixels, labels * 0)], [(pixels, labels * 0)])
    with pytest.raises(InputError, match="label 6 is among the images to test on"):
        linear_probes(model, [(pixels, labels)], [(pixels, labels + 6)])
    with pytest.raises(InputError, match="got none of one kind"):
        linear_probes(model, [(pixels, labels)], [])
    with pytest.raises(InputError, match="a label for each image, got 3 for 8"):
        linear_probes(model, [(pixels, labels[:3])], [(pixels, labels)])


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"heedful\[probe\]"):
        linear_probes(tiny("vit")[0], [planted(8, 1)], [planted(8, 2)])


def test_without_matplotlib_the_extra_is_named(
    found: Probes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"heedful\[probe\]"):
        found.plot(tmp_path / "no.png")


@pytest.mark.gpu
def test_in_float16_on_cuda() -> None:
    pixels, labels = images(64, 64, batch=12), torch.arange(12) % 3
    found = linear_probes(load_classifier(), [(pixels, labels)], [(pixels, labels)], patches=1)
    assert found.accuracy["mean"]["vit.layers.5"].value == 1.0
