"""Make the pictures of docs/view.md: `python tests/view_images.py` writes them to docs/images. Needs Chromium.

They show runs of the examples on their scripted models, in a folder that is made for this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from browser import browsing
from conftest import ROOT
from viewing import TOKEN, served

from promptopt.cli.recorded import read_recorded
from promptopt.view.library import Library

if TYPE_CHECKING:
    from collections.abc import Generator

    from browser import Page

IMAGES = ROOT / "docs" / "images"
WIDTH = 1280
ORDERS = ("examples/orders/task.toml", "--model", "python:examples.fakes:extractor", "--strategy", "hillclimb")
SLOW = """
import time
from pathlib import Path
from promptopt import FakeModel
from examples.fakes import extract

calls = []

def answer(request):
    calls.append(request)
    while len(calls) > 700 and Path("hold").exists():
        time.sleep(0.05)
    return extract(request)

model = FakeModel(answer, "extractor")
"""


def command(*words: str) -> list[str]:
    """Return a command that writes its run, and no study."""
    return [sys.executable, "-m", "promptopt", *words, "--memo", "memo"]


def make_runs() -> None:
    """Run the examples in this folder: a sweep and two runs of another task."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), str(ROOT)])
    subprocess.run(
        command("sweep", "examples/tickets/sweep.toml", "--workers", "0", "--run-dir", "runs/tickets", "--quiet"),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for seed in ("0", "1"):
        words = (*ORDERS, "--seed", seed, "--run-dir", f"runs/orders-{seed}", "--budget", "1500 calls")
        subprocess.run(command("optimize", *words, "--no-study", "--quiet"), check=True, stdout=subprocess.DEVNULL)


@contextmanager
def run_in_progress() -> Generator[None]:
    """A run that waits for a reply until the end."""
    Path("slow.py").write_text(SLOW, encoding="utf-8")
    Path("hold").touch()
    words = ("examples/orders/task.toml", "--model", "python:slow:model", "--strategy", "hillclimb", "--seed", "2")
    where = ("--run-dir", "runs/orders-2", "--budget", "4000 calls", "--no-study", "--quiet")
    process = subprocess.Popen(
        command("optimize", *words, *where), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def take(page: Page, name: str, address: str, height: int, *, ready: bool = True, wait: str = "true") -> None:
    """Write a picture of the top of a page."""
    page.look(WIDTH, height)
    page.open(address, ready=ready)
    page.wait(wait, 120)
    page.picture(IMAGES / f"{name}.png")


def press(page: Page, selector: str, wait: str) -> None:
    """Press a button and wait for the page that it leads to."""
    page.run(f"document.querySelector({selector!r}).click()")
    page.wait(wait, 120)


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, chdir(temporary):
        shutil.copytree(ROOT / "examples", "examples")
        sys.path.insert(0, temporary)
        make_runs()
        runs = Path("runs")
        with run_in_progress(), served(runs, load_run=read_recorded) as address, browsing(Path("profile")) as page:
            page.look(WIDTH)
            page.open(f"{address}/?token={TOKEN}")
            row = "document.querySelector('#runs tbody tr')"
            take(page, "view-runs", address, 780, wait=f"{row}.innerText.includes('best so far')")
            ids = {entry.name: entry.id for entry in Library(runs).runs()}
            live = f"{address}/runs/{ids['orders-2']}"
            take(page, "view-live", live, 900, wait="document.querySelectorAll('svg.curve circle').length > 9")
            run = f"{address}/runs/{ids['orders-0']}"
            take(page, "view-items", f"{run}/items?part=test&outcome=won", 900, ready=False)
            page.open(f"{run}/play", ready=False)
            press(page, "main form button", "!!document.querySelector('textarea')")
            page.run("document.querySelector('textarea').value += '\\nGive nothing but the JSON object.'")
            press(page, "form.fields > button", "!!document.querySelector('form[action$=run] button')")
            press(page, "form[action$=run] button", "!!document.getElementById('difference')")
            page.look(WIDTH, 900)
            page.picture(IMAGES / "view-playground.png")
            take(page, "view-start", f"{address}/start?data=examples/tickets/tickets.csv", 1000)
            take(page, "view-labels", f"{run}/labels/comparisons?person=Ada", 640)


if __name__ == "__main__":
    main()
