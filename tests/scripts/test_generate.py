"""`heedful generate` from the arguments to the files, and back from its record to the same pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from heedful.scripts import generate as work
from heedful.scripts.results import fingerprint, word_reports
from heedful.scripts.settings import GenerateSettings, Request
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def settings(folder: Path, **changes: object) -> GenerateSettings:
    given = {"requests": (Request("a cat and a frog"),), "model": str(folder), "steps": 3, "device": "cpu"}
    return work.resolve(GenerateSettings(**{**given, **changes}))


def test_writes_images_sheet_and_record(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    result = heedful(
        "generate",
        "a cat and a frog",
        "--model",
        tiny_folder,
        "--steps",
        2,
        "--seed",
        1,
        "--seed",
        2,
        "--out",
        "o",
    )

    assert result.exit_code == 0, result.output
    stem = "a-cat-and-a-frog"
    images = [f"{stem}-seed-{seed}-{kind}.png" for seed in (1, 2) for kind in ("plain", "guided")]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == sorted(
        [*images, f"{stem}-sheet.png", "run.json"]
    )
    assert {pixels(tmp_path / "o" / name).shape for name in images} == {(64, 64, 3)}
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert [image["file"] for image in record["images"]] == images
    assert record["settings"]["size"] == [64, 64]
    assert record["images"][0]["run"]["versions"]["torch"] == torch.__version__


def test_prints_each_word_with_its_attention(heedful: Command, tiny_folder: Path) -> None:
    result = heedful("generate", "a cat and a frog", "--model", tiny_folder, "--steps", 2, "--no-compare")

    rows = [line for line in result.stdout.splitlines() if "guided" in line]
    assert ["cat" in row for row in rows] == [True, False]
    assert all(" attended" in row or " weak" in row for row in rows)
    assert "heeded" not in result.stdout.replace("heedful", "")


def test_again_makes_the_same_pixels(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    first = heedful(
        "generate", "a dog and a red bow", "--words", "dog, red bow", "--model", tiny_folder, "--steps", 2,
        "--seed", 5, "--scheduler", "euler-a", "--guidance-scale", 4, "--size", "64x128", "--out", "first",
    )  # fmt: skip
    second = heedful("generate", "--again", "first/run.json", "--out", "second")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "all 2 images are equal to the record's, pixel by pixel" in second.stdout
    for name in ("plain", "guided"):
        path = f"a-dog-and-a-red-bow-seed-5-{name}.png"
        one, other = (pixels(tmp_path / folder / path) for folder in ("first", "second"))
        assert one.shape == (128, 64, 3)
        assert np.array_equal(one, other)


def test_again_notices_other_pixels(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    heedful("generate", "a cat", "--model", tiny_folder, "--steps", 2, "--no-compare", "--out", "o")
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    record["settings"]["steps"] = 3
    (tmp_path / "changed.json").write_text(json.dumps(record))

    result = heedful("generate", "--again", "changed.json", "--out", "p")

    assert result.exit_code == 1
    assert "1 of 1 images differ from the record's: a-cat-seed-0-guided.png" in result.stderr


def test_prompts_file_gives_each_prompt_its_words(
    heedful: Command, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("# two\na cat and a dog\tdog\n\na red bow\n", encoding="utf-8")

    result = heedful(
        "generate", "--prompts-file", "prompts.txt", "--model", tiny_folder, "--steps", 2, "--no-compare"
    )

    assert result.exit_code == 0, result.output
    images = json.loads((tmp_path / "out" / "run.json").read_text())["images"]
    assert [image["file"] for image in images] == [
        "1-a-cat-and-a-dog-seed-0-guided.png",
        "2-a-red-bow-seed-0-guided.png",
    ]
    assert [[span["text"] for span in image["run"]["spans"][0]] for image in images] == [["dog"], ["bow"]]


def test_plain_image_is_the_bare_pipelines(tiny_folder: Path) -> None:
    wanted = settings(tiny_folder, seeds=(3,))
    plain, guided = work.draw(work.load(wanted), wanted)
    bare = StableDiffusionPipeline.from_pretrained(tiny_folder)
    bare.set_progress_bar_config(disable=True)
    image = bare(
        "a cat and a frog", num_inference_steps=3, generator=torch.Generator().manual_seed(3)
    ).images[0]

    assert (plain.kind, guided.kind) == ("plain", "guided")
    assert fingerprint(plain.image) == fingerprint(image)
    assert fingerprint(guided.image) != fingerprint(image)
    assert [report.word for report in word_reports(plain)] == ["cat", "frog"]


def test_an_image_does_not_depend_on_the_others(tiny_folder: Path) -> None:
    many = settings(tiny_folder, seeds=(1, 2), steps=2, compare=False)
    one = settings(tiny_folder, seeds=(2,), steps=2, compare=False)
    pipe = work.load(one)
    _, wanted = work.draw(pipe, many)

    assert fingerprint(wanted.image) == fingerprint(next(work.draw(pipe, one)).image)


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler", "euler-a", "dpm++", "heun"])
def test_every_scheduler_draws_and_reports_progress(tiny_folder: Path, scheduler: str) -> None:
    wanted = settings(tiny_folder, scheduler=scheduler, steps=3)
    told: list[tuple[int, int, float | None]] = []
    plain, guided = work.draw(work.load(wanted), wanted, lambda _, *step: told.append(step))

    assert fingerprint(plain.image) != fingerprint(guided.image)
    assert [done for done, total, _ in told if done == total] == [told[-1][1]] * 2
    assert all(loss is not None and 0 <= loss < 10 for *_, loss in told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'nothing to draw: give a prompt, such as "a cat and a frog", or --prompts-file'),
        ([" "], "a prompt is empty"),
        (["a cat", "a cat"], 'the prompt "a cat" is given twice'),
        (["a cat", "--words", "cat,,frog"], "--words has an empty word"),
        (["a cat", "--size", "big"], '--size must be WIDTHxHEIGHT in pixels, such as 768x512; got "big"'),
        (["a cat", "--size", "0x64"], "--size must be"),
        (["a cat", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["a cat", "--guidance-scale", "-1"], "--guidance-scale must lie in 0..100, got -1.0"),
        (["a cat", "--guidance-scale", "nan"], "--guidance-scale must lie in 0..100, got nan"),
        (["a cat", "--seed", "-1"], "--seed must lie in"),
        (["a cat", "--seed", "1", "--seed", "1"], "each --seed may be given once, got 1, 1"),
        (
            ["a cat", "--scheduler", "ddpm"],
            '--scheduler must be one of ddim, pndm, euler, euler-a, dpm++, heun; got "ddpm"',
        ),
        (["a cat", "--dtype", "int8"], '--dtype must be one of float32, float16, bfloat16; got "int8"'),
        (["a cat", "--dtype", "float16", "--device", "cpu"], "float16 on a CPU"),
        (["a cat", "--device", "toaster"], 'device "toaster" cannot be used here'),
        (["a cat", "--model", "."], 'cannot load the model "'),
        (["a cat", "--model", "nobody/nothing"], 'cannot load the model "nobody/nothing"'),
        (["--prompts-file", "none.txt"], "cannot read the prompts file none.txt: No such file"),
        (["--again", "none.json"], "cannot read the record none.json: No such file"),
        (
            ["--again", "none.json", "--seed", "3"],
            "--again takes everything from the record; leave out --seed",
        ),
        (["a cat", "--again", "none.json"], "leave out the prompts"),
    ],
)
def test_nonsense_gets_one_clear_line(heedful: Command, arguments: list[str], message: str) -> None:
    result = heedful("generate", *arguments)

    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["a cat and a frog", "--words", "frgo"],
            'word "frgo" is not in the prompt "a cat and a frog"; its words are: a, cat',
        ),
        (["a cat", "--size", "65x64"], "divisible by 8"),
        (["of the"], "content words"),
    ],
)
def test_what_the_model_refuses_is_said_without_a_trace(
    heedful: Command, tiny_folder: Path, arguments: list[str], message: str
) -> None:
    result = heedful("generate", *arguments, "--model", tiny_folder, "--steps", 2)

    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the record"),
        ("[]", "is no record of heedful generate"),
        ('{"format": 1}', "is damaged: KeyError"),
        (
            '{"format": 1, "settings": {"model": null}}',
            "is damaged: ValueError: settings must be check_model, compare, device",
        ),
    ],
)
def test_damaged_records_are_refused(heedful: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    result = heedful("generate", "--again", "run.json")

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_prompt_cannot_break_the_output(heedful: Command, tiny_folder: Path, tmp_path: Path) -> None:
    prompt = "a cat [red]/../../[/] \x1b[2J\nfrog"
    result = heedful(
        "generate", prompt, "--words", "cat", "--model", tiny_folder, "--steps", 2, "--no-compare"
    )

    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.stdout
    assert (tmp_path / "out" / "a-cat-red-2j-frog-seed-0-guided.png").is_file()


def test_the_embedded_model_is_judged(heedful: Command, tmp_path: Path) -> None:
    result = heedful("generate", "a cat and a spoon", "--words", "cat, spoon", "--steps", 6, "--out", "o")

    assert result.exit_code == 0, result.output
    assert pixels(tmp_path / "o" / "a-cat-and-a-spoon-seed-0-guided.png").shape == (64, 64, 3)
    images = json.loads((tmp_path / "o" / "run.json").read_text())["images"]
    assert [image["kind"] for image in images] == ["plain", "guided"]
    for image in images:
        cat, spoon = image["verdicts"]
        assert cat in ("heeded", "neglected")
        assert spoon is None, "the judge knows no spoons and must not speak of them"
    assert ("heeded" in result.stdout) or ("neglected" in result.stdout)
    assert "not known" in result.stdout


def test_the_embedded_model_makes_the_same_pixels_again(heedful: Command) -> None:
    first = heedful("generate", "a lion and a crown", "--steps", 4, "--scheduler", "dpm++", "--out", "o")
    again = heedful("generate", "--again", "o/run.json", "--out", "p")

    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert "all 2 images are equal" in again.stdout


def test_help_teaches_and_version_answers(heedful: Command) -> None:
    shown = heedful("generate", "--help")
    version = heedful("--version")

    assert 'heedful generate "a cat and a frog"' in shown.stdout
    assert (version.exit_code, version.stdout.split()[0]) == (0, "heedful")


@pytest.mark.gpu
def test_cuda_and_float16_are_chosen_where_they_are(heedful: Command, tmp_path: Path) -> None:
    result = heedful("generate", "a cat and a frog", "--steps", 5, "--out", "o")

    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["settings"]["device"].startswith("cuda")
    assert record["settings"]["dtype"] == "float16"
    guided = record["images"][1]["run"]
    assert guided["steps"]
    assert not any(step["skipped"] for step in guided["steps"])
