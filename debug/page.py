"""The page of `heedful debug`: its three tabs, the files it lends for download, and its end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from .page_draw import DrawTab
from .page_explain import ExplainTab
from .page_jobs import Worker
from .page_probe import ProbeTab
from .page_reports import lent
from .page_services import Services
from .page_shared import Shared, part, style

with suppress(ImportError):
    import gradio as gr

TITLE: Final = "heedful debug"
INTRODUCTION: Final = (
    "<div class='hd-title'><h1>heedful debug</h1><p>Draw a prompt plain and guided, see where each word "
    "looked, check what came out, try again.</p></div>"
)


def make_page(services: Services, shared: Shared) -> Any:
    """The page, as gradio's blocks."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        part(INTRODUCTION)
        with gr.Tab("Draw", id="draw-tab"):
            DrawTab(shared, services)
        with gr.Tab("Explain", id="explain-tab"):
            ExplainTab(shared, services)
        with gr.Tab("Probe", id="probe-tab"):
            ProbeTab(shared, services)

        def left(request: gr.Request) -> None:
            shared.sessions.close(str(request.session_hash))

        page.unload(left)
    return page


def make_app(services: Services, worker: Worker) -> Any:
    """The page as an ASGI application, with its reports beside it."""
    from fastapi import FastAPI
    from fastapi.responses import Response

    shared = Shared(worker)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/report/{key}/{name}.html", response_model=None)
    def download(key: str, name: str) -> Any:
        found = lent(shared.sessions, key, name)
        if found is None:
            told = "This report is gone: its tab was closed, or reloaded. Draw the prompt again."
            return Response(told, 404, media_type="text/plain")
        file, text = found
        headers = {"content-disposition": f'attachment; filename="{file}"'}
        return Response(text, headers=headers, media_type="text/html")

    theme = gr.themes.Base(
        primary_hue="violet",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return gr.mount_gradio_app(
        app,
        make_page(services, shared),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme,
        css=style(),
    )
