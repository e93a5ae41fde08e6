"""Controls have the shape of a method's result, know nothing of what was learned, and are reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain_tiny import tiny
from heedful.explain import InputError, explain
from heedful.explain.evaluation import (
    CONTROLS,
    controls,
    edge_map,
    first_layer_columns,
    random_map,
    randomised,
)
from scipy import ndimage


@pytest.mark.parametrize("name", ["vit", "clip", "lxmert", "visual_bert", "detr"])
def test_all_have_the_shape_of_what_a_method_found(name: str) -> None:
    model, inputs = tiny(name)
    like = explain(model, inputs, 0 if name not in ("clip",) else _pairs)
    found = controls(model, inputs, like, [3, 4], 0 if name not in ("clip",) else _pairs)

    image = "image" in like.maps
    assert list(found) == [each for each in CONTROLS if image or each != "edges"]
    for method, each in found.items():
        shapes = {kind: tuple(values.shape) for kind, values in each.maps.items()}
        wanted = {kind: tuple(values.shape) for kind, values in like.maps.items()}
        assert shapes == ({"image": wanted["image"]} if method == "edges" else wanted)
        assert each.method == method
    assert not all(
        torch.equal(found["random weights"].maps[kind], values) for kind, values in like.maps.items()
    )


def _pairs(outputs: object) -> torch.Tensor:
    return outputs.logits_per_image.diagonal()  # type: ignore[attr-defined]


def test_a_random_map_belongs_to_its_item() -> None:
    whole = random_map((3, 5), [4, 5, 6])

    assert torch.equal(random_map((3, 5), [6]), whole[2:])
    assert not torch.equal(random_map((3, 5), [6], seed=1), whole[2:])
    assert not torch.equal(whole[0], whole[1])
    assert 0 <= float(whole.min()) < 0.5 < float(whole.max()) < 1


def test_edges_are_sobels() -> None:
    pixels = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    gray = np.tensordot([0.299, 0.587, 0.114], pixels[0].double().numpy(), 1)
    slopes = [ndimage.sobel(gray, axis, mode="nearest") / 8 for axis in (0, 1)]
    hand = np.hypot(*slopes).reshape(2, 4, 3, 4).mean((1, 3))

    np.testing.assert_allclose(edge_map(pixels, (2, 3))[0].numpy(), hand, atol=1e-6)


def test_the_first_layers_column_sum_is_that_of_its_attention() -> None:
    model, inputs = tiny("vit")
    found = first_layer_columns(model, inputs, 1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        first = model(**inputs, output_attentions=True).attentions[0]

    assert found.image is not None
    torch.testing.assert_close(found.image.flatten(1), first.mean(1).sum(1)[:, 1:])


def test_random_weights_keep_their_scale_and_leave_the_model_alone() -> None:
    model, inputs = tiny("vit")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    blind, again, other = randomised(model, 1), randomised(model, 1), randomised(model, 2)

    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    for (name, weight), same in zip(blind.named_parameters(), again.parameters(), strict=True):
        old = before[name]
        assert torch.equal(weight, same), name
        if old.numel() > 100:
            assert not torch.equal(weight, old), name
            assert float(weight.detach().std()) == pytest.approx(float(old.std()), rel=0.3), name
    with torch.no_grad():
        answers = [each(**inputs).logits for each in (model, blind, other)]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[1], answers[2])


def test_what_controls_cannot_be_made_of_is_refused() -> None:
    model, inputs = tiny("vit")
    like = explain(model, inputs, 0)

    with pytest.raises(InputError, match="name the target"):
        controls(model, inputs, like, [0, 1])
    with pytest.raises(InputError, match="an item for each of 2 rows"):
        controls(model, inputs, like, [0], 0)
    with pytest.raises(InputError, match="no weights"):
        randomised(torch.nn.Identity())
