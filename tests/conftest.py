"""What every test stands on: no network, few threads, shapes checked, a tiny pipeline at hand."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # the models are tiny: threads would wait for each other more than they work
)

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports heedful: from here on its annotated shapes and types are checked at every call
# (a float may be given as an int, as type checkers have it).
install_import_hook("heedful", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
# Machines are shared and slow at times: no deadline. The same examples each run: a red test stays red.
settings.register_profile("heedful", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("heedful")
torch.set_num_threads(1)  # on tensors this small a second thread costs more than it brings

from diffusers import StableDiffusionPipeline  # noqa: E402
from tiny import tiny_pipeline as build_tiny_pipeline  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none, saying so."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def tiny_pipeline() -> StableDiffusionPipeline:
    """A fresh Stable Diffusion with random weights: 256x256 pixels, 3 steps in a third of a second."""
    return build_tiny_pipeline()
