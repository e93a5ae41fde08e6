"""The page's first tab: a prompt drawn plain and guided, what each word did, and what was tried before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..pipelines.choices import SCHEDULERS
from . import page_views as views
from .attempt import Attempt, attempt
from .page_forms import OWN, asked_settings
from .page_jobs import Job
from .page_services import EMBEDDED, Services
from .page_sessions import Session
from .page_shared import Shared, failure, part, run
from .settings import AttemptSettings

with suppress(ImportError):  # named in annotations, which gradio reads; only a page that is made needs it
    import gradio as gr

TITLES = {
    "plain": "drawing the plain image",
    "guided": "drawing the guided image",
    "check": "checking what they show",
}


class DrawTab:
    """The tab's parts, and what happens when they are used; made within a `gr.Blocks`."""

    def __init__(self, shared: Shared, services: Services) -> None:
        self.shared, self.load = shared, services.load
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self._make_form(services.model or EMBEDDED)
            with gr.Column(scale=5, min_width=420):
                self._make_results()
        self._make_history()
        self._connect()

    def _make_form(self, model: str) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", value="a cat and a frog", lines=2, max_lines=8, elem_id="prompt"
        )
        self.words = gr.Textbox(
            label="Words that must not be neglected",
            value="",
            placeholder="every content word; or a list, such as: cat, red bow, dog#2",
        )
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", elem_id="draw")
            self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
        with gr.Row(elem_classes="hd-seed"):
            self.seed = gr.Number(label="Seed", value=0, precision=0, minimum=0, min_width=110)
            self.next = gr.Button("Next seed", min_width=90, size="md")
        self.steps = gr.Slider(1, 100, 30, step=1, label="Steps", buttons=[])
        self.strength = gr.Slider(
            0, 4, 1, step=0.1, label="Strength of guidance", info="1 is the default; 0 only looks", buttons=[]
        )
        with gr.Row():
            self.scheduler = gr.Dropdown([OWN, *SCHEDULERS], value=OWN, label="Scheduler", min_width=150)
            self.scale = gr.Textbox(label="Guidance scale", value="", placeholder="default", min_width=130)
        self.model = gr.Textbox(
            label="Model", value=model, info=f"{EMBEDDED}, or a folder or hub id of a Stable Diffusion"
        )
        with gr.Accordion("Size, negative prompt", open=False):
            self.size = gr.Textbox(
                label="Width x height", value="", placeholder="the model's own; or 768x512"
            )
            self.negative = gr.Textbox(label="Negative prompt", value="")

    def _make_results(self) -> None:
        self.status = part(views.notice("Describe an image and press Draw."), elem_id="status")
        with gr.Column(visible=False) as self.results:
            self.chips = part("", elem_id="words")
            self.pair = part("", elem_id="pair")
            self.step = gr.Slider(
                0, 30, 0, step=1, label="Step (0: the mean of all)", elem_id="step", buttons=[]
            )
            self.evidence = part("", elem_id="evidence")
            self.losses = part("", elem_id="losses")
            self.command = gr.Textbox(
                label="The command that draws these images again",
                interactive=False,
                max_lines=4,
                buttons=["copy"],
                elem_id="command",
            )
            self.downloads = part("", elem_id="downloads")

    def _make_history(self) -> None:
        with gr.Accordion("History of this tab", open=True):
            self.history = part(views.history(Session()), elem_id="history")
            with gr.Column(visible=False) as self.comparing:
                with gr.Row():
                    self.first = gr.Dropdown([], label="Compare", elem_id="first")
                    self.second = gr.Dropdown([], label="with", elem_id="second")
                self.comparison = part("", elem_id="comparison")

    def _connect(self) -> None:
        asked = [
            self.prompt, self.words, self.model, self.seed, self.steps, self.scale, self.strength,
            self.scheduler, self.size, self.negative,
        ]  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        at_once: dict[str, Any] = {**quiet, "queue": False}
        gr.on(
            [self.draw.click, self.prompt.submit, self.words.submit],
            self.on_draw,
            asked,
            [self.status, self.cancel, *self._shown()],
            concurrency_limit=None,
            **quiet,
        )
        self.cancel.click(self.on_cancel, None, self.status, **at_once)
        self.next.click(lambda seed: int(seed or 0) + 1, self.seed, self.seed, **at_once)
        both = [self.first, self.second]
        self.chips.pick(self.on_word, None, [self.chips, self.pair, self.evidence], **at_once).then(
            self.on_compare, both, self.comparison, **at_once
        )
        self.step.input(
            self.on_step, self.step, [self.pair, self.losses], trigger_mode="always_last", **at_once
        )
        self.history.show(self.on_show, None, [*asked, *self._shown()], **at_once)
        for choice in (self.first, self.second):
            choice.input(self.on_compare, both, self.comparison, **at_once)

    def _shown(self) -> list[Any]:
        return [
            self.results, self.chips, self.pair, self.step, self.evidence, self.losses, self.command,
            self.downloads, self.history, self.comparing, self.first, self.second, self.comparison,
        ]  # fmt: skip

    def on_draw(
        self,
        prompt: str | None,
        words: str | None,
        model: str | None,
        seed: int | None,
        steps: int,
        scale: str | None,
        strength: float,
        scheduler: str,
        size: str | None,
        negative: str | None,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        """Draw what the form asks for, telling how far it is; the parts of the page that change."""
        session = self.shared.session(request)
        try:
            settings = asked_settings(
                prompt, words, model, seed, steps, scale, strength, scheduler, size, negative
            )
        except Exception as problem:
            yield {self.status: failure(problem)}
            return

        def work(job: Job) -> Attempt:
            job.tell("loading the model", 0, 0)
            pipe = self.load(settings.model)
            return attempt(pipe, settings, watch=_titled(job), cancelled=job.cancelled)

        def kept(found: Attempt) -> dict[Any, Any]:
            session.add(found)
            seconds = sum(found.seconds.values())
            told = f"Attempt {session.shown}: drawn and checked in {seconds:.1f} s.{_left_out(found)}"
            return {self.status: views.notice(told, "good"), **self.view(session, found)}

        for update in run(self.shared.worker, session, work, kept, self.status):
            yield {**update, self.cancel: gr.update(interactive=session.job is not None)}

    def on_cancel(self, request: gr.Request) -> Any:
        """Ask the tab's job to stop; who follows it tells when it has."""
        job = self.shared.session(request).job
        if job is None or job.ended:
            return views.notice("Nothing is being drawn.")
        job.cancel()
        job.tell("stopping", 0, 0)
        return gr.skip()  # what is written here could come after the news that it has stopped

    def on_word(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Show another word's attention."""
        session = self.shared.session(request)
        entry = session.current
        if entry is None:
            return [gr.skip()] * 3
        found = entry.attempt
        session.word = word = views.word_at(found, int(event.word))
        return [
            views.words(found, word), views.pair(found, word, session.step), views.evidence(found, word)
        ]  # fmt: skip

    def on_step(self, step: float, request: gr.Request) -> list[Any]:
        """Show another step's attention; 0 is the mean of all."""
        session = self.shared.session(request)
        session.step = int(step) - 1 if step else None
        entry = session.current
        if entry is None:
            return [gr.skip()] * 2
        word, found = session.word, entry.attempt
        return [views.pair(found, word, session.step), views.losses(found, session.step)]

    def on_show(self, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        """Show an earlier attempt again, and put its settings into the form."""
        session = self.shared.session(request)
        entry = session.entry(event.number)
        if entry is None:
            return {self.history: views.history(session)}
        session.shown = entry.number
        return {**self._form(entry.attempt.settings), **self.view(session, entry.attempt)}

    def on_compare(self, first: int | None, second: int | None, request: gr.Request) -> str:
        """Show two attempts beside each other."""
        return compared(self.shared.session(request), first, second)

    def view(self, session: Session, found: Attempt) -> dict[Any, Any]:
        """All parts that show an attempt and the session's history, from its first step's mean on."""
        session.word, session.step = views.held(found, session.word), None
        numbers = [entry.number for entry in session.history]
        choices = [
            (f"{entry.number}: {entry.attempt.settings.prompt[:60]}", entry.number)
            for entry in session.history
        ]
        first = next((number for number in reversed(numbers) if number != session.shown), None)
        return {
            self.results: gr.update(visible=True),
            self.chips: views.words(found, session.word),
            self.pair: views.pair(found, session.word, None),
            self.step: gr.update(maximum=max(views.steps_of(found), 1), value=0),
            self.evidence: views.evidence(found, session.word),
            self.losses: views.losses(found, None),
            self.command: found.settings.command_line(),
            self.downloads: views.downloads(session),
            self.history: views.history(session),
            self.comparing: gr.update(visible=len(numbers) > 1),
            self.first: gr.update(choices=choices, value=first),
            self.second: gr.update(choices=choices, value=session.shown),
            self.comparison: compared(session, first, session.shown),
        }

    def _form(self, settings: AttemptSettings) -> dict[Any, Any]:
        size = settings.size and f"{settings.size[0]}x{settings.size[1]}"
        return {
            self.prompt: settings.prompt,
            self.words: ", ".join(settings.words or ()),
            self.model: settings.model or EMBEDDED,
            self.seed: settings.seed,
            self.steps: settings.steps,
            self.scale: "" if settings.guidance_scale is None else f"{settings.guidance_scale:g}",
            self.strength: settings.strength,
            self.scheduler: settings.scheduler or OWN,
            self.size: size or "",
            self.negative: settings.negative_prompt,
        }


def compared(session: Session, first: int | None, second: int | None) -> str:
    """Two attempts beside each other, once there are two."""
    one, two = session.entry(first), session.entry(second)
    return "" if one is None or two is None else views.comparison(one, two, session.word)


def _titled(job: Job) -> Any:
    def tell(what: str, done: int, total: int, loss: float | None) -> None:
        job.tell(TITLES.get(what, what), done, total, loss)

    return tell


def _left_out(found: Attempt) -> str:
    left = [word for words in found.guided.record.settings.get("left_out", ()) for word in words]
    return (
        f" The text encoder did not read the prompt's last words: {', '.join(left[:8])}"
        + (f" and {len(left) - 8} more." if len(left) > 8 else ".")
        if left
        else ""
    )
