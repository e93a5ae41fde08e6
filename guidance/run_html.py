"""Shows a GuidedRun in a notebook: where each guided word looked at last, and what guidance did for it."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from ..pictures import html
from ..pictures.draw import colours
from .results import GuidedRun

_SIDE: Final = 128
_MOST: Final = 8  # images shown


def html_of(run: GuidedRun) -> str:
    """One card an image, the first eight, and how many more there are; all texts are escaped."""
    count = len(run.spans)
    cards = [_card(run, image) for image in range(min(count, _MOST))]
    if count > _MOST:
        cards.append(html.facts({"images not shown": count - _MOST}))
    return "".join(cards)


def _card(run: GuidedRun, image: int) -> str:
    losses = [step.losses[image] for step in run.steps]
    facts = {
        "loss, first": losses[0] if losses else None,
        "loss, last": losses[-1] if losses else None,
        "steps looked at": len(losses),
        "probes": run.image_probes[image] if run.image_probes else None,
        "began anew after steps": run.repeated_steps[image] or None if run.repeated_steps else None,
        "refinements": sum(step.refinements[image] for step in run.steps),
        "scheduler": run.settings.get("scheduler"),
        "guidance scale": run.settings.get("guidance_scale"),
        "seeds": run.settings.get("seeds"),
    }
    prompt = run.prompts[image] if run.prompts else "(embeddings)"
    note = "Where each word looked at the last probe, from 0 (black) to 1 (white)." if run.maps else ""
    return html.card(prompt, _figures(run, image), _table(run, image), html.facts(facts), note=note)


def _figures(run: GuidedRun, image: int) -> str:
    if not run.maps:
        return ""
    pairs = zip(run.spans[image], run.maps[image], strict=True)
    return html.figure_row(
        [
            html.Figure(_tile(heat.clamp(0, 1).numpy()), span.label, f"where {span.label} looked")
            for span, heat in pairs
        ],
        width=_SIDE,
    )


def _tile(heat: np.ndarray) -> Image.Image:
    height, width = heat.shape
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(colours(heat)).resize(size, Image.Resampling.NEAREST)


def _table(run: GuidedRun, image: int) -> str:
    if not run.steps:
        return html.table(["word"], [[span.label] for span in run.spans[image]])
    peaks = zip(run.spans[image], run.word_attention[image], run.attended[image], strict=True)
    rows = [[span.label, peak, "attended" if reached else "weak"] for span, peak, reached in peaks]
    return html.table(["word", "attention", f"aim {run.aim:g}"], rows)
