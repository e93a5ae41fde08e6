"""Measures attention flow: its time, how much needs no solver, and whether it says more than one layer does.

`python scripts/measure_flow.py` prints the tables; `--write docs/attention-flow.md` puts them into the page.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import networkx as nx
import numpy as np
import torch
import typer
from heedful.emoji.judge import to_tensor
from heedful.emoji.models import load_classifier, load_clip
from heedful.emoji.world import scenes
from heedful.explain.baselines import gradient_rollout, rollout
from heedful.explain.evidence import Evidence
from heedful.explain.flow import Flow, attention_flow, pair_flows
from heedful.explain.flow_graph import FlowGraph, build
from heedful.explain.models import family_of
from heedful.explain.rules import fuse
from heedful.explain.wiring import Readout, SelfStep, Site, Wiring
from heedful.scripts.marks import write_between_marks
from PIL import Image
from rich.console import Console
from scipy.stats import spearmanr

MARKS: Final = ("<!-- flow: begin -->", "<!-- flow: end -->")
SEED = 41  # scenes that no model was trained, chosen or measured on
Maps = dict[Site, torch.Tensor]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def main(
    images: Annotated[int, typer.Option(help="scenes for each embedded model", min=2)] = 100,
    write: Annotated[Path | None, typer.Option(help="a document with the marks")] = None,
) -> None:
    """Measure attention flow on attention of ViT-B/16's size, and on the embedded models."""
    torch.set_num_threads(1)
    text = "\n\n".join([*_speed(), *_against_networkx(), *_collapse(images)])
    console.print(text, markup=False, soft_wrap=True)
    if write is not None:
        write_between_marks(write, text, MARKS)


def _attention(count: int, layers: int, sharpness: float, *, gradient: bool) -> tuple[Wiring, Maps]:
    """Softmax of normal scores times the sharpness; if asked, times normal gradients, clamped at 0."""
    generator = torch.Generator().manual_seed(0)
    wiring = Wiring(tuple(SelfStep("image", Site(f"layers.{layer}")) for layer in range(layers)))
    maps = {}
    for site in wiring.sites:
        values = torch.softmax(sharpness * torch.randn(1, count, count, generator=generator), -1)
        if gradient:
            values = (values * 1e-3 * torch.randn(values.shape, generator=generator)).clamp(min=0)
        maps[site] = values
    return wiring, maps


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, with the seconds of CPU, helper processes' too, and those on the clock."""
    clock, cpu = time.perf_counter(), _cpu()
    found = work()
    return found, _cpu() - cpu, time.perf_counter() - clock


def _cpu() -> float:
    done = os.times()
    return time.process_time() + done.children_user + done.children_system


def _solved(wiring: Wiring, maps: Maps) -> np.ndarray:
    graph = _graph(wiring, maps)
    return pair_flows(graph, graph.states["image"][-1].start, graph.states["image"][0], closed_form=False)[0]


def _graph(wiring: Wiring, maps: Maps) -> FlowGraph:
    return build(wiring, {site: values[0].double().numpy() for site, values in maps.items()}, residual=0.5)


def _speed() -> Iterator[str]:
    """All tokens of a 12-layer, 197-token model, with the certificate and with the solver alone."""
    rows = []
    weights = torch.zeros(1, 197)
    weights[0, 0] = 1
    for gradient in (False, True):
        for sharpness in (1.0, 4.0) if gradient else (0.5, 1.0, 2.0, 4.0):
            wiring, maps = _attention(197, 12, sharpness, gradient=gradient)
            readout = Readout("image", weights)
            flow, cpu, clock = _timed(partial(attention_flow, wiring, maps, readout))
            solver, difference = "as before", "-"
            if not gradient:  # of the others hardly any is certified
                solved, solver_cpu, solver_clock = _timed(partial(_solved, wiring, maps))
                solver = f"{solver_cpu:.2f} / {solver_clock:.2f} s"
                difference = f"{np.abs(flow.values['image'][0].numpy() - solved).max() / solved.max():.0e}"
            largest = max(float(values.amax(-1).mean()) for values in maps.values()) if not gradient else None
            rows.append(
                (
                    "class-specific" if gradient else "vanilla",
                    f"{sharpness:g}" + (f" (largest weight {largest:.2f})" if largest else ""),
                    f"{100 * float(flow.certified):.0f} %",
                    f"{100 * float(flow.saturated):.0f} %",
                    f"{cpu:.2f} / {clock:.2f} s",
                    solver,
                    difference,
                )
            )
    wiring, maps = _attention(197, 12, 1.0, gradient=False)
    together = partial(attention_flow, wiring, maps, Readout("image", weights), direction="from_inputs")
    flow, cpu, clock = _timed(together)
    shares = f"{100 * float(flow.certified):.0f} %", f"{100 * float(flow.saturated):.0f} %"
    rows.append(("vanilla, inputs together", "1", *shares, f"{cpu:.2f} / {clock:.2f} s", "-", "-"))
    yield (
        "Random attention of ViT-B/16's size (197 tokens, 12 layers, all 197 inputs; residual included): "
        f"seconds of CPU, helper processes' too / on the clock, {os.cpu_count()} cores."
    )
    head = ("flow", "sharpness", "certified", "saturated", "heedful", "solver alone", "largest difference")
    yield _table(head, rows)


def _against_networkx() -> Iterator[str]:
    """The same targets by networkx's edmonds_karp, on few tokens."""
    rows = []
    for count in (10, 20):
        wiring, maps = _attention(count, 12, 1.0, gradient=False)
        graph = _graph(wiring, maps)
        theirs = nx.DiGraph()
        for block in graph.blocks:
            for tail, head, capacity in zip(*block.edges(), strict=True):
                theirs.add_edge(int(tail), int(head), capacity=float(capacity))
        source, inputs = graph.states["image"][-1].start, graph.states["image"][0]
        own, cpu, _ = _timed(partial(pair_flows, graph, source, inputs))
        solver, solver_cpu, _ = _timed(partial(pair_flows, graph, source, inputs, closed_form=False))
        found, slow_cpu, _ = _timed(partial(_by_networkx, theirs, source, count))
        difference = max(np.abs(own[0] - found).max(), np.abs(solver[0] - found).max())
        rows.append(
            (
                f"{count}",
                f"{slow_cpu:.2f} s",
                f"{cpu:.3f} s",
                f"{solver_cpu:.3f} s",
                f"{slow_cpu / cpu:.0f} times",
                f"{difference:.0e}",
            )
        )
    yield "Beside networkx's `edmonds_karp`, 12 layers, all inputs (CPU seconds, one run):"
    head = ("tokens", "networkx", "heedful", "heedful, solver alone", "ratio", "largest difference")
    yield _table(head, rows)


def _by_networkx(graph: nx.DiGraph, source: int, count: int) -> list[float]:
    solver = nx.algorithms.flow.edmonds_karp
    return [nx.maximum_flow_value(graph, source, target, flow_func=solver) for target in range(count)]


def _collapse(images: int) -> Iterator[str]:
    """Whether flow on real attention is more than the first layer's column sum, capped at the source."""
    classifier, (clip, tokenizer) = load_classifier(), load_clip()
    found: dict[str, list[dict[str, float]]] = {}
    for scene in scenes(SEED, images, subjects=1):
        pixels = to_tensor([Image.fromarray(scene.image)])
        _compare("classifier", classifier, {"pixel_values": pixels}, found)
    for scene in scenes(SEED, images):
        words = tokenizer([scene.caption], return_tensors="pt", padding=True)
        inputs = {**words, "pixel_values": to_tensor([Image.fromarray(scene.image)])}
        _compare("CLIP", clip, inputs, found)
    yield (
        f"Embedded models, {images} scenes each, mean +- standard deviation over scenes; the classifier "
        "explains its own class, CLIP the caption's score. Only patches, or words before the end token, are "
        "compared. First layer: the column sums of layer 1's capacities, for vanilla flow capped at what "
        "leaves the readout."
    )
    names = {
        "first": "Spearman with the first layer",
        "difference": "largest difference from it, relative to the larger maximum",
        "equal": "tokens equal to it",
        "saturated": "saturated",
        "certified": "certified",
        "rollout": "Spearman with rollout",
        "vanilla": "Spearman with vanilla flow",
    }
    rows = [(name, *(_mean(each, key) for key in names)) for name, each in found.items()]
    yield _table(("model, flow", *names.values()), rows)


def _compare(name: str, model: Any, inputs: dict[str, Any], found: dict[str, list[dict[str, float]]]) -> None:
    family = family_of(model)
    evidence = Evidence(model, family, inputs)
    for readout in evidence.reading.readouts:
        part, every = evidence.wiring.part(readout.stream), slice(0, evidence.rows)
        sites = evidence.sites_of(readout)
        attention, gradient = evidence.attention(sites, every), evidence.gradients(sites, every)
        plain = {site: fuse(attention[site]) for site in sites}
        cams = {site: fuse(attention[site], gradient[site]) for site in sites}
        places = _places(evidence, readout)
        vanilla = attention_flow(part, plain, readout)
        specific = attention_flow(part, cams, readout)
        unrolled = rollout(part, plain, readout), gradient_rollout(part, cams, readout)
        for kind, maps, flow, other in zip(
            ("vanilla", "class-specific"), (plain, cams), (vanilla, specific), unrolled, strict=True
        ):
            line = _line(part, maps, readout, flow, places, capped=kind == "vanilla")
            values, *others = (
                each[readout.stream][0].numpy()[places] for each in (flow.values, other, vanilla.values)
            )
            line |= {"rollout": _spearman(values, others[0]), "vanilla": _spearman(values, others[1])}
            found.setdefault(f"{name} {readout.stream}, {kind}", []).append(line)


def _places(evidence: Evidence, readout: Readout) -> np.ndarray:
    """The tokens that mean something: patches, or words between the special tokens."""
    segment = next(each for each in evidence.reading.segments if each.stream == readout.stream)
    places = np.arange(readout.weights.shape[1])[segment.positions]
    return places if segment.mask is None else places[segment.mask[0].numpy()]


def _line(
    part: Wiring, maps: Maps, readout: Readout, flow: Flow, places: np.ndarray, *, capped: bool
) -> dict[str, float]:
    """One image: the flow against what layer 1 alone says."""
    values = flow.values[readout.stream][0].double().numpy()[places]
    graph = _graph(part, {site: maps[site] for site in part.sites})
    inputs, top = graph.states[readout.stream][0], graph.states[readout.stream][-1]
    limit = graph.leaving(top.start + int(readout.weights[0].argmax())).sum()
    first = graph.arriving(inputs).sum(axis=1)[places]
    first = np.minimum(limit, first) if capped else first
    difference = np.abs(values - first) / max(values.max(), first.max())
    return {
        "first": _spearman(values, first),
        "difference": float(difference.max()),
        "equal": float((difference < 1e-6).mean()),
        "saturated": float((values >= limit * (1 - 1e-6)).mean()),
        "certified": float(flow.certified[0]),
    }


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """NaN where one of them is constant, or there are fewer than three tokens to rank."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)


def _mean(lines: Sequence[dict[str, float]], key: str) -> str:
    values = np.array([line[key] for line in lines])
    known = values[np.isfinite(values)]
    if not len(known):
        return "undefined: constant"
    left = f" (n {len(known)})" if len(known) < len(values) else ""
    spread = known.std(ddof=1) if len(known) > 1 else 0.0
    if 0 < np.abs(known).max() < 5e-4:
        return f"at most {np.abs(known).max():.0e}{left}"
    return f"{known.mean():.3f} +- {spread:.3f}{left}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    app()
