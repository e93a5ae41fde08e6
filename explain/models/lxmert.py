"""LXMERT: which words of a question and which regions of an image an answer rests on."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from ..wiring import CrossStep, Readout, SelfStep, Site, Step, TogetherStep, Wiring
from .common import ask_classes, ask_function, check_call
from .family import Family, Found, Reading, Target
from .inputs import (
    check_boxes,
    check_regions,
    check_whole,
    check_words,
    region_segment,
    word_segment,
)
from .registry import register
from .targets import one_hot


class Lxmert(Family):
    """LXMERT for question answering (Tan & Bansal 2019), on region features of the user's own detector.

    Streams: "text" and "regions". After the layers of each alone come cross layers: words attend to regions
    and regions to words, both as they were before, by one attention that is called twice (words first); then
    each stream attends to itself. The answer is read from the first token, [CLS], so the regions' side of the
    last cross layer reaches no score: it is captured, but `Wiring.part("text")` holds the words' side only,
    as in the code of Chefer et al. 2021.

    Target: an answer by its number or label, a function of the outputs, or None for the predicted answer.
    """

    name = "LXMERT"
    classes = ("LxmertForQuestionAnswering",)
    refuses: ClassVar[Mapping[str, str]] = {
        "legrad": "the answer rests on two streams; LeGrad lets the head read every layer of one encoder",
    }
    pixels = None

    def wiring(self, model: Any) -> Wiring:
        """Words, regions, then the cross layers."""
        encoder, steps = model.lxmert.encoder, list[Step]()
        for stream, stack in (("text", "layer"), ("regions", "r_layers")):
            for layer in range(len(getattr(encoder, stack))):
                steps.append(SelfStep(stream, Site(f"lxmert.encoder.{stack}.{layer}.attention.self")))
        for layer in range(len(encoder.x_layers)):
            name = f"lxmert.encoder.x_layers.{layer}"
            both = f"{name}.visual_attention.att"
            words, regions = Site(both, 0), Site(both, 1)
            steps += [
                TogetherStep((CrossStep("text", "regions", words), CrossStep("regions", "text", regions))),
                SelfStep("text", Site(f"{name}.lang_self_att.self")),
                SelfStep("regions", Site(f"{name}.visn_self_att.self")),
            ]
        return Wiring(tuple(steps))

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Words with their places; regions with their boxes."""
        return {"text": "lxmert.embeddings", "regions": "lxmert.encoder.visn_fc"}

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse an empty question, regions of a wrong size, boxes that are not in parts of the image."""
        check_call(model, inputs, "input_ids", "visual_feats", "visual_pos")
        check_whole(inputs)
        config = model.config
        check_words(inputs, config, config.max_position_embeddings)
        check_regions(inputs, "visual_feats", config.visual_feat_dim)
        check_boxes(inputs["visual_pos"], (*inputs["visual_feats"].shape[:2], config.visual_pos_dim))

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The scores of answers, read from [CLS]."""
        logits = outputs.question_answering_score
        batch = len(logits)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, batch, many=batch == 1)
            else:
                pick, words, fixed = ask_classes(model.config, logits, target)

                def score(outputs: Any) -> torch.Tensor:
                    return pick(SimpleNamespace(logits=outputs.question_answering_score))

            scores = score(outputs)
        rows = len(scores)
        first = torch.zeros(rows, dtype=torch.long, device=scores.device)
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout("text", one_hot(first, inputs["input_ids"].shape[1])),),
            segments=(
                word_segment("text", inputs, model.config.pad_token_id, rows),
                region_segment("regions", slice(0, inputs["visual_feats"].shape[1]), inputs, rows),
            ),
            shared=frozenset(("text", "regions") if rows > batch else ()),
            fixed=fixed,
            score_of=score,
            coupled=callable(target),
        )


register(Lxmert())
