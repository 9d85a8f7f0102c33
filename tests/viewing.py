"""A viewer on a port of its own, in a thread."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import toys
import uvicorn

from promptopt import FakeModel, Prompt, Task, optimize
from promptopt.view.app import build_app

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from promptopt import Result

TOKEN = "t0ken"  # noqa: S105  of a test


@contextmanager
def served(folder: Path, **more: Any) -> Generator[str]:
    """Serve a folder; give the address without the token. Further settings are those of `build_app`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = build_app(folder, token=TOKEN, cookie=f"promptopt_{port}", **more)
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


def a_run(folder: Path, **changes: Any) -> Result:
    """A short run of the toy task, recorded in its folder."""
    model = FakeModel(toys.answer, "toy")
    writer = FakeModel(toys.writer, "w")
    splits: dict[str, Any] = toys.splits(12)
    task = Task(seed_prompt=Prompt(toys.SEED), labels=toys.LABELS, **splits)
    settings = {"writer": writer, "budget": "600 calls", "memo": folder.parent / "memo", "tracking": False, **changes}
    return optimize(task, settings.pop("model", model), "random", run_dir=folder, **settings)
