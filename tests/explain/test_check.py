"""`check` sees what is in scenes of the emoji world, by any model, and says when it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checking import OTHERS, logits_of, noise, scene, two_towers
from explain_tiny import tiny
from heedful.emoji import load_classifier, load_pipeline, load_resnet
from heedful.explain import Calibration, InputError, Verdict, check, explain
from heedful.explain.check import MARGIN, judged, speaks_like_embedded
from PIL import Image
from tiny import tiny_tokenizer

ALWAYS = Calibration((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, 4.0, others=OTHERS)


@pytest.fixture(scope="module")
def cat_and_dog() -> Image.Image:
    return scene("cat", "dog")


def test_finds_what_is_there_and_misses_what_is_not(cat_and_dog: Image.Image) -> None:
    verdict = check(cat_and_dog, ["cat", "frog"], prompt="a cat and a frog")

    assert [one.verdict for one in verdict.words] == ["heeded", "neglected"]
    assert not verdict.heeded
    assert verdict.share == verdict["frog"].probability < 0.4
    assert verdict["cat"].score < verdict["frog"].controls["a cat"]
    assert verdict.settings["calibrated"]
    assert verdict.image_size == cat_and_dog.size
    assert check(cat_and_dog, ["cat", "dog"], prompt="a dog and a cat", relevance=False).heeded


def test_relevance_lies_on_the_subject(cat_and_dog: Image.Image) -> None:
    from heedful.emoji.world import scene as draw

    verdict = check(cat_and_dog, ["cat", "dog"])
    truth = draw(3, named=(("cat", None), ("dog", None)))

    for subject in truth.subjects:
        heat = verdict[subject.name].relevance
        assert heat.shape == (8, 8)
        row, column = divmod(int(heat.argmax()), 8)
        assert subject.mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].any()
    assert 0 < verdict["cat"].apart == verdict["dog"].apart <= 1
    assert check(cat_and_dog, "cat").words[0].apart == 1.0


def test_several_images_are_checked_as_each_alone(cat_and_dog: Image.Image) -> None:
    images = [cat_and_dog, scene("frog").resize((90, 70))]

    both = check(images, [["cat", "dog"], ["frog"]], prompt=["a cat, a dog", "a frog"], relevance=False)
    same = check(images, ["cat"], relevance=False)

    assert isinstance(both, list)
    alone = check(images[1], ["frog"], prompt="a frog", relevance=False)
    assert isinstance(alone, Verdict)
    assert both[1]["frog"].score == pytest.approx(alone["frog"].score, abs=1e-4)
    assert [one.words[0].verdict for one in same] == ["heeded", "neglected"]
    assert both[1].image_size == (90, 70)


def test_unsure_where_no_score_can_tell(cat_and_dog: Image.Image) -> None:
    verdict = check(cat_and_dog, ["dog", "dog#2", "dragon"], prompt="a dog, a dog, a dragon", relevance=False)

    assert [one.verdict for one in verdict.words][1:] == ["unsure", "unsure"]
    assert "how often" in verdict["dog#2"].reason
    assert "not calibrated for this word" in verdict["dragon"].reason
    assert verdict["dragon"].probability is None


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_any_model_serves(name: str) -> None:
    model, processor = two_towers(name)
    image, text = noise(), "a frog and a bow"

    plain = check(image, ["frog", "bow"], prompt=text, model=model, processor=processor, others=OTHERS)
    sure = check(image, ["frog"], model=model, processor=processor, calibration=ALWAYS)

    assert plain["frog"].score == pytest.approx(logits_of(model, processor, image, [text])[0], rel=1e-4)
    assert plain["frog"].probability is None
    assert plain["frog"].relevance.shape == (4, 4)
    assert plain.model == type(model).__name__
    assert plain["frog"].verdict == judged(dict(plain["frog"].features), None, None)[0]
    assert sure["frog"].probability == pytest.approx(torch.tensor(4.0).sigmoid())
    assert sure.heeded


@pytest.mark.parametrize(
    ("odds", "swap", "verdict"),
    [
        (MARGIN, MARGIN, "heeded"),
        (MARGIN, 0.0, "unsure"),
        (0.0, MARGIN, "unsure"),
        (-MARGIN, MARGIN, "neglected"),
    ],
)
def test_the_rule_without_calibration(odds: float, swap: float, verdict: str) -> None:
    said, reason = judged({"with_without": odds, "best_swap": swap}, None, None)

    assert said == verdict
    assert bool(reason) == (verdict == "unsure")


@pytest.mark.parametrize(
    ("probability", "verdict"), [(0.7, "heeded"), (0.55, "unsure"), (0.45, "unsure"), (0.3, "neglected")]
)
def test_the_rule_with_calibration(probability: float, verdict: str) -> None:
    assert judged({}, probability, 0.1)[0] == verdict


def test_the_model_is_left_as_it_was() -> None:
    model, processor = two_towers("clip")
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}

    check(noise(), ["frog", "bow"], model=model, processor=processor, others=OTHERS)

    assert all(
        torch.equal(weight, before[name][0]) and weight.requires_grad == before[name][1]
        for name, weight in model.named_parameters()
    )
    assert not any(module._forward_hooks for module in model.modules())


def test_a_classifier_that_disagrees_makes_it_unsure(cat_and_dog: Image.Image) -> None:
    words, model = ["cat", "frog"], load_resnet("cpu")
    agreeing = check(cat_and_dog, words, classifier=model)
    wrong = load_resnet("cpu")
    wrong.config.id2label = dict(wrong.config.id2label)
    index = {label: number for number, label in wrong.config.id2label.items()}
    wrong.config.id2label[index["cat"]], wrong.config.id2label[index["frog"]] = "frog", "cat"
    against = check(cat_and_dog, words, classifier=wrong)

    assert [one.verdict for one in agreeing.words] == ["heeded", "neglected"]
    assert [one.classifier.sees for one in agreeing.words] == [True, False]
    assert [one.verdict for one in against.words] == ["unsure", "unsure"]
    assert against["cat"].reason == "the classifier says neglected"
    assert against["cat"].classifier.relevance is None  # no adapter takes a ResNet


def test_a_classifier_shows_its_own_relevance() -> None:
    image, model = scene("frog"), load_classifier("cpu")

    seen = check(image, ["frog"], classifier=model)["frog"].classifier
    pixels = torch.tensor(list(image.tobytes())).view(1, 64, 64, 3).permute(0, 3, 1, 2) / 127.5 - 1
    expected = explain(model, {"pixel_values": pixels}, "frog").image[0]

    assert seen.sees
    assert seen.probability > 0.9
    assert torch.allclose(seen.relevance, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("classifier", "wrong"),
    [
        (tiny("vit")[0], r"image_processor|none of the words"),
        ((tiny("vit")[0], lambda images, return_tensors: {}), "nearest: "),
        (object(), "ForImageClassification"),
    ],
)
def test_refuses_other_classifiers(classifier: object, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        check(noise(), ["turtle"], classifier=classifier)


def test_a_word_is_the_whole_of_a_label_or_one_of_its_names() -> None:
    model = tiny("vit")[0]
    model.config.id2label = {0: "Tabby, tabby cat", 1: "hot dog", 2: "frog", 3: "frog", 4: "cow"}

    def processor(images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(1, 3, 32, 32)}

    verdict = check(scene("frog"), ["tabby cat", "dog", "frog"], classifier=(model, processor))

    assert verdict["tabby cat"].classifier.label == "Tabby, tabby cat"
    assert verdict["dog"].classifier is None
    assert verdict["frog"].classifier.label == "frog"


@pytest.mark.parametrize(
    ("image", "words", "options", "wrong"),
    [
        (noise(), [], {}, "at least one word|words must be words"),
        (noise(), ["cat", "Cat"], {}, "each once"),
        (noise(), ["cat", " "], {}, "at least one word"),
        (noise(), ["cat"], {"prompt": "a dog"}, "is not in the prompt"),
        ([], ["cat"], {}, "no image"),
        ("x.png", ["cat"], {}, "wanted PIL images, got str"),
        ([noise(), None], ["cat"], {}, "wanted PIL images, got NoneType"),
        ([noise()], ["cat"], {"prompt": ["a cat", "a cat"]}, "2 prompts for 1 images"),
        ([noise()], [["cat"], ["dog"]], {}, "words must be words"),
        (noise(), ["cat"], {"processor": print}, "without its model"),
        (noise(), ["cat"], {"model": two_towers("clip")[0]}, "AutoProcessor"),
        (noise(), ["cat"], {"model": two_towers("clip")[0], "device": "cpu"}, "move your own"),
    ],
)
def test_refuses(image: object, words: list, options: dict, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        check(image, words, **options)


def test_knows_whose_words_the_embedded_world_has() -> None:
    assert speaks_like_embedded(load_pipeline("cpu").tokenizer)
    assert not speaks_like_embedded(tiny_tokenizer())


def test_the_calibration_that_is_embedded_was_fitted_apart() -> None:
    from heedful.emoji.models import model_folder

    found = Calibration.load(model_folder("clip") / "calibration.json")

    assert found.fitted["seeds"] == [8600, 8601, 8602]
    assert replace(found, fitted={}).knows("red bow")


@pytest.mark.gpu
def test_on_a_gpu_in_half_precision_it_says_the_same(cat_and_dog: Image.Image) -> None:
    half = check(cat_and_dog, ["cat", "frog"], prompt="a cat and a frog")
    full = check(cat_and_dog, ["cat", "frog"], prompt="a cat and a frog", device="cpu")

    assert [one.verdict for one in half.words] == [one.verdict for one in full.words]
    assert half["cat"].score == pytest.approx(full["cat"].score, abs=0.1)
    assert half["cat"].relevance.isfinite().all()
