"""Runs the viewer until it is stopped."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

from promptopt.errors import InputError
from promptopt.view.app import build_app
from promptopt.view.security import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from promptopt.view.recorded import RecordedRun

_PATIENCE = 1  # seconds that open pages have left when the server is stopped
_TOKEN_BYTES = 24


def view(
    folder: Path,
    *,
    host: str,
    port: int,
    open_browser: bool,
    say: Callable[[str], None],
    load_run: Callable[[Path], RecordedRun],
) -> None:
    """Serve the pages of a folder until Ctrl-C.

    Args:
        folder: holds runs and sweeps.
        host: address to listen on.
        port: port to listen on; 0 is any free one.
        open_browser: whether to open the first page.
        say: prints a line.
        load_run: loads task and models of the run in a folder.

    Raises:
        InputError: there is no such folder, or the address cannot be used.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with _listen(host, port) as listening:
        number = listening.getsockname()[1]
        app = build_app(folder, token=token, host=host, cookie=f"promptopt_{number}", load_run=load_run)
        threading.Thread(target=app.state.library.contents, daemon=True).start()  # read while the browser starts
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{number}/?{TOKEN}={token}"
        say(f"viewing {folder} at {address} (Ctrl-C to stop)")
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=_PATIENCE
        )
        uvicorn.Server(config).run([listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
        ) from error
