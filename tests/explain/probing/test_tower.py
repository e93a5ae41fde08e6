"""The image tower of every family: what it takes, that its attention is the model's, whom it refuses."""

from __future__ import annotations

import pytest
import torch
import transformers
from explain_tiny import VISION, images, names, shaken, tiny
from heedful.explain.capture import capture
from heedful.explain.errors import CaptureError, InputError, UnknownFamilyError
from heedful.explain.models import family_of
from heedful.explain.probing.tower import attention_of, tower_of

TOWERS = {"vit": 1, "deit": 2, "deit_teacher": 2, "dinov2": 1, "dinov2_registers": 5, "clip": 1, "siglip": 0}
"""By name how many special tokens come before the patches."""


@pytest.mark.parametrize("name", TOWERS)
def test_the_attention_is_that_of_the_whole_model(name: str) -> None:
    model, inputs = tiny(name)
    family = family_of(model)
    with capture(model) as seen:
        model(**inputs)
    wanted = [seen.attention[step.site] for step in family.wiring(model).of("image")]
    tower = tower_of(model)
    (found,) = attention_of(tower, inputs)

    assert tower.specials == TOWERS[name]
    assert tower.grid(inputs["pixel_values"]) == (3, 5)
    assert len(found) == len(wanted) == len(tower.layers) == 3
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == (2, 2, TOWERS[name] + 15, TOWERS[name] + 15)
        assert not one.requires_grad
        torch.testing.assert_close(one, other.detach())


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_without_its_head_is_the_same_tower(name: str) -> None:
    model, inputs = tiny(name)
    tower = tower_of(model)
    bare = tower_of(tower.module)
    images_alone = {key: inputs[key] for key in inputs if key in ("pixel_values", "interpolate_pos_encoding")}
    (found,), (wanted,) = attention_of(bare, images_alone), attention_of(tower, inputs)

    assert (bare.layers, bare.sites, bare.specials) == (tower.layers, tower.sites, tower.specials)
    torch.testing.assert_close(found, wanted)
    assert model.training is False
    assert dict(model.named_modules()).keys() == dict(tiny(name)[0].named_modules()).keys()


@pytest.mark.parametrize("name", ["vit", "siglip"])
def test_batches_change_nothing(name: str) -> None:
    model, inputs = tiny(name)
    tower = tower_of(model)
    (together,) = attention_of(tower, inputs)
    alone = list(attention_of(tower, inputs, batch_size=1))

    assert len(alone) == 2
    for layer, found in enumerate(together):
        torch.testing.assert_close(torch.cat([one[layer] for one in alone]), found)


def test_classifiers_with_a_vision_tower_are_taken() -> None:
    config = transformers.SiglipConfig(
        vision_config=VISION, text_config={"vocab_size": 40, "bos_token_id": None}
    )
    model = shaken(transformers.SiglipForImageClassification(config))
    (found,) = attention_of(tower_of(model), {"pixel_values": images(32, 32)})

    assert [tuple(each.shape) for each in found] == [(2, 2, 16, 16)] * 3


def test_models_without_patches_are_refused_by_name() -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    with pytest.raises(UnknownFamilyError, match=r"ResNetModel has no patches.*ViT, DeiT, DINOv2"):
        tower_of(transformers.ResNetModel(config))
    for name in set(names()) - set(TOWERS):
        with pytest.raises(UnknownFamilyError, match="has no patches"):
            tower_of(tiny(name)[0])


def test_images_that_do_not_fit_are_refused() -> None:
    model, inputs = tiny("vit")
    tower = tower_of(model)
    for wrong, words in (
        ({"pixel_values": images(24, 40)}, "interpolate_pos_encoding"),
        ({"pixel_values": images(4, 40), "interpolate_pos_encoding": True}, "smaller than one patch"),
        ({"input_ids": torch.ones(1, 3)}, "pixel_values"),
    ):
        with pytest.raises(InputError, match=words):
            list(attention_of(tower, wrong))
    with pytest.raises(InputError, match="at least 1, got 0"):
        list(attention_of(tower, inputs, batch_size=0))
    with pytest.raises(InputError, match="got str"):
        tower_of("vit")


def test_tokens_that_the_adapter_does_not_know_of_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny("dinov2_registers")
    monkeypatch.setattr(type(family_of(model)), "specials", lambda self, model: 1)

    with pytest.raises(CaptureError, match="1 special ones and 3 x 5 patches, 16 in all"):
        list(attention_of(tower_of(model), inputs))
