"""What a pipeline's call says of itself, so that guiding and recording read it alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import GuidanceError


def prompts_of(
    arguments: Mapping[str, Any], embedded: str | Sequence[str] | None = None
) -> tuple[list[str] | None, int]:
    """The prompts of a call and their number; None for the prompts where only embeddings were given.

    `embedded` is the text of the embeddings, where it is known.

    Raises:
        GuidanceError: neither prompts nor embeddings, or texts for another number of embeddings.
    """
    prompt: Any = arguments.get("prompt")
    embeds: Any = arguments.get("prompt_embeds")
    if prompt is None and embeds is None:
        raise GuidanceError("there is nothing to guide: give the pipeline a prompt")
    if prompt is None and embedded is None:
        return None, len(embeds)
    given: Any = embedded if prompt is None else prompt
    prompts = [given] if isinstance(given, str) else list(given)
    if prompt is None and len(prompts) == 1:
        prompts *= len(embeds)
    if prompt is None and len(prompts) != len(embeds):
        raise GuidanceError(f"prompt has {len(prompts)} texts for {len(embeds)} prompt_embeds; give one each")
    return prompts, len(prompts)


def repeated(items: Sequence[Any], times: int) -> list[Any]:
    """Each item so many times in a row, as pipelines lay out several images a prompt."""
    return [item for item in items for _ in range(times)]


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
