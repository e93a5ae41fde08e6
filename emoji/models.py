"""Loads the embedded models; their folders are standard ones, so `from_pretrained` on them works as well."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import torch
from diffusers import StableDiffusionPipeline
from transformers import (
    BertForSequenceClassification,
    BertTokenizer,
    CLIPModel,
    CLIPTokenizer,
    DetrForObjectDetection,
    LxmertForQuestionAnswering,
    PreTrainedModel,
    ResNetForImageClassification,
    VisualBertForQuestionAnswering,
    ViTForImageClassification,
)

MODELS: Final = Path(__file__).with_name("models")
"""The folder with `pipeline`, `clip`, `judge`, `classifier` and the others in it."""


def default_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None is CUDA where there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def default_dtype(device: str | torch.device | None) -> torch.dtype:
    """float16 on CUDA, else float32: the files are float16, in which a CPU is a thousand times slower."""
    return torch.float16 if default_device(device).type == "cuda" else torch.float32


def model_folder(name: str) -> Path:
    """The folder of an embedded model; `FileNotFoundError` names those that are there."""
    folder = MODELS / name
    if not folder.is_dir():
        present = sorted(path.name for path in MODELS.iterdir() if path.is_dir()) if MODELS.is_dir() else []
        raise FileNotFoundError(
            f'no embedded model "{name}" in {MODELS}; there are: {", ".join(present) or "none"}'
        )
    return folder


def load_pipeline(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> StableDiffusionPipeline:
    """The embedded Stable Diffusion: 64 x 64 pixels, latents 4 x 16 x 16, cross-attention at 16 and 8 a side.

    Args:
        device: where it goes; None is CUDA where there is one, else the CPU.
        dtype: None takes float16 on CUDA and float32 elsewhere.
    """
    dtype = dtype or default_dtype(device)
    pipe = StableDiffusionPipeline.from_pretrained(
        model_folder("pipeline"),
        safety_checker=None,
        local_files_only=True,
        use_safetensors=True,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(default_device(device))
    # A cast to the type it already has would only make diffusers warn.
    return pipe if pipe.dtype == dtype else pipe.to(dtype)


def load_clip(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[CLIPModel, CLIPTokenizer]:
    """The embedded CLIP and its tokenizer; images are 64 x 64, prepared as `judge.to_tensor` does."""
    folder = model_folder("clip")
    dtype = dtype or default_dtype(device)
    model = CLIPModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.to(default_device(device)).eval(), CLIPTokenizer.from_pretrained(
        folder, local_files_only=True
    )


def load_classifier(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ViTForImageClassification:
    """The embedded softmax classifier of single-subject scenes; `config.id2label` names its classes."""
    folder = model_folder("classifier")
    model = ViTForImageClassification.from_pretrained(
        folder, dtype=dtype or default_dtype(device), local_files_only=True
    )
    return model.to(default_device(device)).eval()


def load_cheater(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ViTForImageClassification:
    """A classifier as `load_classifier`'s that has learned to read the marks of `cheating.marked_scene`."""
    return _load(ViTForImageClassification, "cheater", device, dtype)


def load_resnet(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ResNetForImageClassification:
    """The embedded ResNet: a sigmoid for each of the judge's labels; images as of `judge.to_tensor`."""
    return _load(ResNetForImageClassification, "resnet", device, dtype)


def load_detr(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> DetrForObjectDetection:
    """The embedded DETR: boxes of the 24 subjects; images as of `judge.to_tensor`."""
    return _load(DetrForObjectDetection, "detr", device, dtype)


def load_visual_bert(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[VisualBertForQuestionAnswering, BertTokenizer]:
    """The embedded VisualBERT and its tokenizer; `answering.question_inputs` makes its inputs."""
    model = _load(VisualBertForQuestionAnswering, "visual-bert", device, dtype)
    return model, _words("visual-bert")


def load_lxmert(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[LxmertForQuestionAnswering, BertTokenizer]:
    """The embedded LXMERT and its tokenizer; `answering.question_inputs` makes its inputs."""
    return _load(LxmertForQuestionAnswering, "lxmert", device, dtype), _words("lxmert")


def load_bert(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """The embedded BERT, with a sigmoid for each of `claims.CLAIMS` about a caption, and its tokenizer."""
    return _load(BertForSequenceClassification, "bert", device, dtype), _words("bert")


Model = TypeVar("Model", bound=PreTrainedModel)


def _load(
    kind: type[Model], name: str, device: str | torch.device | None, dtype: torch.dtype | None
) -> Model:
    model = kind.from_pretrained(
        model_folder(name), dtype=dtype or default_dtype(device), local_files_only=True
    )
    return model.to(default_device(device)).eval()


def _words(name: str) -> BertTokenizer:
    return BertTokenizer.from_pretrained(model_folder(name), local_files_only=True)
