"""Trains the BERT that tells what a caption claims, on captions written as it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from ..claims import CLAIMS, draw_caption, true_claims
from ..tokenizer import MAX_LENGTH
from .loop import Plan, run
from .optimizers import optimizers_for

HIDDEN_SHARE = 0.3
"""Captions of which some words are hidden: a map of relevance is tested by hiding words, too."""


@dataclass(frozen=True)
class TextShape:
    """The size of a BERT."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4


def new_bert(tokenizer: BertTokenizer, shape: TextShape) -> BertForSequenceClassification:
    """A random BERT (Devlin et al. 2019) with a sigmoid for each of `CLAIMS`."""
    config = BertConfig(
        **text_settings(tokenizer, shape.hidden, shape.heads),
        num_hidden_layers=shape.layers,
        id2label=dict(enumerate(CLAIMS)),
        label2id={claim: index for index, claim in enumerate(CLAIMS)},
        problem_type="multi_label_classification",
    )
    model = BertForSequenceClassification(config)
    model.set_attn_implementation("eager")  # a CPU takes half the time for it at so few tokens
    return model


def text_settings(tokenizer: BertTokenizer, hidden: int, heads: int) -> dict[str, object]:
    """What the configurations of BERT, VisualBERT and LXMERT have in common.

    Weights begin with deviation .06: the usual .02 is meant for 768 channels, and with 128 of them a model of
    this size learns several times slower.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": 0.06,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def hide(text: str, rng: np.random.Generator, mask: str, share: float = HIDDEN_SHARE) -> str:
    """With this probability the text with each word hidden one time in four; punctuation stays."""
    if rng.random() >= share:
        return text
    words = [
        mask + "".join(sign for sign in word if sign in "?,") if rng.random() < 0.25 else word
        for word in text.split()
    ]
    return " ".join(words)


def claim_matrix(texts: Sequence[str]) -> Float[Tensor, "text claim"]:
    """1 for every claim that the words left to be seen make true."""
    return torch.tensor([true_claims(text) for text in texts], dtype=torch.float32)


class Reader(nn.Module):
    """The model with its loss."""

    def __init__(self, bert: BertForSequenceClassification) -> None:
        super().__init__()
        self.bert = bert

    def forward(
        self, tokens: dict[str, Tensor], truth: Float[Tensor, "text claim"]
    ) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy, summed over the claims."""
        device = self.bert.device
        logits = self.bert(**{name: ids.to(device) for name, ids in tokens.items()}).logits.float()
        truth = truth.to(device)
        loss = functional.binary_cross_entropy_with_logits(logits, truth) * len(CLAIMS)
        return loss, {"right": ((logits > 0) == (truth > 0.5)).all(1).float().mean().item()}


def train_bert(
    tokenizer: BertTokenizer, plan: Plan, *, shape: TextShape, batch: int, rate: float, fresh: int = 1000
) -> BertForSequenceClassification:
    """Train on captions of any pairs; measure on `fresh` others."""
    torch.manual_seed(plan.seed)
    reader = Reader(new_bert(tokenizer, shape))
    watched = [draw_caption(rng) for rng in [np.random.default_rng([plan.seed, 1])] for _ in range(fresh)]

    def step(model: nn.Module, generator: torch.Generator, _: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        texts = [hide(draw_caption(rng), rng, tokenizer.mask_token) for _ in range(batch)]
        return model(dict(tokenizer(texts, padding=True, return_tensors="pt")), claim_matrix(texts))

    def report(model: nn.Module, _: int) -> dict[str, float]:
        return {"all_claims": claims_right(model.bert, tokenizer, watched).all(1).float().mean().item()}

    return run(reader, optimizers_for(reader, rate), step, plan, report=report).bert


@torch.no_grad()
def claims_right(
    model: BertForSequenceClassification, tokenizer: BertTokenizer, texts: Sequence[str]
) -> Bool[Tensor, "text claim"]:
    """Which claims of which texts are told right at .5."""
    tokens = tokenizer(list(texts), padding=True, return_tensors="pt").to(model.device)
    return (model(**tokens).logits.cpu() > 0) == (claim_matrix(texts) > 0.5)
