"""Layers of any two models are compared as CKA has it, in one pass, with provenance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explain_tiny import images, tiny
from heedful.emoji import load_judge, load_resnet
from heedful.emoji.judge import Judge
from heedful.explain.errors import CaptureError, InputError
from heedful.explain.probing.cka import linear_cka
from heedful.explain.probing.similarity import Similarity, minibatches, similarity, twin
from heedful.explain.probing.vision import look
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

PIXELS = images(batch=10, seed=3)


@pytest.fixture(scope="module")
def two() -> Similarity:
    seen: list[int] = []
    found = similarity(
        tiny("vit")[0],
        tiny("dinov2_registers")[0],
        PIXELS.split(5),
        settings={"seed": 3},
        progress=seen.append,
    )
    assert seen == [5, 10]
    return found


def test_it_says_what_was_compared(two: Similarity) -> None:
    assert two.cka.shape == (4, 4)
    assert two.layers[0][0] == "vit.embeddings"
    assert two.models == ("ViTForImageClassification", "Dinov2WithRegistersForImageClassification")
    assert two.images == 10
    assert (two.settings["batches"], two.settings["batch_sizes"], two.settings["seed"]) == (2, [5], 3)
    assert two.versions["torch"] == torch.__version__
    assert two.interval.isinf().all()  # two minibatches say nothing of their spread


def test_every_entry_is_the_cka_of_the_two_outputs() -> None:
    model, other = tiny("clip")[0], load_resnet(device="cpu", dtype=torch.float32)
    pixels = images(32, 32, batch=6)
    found = similarity(model, other, [pixels])
    with torch.no_grad():
        one, two = look(model, pixels), look(other, pixels)
    assert found.layers == (tuple(one), tuple(two))
    for row, first in enumerate(one.values()):
        for column, second in enumerate(two.values()):
            assert float(found.cka[row, column]) == pytest.approx(float(linear_cka(first, second)), abs=1e-6)


def test_a_model_is_like_itself_and_minibatches_agree() -> None:
    model = tiny("vit")[0]
    alone = similarity(model, model, PIXELS.split(5))
    torch.testing.assert_close(alone.cka.diagonal(), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(alone.cka, alone.cka.T)
    twice = similarity(model, tiny("vit")[0], PIXELS.split(5))
    torch.testing.assert_close(alone.cka, twice.cka, atol=1e-6, rtol=1e-5)


def test_layers_can_be_chosen_and_each_model_can_have_its_own_pixels() -> None:
    model = tiny("vit")[0]
    batches = [(one, one.flip(-1)) for one in PIXELS.split(5)]
    found = similarity(model, model, batches, first_layers="vit.layers.*", second_layers=["vit.layers.*.mlp"])
    assert found.layers[0] == ("vit.layers.0", "vit.layers.1", "vit.layers.2")
    assert found.layers[1] == ("vit.layers.0.mlp", "vit.layers.1.mlp", "vit.layers.2.mlp")
    mirrored = similarity(model, model, batches)
    assert (mirrored.cka.diagonal() < 0.999).any()


def test_the_nearest_layer_is_the_largest_entry(two: Similarity) -> None:
    for row, (name, nearest, value) in enumerate(two.nearest()):
        assert name == two.layers[0][row]
        assert value == pytest.approx(float(two.cka[row].max()))
        assert float(two.cka[row, two.layers[1].index(nearest)]) == value


def test_it_is_saved_loaded_and_drawn(two: Similarity, tmp_path: Path) -> None:
    two.save(tmp_path / "two.safetensors")
    again = Similarity.load(tmp_path / "two.safetensors")
    assert torch.equal(again.cka, two.cka)
    told = [(each.layers, each.models, each.images, dict(each.versions)) for each in (again, two)]
    assert told[0] == told[1]
    with Image.open(two.plot(tmp_path / "two.png")) as drawn:
        assert drawn.width > 200
    assert two._repr_png_() == (tmp_path / "two.png").read_bytes()
    with pytest.raises(InputError, match="cannot read"):
        Similarity.load(tmp_path / "none.safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot read"):
        Similarity.load(tmp_path / "no.safetensors")


def test_a_layer_that_never_changes_has_no_value_and_is_drawn(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero, self.same = nn.Identity(), nn.Identity()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.same(pixels) + self.zero(pixels * 0 + 0.3)

    found = similarity(Constant().eval(), tiny("vit")[0], [PIXELS], first_layers=["zero", "same"])
    assert found.cka[0].isnan().all()
    assert found.cka[1].isfinite().all()
    found.plot(tmp_path / "constant.png")


def test_the_trained_models_are_more_alike_deep_down_than_their_random_twins() -> None:
    from heedful.emoji.samples_vision import one_subject, pixels

    scenes = pixels(one_subject(range(24), seed=8_999)).split(12)
    judge: Judge = load_judge(device="cpu", dtype=torch.float32)
    resnet = load_resnet(device="cpu", dtype=torch.float32)
    trained = similarity(judge.model, resnet, scenes)
    random = similarity(twin(judge.model), twin(resnet), scenes)
    assert trained.cka[3, 3] > random.cka[3, 3]
    assert random.cka[0, 0] > trained.cka[0, 0]


def test_a_twin_is_the_same_architecture_with_other_weights() -> None:
    model = tiny("vit")[0]
    one, other = twin(model, 0), twin(model, 1)
    assert type(one) is type(model)
    assert not one.training
    names = {name: each.shape for name, each in model.named_parameters()}
    assert {name: each.shape for name, each in one.named_parameters()} == names
    weight = "vit.layers.0.mlp.fc1.weight"
    assert not torch.equal(one.get_parameter(weight), other.get_parameter(weight))
    assert torch.equal(one.get_parameter(weight), twin(model, 0).get_parameter(weight))
    with pytest.raises(InputError, match="no model of transformers"):
        twin(nn.Linear(2, 2))


@given(st.integers(4, 300), st.integers(4, 40))
def test_minibatches_are_even_and_never_too_small(count: int, size: int) -> None:
    items = list(range(count))
    parts = [items[part] for part in minibatches(items, size)]
    assert [one for part in parts for one in part] == items
    lengths = [len(part) for part in parts]
    assert min(lengths) >= 4
    assert max(lengths) - min(lengths) <= 1 or len(parts) == 1
    assert max(lengths) <= max(size, 7)


@pytest.mark.parametrize(("count", "size"), [(1, 32), (3, 4), (10, 3)])
def test_too_few_images_are_refused(count: int, size: int) -> None:
    with pytest.raises(InputError, match=f"got {count} images and minibatches of {size}"):
        minibatches(list(range(count)), size)


def test_other_refusals() -> None:
    model = tiny("vit")[0]
    with pytest.raises(InputError, match="got none"):
        similarity(model, model, [])
    with pytest.raises(InputError, match="got 1"):
        similarity(model, model, [PIXELS[:1]])
    with pytest.raises(InputError, match="the same images, got 5 for the first and 4"):
        similarity(model, model, [(PIXELS[:5], PIXELS[:4])])
    with pytest.raises(CaptureError, match=r"vit\.layers\.9"):
        similarity(model, model, [PIXELS], first_layers="vit.layers.9")


@pytest.mark.gpu
def test_in_float16_on_cuda() -> None:
    first, second = load_judge().model, load_resnet()
    pixels = images(64, 64, batch=16)
    found = similarity(first, second, pixels.split(8))
    assert found.cka.isfinite().all()
    exact = similarity(load_judge(device="cpu").model, load_resnet(device="cpu"), pixels.split(8))
    torch.testing.assert_close(found.cka, exact.cka, atol=0.03, rtol=0)
