"""Every family of models that can be explained, tiny and with random weights, with inputs that fit it.

Heads, layers, grid heights and widths, and text lengths are all unequal, so that no test passes by a mix-up;
batches are of two, the images are not square, and one text is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import transformers
from heedful.explain.models import Family, Reading, family_of
from torch import Tensor, nn

Tiny = tuple[nn.Module, dict[str, Any]]
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 24,
    "max_position_embeddings": 9,
}
LABELS = {"id2label": dict(enumerate(["frog", "cat", "dog", "frog prince", "cow"]))}
LABELS["label2id"] = {label: index for index, label in LABELS["id2label"].items()}  # type: ignore[assignment]
START, END, PAD = 38, 39, 1
WORDS = [[START, 7, 12, 9, 4, END, END], [START, 11, 5, END, END, END, END]]


def tiny(name: str) -> Tiny:
    """The model of that name in eval mode, and a batch of two for it; KeyError names those there are."""
    builders = {**BUILDERS, **_more()}
    if name not in builders:
        raise KeyError(f"no tiny {name}; there are: {', '.join(builders)}")
    return builders[name]()


def names() -> tuple[str, ...]:
    """All of them."""
    return tuple({**BUILDERS, **_more()})


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, its weights drawn so large that every token matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = noise * 0.25 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()


def images(height: int = 24, width: int = 40, batch: int = 2, seed: int = 1) -> Tensor:
    """Pixels as a processor gives them: with patches of 8, a grid of 3 x 5."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def single(inputs: dict[str, Any], item: int, *names: str) -> dict[str, Any]:
    """The inputs with only one item of the batch, in all tensors or in those named."""
    return {
        name: value[item : item + 1] if isinstance(value, Tensor) and (not names or name in names) else value
        for name, value in inputs.items()
    }


def read(model: nn.Module, inputs: dict[str, Any], target: Any = None) -> tuple[Family, Any, Any, Reading]:
    """What the model's adapter reads of one forward under capture: family, outputs, capture and reading."""
    from heedful.explain.capture import capture

    family = family_of(model)
    family.check(model, inputs)
    watch = {*family.watches(model), *(name for layers in family.layers(model).values() for name in layers)}
    with capture(model, family.sites(model), watch=watch) as seen:
        outputs = model(**inputs)
        reading = family.read(model, inputs, outputs, seen, target)
    return family, outputs, seen, reading


def seen_by(score: Tensor, tokens: Tensor) -> Tensor:
    """Which tokens (batch, token) a score depends on by its gradient."""
    (gradient,) = torch.autograd.grad(score, tokens, retain_graph=True)
    return gradient.abs().amax(dim=-1) > 0


def _vit() -> Tiny:
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, **LABELS))
    return shaken(model), {"pixel_values": images(), "interpolate_pos_encoding": True}


def _deit() -> Tiny:
    model = transformers.DeiTForImageClassification(transformers.DeiTConfig(**VISION, **LABELS))
    return shaken(model), {"pixel_values": images(), "interpolate_pos_encoding": True}


def _deit_teacher() -> Tiny:
    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**VISION, **LABELS))
    return shaken(model), {"pixel_values": images(), "interpolate_pos_encoding": True}


def _dinov2() -> Tiny:
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**_dinov2_config()))
    return shaken(model), {"pixel_values": images()}


def _dinov2_registers() -> Tiny:
    config = transformers.Dinov2WithRegistersConfig(**_dinov2_config(), num_register_tokens=4)
    return shaken(transformers.Dinov2WithRegistersForImageClassification(config)), {"pixel_values": images()}


def _dinov2_config() -> dict[str, Any]:
    known = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    return {**known, **LABELS, "mlp_ratio": 2}


def _clip() -> Tiny:
    text = {**TEXT, "bos_token_id": START, "eos_token_id": END, "pad_token_id": END, "projection_dim": 12}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**VISION, "projection_dim": 12}, projection_dim=12
    )
    model = shaken(transformers.CLIPModel(config))
    ids = torch.tensor(WORDS)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]])
    return model, {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": images(),
        "interpolate_pos_encoding": True,
    }


def _siglip() -> Tiny:
    config = transformers.SiglipConfig(
        text_config={
            **TEXT,
            "projection_size": 16,
            "bos_token_id": None,
            "eos_token_id": PAD,
            "pad_token_id": PAD,
        },
        vision_config=VISION,
    )
    ids = torch.tensor([[7, 12, 9, 4, 8, PAD, PAD], [11, 5, PAD, PAD, PAD, PAD, PAD]])
    inputs = {"input_ids": ids, "pixel_values": images(), "interpolate_pos_encoding": True}
    return shaken(transformers.SiglipModel(config)), inputs


def _more() -> dict[str, Callable[[], Tiny]]:
    found = vars(import_module("explain_tiny_more")).items()
    return {name.removeprefix("tiny_"): value for name, value in found if name.startswith("tiny_")}


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "clip": _clip,
    "siglip": _siglip,
    "vit": _vit,
    "deit": _deit,
    "deit_teacher": _deit_teacher,
    "dinov2": _dinov2,
    "dinov2_registers": _dinov2_registers,
}
"""By name; explain_tiny_more.py holds those of the families with cross-attention and of text."""
