"""Methods run by name: one forward for many rows, in portions, with or without stored gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_tiny import single, tiny
from heedful.explain import evidence as evidence_module
from heedful.explain.errors import InputError, UnsupportedMethodError
from heedful.explain.evidence import Evidence
from heedful.explain.methods import METHODS, RULES, relevance_of, settings_of
from heedful.explain.models import family_of
from torch import Tensor, nn


def streams(
    model: nn.Module, inputs: dict[str, Any], method: str, target: Any = None, **settings: Any
) -> Any:
    return relevance_of(model, family_of(model), inputs, target, method, settings)[1]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], rtol=1e-4, atol=1e-6 * first[name].abs().max().item()
        )


@pytest.mark.parametrize("method", ["generic", "libra", "attribution", "legrad", "libra_gradient_x_input"])
def test_many_texts_on_one_image_equal_one_call_a_text(method: str) -> None:
    model, inputs = tiny("clip")
    image = single(inputs, 0, "pixel_values")
    together = streams(model, image, method)
    for row in range(2):
        alone = streams(model, single(image, row, "input_ids", "attention_mask"), method)
        assert_same({name: each[row : row + 1] for name, each in together.items()}, alone)
    assert not torch.allclose(together["image"][0], together["image"][1])


def test_portions_of_rows_equal_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny("clip")
    image = single(inputs, 0, "pixel_values")
    whole = streams(model, image, "generic")
    monkeypatch.setattr(evidence_module, "HELD_BYTES", 1)
    made = Evidence(model, family_of(model), image)
    assert [list(made.chunks(readout)) for readout in made.reading.readouts] == [
        [slice(0, 1), slice(1, 2)],
        [slice(0, 2)],
    ]
    assert_same(streams(model, image, "generic"), whole)


@pytest.mark.parametrize("name", ["vit", "siglip", "clip"])
@pytest.mark.parametrize("settings", [{}, {"start_layer": -1}, {"signed": True, "fusion": "max"}])
def test_the_carried_row_equals_stored_gradients(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = tiny(name)
    carried = streams(model, inputs, "generic", **settings)
    asked: list[object] = []
    monkeypatch.setattr(Evidence, "row_relevance", lambda *args, **kwargs: asked.append(args))
    assert_same(streams(model, inputs, "generic", **settings), carried)
    assert asked


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_the_carried_row_stores_no_gradients(monkeypatch: pytest.MonkeyPatch, kind: torch.dtype) -> None:
    model, inputs = tiny("vit")
    expected = streams(model, inputs, "generic", [0, 1])["image"]
    inputs = {key: each.to(kind) if isinstance(each, Tensor) else each for key, each in inputs.items()}
    model = model.to(kind)

    def stored(*_: object) -> None:
        raise AssertionError("gradients were stored")

    monkeypatch.setattr(Evidence, "gradients", stored)
    found = streams(model, inputs, "generic", [0, 1])["image"]
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("method", ["generic", "legrad", "gradient_x_input", "attribution"])
def test_rows_whose_scores_depend_on_each_other_stay_apart(method: str) -> None:
    model, inputs = tiny("clip")
    image = single(inputs, 0, "pixel_values")
    together = streams(model, image, method, lambda outputs: outputs.logits_per_image.softmax(-1)[0])
    for row in range(2):

        def alone(outputs: Any, row: int = row) -> Tensor:
            return outputs.logits_per_image.softmax(-1)[0, row].expand(2)

        assert_same(
            {"image": together["image"][row]}, {"image": streams(model, image, method, alone)["image"][row]}
        )


def test_the_predicted_class_is_settled_by_the_first_forward() -> None:
    model, inputs = tiny("vit")
    predicted = model(**inputs).logits.argmax(-1).tolist()
    assert_same(streams(model, inputs, "attribution"), streams(model, inputs, "attribution", predicted))


@pytest.mark.parametrize("method", ["generic", "grad_cam", "attribution"])
def test_attentions_that_nobody_reads_do_not_count(method: str) -> None:
    model, inputs = tiny("lxmert")  # its last vision-to-language map leads nowhere
    found = streams(model, single(inputs, 0), method, [0, 1])
    for row in range(2):
        alone = streams(model, single(inputs, 0), method, row)
        assert_same({name: each[row : row + 1] for name, each in found.items()}, alone)


def test_lrp_of_a_half_precision_model_is_that_of_float32() -> None:
    model, inputs = tiny("vit")
    half = {name: value.bfloat16() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    found = streams(model.bfloat16(), half, "partial_lrp", [0, 1])
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())
    wide = {name: value.float() if isinstance(value, Tensor) else value for name, value in half.items()}
    assert_same(found, streams(model.float(), wide, "partial_lrp", [0, 1]))


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_those_of_the_rule(method: str) -> None:
    assert "rows" not in settings_of(method)
    model, inputs = tiny("vit")
    with pytest.raises(InputError, match="takes no setting strangeness"):
        streams(model, inputs, method, strangeness=1)


def test_unknown_methods_are_named_with_the_nearest() -> None:
    model, inputs = tiny("vit")
    with pytest.raises(UnsupportedMethodError, match=r'no method "generc".*mean "generic".*rollout'):
        streams(model, inputs, "generc")


def test_refused_methods_say_why() -> None:
    model, inputs = tiny("detr")
    with pytest.raises(UnsupportedMethodError, match='"legrad" has no meaning for DETR: a box is read'):
        streams(model, inputs, "legrad")


@pytest.mark.parametrize("method", RULES)
def test_the_callers_no_grad_and_weights_are_left_alone(method: str) -> None:
    model, inputs = tiny("vit")
    with torch.no_grad():
        quiet = streams(model, inputs, method)
        assert not torch.is_grad_enabled()
    assert_same(streams(model, inputs, method), quiet)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_query_of_the_image_leaves_the_text_as_it_is_read() -> None:
    model, inputs = tiny("clip")
    read, looked = (streams(model, inputs, "raw_attention", query=query) for query in (None, 5))
    torch.testing.assert_close(read["text"], looked["text"])
    assert not torch.allclose(read["image"], looked["image"])


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["clip", "vit", "detr"])
def test_float16_on_cuda_is_near_float32(name: str, method: str) -> None:
    model, inputs = tiny(name)
    if method in family_of(model).refuses:
        pytest.skip("refused")
    expected = streams(model, inputs, method)
    half = {
        key: value.cuda().half() if getattr(value, "is_floating_point", bool)() else value
        for key, value in inputs.items()
    }
    half = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in half.items()}
    found = streams(model.half().cuda(), half, method)
    for stream, values in expected.items():
        assert (found[stream].float().cpu() - values).abs().max() <= 0.1 * values.abs().max()
