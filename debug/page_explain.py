"""The page's second tab: which parts of an image an answer rests on, and what a patch attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from PIL import Image

from ..explain import METHODS
from . import page_views as views
from .errors import PageError
from .page_forms import CLASSES, TEXTS, asked_question, flattened
from .page_jobs import Job
from .page_services import EMBEDDED, Answer, Question, Services
from .page_sessions import Session
from .page_shared import Shared, failure, part, run

with suppress(ImportError):  # as in page_draw
    import gradio as gr

METHOD, QUERIED = "libra", "raw_attention"


class ExplainTab:
    """The tab's parts, and what happens when they are used; made within a `gr.Blocks`."""

    def __init__(self, shared: Shared, services: Services) -> None:
        self.shared, self.explain = shared, services.explain
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self._make_form()
            with gr.Column(scale=5, min_width=420):
                self.status = part(
                    views.notice("Upload an image, or take one that you have drawn."),
                    elem_id="explain-status",
                )
                with gr.Row(equal_height=False):
                    with gr.Column(min_width=260):
                        self.picture = part("", elem_id="picture")
                    with gr.Column(min_width=260):
                        self.answers = part("", elem_id="answers")
        self._connect()

    def _make_form(self) -> None:
        self.upload = gr.Image(
            label="Image",
            type="pil",
            sources=["upload", "clipboard"],
            height=220,
            elem_id="upload",
            buttons=[],
        )
        with gr.Row():
            self.plain = gr.Button("The plain image", size="sm")
            self.guided = gr.Button("The guided image", size="sm")
        self.kind = gr.Radio([TEXTS, CLASSES], value=TEXTS, label="What to look for")
        self.targets = gr.Textbox(
            label="One a line",
            value="a cat\na frog",
            lines=3,
            info="no class: the one that the model predicts",
        )
        self.method = gr.Dropdown(list(METHODS), value=METHOD, label="Method", filterable=True)
        with gr.Row():
            # A number field would show and send 0 where nothing was written.
            self.layer = gr.Textbox(label="Layer", placeholder="last", max_lines=1, min_width=90)
            self.head = gr.Textbox(label="Head", placeholder="mean", max_lines=1, min_width=90)
        self.model = gr.Textbox(
            label="Model",
            value=EMBEDDED,
            info=f"{EMBEDDED}, or a folder or hub id of a model of transformers",
        )
        self.ask = gr.Button("Explain", variant="primary", elem_id="explain")

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        at_once: dict[str, Any] = {**quiet, "queue": False}
        asked = [self.kind, self.targets, self.method, self.layer, self.head, self.model]
        shown = [self.status, self.picture, self.answers]
        self.upload.upload(self.on_upload, self.upload, shown, **at_once)
        self.upload.clear(self.on_upload, self.upload, shown, **at_once)
        for button, kind in ((self.plain, "plain"), (self.guided, "guided")):
            button.click(self._taker(kind), None, [*shown, self.upload, self.targets], **at_once)
        self.ask.click(self.on_ask, asked, shown, concurrency_limit=None, **quiet)
        self.picture.query(
            self.on_query,
            asked,
            [*shown, self.method],
            concurrency_limit=None,
            **quiet,
        )

    def on_upload(self, image: Image.Image | None, request: gr.Request) -> list[str]:
        """Take another image, or none."""
        session = self.shared.session(request)
        session.image = None if image is None else flattened(image)
        told = "Press Explain, or click a patch of the image to see what it attends to."
        return [views.notice(told if image else "Upload an image."), self._pictured(session, None), ""]

    def _taker(self, kind: str) -> Callable[..., list[Any]]:
        def taken(request: gr.Request) -> list[Any]:
            session = self.shared.session(request)
            entry = session.current
            if entry is None:
                told = views.notice("Nothing drawn yet: draw a prompt in the first tab.", "bad")
                return [told, gr.skip(), gr.skip(), gr.skip(), gr.skip()]
            drawn = entry.attempt.plain if kind == "plain" else entry.attempt.guided
            texts = "\n".join(f"a {span.text}" for span in drawn.spans)
            return [*self.on_upload(drawn.image, request), drawn.image, texts]

        return taken

    def on_ask(
        self,
        kind: str,
        targets: str | None,
        method: str,
        layer: str | None,
        head: str | None,
        model: str | None,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Explain the image by what the form asks."""
        session = self.shared.session(request)
        try:
            question = asked_question(session.image, kind, targets, method, layer, head, model)
        except PageError as problem:
            yield {self.status: failure(problem)}
            return
        yield from self._answered(session, question, None)

    def on_query(
        self,
        kind: str,
        targets: str | None,
        method: str,
        layer: str | None,
        head: str | None,
        model: str | None,
        event: gr.EventData,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Show what the clicked patch attends to."""
        session = self.shared.session(request)
        rows, columns = session.grid
        place = (min(int(event.row), rows - 1), min(int(event.column), columns - 1))
        if method != QUERIED:
            layer = head = None
        try:
            point = ((place[1] + 0.5) / columns, (place[0] + 0.5) / rows)
            question = asked_question(session.image, kind, targets, QUERIED, layer, head, model, point)
        except PageError as problem:
            yield {self.status: failure(problem)}
            return
        for update in self._answered(session, question, place):
            yield {**update, self.method: QUERIED}

    def _answered(
        self, session: Session, question: Question, place: tuple[int, int] | None
    ) -> Iterator[dict[Any, Any]]:
        def work(job: Job) -> Answer:
            job.tell(f"explaining by {question.method}", 0, 0)
            return self.explain(question)

        def kept(found: Answer) -> dict[Any, Any]:
            image = found.relevance.image
            cursor = place
            if image is not None:
                session.grid = (image.shape[1], image.shape[2])
                if question.point is not None:
                    cursor = (
                        int(question.point[1] * session.grid[0]),
                        int(question.point[0] * session.grid[1]),
                    )
            return {
                self.status: views.notice(f"Explained by {question.method}.", "good"),
                self.picture: views.picture(found.shown, session.grid, cursor),
                self.answers: views.answers(
                    found.relevance, found.shown, noted(found, cursor), scored=place is None
                ),
            }

        yield from run(self.shared.worker, session, work, kept, self.status)

    def _pictured(self, session: Session, cursor: tuple[int, int] | None) -> str:
        return "" if session.image is None else views.picture(session.image, session.grid, cursor)


def noted(found: Answer, cursor: tuple[int, int] | None) -> str:
    """Where an answer comes from, in one line."""
    relevance = found.relevance
    chosen = {
        name: relevance.settings[name]
        for name in ("layer", "head")
        if relevance.settings.get(name) is not None
    }
    told = "".join(f", {name} {value}" for name, value in chosen.items())
    of = (
        ""
        if cursor is None
        else f"what the patch in row {cursor[0] + 1}, column {cursor[1] + 1} attends to: "
    )
    return f"{of}{relevance.method}{told} on {relevance.model}"
