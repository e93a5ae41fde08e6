"""What the page shows of an attempt, as HTML: words, images, evidence, losses, history, comparison.

Every text goes through a template that escapes it, wherever it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

from jaxtyping import Float
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from ..explain import Relevance
from ..explain.picture import readable
from ..guidance import Span
from ..pictures import overlay
from ..pictures.draw import scaled
from ..pictures.html import cell_text, data_uri, shown
from .attempt import Attempt, Drawn
from .charts import Series, line_chart
from .page_jobs import Progress
from .page_sessions import Entry, Session

TEMPLATES: Final = Path(__file__).with_name("templates")
SMALLEST, LARGEST, THUMB = 384, 768, 72
MARKS: Final = {"heeded": "✓", "neglected": "✗", "unsure": "?"}


@cache
def macros() -> Any:
    """The macros of `templates/page.html`, which escape every text."""
    world = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.filters["cell"] = lambda value: Markup(shown(cell_text(value)))
    world.filters["shown"] = lambda value: Markup(shown(value))
    world.globals["marks"] = MARKS
    return world.get_template("page.html").module


def progress(told: Progress) -> str:
    """A bar with what is being done; the queue, where other jobs come first."""
    return str(macros().progress(told))


def notice(text: str, kind: str = "plain") -> str:
    """One line for the person: of kind "plain", "good" or "bad"."""
    return str(macros().notice(text, kind))


def held(attempt: Attempt, word: str | None) -> str | None:
    """The word, if this attempt's prompt has it."""
    return word if word in [span.label for span in attempt.guided.record.spans[0]] else None


def word_at(attempt: Attempt, place: int) -> str | None:
    """The label of a word by its place among the buttons; None for the button before the first."""
    spans = attempt.guided.record.spans[0]
    return spans[place].label if 0 <= place < len(spans) else None


def words(attempt: Attempt, chosen: str | None) -> str:
    """The prompt's words as buttons, each with its verdict in the guided image."""
    found = []
    for span in attempt.guided.record.spans[0]:
        guided = _guided(attempt.guided, span)
        verdict = guided and _verdict(attempt.guided, guided)
        found.append(
            {
                "label": span.label,
                "text": span.text,
                "place": span.occurrence,
                "guided": guided is not None,
                "verdict": verdict and verdict.verdict,
            }
        )
    return str(macros().words(found, chosen))


def pair(attempt: Attempt, word: str | None, step: int | None) -> str:
    """Plain beside guided, bare or with a word's attention at one step or on average over all."""
    cells = [_cell(attempt, drawn, word, step) for drawn in (attempt.plain, attempt.guided)]
    return str(macros().pair(cells, word, _moment(attempt, step)))


def evidence(attempt: Attempt, word: str | None) -> str:
    """A row a guided word: attention, the check's verdict, the judge's; and the chosen word's relevance."""
    both = (attempt.plain, attempt.guided)
    rows = [(span.label, [_outcome(one, span.label) for one in both]) for span in attempt.guided.spans]
    maps = [one for drawn in both for one in _relevances(drawn, word)]
    checked = attempt.guided.verdict is not None
    return str(macros().evidence(rows, maps, word, checked))


def losses(attempt: Attempt, step: int | None) -> str:
    """The loss of both images at each step that was probed, as a drawing."""
    series = [
        Series(
            one.kind, tuple(log.index for log in one.run.steps), tuple(log.losses[0] for log in one.run.steps)
        )
        for one in (attempt.plain, attempt.guided)
    ]
    chart = line_chart("loss", series, steps=steps_of(attempt), least_top=1.0)
    across = None
    if chart is not None and step is not None:
        across = chart.left + (chart.right - chart.left) * step / max(steps_of(attempt) - 1, 1)
    return str(macros().losses(chart, across))


def history(session: Session) -> str:
    """The session's attempts, the latest first; each is a button that shows it again."""
    cards = [
        {
            "number": entry.number,
            "prompt": entry.attempt.settings.prompt,
            "note": described(entry.attempt),
            "images": [_thumb(one) for one in (entry.attempt.plain, entry.attempt.guided)],
            "marks": [
                {"word": span.label, "verdict": _outcome(entry.attempt.guided, span.label)["verdict"]}
                for span in entry.attempt.guided.spans
            ],
        }
        for entry in reversed(session.history)
    ]
    return str(macros().history(cards, session.shown, session.forgotten))


def comparison(first: Entry, second: Entry, word: str | None) -> str:
    """Two attempts beside each other: what differs in their settings, images, verdicts."""
    one, two = (asdict(entry.attempt.settings) for entry in (first, second))
    changed = [(name.replace("_", " "), one[name], two[name]) for name in one if one[name] != two[name]]
    images = [
        (
            entry.number,
            [_cell(entry.attempt, drawn, held(entry.attempt, word), None) for drawn in _both(entry)],
        )
        for entry in (first, second)
    ]
    labels = dict.fromkeys(span.label for entry in (first, second) for span in entry.attempt.guided.spans)
    rows = [
        (label, [_outcome(drawn, label) for e in (first, second) for drawn in _both(e)]) for label in labels
    ]
    return str(macros().comparison(first.number, second.number, changed, images, rows))


def downloads(session: Session) -> str:
    """Links that make the report of the shown attempt, and of all attempts."""
    return str(macros().downloads(session.key, session.shown, len(session.history)))


def picture(image: Image.Image, grid: tuple[int, int], cursor: tuple[int, int] | None) -> str:
    """An image whose patches can be clicked; a (rows, columns) grid, one patch framed."""
    src = data_uri(enlarged(image), "webp")
    return str(macros().picture(src, "The image to explain.", grid, cursor or (-1, -1)))


def answers(relevance: Relevance, seen: Image.Image, note: str, *, scored: bool) -> str:
    """Each target's map over the image as the model sees it, its score, and its words by their relevance."""
    image = enlarged(seen)
    found = [
        {
            "src": data_uri(relevance.overlay(image, row), "jpeg"),
            "alt": f"The image, and over it the relevance for “{target}”",
            "target": target if scored else "",
            "score": relevance.scores[row] if scored else None,
            "words": _tinted(relevance, row) if scored else [],
        }
        for row, target in enumerate(relevance.targets[: None if scored else 1])
    ]
    scale = (
        "least to most in each map" if not relevance.signed else "blue speaks against, red and sand for it"
    )
    return str(macros().answers(found, note, {"signed": relevance.signed, "scale": scale}))


def _tinted(relevance: Relevance, row: int) -> list[tuple[str, str]]:
    """The words of a text with their heat, 0 to 1; special tokens are left out, whatever they hold."""
    if relevance.text is None or relevance.words is None:
        return []
    told = [readable(token) for token in relevance.words[row]]
    places = [place for place, word in enumerate(told) if word]
    if not places:
        return []
    heat = scaled(relevance.text[row][places], signed=True).clip(0)
    return [(told[place], f"{value:.2f}") for place, value in zip(places, heat.tolist(), strict=True)]


def described(attempt: Attempt) -> str:
    """The settings that tell attempts at one prompt apart, in a few words."""
    asked = attempt.settings
    parts = [f"seed {asked.seed}", f"{asked.steps} steps", f"strength {asked.strength:g}"]
    parts += [asked.scheduler] if asked.scheduler else []
    return ", ".join(parts)


def steps_of(attempt: Attempt) -> int:
    """How many steps were recorded."""
    return len(attempt.guided.record.steps)


def enlarged(image: Image.Image) -> Image.Image:
    """The image at a size that heat can be drawn on smoothly and that a page needs no more of."""
    longest = max(image.size)
    scale = min(max(longest, SMALLEST), LARGEST) / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _both(entry: Entry) -> tuple[Drawn, Drawn]:
    return entry.attempt.plain, entry.attempt.guided


def _cell(attempt: Attempt, drawn: Drawn, word: str | None, step: int | None) -> dict[str, Any]:
    image = enlarged(drawn.image)
    cell: dict[str, Any] = {"kind": drawn.kind, "word": word, "facts": [], "verdict": None}
    if word is None:
        return {**cell, "src": data_uri(image, "webp")}
    heat = drawn.record.heat_map(word, step=step)
    top = _top(attempt, word, step)
    scaled = heat / top if top > 0 else heat
    verdict = _verdict(drawn, _guided(drawn, _span(drawn, word)))
    cell |= {"facts": _facts(drawn, word, heat), "verdict": verdict and verdict.verdict}
    return {**cell, "src": data_uri(overlay(image, scaled.clamp(0, 1)), "jpeg")}


def _span(drawn: Drawn, word: str) -> Span:
    return next(span for span in drawn.record.spans[0] if span.label == word)


def _top(attempt: Attempt, word: str, step: int | None) -> float:
    """The largest attention of the word in both images, so that their colours can be compared."""
    records = (attempt.plain.record, attempt.guided.record)
    maps = [one.heat_map(word) if step is None else one.by_step(word) for one in records]
    return max(float(found.max()) for found in maps)


def _facts(drawn: Drawn, word: str, heat: Float[Tensor, "height width"]) -> list[str]:
    told = [f"peak {float(heat.max()):.3f}"]
    rival = drawn.record.thief(word, specials=False)
    if rival is not None and rival.share > rival.own:
        told.append(f"where it looks, “{rival.token.label}” holds more: {rival.share:.3f} to {rival.own:.3f}")
    return told


def _moment(attempt: Attempt, step: int | None) -> str:
    steps = attempt.guided.record.steps
    if step is None:
        return f"mean of all {len(steps)} steps"
    return f"step {step + 1} of {len(steps)}, timestep {steps[step]:g}"


def _guided(drawn: Drawn, span: Span) -> Span | None:
    """The guided word or phrase that a word of the prompt belongs to."""
    return next((one for one in drawn.spans if set(span.indices) <= set(one.indices)), None)


def _verdict(drawn: Drawn, guided: Span | None) -> Any:
    """What the check says of a guided word; a second frog it cannot tell from the first."""
    if drawn.verdict is None or guided is None:
        return None
    return next((one for one in drawn.verdict.words if one.word == guided.text), None)


def _outcome(drawn: Drawn, label: str) -> dict[str, Any]:
    guided = next((span for span in drawn.spans if span.label == label), None)
    found: dict[str, Any] = {"there": guided is not None, "attention": None, "attended": None}
    if guided is not None and drawn.run.steps:
        place = drawn.spans.index(guided)
        found["attention"] = drawn.run.word_attention[0][place]
        found["attended"] = drawn.run.attended[0][place]
    verdict = _verdict(drawn, guided)
    found["verdict"] = verdict and verdict.verdict
    found["probability"] = verdict and verdict.probability
    found["reason"] = verdict and verdict.reason
    found["judged"] = (drawn.judged or {}).get(label)
    return found


def _relevances(drawn: Drawn, word: str | None) -> list[Mapping[str, Any]]:
    """The chosen word's relevance maps in one image: by the check's CLIP, and by its classifier."""
    verdict = None if word is None else _verdict(drawn, _guided(drawn, _span(drawn, word)))
    if verdict is None:
        return []
    maps = {"CLIP": verdict.relevance}
    if verdict.classifier is not None:
        maps[f"the classifier ({verdict.classifier.probability:.0%})"] = verdict.classifier.relevance
    image = enlarged(drawn.image)
    return [
        {
            "src": data_uri(_relevance_over(image, heat), "jpeg"),
            "caption": f"{drawn.kind}, relevance for {who}",
        }
        for who, heat in maps.items()
        if heat is not None
    ]


def _relevance_over(image: Image.Image, values: Float[Tensor, "height width"]) -> Image.Image:
    signed = bool((values < 0).any())
    return overlay(image, scaled(values, signed=signed), signed=signed)


def _thumb(drawn: Drawn) -> dict[str, str]:
    small = drawn.image.copy()
    small.thumbnail((THUMB * 2, THUMB * 2))
    return {"kind": drawn.kind, "src": data_uri(small, "webp")}
