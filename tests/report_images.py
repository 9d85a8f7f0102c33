"""Make the pictures of docs/report.md and docs/sweeps.md: `python tests/report_images.py [RUN]` writes them to docs/images.

The report is of the folder RUN, such as that of `make demo`; by default, of a run of examples/orders on a scripted model. The sweep
is that of examples/tickets, on a scripted model. Needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import ROOT

IMAGES = ROOT / "docs" / "images"
RUN = [
    "optimize",
    "examples/orders/task.toml",
    "--model",
    "python:examples.fakes:extractor",
    "--strategy",
    "hillclimb",
    "--no-study",
    "--quiet",
]
SWEEP = ["sweep", "examples/tickets/sweep.toml", "--workers", "0", "--quiet"]


def promptopt(*words: str | Path) -> None:
    """Run a command in a process of its own, where the examples can be imported."""
    subprocess.run(
        [sys.executable, "-m", "promptopt", *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def picture(page: Path, name: str, width: int, height: int, *, dark: bool = False, without: str = "") -> None:
    """Write a screenshot of the top of a page.

    Args:
        page: file of the page.
        name: name of the picture.
        width: of the window, in pixels.
        height: likewise.
        dark: in the dark colours.
        without: CSS selector of what is left out.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder, "page.html")
        hidden = f"<style>{without} {{ display: none }}</style></head>" if without else "</head>"
        shown.write_text(page.read_text(encoding="utf-8").replace("</head>", hidden, 1), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        options += [f"--window-size={width},{height}", f"--user-data-dir={folder}/profile"]
        options += ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run(
            [chromium, *options, f"--screenshot={IMAGES / name}", shown.as_uri()], check=True, capture_output=True
        )


def main(run: Path | None = None) -> None:
    """Write all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        memo = ("--memo", home / "memo")
        if run is None:
            run = home / "run"
            promptopt(*RUN, "--run-dir", run, *memo)
        promptopt("report", run, "-o", home / "report.html")
        promptopt(*SWEEP, "--run-dir", home / "sweep", *memo)
        picture(home / "report.html", "report-light.png", 1280, 1000)
        picture(home / "report.html", "report-phone.png", 420, 1000, dark=True)
        earlier = "header, nav, #claim, #front, #prompts"
        picture(home / "report.html", "report-dark.png", 1280, 1180, dark=True, without=earlier)
        picture(home / "sweep" / "sweep.html", "sweep.png", 1280, 1020)
        shutil.copy(home / "sweep" / "sweep.svg", IMAGES / "sweep.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
