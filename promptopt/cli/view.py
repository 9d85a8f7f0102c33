"""`promptopt view`: pages of all runs in a folder."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from promptopt.cli.output import say
from promptopt.cli.recorded import read_recorded
from promptopt.errors import MissingExtraError

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def view(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs and sweeps.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free port.", min=0, max=65535)] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Show all runs of a folder in the browser: those in progress too, and end them; compare candidates item by item.

    The printed address holds a token, without which nothing is answered.
    """
    try:
        import jinja2  # noqa: F401, PLC0415  the extra 'view'
        import starlette  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
        import vl_convert  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("promptopt view", "view") from error
    from promptopt.view.server import view as serve_pages  # noqa: PLC0415  loaded when used

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it logs an error for each page that Ctrl-C interrupts
    if host not in _LOOPBACK:
        say(
            "warning: anyone who can read the network can read the token and the pages: better forward the port by ssh",
            to_stderr=True,
        )
    with suppress(KeyboardInterrupt):
        serve_pages(folder, host=host, port=port, open_browser=not no_open, say=say, load_run=read_recorded)
    say("stopped", to_stderr=True)
