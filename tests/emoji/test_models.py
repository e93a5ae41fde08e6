"""Every embedded folder is a standard one: it loads with no argument but itself and runs on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from heedful.emoji import load_judge, models
from heedful.emoji.models import (
    MODELS,
    default_dtype,
    load_classifier,
    load_clip,
    load_pipeline,
    model_folder,
)
from heedful.emoji.world import SUBJECTS, scene
from PIL import Image
from safetensors import safe_open
from transformers import CLIPModel, ViTForImageClassification

WEIGHTS = sorted(MODELS.glob("**/*.safetensors"))


def pixels() -> torch.Tensor:
    return torch.from_numpy(scene(1, named=(("frog", None),)).image).permute(2, 0, 1)[None] / 127.5 - 1.0


def test_the_pipeline_folder_loads_as_any_other_and_draws() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    image = pipe(
        "a cat and a frog", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 5


def test_the_text_encoder_s_weights_have_the_names_that_all_transformers_5_read() -> None:
    with safe_open(MODELS / "pipeline" / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118


def test_load_pipeline_is_the_same_pipeline() -> None:
    pipe = load_pipeline()
    assert pipe.dtype == torch.float32
    assert pipe.safety_checker is None
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert pipe.tokenizer.model_max_length == pipe.text_encoder.config.max_position_embeddings


def test_cross_attention_sees_sixteen_and_eight_a_side() -> None:
    pipe = load_pipeline()
    queries = []
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            module.register_forward_pre_hook(lambda _, inputs: queries.append(inputs[0].shape[1]))
    pipe("a cat", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert {256, 64} <= set(queries)


def test_the_vae_keeps_what_a_scene_shows() -> None:
    vae = load_pipeline().vae
    with torch.no_grad():
        made = vae(pixels()).sample.clamp(-1, 1)
    assert -10 * float(((made - pixels()).square().mean() / 4).log10()) > 26


def test_the_clip_folder_loads_and_compares() -> None:
    model = CLIPModel.from_pretrained(MODELS / "clip", local_files_only=True)
    assert model.dtype == torch.float32
    clip, tokenizer = load_clip()
    tokens = tokenizer(["a frog", "a car"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        logits = clip(pixel_values=pixels(), **tokens).logits_per_image
    assert logits.shape == (1, 2)


@pytest.mark.parametrize("name", ["judge", "classifier"])
def test_the_vision_folders_load_and_answer(name: str) -> None:
    model = ViTForImageClassification.from_pretrained(MODELS / name, local_files_only=True)
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model(pixels()).logits
    assert logits.shape == (1, len(model.config.id2label))
    assert set(SUBJECTS) <= set(model.config.id2label.values())


def test_the_classifier_names_a_frog() -> None:
    model = load_classifier()
    with torch.no_grad():
        found = model(pixels()).logits.argmax(-1).item()
    assert model.config.id2label[found] == "frog"


def test_weights_are_float16_and_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS) < 45 * 2**20
    for path in WEIGHTS:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path


def test_configs_say_float32_and_nothing_of_where_they_were_made() -> None:
    configs = [path for path in MODELS.glob("**/config.json") if "model_type" in json.loads(path.read_text())]
    assert configs
    for path in configs:
        settings = json.loads(path.read_text())
        assert settings["dtype"] == "float32"
        assert "_name_or_path" not in settings


def test_each_device_has_its_type() -> None:
    assert default_dtype("cpu") == torch.float32
    assert default_dtype("cuda") == default_dtype("cuda:0") == torch.float16
    assert default_dtype(None) == (torch.float16 if torch.cuda.is_available() else torch.float32)


@pytest.mark.gpu
def test_where_there_is_cuda_everything_goes_there_in_float16_by_itself() -> None:
    pipe, judge = load_pipeline(), load_judge()
    clip, _ = load_clip()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, judge.model, clip, load_classifier()):
        assert (part.device.type, part.dtype) == ("cuda", torch.float16)
    image = pipe("a frog", num_inference_steps=20, generator=torch.Generator().manual_seed(0)).images[0]
    assert all(0 <= score <= 1 for score in judge([image])[0].scores.values())


def test_a_missing_folder_names_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").mkdir()
    monkeypatch.setattr(models, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r'no embedded model "judge" .*; there are: clip'):
        model_folder("judge")


def test_every_drawing_is_a_picture_with_transparency() -> None:
    for path in (MODELS.parent / "sprites").glob("*.png"):
        with Image.open(path) as image:
            assert image.mode == "RGBA"
