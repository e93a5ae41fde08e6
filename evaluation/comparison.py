"""One run of everything: the methods that were asked for, then as many candidates as their cost is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ..explain.evaluation.records import Record
from ..explain.evaluation.run import Processes
from ..guidance.results import library_versions
from .best_of import drawn_for
from .errors import EvaluationError
from .figures import COST, SINGLE, Results
from .methods import PLAIN, Method, check_method, plain
from .rows import Evaluation, Watch

MOST_CANDIDATES: Final = 4
"""So many images best-of-N draws of a prompt and seed at most, unless more are asked for."""


def compare(
    evaluation: Evaluation, methods: Sequence[Method], *, most_candidates: int = MOST_CANDIDATES,
    watch: Watch | None = None, processes: Processes | None = None,
) -> Results:  # fmt: skip
    """Draw what the folder does not hold yet, with plain sampling first, and return all rows.

    Args:
        methods: each of another name; plain sampling is added where it is missing.
        most_candidates: best-of-N is given as many candidates as the dearest method costs, up to this many;
            1 leaves it out.
        watch: told of each method as its turn comes.
        processes: as `explain.evaluation.run` takes them.

    Raises:
        EvaluationError: two methods of one name, or none that can draw here.
        InputError: a folder with rows of other settings.
    """
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise EvaluationError(f"each method may be given once, got {', '.join(names)}")
    left_out: dict[str, str] = {}
    usable = [plain()]
    for method in methods:
        try:
            check_method(method, evaluation.pipe)
        except EvaluationError as problem:
            left_out[method.name] = str(problem)
        else:
            usable += [method] if method.name != PLAIN else []

    def drawn(method: Method) -> list[Record]:
        return evaluation.records(method, watch(method.about) if watch else None, processes)

    rows = {method.name: drawn(method) for method in usable}
    about = {method.name: method.about for method in usable}
    rows = {name: image_costs(own, rows[PLAIN]) for name, own in rows.items()}
    results = Results(
        evaluation.model, rows, about, _told(evaluation), evaluation.counted, left_out,
        _notes(evaluation, usable),
    )  # fmt: skip
    extras = _extras(results, most_candidates)
    return replace(
        results,
        rows=rows | {method.name: drawn(method) for method in extras},
        about=about | {method.name: method.about for method in extras},
        notes=(*results.notes, *_unmatched(results, most_candidates)),
    )


def image_costs(rows: Sequence[Record], plain: Sequence[Record]) -> list[Record]:
    """The rows of a method with each image's own cost, where the images of a batch were counted together.

    An image that began anew costs its repeated steps as plain sampling does. What the method adds besides is
    divided by how often guidance probed each image; a probe costs the same whatever the image. The mean over
    all rows stays. Rows that do not say how often, or of which none was counted, are returned as they are.
    """
    probes: list[Any] = [row.get("probes") for row in rows]
    costs = [row["forwards"] for row in (*rows, *plain)]
    if None in probes or None in costs or not any(probes):
        return list(rows)
    alone = [
        one["forwards"] * (1 + (row.get("repeated") or 0.0)) for row, one in zip(rows, plain, strict=True)
    ]
    price = (sum(row["forwards"] for row in rows) - sum(alone)) / sum(probes)
    return [{**row, "forwards": own + price * row["probes"]} for row, own in zip(rows, alone, strict=True)]


def _extras(results: Results, most: int) -> list[Method]:
    """The candidates that best-of-N needs besides plain sampling's own images."""
    wanted = min(candidates_for(results), most) if most > 1 else 1
    return [plain(number) for number in range(1, wanted)]


def _unmatched(results: Results, most: int) -> tuple[str, ...]:
    if most == 1:
        return ("Best-of-N was not drawn.",)
    wanted = candidates_for(results)
    if wanted <= most:
        return ()
    return (
        f"The dearest method costs as much as {wanted} plain images; best-of-N was drawn up to {most}, and "
        "methods that cost more have no figure beside it.",
    )


def candidates_for(results: Results) -> int:
    """How many candidates the dearest method is worth, in whichever group; 1 where nothing costs more."""
    groups = [results.of(group) for group in results.groups if group != SINGLE]
    ratios = [float(own.values(name, COST).mean()) for own in groups for name in own.methods]
    return drawn_for(max(ratios, default=1.0))


def _told(evaluation: Evaluation) -> dict[str, str | int | float | bool]:
    settings = evaluation.settings(plain())
    settings.pop("method")
    found = {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in settings.items()
    }
    return {**found, "seeds a prompt": evaluation.seeds, **library_versions()}


def _notes(evaluation: Evaluation, methods: Sequence[Method]) -> tuple[str, ...]:
    found = []
    if evaluation.counted and evaluation.batch_size > 1:
        found.append(
            f"Operations are counted over batches of up to {evaluation.batch_size} images, and what guidance "
            "adds, beside the steps that it repeated for an image, is divided by how often it probed each; a "
            "batch size of 1 counts each image by itself."
        )
    if evaluation.checker is None:
        found.append("No model for check was given: best-of-N is chosen by what judges it, the upper bound.")
    comparing = [method.name for method in methods if method.compares]
    if comparing and any(len(prompt.labels) == 1 for prompt in evaluation.prompts):
        found.append(
            f"Words are compared by {', '.join(comparing)}: prompts of one subject it draws without help."
        )
    return tuple(found)
