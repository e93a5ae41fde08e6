"""How an adapter is found: by class, by base class, the latest first, and an error that helps otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from explain_tiny import TEXT, VISION, names, tiny
from heedful.explain.errors import ExplainError, UnknownFamilyError
from heedful.explain.models import families, family_of, register, registry
from torch import nn

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_families", list(registry._families))


@pytest.mark.parametrize("name", names())
def test_every_tiny_model_has_a_family_and_its_inputs_pass(name: str) -> None:
    model, inputs = tiny(name)

    family = family_of(model)

    assert type(model).__name__ in family.classes
    family.check(model, inputs)
    modules = dict(model.named_modules())
    assert all(site.module in modules for site in family.sites(model))
    assert set(family.wiring(model).sites) <= set(family.sites(model))
    streams = set(family.wiring(model).streams)
    assert set(family.embeddings(model)) <= streams
    assert set(family.layers(model)) <= streams
    named = [
        *family.embeddings(model).values(),
        *family.watches(model),
        *sum(family.layers(model).values(), ()),
    ]
    assert all(module in modules for module in named)


def test_a_subclass_of_a_known_model_is_taken() -> None:
    class Mine(transformers.CLIPModel):
        pass

    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)

    assert family_of(Mine(config)).name == "CLIP"


@pytest.mark.usefixtures("_registered")
def test_the_latest_adapter_that_takes_a_class_wins() -> None:
    model, _ = tiny("clip")

    class Other(type(family_of(model))):  # type: ignore[misc]
        name = "other"

    other = register(Other())

    assert family_of(model) is other
    assert families()[0] is other


def test_families_have_names_of_their_own_and_classes_that_exist() -> None:
    known = families()

    assert len({family.name for family in known}) == len(known)
    for family in known:
        assert family.classes
        assert all(issubclass(getattr(transformers, name), nn.Module) for name in family.classes)


@pytest.mark.parametrize("kind", [nn.Linear, transformers.GPT2Model])
def test_an_unknown_model_is_refused_with_the_families_and_the_way_out(kind: type[nn.Module]) -> None:
    model = kind(2, 2) if kind is nn.Linear else kind(transformers.GPT2Config(n_layer=1, n_embd=4, n_head=1))

    with pytest.raises(UnknownFamilyError, match=rf"no adapter takes a {kind.__name__}\.") as caught:
        family_of(model)

    message = str(caught.value)
    assert isinstance(caught.value, ExplainError)
    assert all(family.name in message and family.classes[0] in message for family in families())
    assert "docs/adapters.md" in message
    assert (ROOT / "docs" / "adapters.md").is_file()


def test_the_adapters_load_no_model_code() -> None:
    code = (
        "import sys, heedful.explain.models\n"
        "print(*[name for name in sys.modules if name.startswith('transformers.models.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )

    assert done.stdout.split() == []
