"""The ways of drawing whose cost is compared: plain, guided, recorded, and diffusers' own pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from ..guidance import AttendAndExcite, guide, record
from ..guidance.layers import Layer
from .speed_shapes import PROMPT, WORDS, Shape, at_home, call_arguments, token_positions
from .speed_weightless import Gaze, again_fused, heeding, neglecting

RIVAL_MOVES: Final = 20
"""How often diffusers' pipeline refines where its threshold is never reached."""


@dataclass(frozen=True)
class Load:
    """How much is drawn.

    Attributes:
        steps: denoising steps; the first half of them is guided.
        batch: images at once.
        moves: refinement moves in the ways that refine, all in the first step.
    """

    steps: int
    batch: int = 1
    moves: int = 2


@dataclass(frozen=True)
class Way:
    """One way of drawing.

    Attributes:
        about: what it is, for a table.
        draw: draws with a pipeline of the shape.
        gaze: what attention a denoiser without weights is said to have.
        rival: it is diffusers' own pipeline.
        divided: when it is timed, one more run tells its parts: each step, or each guided one, is alike.
        moves: how many refinement moves it makes of those that the load asks for.
        counted_only: it depends on what attention shows, which random weights do not decide.
        last: the number of guided steps of so many.
    """

    about: str
    draw: Callable[[Shape, Any, Load], None]
    gaze: Callable[[], Gaze] = lambda: neglecting
    rival: bool = False
    divided: bool = False
    moves: Callable[[Load], int] = lambda load: 0
    counted_only: bool = False
    last: Callable[[int], int] = lambda steps: steps // 2


def plain(shape: Shape, pipe: Any, load: Load) -> None:
    """The pipeline as it is."""
    pipe(**call_arguments(shape, load.steps, load.batch, pipe))


def guided(shape: Shape, pipe: Any, load: Load) -> None:
    """A probe in each step of the first half, and one nudge."""
    _within(guide(pipe, _paper(load), prompt=_prompts(load)), shape, pipe, load)


def guided_down(shape: Shape, pipe: Any, load: Load) -> None:
    """The same, where no layer of the up blocks is read, so that probes end before these."""
    within = guide(pipe, _paper(load), prompt=_prompts(load), layers=_not_up)
    _within(within, shape, pipe, load)


def guided_again(shape: Shape, pipe: Any, load: Load) -> None:
    """Guided on little memory: what a probe does not read is run again in its backward."""
    again = again_fused if pipe.unet.device.type == "meta" else None
    pipe.unet.enable_gradient_checkpointing(again)
    try:
        guided(shape, pipe, load)
    finally:
        pipe.unet.disable_gradient_checkpointing()


def refined(shape: Shape, pipe: Any, load: Load) -> None:
    """Guided, and in the first step so many refinement moves besides."""
    wanted = replace(_paper(load, {0: 1.0}), max_refinements=load.moves)
    _within(guide(pipe, wanted, prompt=_prompts(load)), shape, pipe, load)


def heeded(shape: Shape, pipe: Any, load: Load) -> None:
    """The default, at an image all of whose words have attention."""
    _within(guide(pipe, _default(), prompt=_prompts(load)), shape, pipe, load)


def recorded(shape: Shape, pipe: Any, load: Load) -> None:
    """Recording all layers of the pipeline's own pass."""
    _within(record(pipe, prompt=_prompts(load)), shape, pipe, load)


def rival(shape: Shape, pipe: Any, load: Load) -> None:
    """diffusers' deprecated pipeline, with the arguments of `guided`."""
    _rival(shape, pipe, load, {})


def rival_refined(shape: Shape, pipe: Any, load: Load) -> None:
    """The same, with refinement at the first step, which makes all the moves that it may."""
    _rival(shape, pipe, load, {0: 1.0})


WAYS: Final[Mapping[str, Way]] = {
    "plain": Way("plain sampling", plain),
    "guided": Way("guided, no refinement", guided, divided=True),
    "guided-down": Way("guided, no refinement, reading no layer of the up blocks", guided_down, divided=True),
    "guided-checkpointed": Way(
        "guided, no refinement, gradient checkpointing on", guided_again, divided=True
    ),
    "refined": Way("guided, with refinement", refined, moves=lambda load: load.moves),
    "heeded": Way(
        "the default on its own schedule, all words heeded from the first step on",
        heeded,
        gaze=lambda: heeding(token_positions()),
        counted_only=True,
        last=lambda steps: _default().schedule.last_restart(steps),
    ),
    "recorded": Way("plain, all layers recorded", recorded, divided=True),
    "diffusers": Way("diffusers' Attend-and-Excite, no refinement", rival, rival=True),
    "diffusers-refined": Way(
        "diffusers' Attend-and-Excite, with refinement",
        rival_refined,
        rival=True,
        moves=lambda load: RIVAL_MOVES,
    ),
}
"""By name."""


def ways_for(shape: Shape, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Those of the named ways, or of all, in which something of this shape can be drawn."""
    return tuple(name for name in names or WAYS if shape.rival or not WAYS[name].rival)


def _within(block: AbstractContextManager[Any], shape: Shape, pipe: Any, load: Load) -> None:
    with block:
        plain(shape, pipe, load)


def _rival(shape: Shape, pipe: Any, load: Load, thresholds: Mapping[int, float]) -> None:
    before = pipe.unet.attn_processors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _deprecated(pipe)
        try:
            theirs(
                prompt=None,
                token_indices=[token_positions()] * load.batch,
                thresholds=dict(thresholds),
                max_iter_to_alter=load.steps // 2,
                attn_res=_resolution(shape),
                **call_arguments(shape, load.steps, load.batch, pipe),
            )
        finally:  # it puts them back itself, but not when it fails
            pipe.unet.set_attn_processor(before)


def _deprecated(pipe: Any) -> Any:
    from diffusers import StableDiffusionAttendAndExcitePipeline as Deprecated

    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")
    parts = {name: getattr(pipe, name) for name in names}
    theirs = at_home(Deprecated, str(pipe._execution_device))(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def _resolution(shape: Shape) -> tuple[int, int]:
    side = int(shape.denoiser["sample_size"]) // 4
    return side, side


def _paper(load: Load, thresholds: Mapping[int, float] | None = None) -> AttendAndExcite:
    return AttendAndExcite.paper(
        words=list(WORDS), thresholds=thresholds or {}, max_iter_to_alter=load.steps // 2
    )


def _default() -> AttendAndExcite:
    return AttendAndExcite(words=list(WORDS))


def _prompts(load: Load) -> list[str]:
    return [PROMPT] * load.batch


def _not_up(layer: Layer) -> bool:
    return layer.level == _QUARTER and not layer.name.startswith("up_blocks")


_QUARTER: Final = 2
"""Layers on a quarter of the latents' sides, which guidance reads by default, halve twice."""
