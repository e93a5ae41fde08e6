"""Shows an AttentionRecord in a notebook: each word's map, and its numbers, in one box an image."""

from __future__ import annotations

from typing import Final

from PIL import Image

from ..pictures import html
from .records import AttentionRecord

_SIDE: Final = 128
_MOST: Final = 8  # images shown


def html_of(record: AttentionRecord) -> str:
    """One card an image, the first eight, and how many more there are; all texts are escaped."""
    count = len(record.spans)
    cards = [_card(record, image) for image in range(min(count, _MOST))]
    if count > _MOST:
        cards.append(html.facts({"images not shown": count - _MOST}))
    return "".join(cards)


def _card(record: AttentionRecord, image: int) -> str:
    prompt = record.prompts[image] if record.prompts else "(embeddings)"
    facts = {
        "steps": len(record.steps),
        "layers": len(record.layers),
        "grid": "x".join(map(str, record.maps[image].shape[1:])),
        "scheduler": record.settings.get("scheduler"),
        "guidance scale": record.settings.get("guidance_scale"),
    }
    note = "Where each word looks: the mean over steps, layers and heads, brightest at the word's own peak."
    return html.card(prompt, _figures(record, image), _table(record, image), html.facts(facts), note=note)


def _figures(record: AttentionRecord, image: int) -> str:
    return html.figure_row(
        [
            html.Figure(_tile(record, image, span.label), span.label, f"where {span.label} looks")
            for span in record.spans[image]
        ],
        width=_SIDE,
    )


def _tile(record: AttentionRecord, image: int, word: str) -> Image.Image:
    height, width = record.maps[image].shape[1:]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return record.overlay(Image.new("RGB", size), word, image, alpha=1.0)


def _table(record: AttentionRecord, image: int) -> str:
    columns = ("word", "peak", "mass", "entropy (bits)", "row", "column", "spread", "strongest rival")
    rows = []
    for label, own in record.measures(image).items():
        thief = record.thief(label, image, specials=False)
        rival = f"{thief.token.label} {thief.share:.3g}" if thief else None
        rows.append((label, own.peak, own.mass, own.entropy, *own.centre, own.spread, rival))
    return html.table(columns, rows)
