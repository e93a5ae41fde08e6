"""What a pipeline's call says of itself, so that guiding and recording read it alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import GuidanceError, UnsupportedError

PIPELINES = ("StableDiffusionPipeline",)
"""Class names of the pipelines that `guide` and `record` know (their subclasses included)."""


def refuse_unknown_pipeline(pipe: Any, who: str) -> None:
    """Refuse a pipeline by its class name.

    Raises:
        UnsupportedError: neither its class nor one of its ancestors is in `PIPELINES`.
    """
    if not any(cls.__name__ in PIPELINES for cls in type(pipe).__mro__):
        raise UnsupportedError(f"{who} does not know {type(pipe).__name__}; it knows: {', '.join(PIPELINES)}")


def prompts_of(arguments: Mapping[str, Any]) -> tuple[list[str] | None, int]:
    """The prompts of a call and their number; None for the prompts where only embeddings were given.

    Raises:
        GuidanceError: neither prompts nor embeddings.
    """
    prompt = arguments.get("prompt")
    if prompt is None:
        embeds = arguments.get("prompt_embeds")
        if embeds is None:
            raise GuidanceError("there is nothing to guide: give the pipeline a prompt")
        return None, len(embeds)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    return prompts, len(prompts)


def repeated(items: Sequence[Any], times: int) -> list[Any]:
    """Each item so many times in a row, as pipelines lay out several images a prompt."""
    return [item for item in items for _ in range(times)]


def conditional_rows(pipe: Any, rows: int, images: int) -> slice:
    """Which rows of the denoiser's batch are conditional: the last part, or the only one.

    Raises:
        UnsupportedError: the batch is not made of the parts that the pipeline says it has.
    """
    parts = 2 if pipe.do_classifier_free_guidance else 1
    if rows != parts * images:
        raise UnsupportedError(
            f"the denoiser was called with {rows} rows for {images} images and {parts} part(s); guidance "
            "does not know which of them are conditional"
        )
    return slice(rows - images, rows)


def call_settings(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call that its result depends on, in types that JSON knows."""
    generators = arguments.get("generator")
    generators = (
        generators if isinstance(generators, list) else [generators] if generators is not None else []
    )
    return {
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "num_inference_steps": arguments.get("num_inference_steps"),
        "guidance_scale": arguments.get("guidance_scale"),
        "seeds": [generator.initial_seed() for generator in generators],
    }
