"""`promptopt serve`: local models behind OpenAI's protocol."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Annotated

import typer

from promptopt.cli.output import say
from promptopt.errors import InputError, MissingExtraError
from promptopt.models.local import check_installed

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    models: Annotated[list[str], typer.Argument(help="Models to serve, as local:NAME.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free port.", min=0, max=65535)] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. There is no authentication: anyone who can reach the address can use the models."
        ),
    ] = "127.0.0.1",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or w16a32.")] = "auto",
) -> None:
    """Serve local models through OpenAI's chat and text completions, with log-probabilities of replies and prompts.

    Concurrent requests are computed as one batch, and prompts are cached. Requests choose a model by its NAME.
    """
    names = [_name(spec) for spec in models]
    if len(set(names)) < len(names):
        raise InputError(f"a model is given twice: {', '.join(models)}")
    try:
        import starlette  # noqa: F401, PLC0415  the extra 'serve'
        import uvicorn  # noqa: F401, PLC0415  the extra 'serve'
    except ImportError as error:
        raise MissingExtraError("promptopt serve", "serve") from error
    check_installed()
    from promptopt.models.local.served import ServedModel  # noqa: PLC0415  loaded when used
    from promptopt.serving.server import Server, listen  # noqa: PLC0415  loaded when used

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it logs an error for each request that Ctrl-C interrupts
    with listen(host, port) as listening:
        served = {name: ServedModel(name, dtype=dtype) for name in names}
        for name, model in served.items():
            say(f"loading {name} ...", to_stderr=True)
            model.load()
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {', '.join(names)} at http://{shown}:{listening.getsockname()[1]}/v1 (Ctrl-C to stop)")
        if host not in _LOOPBACK:
            say("warning: no authentication: anyone who can reach this address can use the models", to_stderr=True)
        with suppress(KeyboardInterrupt):
            Server(served, listening).run()
        say("stopped", to_stderr=True)


def _name(spec: str) -> str:
    kind, _, name = spec.partition(":")
    if kind != "local" or not name:
        raise InputError(f"cannot serve {spec!r}: write local:NAME, for a model that runs in this process")
    return name
