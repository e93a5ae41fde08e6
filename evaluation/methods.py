"""The methods that are compared: how each draws a batch of prompts."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch
from PIL.Image import Image

from ..guidance import AttendAndExcite, find_spans, guide
from ..guidance.layers import choose, cross_attention_layers
from ..guidance.results import described
from ..pipelines.choices import own_size
from .errors import EvaluationError
from .objectives import OBJECTIVES, Asked, Maker
from .prompts import Prompt

PLAIN: Final = "plain"
_PAPER_STEPS: Final = 50
"""In steps of so many the paper gives its thresholds and the end of its guidance."""


@dataclass(frozen=True)
class Setting:
    """All that decides an image, but the prompt, the noise and the method.

    Attributes:
        steps: denoising steps.
        guidance_scale: of classifier-free guidance; None for the pipeline's own.
        size: (width, height) in pixels; None for the model's own.
        paper_step: the paper's `scale_factor`, of diffusers' pipeline and of the parity preset.
        paper_refine: whether these two refine at the paper's thresholds.
    """

    steps: int = 50
    guidance_scale: float | None = None
    size: tuple[int, int] | None = None
    paper_step: float = 20.0
    paper_refine: bool = True

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of a pipeline's call."""
        found: dict[str, Any] = {"num_inference_steps": self.steps}
        if self.guidance_scale is not None:
            found["guidance_scale"] = self.guidance_scale
        if self.size is not None:
            found["width"], found["height"] = self.size
        return found

    @property
    def paper(self) -> dict[str, Any]:
        """The paper's arguments, at the same fractions of these steps as in its 50."""
        heights = {0: 0.05, 10: 0.5, 20: 0.8} if self.paper_refine else {}
        thresholds = {point * self.steps // _PAPER_STEPS: height for point, height in heights.items()}
        return {
            "max_iter_to_alter": self.steps // 2,
            "thresholds": thresholds,
            "scale_factor": self.paper_step,
        }


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of a batch, and of each whether guidance did anything to it, and how often it was probed.

    Both are None where nobody can tell. `repeated` is the share of the steps that were made once more
    because an image began anew.
    """

    images: list[Image]
    moved: tuple[bool | None, ...]
    probes: tuple[int | None, ...]
    repeated: tuple[float | None, ...]


Draw = Callable[[Any, Setting, Sequence[Asked], "list[torch.Generator]"], Drawn]
"""Draws a batch: pipeline, setting, prompts, and the noise of each."""


@dataclass(frozen=True, eq=False)
class Method:
    """A way to draw.

    Attributes:
        name: as commands and files have it; letters, digits, hyphens and underscores.
        about: what it is, for readers.
        draw: how it draws a batch.
        candidate: 0 for the noise that all methods share; from 1 on other noise for the same prompts and
            seeds.
        told: its settings, as JSON takes them; rows of other settings are not mixed with these.
        compares: whether it has nothing to do for a prompt of one subject, and draws that without help.
    """

    name: str
    about: str
    draw: Draw
    candidate: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)
    compares: bool = False


@dataclass(frozen=True)
class Wordless:
    """A prompt of which nothing is wanted."""

    text: str
    subjects: tuple[str, ...] = ()


def noise_seed(prompt: Asked, seed: int, candidate: int = 0) -> int:
    """The seed of the noise: another for each prompt, seed and candidate, the same for each method."""
    text = f"{prompt.text}|{seed}" + (f"|{candidate}" if candidate else "")
    return zlib.crc32(text.encode())


def plain(candidate: int = 0) -> Method:
    """Sampling without help; a candidate from 1 on is one that best-of-N draws besides."""
    name = PLAIN if candidate == 0 else f"{PLAIN}-{candidate + 1}"
    about = "plain sampling" if candidate == 0 else f"plain sampling, candidate {candidate + 1}"
    return Method(name, about, _draw_plain, candidate)


def diffusers_pipeline() -> Method:
    """The deprecated Attend-and-Excite pipeline of diffusers, told each subject's last token and the grid."""
    return Method("diffusers", "diffusers' Attend-and-Excite pipeline", _draw_diffusers)


def parity() -> Method:
    """`AttendAndExcite.paper` with the tokens and arguments that diffusers' own gets."""
    return Method("paper", "heedful, parity preset", _draw_paper)


def guided(name: str, about: str, make: Maker) -> Method:
    """Guidance by an objective; its settings are read off the objective for one made-up prompt."""
    example = make([Prompt("a cat and a frog", ("cat", "frog"))])
    compares = "pairs" in example.needs | example.for_start().needs

    def made(prompts: Sequence[Asked]) -> Objective:
        return make([Wordless(one.text) if compares and len(one.subjects) == 1 else one for one in prompts])

    told = {"objective": described(example)}
    return Method(name, about, partial(_draw_guided, made), told=told, compares=compares)


def default() -> Method:
    """`AttendAndExcite` told the subjects' names and nothing else."""
    return guided("default", "heedful, default", OBJECTIVES["default"].make)


def named(name: str) -> Method:
    """A method by its name: one of this file, or guidance by one of `OBJECTIVES`.

    Raises:
        EvaluationError: a name that there is not; the message has those that there are.
    """
    own = {PLAIN: plain, "diffusers": diffusers_pipeline, "paper": parity, "default": default}
    if name in own:
        return own[name]()
    if name not in OBJECTIVES:
        raise EvaluationError(f'no method "{name}"; there are: {", ".join({**own, **OBJECTIVES})}')
    return guided(name, OBJECTIVES[name].about, OBJECTIVES[name].make)


def check_method(method: Method, pipe: Any) -> None:
    """Refuse, before anything is drawn, what a method cannot draw with.

    Raises:
        EvaluationError: diffusers' pipeline on another kind than Stable Diffusion 1 and 2, or the parity
            preset on a transformer.
    """
    if method.draw is _draw_paper and getattr(pipe, "unet", None) is None:
        raise EvaluationError(
            f"the published method is one of UNets; this {type(pipe).__name__} has a transformer"
        )
    if method.draw is _draw_diffusers and type(pipe).__name__ != "StableDiffusionPipeline":
        raise EvaluationError(
            f"diffusers' Attend-and-Excite draws with the parts of a StableDiffusionPipeline; this is a "
            f"{type(pipe).__name__}"
        )


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One an image, so that no image depends on its batch; on the CPU, so that all devices get the same."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw_plain(pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]) -> Drawn:
    images = pipe([prompt.text for prompt in prompts], generator=noise, **setting.arguments).images
    return Drawn(images, (False,) * len(images), (0,) * len(images), (0.0,) * len(images))


def _draw_diffusers(
    pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]
) -> Drawn:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionAttendAndExcitePipeline as Deprecated

        parts = {
            name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        }
        theirs = Deprecated(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        theirs.set_progress_bar_config(disable=True)
        before = pipe.unet.attn_processors
        try:
            found = theirs(
                [prompt.text for prompt in prompts],
                token_indices=_indices(pipe, prompts),
                generator=noise,
                attn_res=_grid(pipe, setting),
                **setting.arguments,
                **setting.paper,
            ).images
        finally:  # it puts them back itself, but not when it fails
            pipe.unet.set_attn_processor(before)
    unknown = (None,) * len(found)
    return Drawn(found, unknown, unknown, unknown)


def _draw_paper(pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]) -> Drawn:
    def make(asked: Sequence[Asked]) -> AttendAndExcite:
        return AttendAndExcite.paper(_indices(pipe, asked), **setting.paper)

    return _draw_guided(make, pipe, setting, prompts, noise)


def _draw_guided(
    make: Maker, pipe: Any, setting: Setting, prompts: Sequence[Asked], noise: list[torch.Generator]
) -> Drawn:
    with guide(pipe, make(prompts)) as session:
        drawn = _draw_plain(pipe, setting, prompts, noise)
    run = session.run
    shifts = run.total_shifts or (0.0,) * len(drawn.images)
    moved = tuple(shift > 0 or steps > 0 for shift, steps in zip(shifts, run.repeated_steps, strict=True))
    repeated = tuple(steps / setting.steps for steps in run.repeated_steps)
    return replace(drawn, moved=moved, probes=run.image_probes, repeated=repeated)


def _indices(pipe: Any, prompts: Sequence[Asked]) -> list[list[int]]:
    """One token a subject, as the paper has it: the last of a word of several."""
    return [
        [span.indices[-1] for span in find_spans(pipe.tokenizer, prompt.text, prompt.subjects)]
        for prompt in prompts
    ]


def _grid(pipe: Any, setting: Setting) -> tuple[int, int]:
    """The (height, width) of the maps that diffusers' pipeline is told to read: those that guidance reads."""
    width, height = setting.size or own_size(pipe)
    latents = (height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    return choose(cross_attention_layers(pipe.unet), latents)[0].grid(latents)


def told(setting: Setting) -> dict[str, Any]:
    """The setting in types that JSON knows; refinement only where there is none, as older rows have it."""
    found = asdict(setting)
    if setting.paper_refine:
        del found["paper_refine"]
    return found
