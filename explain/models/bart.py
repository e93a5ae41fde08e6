"""BART: which words of a source text, and which words written so far, the next word rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..errors import InputError
from ..wiring import Readout, Segment, Wiring
from .common import ask_function, check_call, check_tokens, encoder_decoder
from .family import Family, Found, Reading, Target
from .inputs import check_mask, check_whole, check_words, word_segment
from .registry import register
from .targets import ask_places, one_hot, touched


class Bart(Family):
    """BART (Lewis et al. 2020), an encoder and a decoder of words.

    Streams: "source", and "target", the words written so far, `decoder_input_ids`. In every decoder layer
    these first attend to each other (each to those before it), then to the encoded source.

    Target: a place in `decoder_input_ids`, counted in tokens from 0; its score is the logit of the word that
    the model finds likeliest to come after it. None: the last place that is no padding. The logit of another
    word is a function, `lambda outputs: outputs.logits[:, place, word]`.
    """

    name = "BART"
    classes = ("BartForConditionalGeneration",)
    refuses: ClassVar[Mapping[str, str]] = {
        "legrad": "a word is read from a decoder; LeGrad lets the head read every layer of one encoder",
    }
    pixels = None

    def wiring(self, model: Any) -> Wiring:
        """The source's layers, then for every decoder layer the target, and the target on the source."""
        return encoder_decoder(model, "source", "target")

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Words with their places, after the norm that the first layer reads."""
        return {
            "source": "model.encoder.layernorm_embedding",
            "target": "model.decoder.layernorm_embedding",
        }

    def watches(self, model: Any) -> tuple[str, ...]:
        """The decoder, whose tokens the word head reads."""
        return ("model.decoder",)

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse an empty source, and words that are not of the vocabulary."""
        check_call(model, inputs, "input_ids")
        check_whole(inputs)
        config = model.config
        check_words(inputs, config, config.max_position_embeddings)
        written = inputs.get("decoder_input_ids")
        if written is None:
            return
        check_call(model, inputs, "decoder_input_ids")
        try:
            check_tokens(
                {"input_ids": written}, vocabulary=config.vocab_size, longest=config.max_position_embeddings
            )
        except InputError as error:
            raise InputError(f"in decoder_input_ids: {error}") from error
        if len(written) != len(inputs["input_ids"]):
            raise InputError(f"{len(inputs['input_ids'])} input_ids, {len(written)} decoder_input_ids")
        check_mask(inputs, "decoder_attention_mask", tuple(written.shape))

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The scores of next words, each read from the place before."""
        last = found.outputs["model.decoder"]
        batch = len(last)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, batch, many=batch == 1)
                scores = score(outputs)
                weights = touched(scores, last)
            else:
                (score, words, fixed), places = ask_places(
                    outputs.logits, target, mask=inputs.get("decoder_attention_mask"), last=True
                )
                scores, weights = score(outputs), one_hot(places, last.shape[1])
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout("target", weights),),
            segments=(
                word_segment("source", inputs, model.config.pad_token_id, len(scores)),
                _written(inputs, last.shape[1], len(scores)),
            ),
            shared=frozenset(("source", "target") if len(scores) > batch else ()),
            fixed=fixed,
            score_of=score,
            coupled=callable(target),
        )


def _written(inputs: Mapping[str, Any], length: int, rows: int) -> Segment:
    """The words written so far; the place that is read does not see those after it: their relevance is 0."""
    mask = inputs.get("decoder_attention_mask")
    mask = None if mask is None else mask.bool().expand(rows, -1)
    return Segment("target_text", "target", slice(0, length), mask=mask)


register(Bart())
