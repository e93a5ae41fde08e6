"""The page's third tab: what the layers of a vision model see in an image, or in many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal

from PIL import Image

from . import page_probe_views as shown
from . import page_views as views
from .errors import PageError
from .page_forms import SEEN, Kind, asked_probe, flattened, opened, scene
from .page_jobs import Job
from .page_services import Services
from .page_sessions import Session
from .page_shared import Shared, failure, part, run
from .probing import DISTANCE, HEADS, PROBES, SIMILARITY, TWIN, Finding, ProbeQuestion, probed

with suppress(ImportError):  # as in page_draw
    import gradio as gr

TOLD = "Press Probe, or click a patch of the image to see where its heads look."


class ProbeTab:
    """The tab's parts, and what happens when they are used; made within a `gr.Blocks`."""

    def __init__(self, shared: Shared, services: Services) -> None:
        self.shared, self.see = shared, services.see
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self._make_form()
            with gr.Column(scale=5, min_width=420):
                self.status = part(
                    views.notice("Upload an image, or take a scene, and press Probe."),
                    elem_id="probe-status",
                )
                self.finding = part("", elem_id="finding")
        self._connect()

    def _make_form(self) -> None:
        self.probe = gr.Radio(list(PROBES), value=HEADS, label="What to look at", elem_id="probes")
        self.upload = gr.Image(
            label="Image",
            type="pil",
            sources=["upload", "clipboard"],
            height=180,
            elem_id="probe-upload",
            buttons=[],
        )
        with gr.Row():
            self.scene = gr.Button("A scene", size="sm", min_width=90)
            self.marked = gr.Button("A scene with a false mark", size="sm", min_width=150)
            self.guided = gr.Button("The drawn image", size="sm", min_width=120)
        self.patches = part("", elem_id="patches")
        with gr.Column(visible=False) as self.many:
            self.more = gr.File(
                label="Images, for what looks at many",
                file_count="multiple",
                file_types=["image"],
                height=120,
                elem_id="more",
            )
            self.count = gr.Slider(
                4, 256, 64, step=4, label="Or so many fresh scenes of the emoji world", buttons=[]
            )
        self.model = self._models("Model", list(SEEN), SEEN[0], "probe-model")
        with gr.Column(visible=False) as self.second:
            self.other = self._models("Compared with", [*SEEN, TWIN], "resnet", "probe-other")
        with gr.Row():
            self.ask = gr.Button("Probe", variant="primary", elem_id="probe")
            self.cancel = gr.Button("Cancel", interactive=False, elem_id="probe-cancel")

    def _models(self, label: str, names: list[str], value: str, name: str) -> Any:
        return gr.Dropdown(
            names,
            value=value,
            label=label,
            elem_id=name,
            allow_custom_value=True,
            info="an embedded one, or a folder or hub id of a model of transformers",
        )

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        at_once: dict[str, Any] = {**quiet, "queue": False}
        asked = [self.probe, self.model, self.other, self.more, self.count]
        answered = [self.status, self.finding, self.patches, self.probe, self.cancel, self.many, self.second]
        taken = [self.status, self.finding, self.patches]
        self.upload.upload(self.on_upload, self.upload, taken, **at_once)
        self.upload.clear(self.on_upload, self.upload, taken, **at_once)
        self.scene.click(self._taker("clean"), None, [*taken, self.upload], **at_once)
        self.marked.click(self._taker("conflict"), None, [*taken, self.upload], **at_once)
        self.guided.click(self._taker("drawn"), None, [*taken, self.upload], **at_once)
        self.probe.input(self.on_choice, self.probe, [self.many, self.second], **at_once)
        self.ask.click(self.on_ask, asked, answered, concurrency_limit=None, **quiet)
        self.patches.query(self.on_query, asked, answered, concurrency_limit=None, **quiet)
        self.cancel.click(self.on_cancel, None, self.status, **at_once)

    def on_upload(self, image: Image.Image | None, request: gr.Request) -> list[str]:
        """Take another image, or none."""
        session = self.shared.session(request)
        session.probed = None if image is None else flattened(image)
        told = TOLD if image else "Upload an image, or take a scene."
        return [views.notice(told), "", self._pictured(session, None)]

    def _taker(self, kind: Kind | Literal["drawn"]) -> Callable[..., list[Any]]:
        def taken(request: gr.Request) -> list[Any]:
            session = self.shared.session(request)
            if kind == "drawn":
                entry = session.current
                if entry is None:
                    told = views.notice("Nothing drawn yet: draw a prompt in the first tab.", "bad")
                    return [told, gr.skip(), gr.skip(), gr.skip()]
                image = entry.attempt.guided.image
            else:
                session.scenes += 1
                image = scene(session.scenes, kind)
            return [*self.on_upload(image, request), image]

        return taken

    def on_choice(self, probe: str) -> list[Any]:
        """Show the fields that this probe looks at."""
        return [
            gr.update(visible=probe in (DISTANCE, SIMILARITY)), gr.update(visible=probe == SIMILARITY)
        ]  # fmt: skip

    def on_ask(
        self,
        probe: str,
        model: str | None,
        other: str | None,
        more: list[str] | None,
        count: float,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Carry out what the form asks."""
        session = self.shared.session(request)
        try:
            question = asked_probe(session.probed, opened(more), probe, model, other, int(count))
        except PageError as problem:
            yield {self.status: failure(problem)}
            return
        yield from self._answered(session, question, None)

    def on_query(
        self,
        probe: str,
        model: str | None,
        other: str | None,
        more: list[str] | None,
        count: float,
        event: gr.EventData,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Show where every head looks from the clicked patch."""
        session = self.shared.session(request)
        rows, columns = session.probed_grid
        row, column = min(int(event.row), rows - 1), min(int(event.column), columns - 1)
        try:
            point = ((column + 0.5) / columns, (row + 0.5) / rows)
            question = asked_probe(session.probed, (), HEADS, model, other, int(count), point)
        except PageError as problem:
            yield {self.status: failure(problem)}
            return
        fields = (self.many, self.second)
        for update in self._answered(session, question, point):
            yield {**update, self.probe: HEADS, **dict(zip(fields, self.on_choice(HEADS), strict=True))}

    def on_cancel(self, request: gr.Request) -> Any:
        """Ask the tab's job to stop; who follows it tells when it has."""
        job = self.shared.session(request).job
        if job is None or job.ended:
            return views.notice("Nothing is being probed.")
        job.cancel()
        return gr.skip()

    def _answered(
        self, session: Session, question: ProbeQuestion, point: tuple[float, float] | None
    ) -> Iterator[dict[Any, Any]]:
        def work(job: Job) -> Finding:
            return probed(question, self.see, job.tell, job.cancelled)

        def kept(found: Finding) -> dict[Any, Any]:
            told = {self.finding: shown.finding(found)}
            if found.grid is not None:
                session.probed_grid = found.grid
                told[self.patches] = self._pictured(session, point, found.shown)
            return {self.status: views.notice(f"Looked: {question.probe}.", "good"), **told}

        for update in run(self.shared.worker, session, work, kept, self.status):
            yield {**update, self.cancel: gr.update(interactive=session.job is not None)}

    def _pictured(
        self, session: Session, point: tuple[float, float] | None, seen: Image.Image | None = None
    ) -> str:
        image = session.probed if seen is None else seen
        if image is None:
            return ""
        rows, columns = session.probed_grid
        cursor = None if point is None else (int(point[1] * rows), int(point[0] * columns))
        return views.picture(image, session.probed_grid, cursor)
