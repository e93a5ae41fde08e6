"""`heedful generate` on models of other kinds: loaded as what they are, or refused with what could be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checking import Hasty
from heedful.pipelines import StableDiffusionXLAttendAndExcitePipeline
from heedful.pipelines.choices import own_guidance_scale, own_size
from heedful.scripts import generate as work
from heedful.scripts.results import fingerprint
from heedful.scripts.settings import GenerateSettings, Request
from tiny_transformers import tiny_flux, tiny_sd3
from tiny_unets import lcm, turbo, xl
from typer.testing import Result

Command = Callable[..., Result]
BUILD = {
    "StableDiffusionXLPipeline": lambda: StableDiffusionXLAttendAndExcitePipeline.from_pipe(xl()),
    "LatentConsistencyModelPipeline": lcm,
    "StableDiffusion3Pipeline": tiny_sd3,
    "FluxPipeline": tiny_flux,
}
SCALES = {"StableDiffusionXLPipeline": 5.0, "LatentConsistencyModelPipeline": 8.5,
          "StableDiffusion3Pipeline": 7.0, "FluxPipeline": 3.5}  # fmt: skip


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.scripts.generate.AttendAndExcite", Hasty)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a model, by the class that it should come back as."""
    root = tmp_path_factory.mktemp("models")
    for name, build in BUILD.items():
        build().save_pretrained(root / name)
    return {name: root / name for name in BUILD}


def index(folder: Path, name: str) -> Path:
    """A folder with no more than the name of a pipeline."""
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder


@pytest.mark.parametrize("name", BUILD)
def test_draws_with_the_models_own_pipeline(
    heedful: Command, folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    result = heedful(
        "generate", "a cat and a frog", "--model", folders[name],
        "--steps", 1, "--size", "64x96", "--no-compare",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    run = record["images"][0]["run"]
    assert run["settings"]["pipeline"] == name
    assert run["settings"]["guidance_scale"] == record["settings"]["guidance_scale"] == SCALES[name]
    assert [span["text"] for span in run["spans"][0]] == ["cat", "frog"]
    assert len(run["steps"]) == 1


def test_plain_image_is_the_bare_pipelines(folders: dict[str, Path]) -> None:
    request = (Request("a cat and a frog"),)
    folder = str(folders["StableDiffusionXLPipeline"])
    wanted = work.resolve(GenerateSettings(request, model=folder, steps=1, seeds=(3,), device="cpu"))
    plain, guided = work.draw(work.load(wanted), wanted)
    image = xl()(
        "a cat and a frog", num_inference_steps=1, generator=torch.Generator().manual_seed(3)
    ).images[0]

    assert fingerprint(plain.image) == fingerprint(image)
    assert fingerprint(guided.image) != fingerprint(image)
    assert plain.image.size == (128, 128)


def test_sizes_and_scales_are_the_models_own() -> None:
    assert own_size(tiny_flux()) == (1024, 1024)
    assert own_size(turbo()) == own_size(tiny_sd3()) == (128, 128)
    assert own_guidance_scale(turbo(), "turbo") == 5.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionImg2ImgPipeline needs more than a prompt"),
        ("FluxControlNetPipeline", "FluxControlNetPipeline"),
        ("DDPMPipeline", "DDPMPipeline is no pipeline that guidance knows"),
        ("best", "best is no pipeline that guidance knows"),
        ("NoSuchPipeline", "NoSuchPipeline is no pipeline that guidance knows"),
    ],
)
def test_other_pipelines_are_refused_by_name(heedful: Command, tmp_path: Path, name: str, wrong: str) -> None:
    result = heedful("generate", "a cat", "--model", index(tmp_path, name))

    assert result.exit_code == 2
    assert wrong in result.stderr
    assert "StableDiffusionXLPipeline" in result.stderr.partition("from a prompt:")[2]
    assert "Img2Img" not in result.stderr.partition("from a prompt:")[2]


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("FluxPipeline", ["--scheduler", "ddim"], "this model was made for FlowMatchEulerDiscreteScheduler"),
        ("LatentConsistencyModelPipeline", ["--scheduler", "euler"], "made for LCMScheduler"),
        ("FluxPipeline", ["--negative-prompt", "a dog"], "FluxPipeline heeds no negative prompt"),
        ("LatentConsistencyModelPipeline", ["--negative-prompt", "a dog"], "heeds no negative prompt"),
        ("StableDiffusion3Pipeline", ["--words", "frgo"], 'word "frgo" is not in the prompt'),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    heedful: Command, folders: dict[str, Path], name: str, options: list[Any], wrong: str
) -> None:
    result = heedful("generate", "a cat", "--model", folders[name], "--size", "64x64", *options)

    assert result.exit_code == 2
    assert wrong in result.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("name", BUILD)
def test_float16_on_cuda_by_itself(
    heedful: Command, folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    result = heedful(
        "generate", "a cat and a frog", "--model", folders[name], "--steps", 1, "--size", "64x96"
    )

    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["settings"]["device"], record["settings"]["dtype"]) == ("cuda", "float16")
    assert not any(step["skipped"] for image in record["images"] for step in image["run"]["steps"])
