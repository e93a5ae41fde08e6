"""Effective receptive fields: exactly what an architecture allows, and what a known function has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explain_tiny import images, tiny
from heedful.emoji import load_classifier, load_resnet
from heedful.explain.errors import CaptureError, InputError
from heedful.explain.probing.receptive_field import ReceptiveField, half_share, reach, receptive_field
from PIL import Image
from torch import nn


def test_the_embedding_of_the_central_patch_rests_on_its_own_pixels_alone() -> None:
    model, _ = tiny("dinov2_registers")
    found = receptive_field(model, [images()])
    first, second = list(found.maps.values())[:2]
    own = torch.zeros(24, 40, dtype=torch.bool)
    own[8:16, 16:24] = True
    assert (first[own] > 0).all()
    assert (first[~own] == 0).all()
    assert (second > 0).all()
    assert set(found.centres.values()) == {(20.0, 12.0)}
    assert float(first.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_convolution_sees_its_kernel_and_no_more() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)).eval()
    found = receptive_field(model, [images(8, 10)], layers=["0", "1"])
    for layer, half in (("0", 1), ("1", 2)):
        seen = torch.zeros(8, 10, dtype=torch.bool)
        seen[4 - half : 5 + half, 5 - half : 6 + half] = True
        assert torch.equal(found.maps[layer] > 0, seen)
    assert found.reach["0"] < found.reach["1"]
    assert found.centres["0"] == (5.5, 4.5)


def test_random_signs_estimate_the_norm_of_the_jacobian() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh()).eval()
    pixels = images(7, 9, batch=2)
    wanted = torch.zeros(7, 9)
    for one in pixels:
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0, :, 3, 4], one)
        wanted += jacobian.square().sum((0, 1)).sqrt()
    many = receptive_field(model, [pixels], layers="1", draws=400).maps["1"]
    torch.testing.assert_close(many, wanted / wanted.sum(), rtol=0.15, atol=2e-3)
    few = receptive_field(model, [pixels], layers="1", draws=1).maps["1"]
    assert not torch.allclose(few, wanted / wanted.sum(), rtol=0.15, atol=2e-3)


def test_a_normed_feature_has_a_field_although_its_sum_is_constant() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Identity()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.first(pixels).movedim(1, -1)).movedim(-1, 1))

    torch.manual_seed(0)
    found = receptive_field(Normed().eval(), [images(16, 16)], layers="last")
    inside = found.maps["last"][8:12, 8:12]
    assert float(inside.sum()) == pytest.approx(1.0)
    assert float(inside.std()) < float(inside.mean())  # rounding alone would be a few pixels


def test_batches_add_up() -> None:
    model, _ = tiny("vit")
    pixels, seen = images(batch=4), []
    whole = receptive_field(model, [pixels], draws=1, layers="vit.embeddings", progress=seen.append)
    parts = receptive_field(model, pixels.split(3), draws=1, layers="vit.embeddings", progress=seen.append)
    torch.testing.assert_close(whole.maps["vit.embeddings"], parts.maps["vit.embeddings"])
    assert (whole.images, seen) == (4, [4, 3, 4])


def test_measures_of_known_maps() -> None:
    even = torch.full((6, 8), 1 / 48)
    distances = [((x + 0.5 - 4) ** 2 + (y + 0.5 - 3) ** 2) ** 0.5 for x in range(8) for y in range(6)]
    assert reach(even, (4.0, 3.0)) == pytest.approx(sum(distances) / 48)
    assert half_share(even) == pytest.approx(0.5, abs=0.03)
    point = torch.zeros(6, 8)
    point[2, 7] = 3.0
    assert reach(point, (4.5, 2.5)) == pytest.approx(3.0)
    assert half_share(point) == pytest.approx(1 / 48)


def test_it_is_saved_loaded_and_drawn(tmp_path: Path) -> None:
    found = receptive_field(tiny("clip")[0], [images()], seed=4)
    found.save(tmp_path / "field.safetensors")
    again = ReceptiveField.load(tmp_path / "field.safetensors")
    assert list(again.maps) == list(found.maps)
    assert all(torch.equal(again.maps[name], found.maps[name]) for name in found.maps)
    assert (again.reach, again.half, again.images) == (found.reach, found.half, 2)
    assert again.settings == {"draws": 2, "seed": 4}
    with Image.open(found.plot(tmp_path / "field.png")) as drawn:
        assert drawn.width > 4 * 100


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = tiny("vit")
    before = model(**inputs).logits
    receptive_field(model, [images()], draws=1)
    assert torch.equal(model(**inputs).logits, before)
    assert all(each.grad is None for each in model.parameters())


def test_refusals() -> None:
    model, _ = tiny("vit")
    with pytest.raises(InputError, match="at least one image"):
        receptive_field(model, [])
    with pytest.raises(InputError, match="draws must be at least 1"):
        receptive_field(model, [images()], draws=0)
    with pytest.raises(InputError, match="one size"):
        receptive_field(model, [images(), images(32, 32)], draws=1)
    with pytest.raises(CaptureError, match=r"vit\.nothing"):
        receptive_field(model, [images()], layers="vit.nothing")


@pytest.mark.gpu
def test_in_float16_on_cuda() -> None:
    for model in (load_classifier(), load_resnet()):
        found = receptive_field(model, [images(64, 64, batch=4)])
        assert all(each.isfinite().all() and not each.is_cuda for each in found.maps.values())
