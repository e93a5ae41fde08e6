"""Encoders that are one stream of words: BERT and DistilBERT, and the ground VisualBERT stands on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..wiring import Readout, Segment, SelfStep, Site, Wiring
from .common import Answer, ask_again, ask_classes, ask_function, check_call
from .family import Family, Found, Reading, Target
from .inputs import check_whole, check_words, word_segment
from .registry import register
from .targets import ask_places, one_hot, touched


class Encoder(Family):
    """One stream of words, and of whatever comes with them; the head reads one of its tokens.

    Rows: one for every input; several targets of a single input are a row each. A function of the outputs is
    read from the tokens that its gradient reaches.
    """

    pixels = None
    stream: ClassVar[str] = "text"
    tower: ClassVar[str]
    """Where the encoder is in the model."""
    stack: ClassVar[str] = "encoder.layer"
    """Where its layers are in the encoder."""
    attention: ClassVar[str] = "attention.self"
    """Where the attention is in a layer."""

    def wiring(self, model: Any) -> Wiring:
        """Self-attention over and over."""
        names = self.layers(model)[self.stream]
        return Wiring(tuple(SelfStep(self.stream, Site(f"{name}.{self.attention}")) for name in names))

    def embeddings(self, model: Any) -> Mapping[str, str]:
        """Words with their places."""
        return {self.stream: f"{self.tower}.embeddings"}

    def layers(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Every layer of the encoder."""
        name = f"{self.tower}.{self.stack}"
        return {self.stream: tuple(f"{name}.{layer}" for layer in range(len(model.get_submodule(name))))}

    def watches(self, model: Any) -> tuple[str, ...]:
        """The last layer, whose tokens the head reads."""
        return self.layers(model)[self.stream][-1:]

    def check(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Refuse what is no text of this model's, or an empty one."""
        check_call(model, inputs, "input_ids")
        check_whole(inputs)
        check_words(inputs, model.config, model.config.max_position_embeddings)

    def read(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, found: Found, target: Target
    ) -> Reading:
        """The scores of classes, or of words, and the tokens that they are read from."""
        last = found.outputs[self.watches(model)[0]]
        batch = len(last)
        with torch.enable_grad():
            if callable(target):
                score, words, fixed = ask_function(target, outputs, batch, many=batch == 1)
                scores = score(outputs)
                weights = touched(scores, last)
            else:
                (score, words, fixed), places = self.ask(model, inputs, outputs, target)
                scores = score(outputs)
                weights = one_hot(places.to(last.device), last.shape[1])
        return Reading(
            scores=scores,
            targets=words,
            readouts=(Readout(self.stream, weights),),
            segments=self.segments(model, inputs, len(scores)),
            shared=frozenset({self.stream} if len(scores) > batch else ()),
            fixed=fixed,
            score_of=score,
            coupled=callable(target),
        )

    def layer_scores(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        outputs: Any,
        reading: Reading,
        readout: Readout,
        hidden: Float[Tensor, "batch token channel"],
    ) -> Float[Tensor, "row"]:
        """The model's head on the tokens of a lower layer (LeGrad, Bousselham et al. 2024)."""
        return ask_again(reading, type(outputs)(logits=self.head(model, inputs, hidden)))

    def ask(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, target: Target
    ) -> tuple[Answer, Tensor]:
        """What the rows are about, and the token that each is read from: [CLS] for a class."""
        answer = ask_classes(model.config, outputs.logits, target)
        return answer, torch.zeros(len(answer[1]), dtype=torch.long)

    def segments(self, model: Any, inputs: Mapping[str, Any], rows: int) -> tuple[Segment, ...]:
        """The words."""
        return (word_segment(self.stream, inputs, model.config.pad_token_id, rows),)

    @abstractmethod
    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch *token answer"]:
        """The logits that the model's head makes of these tokens."""


class MaskedWords(Encoder):
    """Encoders that say at every place which word stands there.

    Target: a place, counted in tokens from 0; its score is the logit of the word that the model finds
    likeliest there. Which token stands for a hidden word is the tokenizer's knowledge: None is refused. The
    logit of another word is a function, `lambda outputs: outputs.logits[:, place, word]`.
    """

    def ask(
        self, model: Any, inputs: Mapping[str, Any], outputs: Any, target: Target
    ) -> tuple[Answer, Tensor]:
        """The likeliest words of places, each read from its place."""
        return ask_places(outputs.logits, target)


class Bert(Encoder):
    """Devlin et al. 2019, as a classifier that reads [CLS] through the pooler."""

    name = "BERT"
    classes = ("BertForSequenceClassification",)
    tower = "bert"

    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch label"]:
        """Pooler and classifier."""
        return model.classifier(model.bert.pooler(hidden))


class BertWords(MaskedWords):
    """Devlin et al. 2019, as it was trained: it fills in masked words."""

    name = "BERT, masked words"
    classes = ("BertForMaskedLM",)
    tower = "bert"

    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token word"]:
        """The word head, at every place."""
        return model.cls(hidden)


class DistilBert(Encoder):
    """Sanh et al. 2019, as a classifier that reads [CLS]; it has no pooler."""

    name = "DistilBERT"
    classes = ("DistilBertForSequenceClassification",)
    tower, stack, attention = "distilbert", "transformer.layer", "attention"

    def head(
        self, model: Any, inputs: Mapping[str, Any], hidden: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch label"]:
        """Both layers of the classifier."""
        return model.classifier(torch.relu(model.pre_classifier(hidden[:, 0])))


register(Bert())
register(BertWords())
register(DistilBert())
