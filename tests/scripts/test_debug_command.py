"""`heedful debug` before its page is served: what it refuses, and what it gives the page to work with."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from heedful.debug import page_server
from heedful.debug.errors import PageError
from heedful.debug.page_services import Question
from heedful.emoji.models import model_folder
from heedful.explain import Relevance
from heedful.scripts import debug
from PIL import Image
from typer.testing import Result

Command = Callable[..., Result]
CPU = debug.DebugSettings(device="cpu")


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_without_gradio_it_says_what_to_install(heedful: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server.importlib.util, "find_spec", lambda _: None)
    result = heedful("debug", "--no-browser", "--device", "cpu")

    assert result.exit_code == 2
    assert "pip install 'heedful[app]'" in result.stderr


def test_a_port_that_is_taken_is_named(heedful: Command) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = heedful("debug", "--no-browser", "--device", "cpu", "--port", port)

    assert result.exit_code == 2
    assert f"cannot listen on port {port}" in result.stderr
    assert "--port 0" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--dtype", "float8", "float16"), ("--device", "toaster", "toaster"), ("--port", "70000", "65535")],
)
def test_mistakes_in_the_arguments_are_told(heedful: Command, option: str, value: str, told: str) -> None:
    result = heedful("debug", "--no-browser", option, value)

    assert result.exit_code == 2
    assert told in result.stderr


def test_the_socket_is_this_machines_alone() -> None:
    with page_server.listen(0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_gradio_is_kept_quiet_and_its_folder_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    with page_server.quiet_gradio():
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert folder.stat().st_mode & 0o077 == 0

    assert not folder.exists()
    assert (os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_ANALYTICS_ENABLED"]) == ("before", "True")


def test_what_cannot_be_loaded_is_an_error_that_the_page_can_show() -> None:
    with pytest.raises(PageError, match='cannot load the model "nowhere/at-all"'):
        debug._loader(CPU)("nowhere/at-all")


def test_questions_are_answered_as_heedful_explain_does(scene: Image.Image) -> None:
    answer = debug._explainer(CPU)(Question(scene.convert("L"), texts=("a cat", "a frog"), method="rollout"))

    assert isinstance(answer.relevance, Relevance)
    assert answer.relevance.targets == ("a cat", "a frog")
    assert answer.relevance.method == "rollout"
    assert answer.shown.size == (64, 64)
    classifier = str(model_folder("classifier"))
    with pytest.raises(PageError, match="takes no text"):
        debug._explainer(CPU)(Question(scene, texts=("a cat",), model=classifier))


def test_a_point_asks_the_patch_under_it(scene: Image.Image) -> None:
    ask = debug._explainer(CPU)
    points = [(0.01, 0.01), (0.1, 0.1), (0.9, 0.1)]
    corner, near, far = (
        ask(Question(scene, method="raw_attention", point=point, layer=0)).relevance for point in points
    )

    assert corner.image is not None
    assert near.image is not None
    assert far.image is not None
    torch.testing.assert_close(corner.image, near.image)
    assert not torch.allclose(corner.image, far.image)
    assert corner.settings["query"] == 1
    assert far.settings["query"] == corner.image.shape[2]


@pytest.mark.gpu
def test_on_cuda_the_page_works_in_float16(scene: Image.Image) -> None:
    settings = debug.DebugSettings()
    pipe = debug._loader(settings)(None)
    answer = debug._explainer(settings)(Question(scene, labels=("frog",)))

    assert (pipe.dtype, pipe.device.type) == (torch.float16, "cuda")
    assert answer.relevance.image is not None
    assert answer.relevance.image.isfinite().all()
