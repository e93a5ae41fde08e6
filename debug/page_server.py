"""Serves the page to this machine alone: bound to 127.0.0.1, nothing asked of other machines."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

from .errors import PageError

HOST: Final = "127.0.0.1"
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio compiles its components' scripts
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the browser may load: from this server only, whatever a page's text may say."""


def need_gradio() -> None:
    """Say what to install, without gradio.

    Raises:
        PageError: gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise PageError("heedful debug needs gradio, which is not installed: pip install 'heedful[app]'")


@contextlib.contextmanager
def quiet_gradio() -> Iterator[None]:
    """Within the block gradio tells nobody that it runs, and keeps its files in a folder of this user alone.

    Must be entered before gradio is imported: it reads both then.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="heedful-debug-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        try:
            yield
        finally:
            for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
                del os.environ[name]
            os.environ |= {name: before[name] for name in before if name not in os.environ}


def listen(port: int) -> socket.socket:
    """A socket at this machine's own address; port 0 takes any that is free.

    Raises:
        PageError: a port that is taken, or not one's own to take.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except (OSError, OverflowError) as problem:
        found.close()
        reason = getattr(problem, "strerror", None) or str(problem)
        raise PageError(
            f"cannot listen on port {port}: {reason}; take another with --port, or --port 0 for a free one"
        ) from problem
    return found


def serve(app: Any, bound: socket.socket, started: Callable[[], None]) -> None:
    """Answer requests until interrupted; `started` is called once the page can be opened."""
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Every open page holds a stream; that these break now is no error to tell of.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets=sockets)

    # Another site's name could be made to point here; its pages must not read ours.
    guarded = TrustedHostMiddleware(Guarded(app), allowed_hosts=[HOST, "localhost"])
    config = uvicorn.Config(guarded, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[bound])


Message = MutableMapping[str, Any]


class Guarded:
    """An ASGI application whose answers carry `POLICY`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Answer one request."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *told]}
            await send(message)

        await self.app(scope, receive, sent if scope["type"] == "http" else send)
