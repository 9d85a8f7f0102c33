"""What a newcomer does: follow docs/getting-started.md word by word, in an empty folder, to a report.

`python tests/newcomer.py FOLDER` makes a fresh environment in that folder, installs this checkout where the page says
`pip install`, runs all else on the page as it stands, and says how long it took. With --here the environment is that
of this Python.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "getting-started.md"
MINUTES = 10


def shell_blocks(text: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def script(model: str | None = None) -> str:
    """The page's commands; with a model, that one in place of the one to fetch."""
    text = "\n".join(shell_blocks(PAGE.read_text(encoding="utf-8")))
    text = text.replace("pip install '.[", f"pip install --quiet '{ROOT}[")
    if model is not None:
        text = re.sub(r"^(pip install|promptopt models fetch).*\n", "", text, flags=re.MULTILINE)
        text = text.replace("local:smollm2", model)
    return f"set -eu\n{text}"


def walk_through(folder: Path, model: str | None = None, python: Path = Path(sys.executable)) -> None:
    """Run the page's commands in a folder, with the programs beside `python`."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHONPATH": str(folder), "PROMPTOPT_CACHE_DIR": str(folder / "memo")}
    command = ["bash", "-c", script(model)]
    subprocess.run(command, cwd=folder, env=os.environ | settings, check=True)


def main() -> None:
    """Run, and fail if no report came or it took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="made, and must not be there")
    parser.add_argument("--here", action="store_true", help="install into this environment")
    options = parser.parse_args()
    started = time.monotonic()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    python = Path(sys.executable)
    if not options.here:
        venv.create(folder / ".venv", with_pip=True)
        python = folder / ".venv" / "bin" / "python"
    walk_through(folder, python=python)
    minutes = (time.monotonic() - started) / 60
    report = folder / "runs" / "first" / "report.html"
    size = report.stat().st_size
    sys.stdout.write(f"\n{report}: {size:,} bytes, {minutes:.1f} minutes after the start\n")
    sys.exit(minutes > MINUTES)


if __name__ == "__main__":
    main()
