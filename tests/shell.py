"""The command line in this process: what it prints and its exit code, without the seconds that a new one takes to import."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.cli import main
from promptopt.models.hosted.endpoint import endpoint_of
from promptopt.optimization.signals import ENDING
from promptopt.sweep import single_run

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType

try:
    import resource
except ImportError:  # on Windows, which has no limit to put back
    resource = None  # type: ignore[assignment]


def promptopt(folder: Path, *words: str | Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Return what `python -m promptopt WORDS` does in a folder; the process is then as it was before."""
    command = ["promptopt", *map(str, words)]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    with _as_found(Path(folder)):
        sys.argv, (sys.stdout, sys.stderr) = command, streams
        code = _exit_code()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return subprocess.CompletedProcess(command, code, out, err)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)  # noqa: T201  as Python does
        return 1
    except Exception:  # noqa: BLE001  shown, as Python does
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _as_found(folder: Path) -> Generator[None]:
    """Work in a folder as a new process would: its modules are not yet imported, no endpoint is known, logs go to stderr."""
    system: Any = {name: getattr(sys, name) for name in ("argv", "stdout", "stderr", "dont_write_bytecode")}
    path, environment, handlers = list(sys.path), dict(os.environ), list(logging.root.handlers)
    signals = {number: signal.getsignal(number) for number in ENDING}
    limit = resource and resource.getrlimit(resource.RLIMIT_NOFILE)
    hidden = {file.stem: sys.modules.pop(file.stem) for file in folder.glob("*.py") if file.stem in sys.modules}
    known = set(sys.modules)
    endpoint_of.cache_clear()
    single_run._model.cache_clear()
    try:
        with contextlib.chdir(folder), warnings.catch_warnings():
            sys.path.insert(0, str(folder))
            sys.dont_write_bytecode = True  # a module that is written again within a second would be the old one
            importlib.invalidate_caches()
            logging.root.handlers[:] = []
            yield
    finally:
        for name, value in system.items():
            setattr(sys, name, value)
        sys.path[:], logging.root.handlers[:] = path, handlers
        for name in [name for name in sys.modules if name not in known and _lies_in(sys.modules[name], folder)]:
            del sys.modules[name]
        sys.modules.update(hidden)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)
        if resource and limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        single_run._model.cache_clear()


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether a module is one of the user's: more of promptopt's own, and of libraries, may have been imported."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None or module.__name__.partition(".")[0] == "promptopt":
        return False
    place = Path(file).absolute()
    return place.is_relative_to(folder.absolute()) and not place.is_relative_to(sys.prefix)
