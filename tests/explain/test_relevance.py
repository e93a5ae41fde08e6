"""One call gives every modality's map, and the frozen result draws, enlarges, saves and loads itself."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explain_tiny import single, tiny
from heedful.explain import (
    METHODS,
    InputError,
    Relevance,
    TargetError,
    UnknownFamilyError,
    UnsupportedMethodError,
    explain,
)
from heedful.explain.methods import relevance_of
from heedful.explain.models import family_of
from heedful.explain.picture import bars, readable, words_strip
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

WORDS = [
    ["<s>", "a", "cat", "and", "frog", "</s>", "</s>"],
    ["<s>", "a", "dog", "</s>", "</s>", "</s>", "</s>"],
]


def made(**changes: Any) -> Relevance:
    generator = torch.Generator().manual_seed(0)
    given = {
        "targets": ("cat", "frog"),
        "scores": (1.5, -2.0),
        "image": torch.rand(2, 3, 5, generator=generator),
        "text": torch.rand(2, 4, generator=generator),
        "regions": torch.randn(2, 6, generator=generator),
        "words": (("a", "cat", "sat", "x"), ("a", "frog", "", "y")),
        "settings": {"fusion": "mean", "start_layer": 1},
        "model": "CLIPModel tiny",
        "versions": {"torch": "2"},
    }
    return Relevance(**{**given, **changes})


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_pair_is_explained_on_both_sides() -> None:
    model, inputs = tiny("clip")
    found = explain(model, inputs, words=WORDS, start_layer=1)
    _, streams, _ = relevance_of(model, family_of(model), inputs, None, "libra", {"start_layer": 1})

    assert found.image.shape == (2, 3, 5)
    assert found.text.shape == (2, 7)
    assert torch.equal(found.image.flatten(1), streams["image"][:, 1:])
    assert torch.equal(found.text[0, 1:5], streams["text"][0, 1:5])
    assert (found.text[:, 0] == 0).all(), "the start token means nothing to a person"
    assert (found.text[1, 3:] == 0).all(), "nor do end and padding"
    wanted = model(**inputs).logits_per_image.diagonal()
    torch.testing.assert_close(torch.tensor(found.scores), wanted, rtol=1e-4, atol=1e-4)
    assert found.words == tuple(tuple(row) for row in WORDS)
    assert (found.method, found.signed, found.settings["start_layer"]) == ("libra", False, 1)
    assert found.settings["fusion"] == "mean", "defaults are told, too"
    assert found.model == "CLIPModel"
    assert found.versions["torch"] == torch.__version__
    assert repr(found) == (
        "Relevance(libra, image (2, 3, 5), text (2, 7), targets: image 0 with text 0, image 1 with text 1)"
    )


def test_several_targets_of_one_image_are_rows() -> None:
    model, inputs = tiny("vit")
    found = explain(model, single(inputs, 0), ["cow", 0], signed=True)

    assert found.targets == ("cow", "frog")
    assert found.image.shape == (2, 3, 5)
    assert found.text is None
    assert found.words is None
    assert found.signed
    for row, target in enumerate(["cow", 0]):
        alone = explain(model, single(inputs, 0), target, signed=True)
        torch.testing.assert_close(found.image[row], alone.image[0])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_classifier(method: str) -> None:
    model, inputs = tiny("vit")
    quick = {"smoothgrad": {"samples": 2}, "integrated_gradients": {"steps": 2}}.get(method, {})
    found = explain(model, inputs, None, method, **quick)

    assert found.image.shape == (2, 3, 5)
    assert found.image.isfinite().all()
    assert found.image.flatten(1).std(1).min() > 0, "a map that is the same everywhere says nothing"
    assert found.signed == bool((found.image < 0).any())


def test_inputs_are_brought_to_the_models_type() -> None:
    model, inputs = tiny("vit")
    wide = {**inputs, "pixel_values": inputs["pixel_values"].double()}

    assert torch.equal(explain(model, wide, 1).image, explain(model, inputs, 1).image)


def test_a_tokenizers_batch_names_its_tokens() -> None:
    class Encoded(dict):
        is_fast = True

        def tokens(self, index: int) -> list[str]:
            return WORDS[index]

    model, inputs = tiny("clip")
    assert explain(model, Encoded(inputs)).words == tuple(tuple(row) for row in WORDS)


def test_one_text_for_two_images_is_named_in_both_rows() -> None:
    model, inputs = tiny("clip")
    found = explain(model, single(inputs, 0, "input_ids", "attention_mask"), words=WORDS[:1])

    assert found.words == (tuple(WORDS[0]),) * 2
    assert found.text.shape == (2, 7)


def test_a_result_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        made().method = "flow"  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{}, {"text": None, "words": None, "regions": None, "signed": True}])
def test_saved_and_loaded_is_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = made(**changes)
    first.save(tmp_path / "one.safetensors")
    second = Relevance.load(tmp_path / "one.safetensors")

    for name in ("targets", "scores", "words", "signed", "method", "settings", "model", "versions"):
        assert getattr(second, name) == getattr(first, name), name
    assert second.maps.keys() == first.maps.keys()
    assert all(torch.equal(second.maps[name], first.maps[name]) for name in first.maps)


def written(path: Path, about: dict[str, str], tensors: dict[str, Tensor] | None = None) -> Path:
    save_file(tensors or {"image": torch.rand(1, 2, 2)}, str(path), metadata=about)
    return path


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no tensors here")
    told = {"format": "heedful.relevance/1"}
    whole = {"targets": ["cat"], "scores": [1.0], "words": None}
    cases = [
        (tmp_path / "none", "cannot read the relevance file .*none"),
        (text, "cannot read the relevance file"),
        (written(tmp_path / "a", {"format": "pt"}), 'is no relevance file of this version: .* got "pt"'),
        (
            written(tmp_path / "b", {**told, "record": "{}"}, {"weight": torch.rand(2)}),
            "is no relevance file",
        ),
        (written(tmp_path / "c", told), "is damaged"),
        (written(tmp_path / "d", {**told, "record": "{}"}), "is damaged: 'words'"),
        (
            written(tmp_path / "e", {**told, "record": json.dumps({**whole, "colour": 1})}),
            "is damaged: .*colour",
        ),
        (
            written(tmp_path / "f", {**told, "record": json.dumps({**whole, "targets": ["a", "b"]})}),
            "is damaged",
        ),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message):
            Relevance.load(path)


def test_enlarged_maps_keep_their_places_and_range() -> None:
    image = torch.zeros(1, 3, 5)
    image[0, 1, 3] = 2.0
    found = made(targets=("a",), scores=(0.0,), image=image, text=None, words=None, regions=None)
    for mode in ("bicubic", "bilinear", "nearest"):
        large = found.upsample((30, 100), mode)
        row, column = divmod(int(large[0].argmax()), 100)

        assert large.shape == (1, 30, 100)
        assert (10 <= row < 20, 60 <= column < 80) == (True, True)
        assert (large.min(), large.max() <= 2) == (0, True)
    assert torch.equal(found.upsample((6, 10), "nearest")[0, ::2, ::2], image[0])


def test_an_overlay_glows_where_the_relevance_is_and_blue_where_it_speaks_against() -> None:
    image = torch.zeros(1, 2, 4)
    image[0, 0, 3], image[0, 1, 0] = 1.0, -1.0
    plain = Image.new("RGB", (80, 40), (128, 128, 128))
    signed = made(
        targets=("a",), scores=(0.0,), image=image, text=None, words=None, regions=None, signed=True
    )
    drawn = np.asarray(signed.overlay(plain)).astype(int)

    assert drawn.shape == (40, 80, 3)
    warm, cold, nothing = drawn[5, 75], drawn[35, 5], drawn[5, 30]
    assert warm[0] > warm[2] + 20
    assert cold[2] > cold[0] + 20
    assert nothing.max() < 80
    unsigned = np.asarray(replace(signed, image=image.abs(), signed=False).overlay(plain, -1)).astype(int)
    assert unsigned[35, 5].tolist() == unsigned[5, 75].tolist()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda found: found.overlay(Image.new("RGB", (9, 9)), 2),
            "there is no row 2; there are 2, .*: cat, frog",
        ),
        (lambda found: found.upsample((0, 4)), r"size must be \(height, width\) in pixels"),
        (
            lambda found: replace(found, image=None).upsample((4, 4)),
            "has no image map, only text and regions",
        ),
        (lambda found: replace(found, image=None).overlay(Image.new("RGB", (9, 9))), "has no image map"),
        (lambda found: replace(found, targets=("cat",)), "one row for each of 1 targets, got"),
        (lambda found: replace(found, targets=(), scores=()), "of 0 targets"),
        (
            lambda found: replace(found, words=(("a",), ("b",))),
            r"wanted 2 rows of 4 tokens, got rows of \[1, 1\]",
        ),
        (lambda found: replace(found, text=None), "words must match the text's tokens: wanted no text"),
    ],
)
def test_what_is_not_there_is_refused(ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(made())


def test_a_notebook_shows_every_modality() -> None:
    whole = made()
    shown = opened(whole._repr_png_())
    assert np.array_equal(shown, opened(whole._repr_png_()))
    for name in ("image", "text", "regions"):
        changes = {name: None, **({"words": None} if name == "text" else {})}
        assert opened(replace(whole, **changes)._repr_png_()).shape[0] < shown.shape[0], name
    assert not np.array_equal(shown, opened(replace(whole, image=whole.image.flip(2))._repr_png_()))
    other = replace(whole, text=whole.text.flip(1))
    assert not np.array_equal(shown, opened(other._repr_png_()))


def test_a_picture_of_very_many_rows_says_what_it_leaves_out() -> None:
    rows = 30
    many = Relevance(tuple("abc"[i % 3] for i in range(rows)), (0.0,) * rows, image=torch.rand(rows, 2, 2))
    few = replace(many, targets=many.targets[:24], scores=many.scores[:24], image=many.image[:24])
    both = [opened(each._repr_png_()) for each in (many, few)]

    assert both[0].shape == both[1].shape
    assert not np.array_equal(*both)


def test_words_are_tinted_by_their_heat() -> None:
    strip = np.asarray(
        words_strip(["cold", "hot", "against"], np.array([0.0, 1.0, -1.0], dtype=np.float32), 256)
    )
    colours = {tuple(colour) for colour in strip.reshape(-1, 3).tolist()}

    assert {(255, 255, 255), (240, 116, 40), (64, 132, 232)} <= colours
    tall = words_strip(["word"] * 40, np.zeros(40, dtype=np.float32), 256)
    assert (tall.width, tall.height > 4 * strip.shape[0]) == (256, True)


def test_bars_rise_for_and_fall_against() -> None:
    drawn = np.asarray(bars(np.array([1.0, -0.5], dtype=np.float32), 64)).astype(int)
    inked = (drawn != 255).any(-1)

    assert drawn.shape == (17, 64, 3)
    assert inked[:8, :30].all()
    assert not inked[:8, 32:].any()
    assert inked[9:12, 34:60].all()


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("cat</w>", "cat"),
        ("##ing", "ing"),
        ("\u0120frog", "frog"),
        ("<|endoftext|>", ""),
        ("[SEP]", ""),
        ("\x00", "\\x00"),
    ],
)
def test_tokens_are_shown_as_words(token: str, shown: str) -> None:
    assert readable(token) == shown


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "genric"}, UnsupportedMethodError, 'there is no method "genric". Did you mean "generic"'),
        (
            {"startlayer": 1},
            InputError,
            '"libra" takes no setting startlayer; it takes: fusion, start_layer',
        ),
        ({"target": "unicorn"}, TargetError, 'no label "unicorn"'),
        ({"target": 99}, TargetError, "there is no class 99"),
        ({"inputs": {}}, InputError, "got an empty one"),
        (
            {"inputs": {"pixel_values": [[1.0]]}},
            InputError,
            r'inputs\["pixel_values"\] must be a tensor, got list',
        ),
        ({"model": nn.Linear(2, 2)}, UnknownFamilyError, "no adapter takes a Linear. Known families: "),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    model, inputs = tiny("vit")
    with pytest.raises(error, match=message):
        explain(**{"model": model, "inputs": inputs, **changes})


def test_words_that_do_not_fit_are_refused() -> None:
    model, inputs = tiny("clip")
    with pytest.raises(InputError, match="words must match the text's tokens: wanted 2 rows of 7 tokens"):
        explain(model, inputs, words=[["a"], ["b"]])


def test_importing_explain_stays_light_and_wrong_types_are_refused() -> None:
    code = """if True:
        import sys, torch, heedful.explain as explain

        heavy = {name for name in sys.modules if name.startswith("transformers.models.")}
        print(*heavy | {"matplotlib", "captum", "diffusers"} & set(sys.modules))
        known = explain.explain.__globals__
        for model, inputs in (("vit", {}), (torch.nn.Linear(2, 2), None)):
            try:
                known["prepared"](model, inputs) if inputs is None else explain.explain(model, inputs)
            except explain.InputError as problem:
                print(problem)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    heavy, model, inputs = done.stdout.splitlines()

    assert heavy == ""
    assert model == "model must be a torch module, such as a CLIPModel; got str"
    assert inputs.endswith('such as processor(images=image, return_tensors="pt"); got NoneType')


def test_the_guides_code_runs_and_its_table_names_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), (200, 120, 40)).save("photo.png")
    known: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(block, known)

    assert known["again"].targets == known["relevance"].targets
    with Image.open("frog.png") as drawn:
        assert drawn.size == (90, 60)
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == list(METHODS)


@pytest.mark.gpu
def test_a_half_precision_model_on_cuda_agrees_with_the_cpu() -> None:
    model, inputs = tiny("clip")
    wanted = explain(model, inputs)
    found = explain(model.half().cuda(), inputs)

    assert found.image.device.type == "cpu"
    for name, values in wanted.maps.items():
        torch.testing.assert_close(found.maps[name], values, rtol=0.1, atol=0.03 * float(values.max()))
