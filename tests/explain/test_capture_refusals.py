"""What a capture cannot show whole is refused, with the reason and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from explain_capturing import captured
from explain_oracles_capture import (
    lxmert,
    vit,
)
from heedful.explain.capture import capture
from heedful.explain.errors import CaptureError
from heedful.explain.wiring import Site
from torch import nn

# ---- what goes wrong


def test_training_mode_and_inference_mode_are_refused() -> None:
    case = vit("sdpa")
    case.model.vit.layers[1].train()
    with pytest.raises(CaptureError, match=r"training mode \('vit\.layers\.1'\).*model\.eval\(\)"):
        captured(case)
    case.model.eval()
    with torch.inference_mode(), pytest.raises(CaptureError, match="inference_mode"):
        captured(case)
    for off in (torch.inference_mode, torch.no_grad):
        message = r"autograd is off inside the capture, at 'vit\.layers\.0"
        with pytest.raises(CaptureError, match=message), capture(case.model), off():
            case.model(**case.inputs)


def test_flash_attention_is_refused() -> None:
    case = vit("sdpa")
    case.model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(CaptureError, match=r"flash_attention_2.*attn_implementation='sdpa'"):
        captured(case)


@pytest.mark.parametrize("where", ["vit.layers.1.attention.q_proj.weight", "classifier.weight"])
def test_nan_weights_are_named(where: str) -> None:
    case = vit("sdpa")
    with torch.no_grad():
        case.model.get_parameter(where)[0] = float("nan")
    with pytest.raises(CaptureError, match=f"not finite: the weights '{where}' hold NaN"):
        scores, seen = captured(case)
        seen.gradients(case.model.classifier.weight.sum() + scores)


def test_nan_inputs_are_told_from_nan_weights() -> None:
    case = vit("sdpa")
    with pytest.raises(CaptureError, match="look for NaN or infinity in the inputs"):
        captured(case, pixel_values=case.inputs["pixel_values"] / 0)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    scores, seen = captured(vit("sdpa"))
    with pytest.raises(CaptureError, match="gradient of the attention is not finite"):
        seen.gradients((scores - scores.detach()).clamp(min=0).sqrt())


def test_sites_that_do_not_fit_are_named() -> None:
    case = vit("sdpa")
    names = [f"vit.layers.{layer}.attention" for layer in range(3)]
    sites = [Site(name) for name in names]

    def run(sites: list[Site], **watch: Any) -> None:
        with capture(case.model, sites, **watch):
            case.model(**case.inputs)

    with pytest.raises(CaptureError, match=r"no module 'vit\.layer\.0\.attention'.*vit\.layers\.0\."):
        run([Site("vit.layer.0.attention")])
    with pytest.raises(CaptureError, match=r"no attention was seen at vit\.layers\.0\.mlp, but at vit"):
        run([*sites[1:], Site("vit.layers.0.mlp")])
    with pytest.raises(CaptureError, match=r"no attention was seen at vit\.layers\.2\.attention \(call 1\)"):
        run([*sites, Site(names[2], 1)])
    with pytest.raises(CaptureError, match=r"outside the 2 sites was seen at vit\.layers\.2\.attention"):
        run(sites[:2])
    with pytest.raises(CaptureError, match="no module 'embeddings'"):
        run(sites, watch=["embeddings"])


def test_watched_modules_must_run_once_and_give_numbers() -> None:
    case = vit("sdpa")
    case.model.idle = nn.Identity().eval()
    with pytest.raises(CaptureError, match="did not run: idle"), capture(case.model, watch=["idle"]):
        case.model(**case.inputs)
    case = lxmert("")
    twice = "lxmert.encoder.x_layers.0.visual_attention"
    with pytest.raises(CaptureError, match="ran twice"), capture(case.model, watch=[twice]):
        case.model(**case.inputs)


def test_the_number_of_forwards_must_be_one() -> None:
    case = vit("sdpa")
    with pytest.raises(CaptureError, match="ran 2 times in one capture"), capture(case.model):
        case.model(**case.inputs)
        case.model(**case.inputs)
    with (
        pytest.raises(CaptureError, match="no attention was seen: run the model"),
        capture(case.model),
    ):
        pass


def test_scores_must_depend_on_the_attention() -> None:
    case = vit("sdpa")
    with capture(case.model, watch=["vit.embeddings"]) as seen:
        scores = case.score(case.model(**case.inputs))
    with pytest.raises(CaptureError, match="carry no graph"):
        seen.gradients(scores.detach())
    with pytest.raises(CaptureError, match=r"zero at every attention.*do not depend on it"):
        seen.gradients(seen.outputs["vit.embeddings"].sum((1, 2)))
    with pytest.raises(CaptureError, match=r"zero at every attention.*saturated"):
        seen.gradients((scores * 1e6).sigmoid())
    with pytest.raises(CaptureError, match="no attention was captured at head; it was at vit"):
        seen.gradients(scores, [Site("head")])
