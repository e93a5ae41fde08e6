"""What a guided run leaves behind: a frozen value with losses, maps and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .losses import name_of
from .tokens import Span


@dataclass(frozen=True)
class StepLog:
    """One guided step: attention was probed, or watched in the pipeline's own pass; tuples are by image.

    Attributes:
        index: the denoiser's call, counted from 0; `timestep` and `fraction` (0 to 1) of the trajectory say
            the same.
        losses: the loss before the step's last move, 0 to 1 for Attend-and-Excite.
        word_attention: the peak of each span's map, 0 to 1.
        refinements: number of refinement moves.
        relative_shifts: norm of the step's whole shift over the norm of the latents that may be moved.
        skipped: why an image was not moved although it should have been (a gradient that was not finite), or
            None.
        norm_ratios, channel_drifts, levels: how the shift changed what the latents are like, see
            `limits.Drift`: 1, 0 and about 1 is where the scheduler would have them.
        halvings: how often a move was halved because the loss had risen (see `limits.Limits`).
    """

    index: int
    timestep: float
    fraction: float
    losses: tuple[float, ...]
    word_attention: tuple[tuple[float, ...], ...]
    refinements: tuple[int, ...]
    relative_shifts: tuple[float, ...]
    skipped: str | None = None
    norm_ratios: tuple[float, ...] = ()
    channel_drifts: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    halvings: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class GuidedRun:
    """The record of one guided call of a pipeline.

    Attributes:
        prompts: one an image (prompts repeated for `num_images_per_prompt`); empty if only embeddings were
            known.
        spans: the spans that were guided, a tuple an image.
        steps: the guided steps, and those at which the pipeline's own pass was only watched.
        maps: for each image the last probe's map of each span, 0 to 1, on the CPU; empty if nothing was
            probed.
        probes: number of probes, counted an image each.
        aim: the attention peak from which on a word counts as attended: the schedule's last threshold, or .8,
            Attend-and-Excite's.
        settings: pipeline, scheduler, layers, objective, steps, guidance scale, seeds.
        versions: of heedful and the libraries it stands on.
        control_passes: rows of a batch on which ControlNets were run once more after a nudge, each of several
            ControlNets counted.
        image_probes: for each image, how often it was probed.
        repeated_steps: for each image, how many steps were given up when it began anew; each costs a step of
            plain sampling, and is not among `steps`.
        left_alone: for each image, at how many of these steps it was not probed, since its words had
            attention enough.
    """

    prompts: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    steps: tuple[StepLog, ...]
    maps: tuple[Float[Tensor, "_span height width"], ...]
    probes: int
    aim: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    control_passes: int = 0
    left_alone: tuple[int, ...] = ()
    image_probes: tuple[int, ...] = ()
    repeated_steps: tuple[int, ...] = ()

    @property
    def word_attention(self) -> tuple[tuple[float, ...], ...]:
        """The attention peak of each image's spans at the last probe, 0 to 1; empty if nothing was probed."""
        return self.steps[-1].word_attention if self.steps else ()

    @property
    def total_shifts(self) -> tuple[float, ...]:
        """For each image the relative shifts of all steps, added up; empty if nothing was probed."""
        shifts = [step.relative_shifts for step in self.steps]
        return tuple(sum(image) for image in zip(*shifts, strict=True))

    @property
    def attended(self) -> tuple[tuple[bool, ...], ...]:
        """For each image and span: did its attention reach the aim?"""
        return tuple(tuple(peak >= self.aim for peak in image) for image in self.word_attention)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, in types that JSON knows."""
        return {
            "prompts": list(self.prompts),
            "spans": [[asdict(span) for span in image] for image in self.spans],
            "steps": [asdict(step) for step in self.steps],
            "probes": self.probes,
            "control_passes": self.control_passes,
            "left_alone": list(self.left_alone),
            "image_probes": list(self.image_probes),
            "repeated_steps": list(self.repeated_steps),
            "aim": self.aim,
            "word_attention": [list(image) for image in self.word_attention],
            "attended": [list(image) for image in self.attended],
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }

    def _repr_html_(self) -> str:
        from .run_html import html_of

        return html_of(self)


def described(value: Any) -> Any:
    """A setting in types that JSON knows: a frozen value by its name and fields, a function by its name."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"name": type(value).__name__, **own}
    if isinstance(value, Mapping):
        return {name_of(key) if callable(key) else key: described(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [described(one) for one in value]
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return name_of(value) if callable(value) else value


def library_versions() -> dict[str, str]:
    """The versions of heedful and of the libraries whose numerics a run depends on."""
    found = {}
    for name in ("heedful", "torch", "diffusers", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
