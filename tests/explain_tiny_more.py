"""Families with two streams or with words, as random models that are built in a blink.

Every count differs from every other (heads, layers, heights, widths, words, regions): a swapped axis shows.
Biases are random, too: at zero, the values of DETR's first queries would all be alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BlipConfig,
    BlipForImageTextRetrieval,
    DetrConfig,
    DetrForObjectDetection,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LxmertConfig,
    LxmertForQuestionAnswering,
    ResNetConfig,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
    VisualBertForVisualReasoning,
)

CLS, SEP, PAD = 1, 2, 0


def awake(model: nn.Module, seed: int = 0) -> Any:
    """The model in eval mode, with weights at which its answers differ and no softmax saturates."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or name.endswith("bias"):
                scale = weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.3
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model.eval()


def text(*lengths: int, vocabulary: int = 50, seed: int = 1) -> dict[str, Tensor]:
    """Texts of [CLS] words [SEP], padded to the longest, with their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[:, 0] = CLS
    for row, length in enumerate(lengths):
        ids[row, length - 1] = SEP
    return {"input_ids": ids.where(mask, PAD), "attention_mask": mask.long()}


def image(batch: int, height: int, width: int, seed: int = 2) -> Tensor:
    """Random pixels as an image processor leaves them."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def one(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    """One input of a batch, as a batch of one."""
    return {
        name: value[row : row + 1] if isinstance(value, Tensor) else value for name, value in inputs.items()
    }


def tiny_detr() -> tuple[DetrForObjectDetection, dict[str, Any]]:
    """A detector of 7 boxes and 5 kinds, on maps of 4 x 6 cells, which the second image fills in part."""
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
        encoder_ffn_dim=20,
        decoder_ffn_dim=28,
        num_queries=7,
        id2label={0: "cat", 1: "dog", 2: "bird", 3: "horse", 4: "snail"},
    )
    mask = torch.ones(2, 32, 48, dtype=torch.long)
    mask[1, 24:], mask[1, :, 32:] = 0, 0
    model = awake(DetrForObjectDetection(config))
    inputs = {"pixel_values": image(2, 32, 48), "pixel_mask": mask}
    with torch.no_grad():  # random queries end much alike: let the head tell them apart
        mean, head = model(**inputs).last_hidden_state[0].mean(0), model.class_labels_classifier
        head.weight *= 60
        head.bias.copy_(-head.weight @ mean)
    return model, inputs


def tiny_lxmert() -> tuple[LxmertForQuestionAnswering, dict[str, Any]]:
    """Questions of 6 and 4 tokens about 5 regions, of which the second image has 3."""
    config = LxmertConfig(
        vocab_size=50,
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=20,
        l_layers=3,
        r_layers=1,
        x_layers=2,
        visual_feat_dim=10,
        visual_pos_dim=4,
        max_position_embeddings=12,
        num_qa_labels=4,
        pad_token_id=PAD,
        id2label={0: "yes", 1: "no", 2: "red", 3: "two"},
    )
    generator = torch.Generator().manual_seed(3)
    regions = {
        "visual_feats": torch.randn(2, 5, 10, generator=generator),
        "visual_pos": torch.rand(2, 5, 4, generator=generator),
        "visual_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    return awake(LxmertForQuestionAnswering(config)), {**text(6, 4), **regions}


def _visual_bert() -> tuple[VisualBertConfig, dict[str, Any]]:
    config = VisualBertConfig(
        vocab_size=50,
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=20,
        visual_embedding_dim=10,
        max_position_embeddings=12,
        pad_token_id=PAD,
        id2label={0: "yes", 1: "no", 2: "red", 3: "two"},
    )
    regions = {
        "visual_embeds": torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(3)),
        "visual_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    return config, {**text(7, 4), **regions}


def tiny_visual_bert() -> tuple[VisualBertForQuestionAnswering, dict[str, Any]]:
    """Questions of 7 and 4 tokens about 5 regions, of which the second image has 3."""
    config, inputs = _visual_bert()
    return awake(VisualBertForQuestionAnswering(config)), inputs


def tiny_visual_bert_reasoning() -> tuple[VisualBertForVisualReasoning, dict[str, Any]]:
    """The same for sentences that are judged."""
    config, inputs = _visual_bert()
    return awake(VisualBertForVisualReasoning(config)), inputs


def tiny_blip() -> tuple[BlipForImageTextRetrieval, dict[str, Any]]:
    """Images of 3 x 5 patches, for a model of 4 x 4, and texts of 7 and 5 tokens."""
    vision = {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "intermediate_size": 20,
        "image_size": 32,
        "patch_size": 8,
    }
    words = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 28,
        "max_position_embeddings": 12,
        "encoder_hidden_size": 24,
        "pad_token_id": PAD,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "sep_token_id": SEP,
    }
    config = BlipConfig(text_config=words, vision_config=vision, image_text_hidden_size=16)
    inputs = {**text(7, 5), "pixel_values": image(2, 24, 40), "interpolate_pos_encoding": True}
    return awake(BlipForImageTextRetrieval(config)), inputs


def _bert() -> BertConfig:
    return BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=20,
        max_position_embeddings=12,
        pad_token_id=PAD,
        id2label={0: "good", 1: "bad", 2: "neither"},
    )


def tiny_bert() -> tuple[BertForSequenceClassification, dict[str, Any]]:
    """Texts of 7 and 5 tokens in three classes."""
    return awake(BertForSequenceClassification(_bert())), text(7, 5)


def tiny_bert_words() -> tuple[BertForMaskedLM, dict[str, Any]]:
    """Texts of 7 and 5 tokens, of which one is to be filled in."""
    return awake(BertForMaskedLM(_bert())), text(7, 5)


def tiny_distilbert() -> tuple[DistilBertForSequenceClassification, dict[str, Any]]:
    """Texts of 7 and 5 tokens in three classes."""
    config = DistilBertConfig(
        vocab_size=50,
        dim=24,
        n_heads=3,
        n_layers=2,
        hidden_dim=20,
        max_position_embeddings=12,
        pad_token_id=PAD,
        id2label={0: "good", 1: "bad", 2: "neither"},
    )
    return awake(DistilBertForSequenceClassification(config)), text(7, 5)


def tiny_bart() -> tuple[BartForConditionalGeneration, dict[str, Any]]:
    """Sources of 7 and 5 tokens, targets of 6 and 4 so far."""
    config = BartConfig(
        vocab_size=50,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
        encoder_ffn_dim=20,
        decoder_ffn_dim=28,
        max_position_embeddings=12,
        pad_token_id=PAD,
        bos_token_id=CLS,
        eos_token_id=SEP,
        decoder_start_token_id=SEP,
        forced_eos_token_id=None,
    )
    written = text(6, 4, seed=5)
    inputs = {
        **text(7, 5),
        "decoder_input_ids": written["input_ids"],
        "decoder_attention_mask": written["attention_mask"],
    }
    return awake(BartForConditionalGeneration(config)), inputs
