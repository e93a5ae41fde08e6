"""CLIP: pairs of images and texts, where each is read, which tokens are words, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from explain_tiny import END, START, TEXT, VISION, images, read, seen_by, shaken, single, tiny
from heedful.emoji import load_clip
from heedful.emoji.judge import to_tensor
from heedful.emoji.world import scene
from heedful.explain.capture import capture
from heedful.explain.errors import InputError, TargetError
from heedful.explain.models import family_of
from heedful.explain.relevance import explain
from heedful.explain.wiring import SelfStep, Site
from PIL import Image
from torch import Tensor


def legacy_clip() -> tuple[Any, dict[str, Any]]:
    """A CLIP as older configs have it: the end token said to be 2, the model reads the highest id."""
    text = {**TEXT, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    return shaken(transformers.CLIPModel(config)), tiny("clip")[1]


def test_the_towers_stand_side_by_side_and_no_attention_is_left_out() -> None:
    model, inputs = tiny("clip")
    family = family_of(model)

    with capture(model) as alone:  # the capture finds the attentions by itself
        model(**inputs)
    _, _, seen, _ = read(model, inputs)

    image = [Site(f"vision_model.encoder.layers.{index}.self_attn") for index in range(3)]
    text = [Site(f"text_model.encoder.layers.{index}.self_attn") for index in range(2)]
    assert family.wiring(model).steps == tuple(
        [SelfStep("image", site) for site in image] + [SelfStep("text", site) for site in text]
    )
    assert list(seen.attention) == list(alone.attention) == list(family.sites(model)) == image + text
    assert [seen.attention[site].shape for site in (image[0], text[0])] == [(2, 2, 16, 16), (2, 5, 7, 7)]


def test_texts_and_images_of_the_same_number_are_pairs() -> None:
    model, inputs = tiny("clip")

    _, outputs, _, reading = read(model, inputs)

    assert torch.equal(reading.scores, outputs.logits_per_image.diagonal())
    assert reading.targets == ("image 0 with text 0", "image 1 with text 1")
    assert reading.shared == frozenset()
    assert reading.fixed is None


def test_an_image_is_read_once_for_all_texts() -> None:
    model, inputs = tiny("clip")

    _, outputs, seen, reading = read(model, single(inputs, 1, "pixel_values"))

    assert torch.equal(reading.scores, outputs.logits_per_image[0])
    assert reading.targets == ("image 0 with text 0", "image 0 with text 1")
    assert reading.shared == {"image"}
    assert {len(map) for site, map in seen.attention.items() if site.module.startswith("vision")} == {1}
    assert [readout.weights.shape for readout in reading.readouts] == [(2, 16), (2, 7)]


def test_a_text_is_read_once_for_all_images() -> None:
    model, inputs = tiny("clip")

    _, outputs, _, reading = read(model, single(inputs, 0, "input_ids", "attention_mask"))

    assert torch.equal(reading.scores, outputs.logits_per_image[:, 0])
    assert reading.targets == ("image 0 with text 0", "image 1 with text 0")
    assert reading.shared == {"text"}
    assert reading.segments[1].mask is not None
    assert reading.segments[1].mask.tolist() == [[False, True, True, True, True, False, False]] * 2


@pytest.mark.parametrize("build", [lambda: tiny("clip"), legacy_clip])
def test_the_weights_name_the_tokens_that_the_score_is_read_from(build: Any) -> None:
    model, inputs = build()

    family, _, seen, reading = read(model, inputs)

    image, text = reading.readouts
    assert (image.stream, text.stream) == ("image", "text")
    assert image.weights.nonzero().tolist() == [[0, 0], [1, 0]]
    assert text.weights.nonzero().tolist() == [[0, 5], [1, 3]]  # the first end token
    for readout in reading.readouts:
        hidden = seen.outputs[family.layers(model)[readout.stream][-1]]
        assert torch.equal(seen_by(reading.scores.sum(), hidden), readout.weights > 0)
        assert readout.weights.sum(dim=1).tolist() == [1, 1]


def test_tokens_after_the_end_token_reach_no_score() -> None:
    model, inputs = tiny("clip")
    family = family_of(model)

    _, _, seen, reading = read(model, inputs)

    first = seen.outputs[family.layers(model)["text"][0]]
    reached = seen_by(reading.scores.sum(), first)
    assert reached.tolist() == [[True] * 6 + [False], [True] * 4 + [False] * 3]


@pytest.mark.parametrize("with_mask", [True, False])
def test_words_lie_between_start_and_end(with_mask: bool) -> None:
    model, inputs = tiny("clip")
    if not with_mask:
        del inputs["attention_mask"]

    _, _, _, reading = read(model, inputs)

    text = reading.segments[1]
    assert (text.kind, text.stream, text.positions) == ("text", "text", slice(0, 7))
    assert text.mask is not None
    assert text.mask.int().tolist() == [[0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0]]


def test_words_padded_on_the_left_are_found() -> None:
    model, inputs = tiny("clip")
    inputs["input_ids"] = torch.tensor([[3, 3, START, 11, 5, END], [START, 9, 8, 7, 4, END]])
    inputs["attention_mask"] = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])

    _, _, _, reading = read(model, inputs)

    assert reading.segments[1].mask is not None
    assert reading.segments[1].mask.int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize(("height", "width"), [(24, 40), (16, 8), (32, 32)])
def test_the_grid_is_that_of_the_image(height: int, width: int) -> None:
    model, inputs = tiny("clip")

    _, _, seen, reading = read(model, {**inputs, "pixel_values": images(height, width)})

    image = reading.segments[0]
    assert image.grid == (height // 8, width // 8)
    tokens = seen.attention[Site("vision_model.encoder.layers.0.self_attn")].shape[-1]
    assert range(tokens)[image.positions] == range(1, tokens)


def test_embeddings_are_what_enters_the_first_layers() -> None:
    model, inputs = tiny("clip")
    family = family_of(model)
    entered: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    for stream, name in family.embeddings(model).items():
        first = model.get_submodule(family.layers(model)[stream][0])
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, stream=stream: left.__setitem__(stream, output)
        )
        first.register_forward_pre_hook(
            lambda _module, args, stream=stream: entered.__setitem__(stream, args[0])
        )

    read(model, inputs)

    assert set(entered) == {"image", "text"}
    assert all(entered[stream] is left[stream] for stream in entered)


def test_a_function_scores_every_pair() -> None:
    model, inputs = tiny("clip")

    def margin(outputs: Any) -> Tensor:
        logits = outputs.logits_per_image
        return logits.diagonal() - logits.mean(dim=1)

    _, outputs, _, reading = read(model, inputs, margin)

    assert torch.equal(reading.scores, margin(outputs))
    assert reading.targets == ("margin", "margin")
    assert reading.coupled
    with pytest.raises(TargetError, match=r"2 floats, one for each row; got shape \(2, 2\)"):
        read(model, inputs, lambda outputs: outputs.logits_per_image)


@pytest.mark.parametrize("target", [0, "a cat", [0, 1], ["a cat", "a dog"]])
def test_texts_are_inputs_and_no_targets(target: Any) -> None:
    model, inputs = tiny("clip")

    with pytest.raises(TargetError, match="pass only those to explain as input_ids and None as target"):
        read(model, inputs, target)


@pytest.mark.parametrize("target", [None, lambda outputs: outputs.logits_per_text.diagonal() * 2])
@pytest.mark.parametrize("only", [(), ("pixel_values",), ("input_ids", "attention_mask")])
def test_the_last_layer_scores_what_the_model_does(target: Any, only: tuple[str, ...]) -> None:
    model, inputs = tiny("clip")
    if only:
        inputs, target = single(inputs, 1, *only), None

    family, outputs, seen, reading = read(model, inputs, target)

    for readout in reading.readouts:
        layers = [seen.outputs[layer] for layer in family.layers(model)[readout.stream]]
        scores = [family.layer_scores(model, inputs, outputs, reading, readout, hidden) for hidden in layers]
        torch.testing.assert_close(scores[-1], reading.scores)
        assert not torch.allclose(scores[0], scores[-1])
        assert seen_by(scores[0].sum(), layers[0]).any()


def test_a_batch_of_two_is_read_as_two_singles() -> None:
    model, inputs = tiny("clip")

    _, _, seen, together = read(model, inputs)
    for item in range(2):
        _, _, alone, reading = read(model, single(inputs, item))

        torch.testing.assert_close(reading.scores, together.scores[item : item + 1])
        for site, attention in alone.attention.items():
            torch.testing.assert_close(attention, seen.attention[site][item : item + 1])
        for one, both in zip(reading.readouts, together.readouts, strict=True):
            assert torch.equal(one.weights, both.weights[item : item + 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": None}, "needs input_ids, pixel_values as tensors; for pixel_values came NoneType"),
        ({"input_ids": None}, "for input_ids came NoneType"),
        ({"pixel_values": images(batch=3)}, "3 images and 2 texts are no pairs"),
        ({"pixel_values": torch.zeros(2, 3, 24, 40, dtype=torch.long)}, "must be floats"),
        ({"interpolate_pos_encoding": False}, "24 x 40 .height x width., the model's 32 x 32"),
        ({"input_ids": torch.tensor([START, 5, END])}, r"\(batch, token\), got torch.int64 of shape \(3,\)"),
        ({"input_ids": torch.ones(2, 7)}, "must be whole numbers.*float32"),
        ({"input_ids": torch.full((2, 7), 40)}, "between 0 and 39, got 40 to 40"),
        ({"input_ids": torch.full((2, 12), END)}, "12 tokens long, the model reads at most 9"),
        ({"attention_mask": torch.ones(2, 6)}, r"shape of input_ids, \(2, 7\), got \(2, 6\)"),
        ({"attention_mask": [[1] * 7] * 2}, "got list"),
        ({"input_ids": torch.tensor([[START, 5, 6, 7, 8, 9, END], [START, 5, 6, 7, 8, 9, 4]])}, "1 has no"),
        ({"input_ids": torch.tensor([[START, 5, 6, 7, 8, 9, END], [START] + [END] * 6])}, "text 1 is empty"),
        ({"return_dict": False}, "return_dict=False hides"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_before_the_forward(changes: dict[str, Any], message: str) -> None:
    model, inputs = tiny("clip")

    with pytest.raises(InputError, match=message):
        family_of(model).check(model, {**inputs, **changes})


def test_an_empty_text_is_refused_with_a_legacy_config() -> None:
    model, inputs = legacy_clip()
    inputs["input_ids"] = torch.tensor([[START, 5, 6, 7, 8, 9, END], [START] + [END] * 6])

    with pytest.raises(InputError, match="text 1 is empty: it has no token besides start, end and padding"):
        family_of(model).check(model, inputs)


def test_the_embedded_clip_is_read_on_a_scene_of_two() -> None:
    model, tokenizer = load_clip("cpu")
    image = scene(5, named=(("cat", None), ("frog", None))).image
    texts = ["a cat", "a frog", "a couch"]
    inputs = {
        "pixel_values": to_tensor([Image.fromarray(image)]),
        **tokenizer(texts, padding=True, return_tensors="pt"),
    }

    family, _, _, reading = read(model, inputs)

    words = reading.segments[1].mask
    assert words is not None
    named = [
        tokenizer.convert_ids_to_tokens(ids[mask].tolist())
        for ids, mask in zip(inputs["input_ids"], words, strict=True)
    ]
    assert named == [["a</w>", text.split()[1] + "</w>"] for text in texts]
    assert reading.scores[2] < reading.scores[:2].min()
    assert reading.segments[0].grid == (8, 8)
    assert len(family.sites(model)) == 10


@pytest.mark.parametrize(("first", "second"), [("cat", "frog"), ("dog", "car"), ("bear", "clock")])
def test_each_text_finds_its_own_subject_in_a_scene_of_two(first: str, second: str) -> None:
    model, tokenizer = load_clip("cpu")
    drawn = scene(2, named=((first, None), (second, None)))
    inputs = {
        "pixel_values": to_tensor([Image.fromarray(drawn.image)]),
        **tokenizer([f"a {first}", f"a {second}"], padding=True, return_tensors="pt"),
    }

    relevance = explain(model, inputs)

    heat = relevance.upsample((64, 64), "bilinear")
    shares = {
        subject.name: (heat * torch.from_numpy(subject.mask)).sum(dim=(1, 2)) / heat.sum(dim=(1, 2))
        for subject in drawn.subjects
    }
    assert shares[first][0] > shares[first][1]  # more of "a cat" lies on the cat than of "a frog"
    assert shares[second][1] > shares[second][0]
    assert shares[first][0] > shares[second][0]
    assert shares[second][1] > shares[first][1]
    assert relevance.text is not None
    assert relevance.text[:, 2].min() > 0  # the noun has a share in every text
