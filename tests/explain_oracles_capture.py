"""Tiny models with random weights, one of every kind of attention, for the tests of the capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model in eval mode, what it takes, a score of a row's answer, and how many attentions it has."""

    model: nn.Module
    inputs: Mapping[str, Tensor]
    score: Callable[[Any], Tensor]
    count: int


SMALL = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20}
TEXT = dict(vocab_size=40, max_position_embeddings=16, pad_token_id=0, **SMALL)


def built(kind: type, config: Any, attention: str) -> nn.Module:
    """The model, with weights large enough that the attention is not nearly uniform."""
    torch.manual_seed(0)
    model = kind(config)
    if attention == "eager":
        model.set_attn_implementation("eager")
    assert not attention or model.config._attn_implementation == attention  # sdpa is what models begin with
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def words(length: int = 7, padding: int = 3) -> dict[str, Tensor]:
    """Two texts of random words, of which the first is padded at its end."""
    ids = torch.randint(3, 39, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[0, length - padding :] = 0
    mask[0, length - padding :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def pixels(height: int = 24, width: int = 40) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def vit(attention: str) -> Case:
    config = tf.ViTConfig(**SMALL, num_hidden_layers=3, image_size=(24, 40), patch_size=8, num_labels=5)
    model = built(tf.ViTForImageClassification, config, attention)
    return Case(model, {"pixel_values": pixels()}, lambda out: out.logits[:, 2], 3)


def clip(attention: str) -> Case:
    text = dict(TEXT, num_hidden_layers=2, eos_token_id=39, bos_token_id=1)
    vision = dict(SMALL, num_attention_heads=4, num_hidden_layers=3, image_size=24, patch_size=8)
    config = tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    inputs = {**words(), "pixel_values": pixels(24, 24)}
    model = built(tf.CLIPModel, config, attention)
    return Case(model, inputs, lambda out: out.logits_per_text.diagonal(), 5)


def siglip(attention: str) -> Case:
    text = dict(TEXT, num_hidden_layers=2)
    vision = dict(SMALL, num_hidden_layers=2, image_size=24, patch_size=8)
    config = tf.SiglipConfig(text_config=text, vision_config=vision)
    inputs = {**words(), "pixel_values": pixels(24, 24)}
    model = built(tf.SiglipModel, config, attention)
    return Case(model, inputs, lambda out: out.logits_per_text.diagonal(), 5)


def detr(attention: str) -> Case:
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = tf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=20,
        decoder_ffn_dim=20,
        num_queries=4,
        num_labels=5,
    )
    mask = torch.ones(2, 32, 48, dtype=torch.long)
    mask[0, :, 32:] = 0
    inputs = {"pixel_values": pixels(32, 48), "pixel_mask": mask}
    model = built(tf.DetrForObjectDetection, config, attention)
    return Case(model, inputs, lambda out: out.logits[:, 1, 2], 6)


def bert(attention: str) -> Case:
    config = tf.BertConfig(**TEXT, num_hidden_layers=2, num_labels=3)
    model = built(tf.BertForSequenceClassification, config, attention)
    return Case(model, words(), lambda out: out.logits[:, 1], 2)


def distilbert(attention: str) -> Case:
    config = tf.DistilBertConfig(
        vocab_size=40, max_position_embeddings=16, dim=24, n_heads=3, n_layers=2, hidden_dim=20, num_labels=3
    )
    model = built(tf.DistilBertForSequenceClassification, config, attention)
    return Case(model, words(), lambda out: out.logits[:, 1], 2)


def bart(attention: str) -> Case:
    config = tf.BartConfig(
        vocab_size=40,
        max_position_embeddings=16,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=20,
        decoder_ffn_dim=20,
    )
    inputs = {**words(), "decoder_input_ids": words(5)["input_ids"]}
    model = built(tf.BartForConditionalGeneration, config, attention)
    return Case(model, inputs, lambda out: out.logits[:, -1, 4], 6)


def t5(attention: str) -> Case:
    config = tf.T5Config(
        vocab_size=40, d_model=24, d_kv=8, d_ff=20, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    inputs = {**words(), "decoder_input_ids": words(5)["input_ids"]}
    model = built(tf.T5ForConditionalGeneration, config, attention)
    return Case(model, inputs, lambda out: out.logits[:, -1, 4], 6)


def vit_mae(attention: str) -> Case:
    config = tf.ViTMAEConfig(
        **SMALL,
        num_hidden_layers=2,
        image_size=24,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=2,
        decoder_intermediate_size=20,
    )
    model = built(tf.ViTMAEForPreTraining, config, attention)
    inputs = {"pixel_values": pixels(24, 24), "noise": torch.rand(2, 9)}
    return Case(model, inputs, lambda out: out.logits[:, 1, 2], 4)


def visual_bert(_: str) -> Case:
    config = tf.VisualBertConfig(**TEXT, num_hidden_layers=2, visual_embedding_dim=10, num_labels=5)
    model = built(tf.VisualBertForQuestionAnswering, config, "")
    visual = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(3))
    return Case(model, {**words(), "visual_embeds": visual}, lambda out: out.logits[:, 1], 2)


def lxmert(_: str) -> Case:
    config = tf.LxmertConfig(**TEXT, l_layers=2, r_layers=1, x_layers=2, visual_feat_dim=10, num_qa_labels=5)
    model = built(tf.LxmertForQuestionAnswering, config, "")
    generator = torch.Generator().manual_seed(3)
    regions = {
        "visual_feats": torch.randn(2, 4, 10, generator=generator),
        "visual_pos": torch.rand(2, 4, 4, generator=generator),
    }
    return Case(model, {**words(), **regions}, lambda out: out.question_answering_score[:, 1], 11)


def blip(_: str) -> Case:
    text = dict(TEXT, num_hidden_layers=2, encoder_hidden_size=16, is_decoder=True, bos_token_id=1)
    vision = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20}
    vision |= {"num_hidden_layers": 2, "image_size": 24, "patch_size": 8}
    config = tf.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=8)
    model = built(tf.BlipForImageTextRetrieval, config, "")
    inputs = {**words(), "pixel_values": pixels(24, 24)}
    return Case(model, inputs, lambda out: out.itm_score[:, 1], 6)


class Torchvision(nn.Module):
    """A vision transformer as torchvision writes it, on nn.MultiheadAttention, without its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 3, 20, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(tokens, src_key_padding_mask=padding)[:, 0])


def multi_head(_: str) -> Case:
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 24)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    inputs = {"tokens": tokens, "padding": padding}
    return Case(Torchvision().eval(), inputs, lambda out: out[:, 1], 2)


WITH_INTERFACE = [vit, clip, siglip, detr, bert, distilbert, bart, t5, vit_mae]
"""Models whose attention can be switched between sdpa and eager."""
WITHOUT = [visual_bert, lxmert, blip, multi_head]
EVERY = [(make, each) for make in WITH_INTERFACE for each in ("sdpa", "eager")] + [
    (make, "") for make in WITHOUT
]
