"""`heedful explain` from the arguments to the sheet and the numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from explain_tiny import tiny
from heedful.emoji.world import scene
from heedful.explain import METHODS, Relevance, settings_of
from heedful.explain import explain as explained
from heedful.scripts import explain as work
from heedful.scripts import explain_settings as asked
from heedful.scripts.explain_settings import ExplainSettings
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A cat and a frog, as 300 x 200 pixels: neither the model's size nor its shape."""
    drawn = scene(5, named=(("cat", None), ("frog", None)))
    Image.fromarray(drawn.image).resize((300, 200)).save(tmp_path / "Two Animals.png")
    return tmp_path / "Two Animals.png"


def masks(size: tuple[int, int] = (300, 200)) -> dict[str, np.ndarray]:
    """Where the cat and the frog are, (height, width) of an image of this (width, height)."""
    subjects = scene(5, named=(("cat", None), ("frog", None))).subjects
    return {
        each.name: np.array(Image.fromarray(each.mask).resize(size, Image.Resampling.NEAREST))
        for each in subjects
    }


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier for 32 x 32 pixels whose processor resizes to 40 and crops the middle."""
    folder = tmp_path_factory.mktemp("vit")
    model, _ = tiny("vit")
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def rows_of(result: Result) -> list[list[str]]:
    """The cells of the printed table."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.mark.parametrize("option", ["--text", "--label"])
def test_each_subject_is_found_where_it_is(heedful: Command, two: Path, tmp_path: Path, option: str) -> None:
    names = {"--text": ["a cat", "a frog"], "--label": ["cat", "frog"]}[option]
    result = heedful("explain", two, option, names[0], option, names[1], "--out", "o", "--device", "cpu")

    assert result.exit_code == 0, result.output
    found = Relevance.load(tmp_path / "o" / "two-animals-libra.safetensors")
    assert found.targets == tuple(names)
    assert found.image.shape == (2, 8, 8)
    shares = {}
    heat = found.upsample((200, 300)).clamp(min=0)
    for row, name in enumerate(("cat", "frog")):
        for place, mask in masks().items():
            shares[name, place] = float(heat[row][torch.from_numpy(mask)].sum() / heat[row].sum())
    assert shares["cat", "cat"] > 2 * shares["cat", "frog"]
    assert shares["frog", "frog"] > 2 * shares["frog", "cat"]
    for row, name in zip(rows_of(result), ("cat", "frog"), strict=True):
        x, y = map(int, row[3].split(","))
        assert masks()[name][y, x], f"the peak {x},{y} is not on the {name}"
    assert (tmp_path / "o" / "two-animals-sheet.png").is_file()


def test_the_table_names_scores_and_words(heedful: Command, two: Path) -> None:
    result = heedful("explain", two, "--text", "a cat", "--text", "a frog", "--out", "o", "--device", "cpu")
    cat, frog = rows_of(result)

    assert (cat[0], cat[2], cat[4]) == ("a cat", "libra", "cat")
    assert (frog[0], frog[4]) == ("a frog", "frog")
    found = Relevance.load(Path("o/two-animals-libra.safetensors"))
    assert [float(row[1]) for row in (cat, frog)] == pytest.approx(found.scores, abs=1e-3)
    assert found.words[0][:3] == ("<|startoftext|>", "a</w>", "cat</w>")


def test_several_methods_make_one_sheet(heedful: Command, two: Path, tmp_path: Path) -> None:
    one = heedful("explain", two, "--label", "cat", "--out", "one", "--device", "cpu")
    many = heedful(
        "explain", two, "--label", "cat", "--method", "generic,rollout", "--method", "gradient_x_input",
        "--out", "many", "--device", "cpu",
    )  # fmt: skip

    assert (one.exit_code, many.exit_code) == (0, 0), one.output + many.output
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == [
        "two-animals-generic.safetensors", "two-animals-gradient_x_input.safetensors",
        "two-animals-rollout.safetensors", "two-animals-sheet.png",
    ]  # fmt: skip
    assert [row[2] for row in rows_of(many)] == ["generic", "rollout", "gradient_x_input"]
    sizes = [pixels(tmp_path / name / "two-animals-sheet.png").shape for name in ("one", "many")]
    assert sizes[1][1] > sizes[0][1] + 2 * 256
    assert Relevance.load(tmp_path / "many" / "two-animals-gradient_x_input.safetensors").signed


def test_the_sheets_maps_differ_where_the_subjects_do(heedful: Command, two: Path, tmp_path: Path) -> None:
    heedful("explain", two, "--text", "a cat", "--text", "a frog", "--out", "o", "--device", "cpu")
    drawn = pixels(tmp_path / "o" / "two-animals-sheet.png").astype(int)
    shown = np.asarray(Image.open(two).convert("RGB").resize((256, 171), Image.Resampling.BICUBIC)).astype(
        int
    )
    top = min(range(60), key=lambda y: abs(drawn[y : y + 171, 10:266] - shown).mean())
    assert abs(drawn[top : top + 171, 10:266] - shown).mean() < 3, "the image itself comes first"
    cat, frog = (drawn[top : top + 171, start : start + 256] for start in (276, 542))

    for name, own, other in (("cat", cat, frog), ("frog", frog, cat)):
        mask = masks((256, 171))[name]
        assert own[mask].mean() > other[mask].mean() + 10, name


def test_a_query_shows_what_its_patch_attends_to(heedful: Command, two: Path, tmp_path: Path) -> None:
    for number, query in enumerate(("40,60", "250,170")):
        result = heedful(
            "explain", two, "--query", query, "--layer", 2, "--head", 1, "--out", number, "--device", "cpu"
        )
        assert result.exit_code == 0, result.output
    found = [Relevance.load(tmp_path / str(n) / "two-animals-raw_attention.safetensors") for n in (0, 1)]
    settings = ExplainSettings(two, query=(40, 60), device="cpu")
    question = work.pose(settings, work.open_image(two))
    outputs = question.model.vit
    outputs.set_attn_implementation("eager")
    attention = outputs(**question.inputs, output_attentions=True).attentions[2][0, 1]

    for answer, token in zip(found, (1 + 2 * 8 + 1, 1 + 6 * 8 + 6), strict=True):
        assert answer.settings["query"] == token
        assert (answer.settings["layer"], answer.settings["head"]) == (2, 1)
        torch.testing.assert_close(
            answer.image.flatten(), attention[token, 1:].detach(), rtol=1e-4, atol=1e-6
        )
    sheets = [pixels(tmp_path / str(n) / "two-animals-sheet.png") for n in (0, 1)]
    assert not np.array_equal(*sheets)


def test_without_a_question_the_predicted_class_is_explained(heedful: Command, two: Path) -> None:
    result = heedful("explain", two, "--device", "cpu")

    assert result.exit_code == 0, result.output
    assert rows_of(result)[0][0] in ("cat", "frog")
    assert Path("out/two-animals-sheet.png").is_file()


def test_a_cropping_processor_is_seen_through(heedful: Command, two: Path, vit_folder: Path) -> None:
    """Of 300 x 200 pixels resized to 60 x 40 the middle 32 x 32 remain: 160 x 160 of the image."""
    settings = ExplainSettings(two, model=str(vit_folder), device="cpu")
    question = work.pose(settings, work.open_image(two))

    assert (question.corner, question.shown.size) == ((70.0, 20.0), (160, 160))
    assert work.patch_at(question, (70, 20), (4, 4)) == (0, 0)
    assert work.patch_at(question, (229, 179), (4, 4)) == (3, 3)
    view = question.inputs["pixel_values"][0].mul(0.5).add(0.5)
    shown = np.asarray(question.shown.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    assert np.abs(view.permute(1, 2, 0).numpy() - shown).mean() < 0.02
    refused = heedful("explain", two, "--model", vit_folder, "--query", "69,100", "--device", "cpu")
    assert refused.exit_code == 2
    assert "lies outside what the model sees of the image: x 70 to 229, y 20 to 179" in refused.stderr


def test_a_detectors_box_is_explained_by_its_label(heedful: Command, two: Path, tmp_path: Path) -> None:
    model, _ = tiny("detr")
    model.save_pretrained(tmp_path / "detr")
    side = {"height": 40, "width": 64}
    transformers.DetrImageProcessorPil(size=side, do_pad=False).save_pretrained(tmp_path / "detr")
    result = heedful("explain", two, "--model", tmp_path / "detr", "--label", 0, "--device", "cpu")

    assert result.exit_code == 0, result.output
    found = Relevance.load(tmp_path / "out" / "two-animals-libra.safetensors")
    assert found.image.shape[0] == 1
    assert found.targets[0].startswith("box 0")
    assert rows_of(result)[0][0] == found.targets[0]


def test_a_model_that_reads_both_together_gets_its_image_for_each_text(
    heedful: Command, two: Path, tmp_path: Path
) -> None:
    model, _ = tiny("blip")
    folder = tmp_path / "blip"
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "frog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    size = model.config.vision_config.image_size
    images = transformers.BlipImageProcessorPil(size={"height": size, "width": size})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    result = heedful(
        "explain", two, "--model", folder, "--text", "a cat", "--text", "a frog", "--device", "cpu",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    both = Relevance.load(tmp_path / "out" / "two-animals-libra.safetensors")
    assert both.targets == ("a cat", "a frog")
    heedful("explain", two, "--model", folder, "--text", "a frog", "--device", "cpu", "--out", "one")
    alone = Relevance.load(tmp_path / "one" / "two-animals-libra.safetensors")
    assert alone.scores[0] == pytest.approx(both.scores[1], rel=1e-4)
    torch.testing.assert_close(alone.image[0], both.image[1], rtol=1e-3, atol=1e-6)


def test_smoothgrad_takes_the_seed(heedful: Command, two: Path, vit_folder: Path, tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = heedful(
            "explain", two, "--model", vit_folder, "--method", "smoothgrad", "--label", 0, "--seed", seed,
            "--out", out, "--device", "cpu",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    one, same, other = (
        Relevance.load(tmp_path / n / "two-animals-smoothgrad.safetensors").image for n in "abc"
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_transparency_and_orientation_are_heeded(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    clear.save(tmp_path / "clear.png")
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)

    assert work.open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert work.open_image(tmp_path / "turned.jpg").size == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "a cat", "--label", "cat"], "give one of both"),
        (["--text", " "], '--text is empty; say what to look for, such as --text "a cat"'),
        (["--label", "cat", "--label", "cat"], '--label "cat" is given twice'),
        (
            ["--method", "genric"],
            'there is no method "genric"; did you mean "generic"? choose of generic, libra',
        ),
        (["--method", "generic,generic"], '--method "generic" is given twice'),
        (["--method", "generic,"], 'there is no method ""'),
        (["--query", "left"], '--query must be X,Y in pixels of the image, such as 120,40; got "left"'),
        (["--query", "-1,5"], "--query must be X,Y"),
        (
            ["--query", "1,5", "--method", "flow"],
            "--query is heeded by raw_attention only; got --method flow",
        ),
        (
            ["--layer", "1"],
            "--layer is heeded by raw_attention, grad_cam, partial_lrp only; got --method libra",
        ),
        (["--head", "1", "--method", "grad_cam"], "--head is heeded by raw_attention only"),
        (["--seed", "1"], "--seed is heeded by smoothgrad only"),
        (["--seed", "-1", "--method", "smoothgrad"], "--seed must lie in 0.."),
        (["--dtype", "int8"], '--dtype must be one of float32, float16, bfloat16; got "int8"'),
        (["--dtype", "float16", "--device", "cpu"], "float16 on a CPU"),
        (["--device", "toaster"], 'device "toaster" cannot be used here'),
        (["--model", "."], 'cannot load the model "."'),
        (["--model", "nobody/nothing"], 'cannot load the model "nobody/nothing"'),
        (["--label", "unicorn"], 'no label "unicorn" among the model\'s 24'),
        (["--label", "24"], "there is no class 24"),
        (
            ["--query", "300,10"],
            "--query 300,10 lies outside what the model sees of the image: x 0 to 299, y 0",
        ),
        (["--query", "1,1", "--layer", "9"], "layer"),
        (["--query", "1,1", "--head", "4"], "head"),
        (["--text", "cat " * 40], "the model reads at most 24"),
    ],
)
def test_nonsense_gets_one_clear_line(
    heedful: Command, two: Path, arguments: list[str], message: str
) -> None:
    if "--device" not in arguments:
        arguments = [*arguments, "--device", "cpu"]
    result = heedful("explain", two, *arguments)

    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_files_that_are_no_images_are_refused(heedful: Command, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no image")
    for name, message in (("none.png", "No such file"), ("words.png", "cannot identify"), (".", "directory")):
        result = heedful("explain", tmp_path / name)
        assert result.exit_code == 2
        assert "cannot read the image" in result.stderr
        assert message in result.stderr


def test_models_are_asked_only_what_they_answer(heedful: Command, two: Path, tmp_path: Path) -> None:
    from heedful.emoji.models import MODELS

    texts = heedful("explain", two, "--text", "a cat", "--model", MODELS / "classifier", "--device", "cpu")
    labels = heedful("explain", two, "--label", "cat", "--model", MODELS / "clip", "--device", "cpu")
    tiny("bert")[0].save_pretrained(tmp_path / "bert")
    words = heedful("explain", two, "--model", tmp_path / "bert", "--device", "cpu")

    assert (texts.exit_code, labels.exit_code, words.exit_code) == (2, 2, 2)
    assert "ViTForImageClassification takes no text; use --label" in texts.stderr
    assert 'CLIPModel compares an image with texts; give it one or several: --text "a cat"' in labels.stderr
    assert "takes no image" in words.stderr


def test_a_folder_with_pickled_weights_is_refused(
    heedful: Command, two: Path, vit_folder: Path, tmp_path: Path
) -> None:
    for path in vit_folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / "pickled").mkdir(exist_ok=True)
            (tmp_path / "pickled" / path.name).write_bytes(path.read_bytes())
    torch.save(tiny("vit")[0].state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    result = heedful("explain", two, "--model", tmp_path / "pickled", "--device", "cpu")

    assert result.exit_code == 2
    assert "cannot load the model" in result.stderr
    assert "safetensors" in result.stderr


def test_a_text_cannot_break_the_output(heedful: Command, two: Path) -> None:
    result = heedful("explain", two, "--text", "[red]a cat[/] \x1b[2J\n", "--device", "cpu")

    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.stdout


def test_the_command_knows_the_methods() -> None:
    assert asked.METHODS == METHODS
    assert set(asked.LAYERED) == {name for name in METHODS if "layer" in settings_of(name)}


def test_help_teaches(heedful: Command) -> None:
    shown = heedful("explain", "--help")

    assert 'heedful explain photo.png --text "a cat" --text "a frog"' in shown.stdout
    assert "--query" in shown.stdout


@pytest.mark.gpu
def test_cuda_and_float16_are_chosen_where_they_are(heedful: Command, two: Path, tmp_path: Path) -> None:
    result = heedful("explain", two, "--text", "a cat", "--text", "a frog", "--out", "half")
    single = heedful("explain", two, "--text", "a cat", "--text", "a frog", "--out", "cpu", "--device", "cpu")

    assert (result.exit_code, single.exit_code) == (0, 0), result.output + single.output
    half, full = (Relevance.load(tmp_path / n / "two-animals-libra.safetensors") for n in ("half", "cpu"))
    assert half.scores != full.scores, "float16 rounds"
    torch.testing.assert_close(half.image, full.image, rtol=0.1, atol=0.05 * float(full.image.max()))


def test_the_command_has_the_default_of_the_library() -> None:
    library = inspect.signature(explained).parameters["method"].default

    assert ExplainSettings(Path("photo.png")).chosen == (library,)
