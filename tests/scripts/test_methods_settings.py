"""What `heedful explain-methods` may be asked for; its lists are those of the rooms they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from heedful.explain import METHODS
from heedful.explain.evaluation.choice import ABLATIONS as MADE
from heedful.scripts import methods_settings as asked
from heedful.scripts.methods_settings import MethodsSettings, parse_list
from heedful.scripts.settings import UsageError

SOME = Path("photos")


def test_the_lists_are_those_of_the_rooms() -> None:
    from heedful.scripts.studies import all_builders

    assert set(asked.METHODS) == set(METHODS)
    assert tuple(each.name for each in MADE) == asked.ABLATIONS
    assert set(asked.STUDIES) == set(all_builders())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"studies": ("clasifier",)}, 'no study "clasifier"; did you mean "classifier"'),
        ({"studies": ("clip", "clip")}, '--study "clip" is given twice'),
        ({"methods": ("rollouts",)}, 'no method "rollouts"; did you mean "rollout"'),
        ({"protocols": ("speed",)}, 'no protocol "speed"; choose of perturbation'),
        ({"dtype": "int8"}, '--dtype must be one of float32, float16, bfloat16; got "int8"'),
        ({"seed": -1}, "--seed must lie in"),
        ({"count": 0}, "--count must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"template": "a cat"}, "--template needs {}"),
        ({"images": SOME, "imagenet_seg": SOME}, "give one of both"),
        ({"images": SOME, "studies": ("clip",)}, "--study brings data of its own"),
        ({"imagenet_seg": SOME, "masks": SOME}, "brings its own masks"),
        ({"masks": SOME}, "--masks goes with --images"),
        ({"labels": SOME}, "--labels goes with --images"),
        ({"model": "vit"}, "--model goes with --images or --imagenet-seg"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("{}", r"\{\}")):
        MethodsSettings(**given)


def test_names_are_repeated_or_between_commas() -> None:
    assert parse_list(["generic, libra", "generic, no normalisation"]) == (
        "generic", "libra", "generic, no normalisation",
    )  # fmt: skip
    assert parse_list([]) == ()


def test_protocols_are_beginnings_of_tests() -> None:
    some = MethodsSettings(protocols=("perturbation", "blank-out"))
    every, own = MethodsSettings(), MethodsSettings(images=SOME)

    assert [some.measures(name) for name in ("perturbation-text", "blank-out", "pointing")] == [1, 1, 0]
    assert every.measures("masked-attack")
    assert [own.measures(name) for name in ("pointing", "masked-attack")] == [1, 0]
    assert MethodsSettings(images=SOME, protocols=("all",)).measures("masked-attack")


def test_what_is_done_without_a_word() -> None:
    assert MethodsSettings().chosen == ("classifier",)
    assert MethodsSettings().quick
    assert not MethodsSettings(studies=("classifier",)).quick
    assert MethodsSettings(images=SOME).chosen == ()


def test_mistakes_answer_without_the_heavy_libraries() -> None:
    code = (
        "import sys, heedful.scripts.cli_explain_methods\n"
        "print(*{'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
