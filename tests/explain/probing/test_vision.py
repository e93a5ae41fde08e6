"""The image part of every family is found, asked, and cut into tokens; what has none is refused."""

from __future__ import annotations

import pytest
import torch
import transformers
from explain_tiny import VISION, images, tiny
from heedful.emoji import load_resnet
from heedful.explain.errors import InputError
from heedful.explain.probing.vision import image_layers, look, patch_size, tokens_of
from torch import nn

SPECIALS = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_registers": 5, "clip": 1, "siglip": 0, "blip": 1}


@pytest.mark.parametrize("name", SPECIALS)
def test_every_family_is_seen_on_images_that_are_not_square(name: str) -> None:
    model, _ = tiny(name)
    pixels = images(height=24, width=40)
    seen = look(model, pixels)
    assert list(seen) == list(image_layers(model))
    assert len(seen) == 4
    for layer, output in seen.items():
        tokens = tokens_of(model, pixels, output, layer)
        assert (tokens.specials, tokens.grid) == (SPECIALS[name], (3, 5))
        assert tokens.central == SPECIALS[name] + 1 * 5 + 2
        assert tokens.values.shape[:2] == (2, SPECIALS[name] + 15)


def test_layers_are_those_that_the_adapters_name() -> None:
    from heedful.explain.models import family_of

    for name in SPECIALS:
        model, _ = tiny(name)
        if "image" in (known := family_of(model).layers(model)):
            assert image_layers(model)[1:] == known["image"]
            assert image_layers(model)[0] == family_of(model).embeddings(model)["image"]


@pytest.mark.parametrize("kind", [transformers.CLIPVisionModel, transformers.ViTModel])
def test_a_tower_without_a_head_is_seen_too(kind: type[nn.Module]) -> None:
    model = kind(kind.config_class(**VISION)).eval()  # type: ignore[attr-defined]
    assert [tuple(each.shape) for each in look(model, images()).values()] == [(2, 16, 16)] * 4


def test_a_resnet_has_cells_for_tokens() -> None:
    model, pixels = load_resnet(device="cpu", dtype=torch.float32), images(48, 64)
    seen = look(model, pixels)
    assert list(seen) == [
        "resnet.embedder",
        *(f"resnet.encoder.stages.0.layers.{layer}" for layer in range(2)),
        *(f"resnet.encoder.stages.1.layers.{layer}" for layer in range(3)),
    ]
    last = seen["resnet.encoder.stages.1.layers.2"]
    tokens = tokens_of(model, pixels, last)
    assert tokens.grid == (6, 8)
    assert torch.equal(tokens.values[:, 11], last[:, :, 1, 3])


def test_a_plain_module_is_called_with_pixels_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert look(model, images(), ["0"])["0"].shape == (2, 4, 22, 38)
    with pytest.raises(InputError, match="name the layers"):
        image_layers(model)


def test_merged_patches_have_no_place_in_the_grid() -> None:
    model, pixels = tiny("vit")[0], images()
    with pytest.raises(InputError, match="with a token for each of 3 x 5 patches"):
        tokens_of(model, pixels, torch.zeros(2, 7, 16), "some layer")


def test_what_has_no_patches_or_no_images_is_refused() -> None:
    with pytest.raises(InputError, match="ResNetForImageClassification has no patches"):
        patch_size(load_resnet(device="cpu", dtype=torch.float32))
    with pytest.raises(InputError, match="takes no pixel_values"):
        look(tiny("bert")[0], images())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(2, 3, 24, 40, dtype=torch.long), "must be floats"),
        (torch.zeros(3, 24, 40), "must be floats"),
        (torch.zeros(0, 3, 24, 40), "must be floats"),
        (torch.zeros(2, 1, 24, 40), "3 channels"),
        (torch.full((2, 3, 24, 40), torch.nan), "NaN"),
        (torch.zeros(2, 3, 4, 40), "smaller than one patch"),
    ],
)
def test_pixels_that_no_model_takes_are_refused(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        look(tiny("vit")[0], pixels)


@pytest.mark.gpu
def test_in_float16_on_cuda_pixels_follow_the_model() -> None:
    for name in SPECIALS:
        model = tiny(name)[0].half().cuda()
        assert all(each.is_cuda and each.dtype == torch.float16 for each in look(model, images()).values())
