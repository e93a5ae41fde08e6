"""Every family once more, written out by hand: order of attentions, where scores are read, what is shown.

Nothing here is asked of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from explain_reference_shapes import CoAttention, Decoder, Hand, Head, Reads, Shown, Stack
from torch import Tensor, nn


def at(*places: int) -> tuple[Mapping[int, float], ...]:
    return tuple({place: 1.0} for place in places)


def classes(outputs: Any, target: Any) -> Tensor:
    return outputs.logits.amax(1) if target is None else outputs.logits[:, target]


def of_class(stream: str, *places: int) -> Callable[[Any, Any], Reads]:
    return lambda outputs, target: {stream: at(*places)}


PATCHES = Shown("image", "image", 1, 15, (3, 5))
"""Behind [CLS], from images of 24 x 40 pixels."""


def vit_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    return model.classifier(model.base_model.layernorm(hidden)[:, 0])


def vit(**changes: Any) -> Hand:
    given = {
        "shapes": (Stack("image", (0, 1, 2)),),
        "scores": classes,
        "reads": of_class("image", 0, 0),
        "shown": (PATCHES,),
        "tokens": {"image": "vit.embeddings"},
        "blocks": {"image": "vit.layers.{}"},
        "head": vit_head,
    }
    return Hand(**{**given, **changes})


def deit(**changes: Any) -> Hand:
    return vit(
        shown=(Shown("image", "image", 2, 15, (3, 5)),),
        tokens={"image": "deit.embeddings"},
        blocks={"image": "deit.layers.{}"},
        **changes,
    )


def teacher_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    normed = model.deit.layernorm(hidden)
    return (model.cls_classifier(normed[:, 0]) + model.distillation_classifier(normed[:, 1])) / 2


def dinov2(module: str, registers: int) -> Hand:
    first = 1 + registers
    shares = {0: 0.5} | {first + patch: 0.5 / 15 for patch in range(15)}

    def head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
        normed = model.base_model.layernorm(hidden)
        return model.classifier(torch.cat([normed[:, 0], normed[:, first:].mean(1)], 1))

    return vit(
        reads=lambda outputs, target: {"image": (shares, shares)},
        shown=(Shown("image", "image", first, 15, (3, 5)),),
        tokens={"image": f"{module}.embeddings"},
        blocks={"image": f"{module}.encoder.layer.{{}}"},
        head=head,
    )


def clip_head(model: Any, stream: str, hidden: Tensor) -> Tensor:
    if stream == "image":
        return model.visual_projection(model.vision_model.post_layernorm(hidden[:, 0]))
    ends = torch.stack([hidden[0, 5], hidden[1, 3]])
    return model.text_projection(model.text_model.final_layer_norm(ends))


def siglip_head(model: Any, stream: str, hidden: Tensor) -> Tensor:
    if stream == "image":
        return model.vision_model.head(model.vision_model.post_layernorm(hidden))
    return model.text_model.head(model.text_model.final_layer_norm(hidden[:, -1]))


def pairs(outputs: Any, target: Any) -> Tensor:
    return torch.stack([outputs.logits_per_image[0, 0], outputs.logits_per_image[1, 1]])


TOWERS = {"image": "vision_model.encoder.layers.{}", "text": "text_model.encoder.layers.{}"}


def clip() -> Hand:
    return Hand(
        (Stack("image", (0, 1, 2)), Stack("text", (3, 4))),
        pairs,
        lambda outputs, target: {"image": at(0, 0), "text": at(5, 3)},
        (PATCHES, Shown("text", "text", 0, 7, kept=((1, 2, 3, 4), (1, 2)))),
        {"image": "vision_model.pre_layrnorm", "text": "text_model.embeddings"},
        zero=None,
        blocks=TOWERS,
        head=clip_head,
        paired=True,
    )


def siglip() -> Hand:
    """Its pooling attention is called behind the image's layers and has one query."""
    return Hand(
        (Stack("image", (0, 1, 2), pool=3), Stack("text", (4, 5))),
        pairs,
        lambda outputs, target: {"image": at(0, 0), "text": at(6, 6)},
        (
            Shown("image", "image", 0, 15, (3, 5)),
            Shown("text", "text", 0, 7, kept=((0, 1, 2, 3, 4), (0, 1))),
        ),
        {"image": "vision_model.embeddings", "text": "text_model.embeddings"},
        zero=None,
        blocks=TOWERS,
        head=siglip_head,
        paired=True,
    )


def surest(outputs: Any, target: Any) -> list[int]:
    if target is not None:
        return [target, target]
    return outputs.logits.detach().softmax(-1)[..., :-1].amax(-1).argmax(-1).tolist()


def detr() -> Hand:
    def scores(outputs: Any, target: Any) -> Tensor:
        boxes = surest(outputs, target)
        return torch.stack([outputs.logits[row, box, :-1].max() for row, box in enumerate(boxes)])

    second = tuple(6 * row + column for row in range(3) for column in range(4))
    return Hand(
        (Decoder("queries", "image", (0, 1), ((2, 3), (4, 5), (6, 7))),),
        scores,
        lambda outputs, target: {"queries": at(*surest(outputs, target))},
        (Shown("image", "image", 0, 24, (4, 6), kept=(tuple(range(24)), second)),),
        {"image": "model.input_projection"},
    )


def words(stream: str, *kept: tuple[int, ...], count: int) -> Shown:
    return Shown("text", stream, 0, count, kept=kept)


REGIONS = ((0, 1, 2, 3, 4), (0, 1, 2))


def lxmert() -> Hand:
    def scores(outputs: Any, target: Any) -> Tensor:
        answers = outputs.question_answering_score
        return answers.amax(1) if target is None else answers[:, target]

    return Hand(
        (CoAttention("text", "regions", (0, 1, 2), (3,), ((4, 5, 6, 7), (8, 9, 10, 11))),),
        scores,
        of_class("text", 0, 0),
        (
            words("text", (1, 2, 3, 4), (1, 2), count=6),
            Shown("regions", "regions", 0, 5, kept=REGIONS),
        ),
        {"text": "lxmert.embeddings", "regions": "lxmert.encoder.visn_fc"},
        interface=False,
        pixels=False,
    )


def visual_bert(places: tuple[int, int], head: Head) -> Hand:
    return Hand(
        (Stack("joint", (0, 1)),),
        classes,
        of_class("joint", *places),
        (
            words("joint", (1, 2, 3, 4, 5), (1, 2), count=7),
            Shown("regions", "joint", 7, 5, kept=REGIONS),
        ),
        {"joint": "visual_bert.embeddings"},
        interface=False,
        pixels=False,
        blocks={"joint": "visual_bert.encoder.layer.{}"},
        head=head,
    )


def last_word_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    return model.cls(torch.stack([hidden[0, 5], hidden[1, 2]]))


def reasoning_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    pooler = model.visual_bert.pooler
    return model.cls(pooler.activation(pooler.dense(hidden[:, 0])))


def blip() -> Hand:
    return Hand(
        (Decoder("text", "image", (0, 1, 2), ((3, 4), (5, 6))),),
        lambda outputs, target: outputs.itm_score[:, 1 if target is None else target],
        of_class("text", 0, 0),
        (PATCHES, words("text", (1, 2, 3, 4, 5), (1, 2, 3), count=7)),
        {"image": "vision_model.embeddings", "text": "text_encoder.embeddings"},
        interface=False,
    )


TEXT = words("text", (1, 2, 3, 4, 5), (1, 2, 3), count=7)


def text_model(tokens: str, blocks: str, head: Head, **changes: Any) -> Hand:
    given = {
        "shapes": (Stack("text", (0, 1)),),
        "scores": classes,
        "reads": of_class("text", 0, 0),
        "shown": (TEXT,),
        "tokens": {"text": tokens},
        "pixels": False,
        "blocks": {"text": blocks},
        "head": head,
    }
    return Hand(**{**given, **changes})


def bert_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    pooler = model.bert.pooler
    return model.classifier(pooler.activation(pooler.dense(hidden[:, 0])))


def distilbert_head(model: Any, _stream: str, hidden: Tensor) -> Tensor:
    return model.classifier(nn.functional.relu(model.pre_classifier(hidden[:, 0])))


def likeliest(logits: Tensor, places: list[int]) -> Tensor:
    return torch.stack([logits[row, place].max() for row, place in enumerate(places)])


def bert_words() -> Hand:
    """The score of the likeliest word at a place, of the whole text's logits."""
    return text_model(
        "bert.embeddings",
        "bert.encoder.layer.{}",
        lambda model, stream, hidden: model.cls(hidden),
        scores=lambda outputs, target: likeliest(outputs.logits, [target, target]),
        reads=lambda outputs, target: {"text": at(target, target)},
        target=3,
    )


def bart() -> Hand:
    """The score of the likeliest next word; None asks for that after the last word, of 6 and of 4."""

    def places(target: Any) -> list[int]:
        return [5, 3] if target is None else [target, target]

    return Hand(
        (Decoder("target", "source", (0, 1), ((2, 3), (4, 5), (6, 7))),),
        lambda outputs, target: likeliest(outputs.logits, places(target)),
        lambda outputs, target: {"target": at(*places(target))},
        (
            words("source", (1, 2, 3, 4, 5), (1, 2, 3), count=7),
            Shown("target_text", "target", 0, 6, kept=(tuple(range(6)), tuple(range(4)))),
        ),
        {"source": "model.encoder.layernorm_embedding", "target": "model.decoder.layernorm_embedding"},
        pixels=False,
    )


HANDS: dict[str, Hand] = {
    "clip": clip(),
    "siglip": siglip(),
    "vit": vit(),
    "deit": deit(),
    "deit_teacher": deit(reads=lambda outputs, target: {"image": ({0: 0.5, 1: 0.5},) * 2}, head=teacher_head),
    "dinov2": dinov2("dinov2", 0),
    "dinov2_registers": dinov2("dinov2_with_registers", 4),
    "detr": detr(),
    "visual_bert": visual_bert((5, 2), last_word_head),
    "visual_bert_reasoning": visual_bert((0, 0), reasoning_head),
    "lxmert": lxmert(),
    "blip": blip(),
    "bert": text_model("bert.embeddings", "bert.encoder.layer.{}", bert_head),
    "bert_words": bert_words(),
    "distilbert": text_model("distilbert.embeddings", "distilbert.transformer.layer.{}", distilbert_head),
    "bart": bart(),
}
"""By the names of `explain_tiny.tiny`."""
