"""The folder of a run: opened before anything is spent, never taken from another run, and written whatever happens.

Knows finished results; nothing of how a run goes.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.prompt import Prompt, Prompts
from promptopt.report import write_report
from promptopt.results.outcomes import FILE as OUTCOMES
from promptopt.results.outcomes import write_outcomes
from promptopt.results.predictor import write_predictor
from promptopt.results.prompt_files import prompt_files
from promptopt.results.result import FILE, Result
from promptopt.results.table import CANDIDATES, TEST, as_csv, candidate_rows, outcome_rows
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from promptopt.tracking import RunStarted

PROMPTS = "chosen-prompts"
"""Name of the folder with a program's chosen prompts."""

_REST = "data, labels, reward, prices, or a setting of the task"
_SHOWN = 40  # characters of a prompt
_SPARE = 8  # descriptors: folder, file and database at once, and some for the libraries in between


def open_folder(folder: Path, run: RunStarted, digest: str, *, overwrite: bool) -> None:
    """Make the folder of a run, or look whether the one that is there may be written to.

    Args:
        folder: of the run.
        run: what is to be run, and
        digest: what tells it from others.
        overwrite: whether another run's result may be lost.

    Raises:
        InputError: it cannot be written to, or it holds the result of another run.
    """
    try:
        make_private_folder(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise InputError(f"the run's folder {folder} cannot be used ({error}): name another one in run_dir") from error
    if not overwrite and (folder / FILE).exists():
        _refuse_another_run(folder, run, digest)


def _refuse_another_run(folder: Path, run: RunStarted, digest: str) -> None:
    fix = "name another folder (--run-dir, run_dir=), or write over it (--overwrite, overwrite=True)"
    try:
        there = Result.load(folder / FILE)
    except InputError as error:
        raise InputError(f"{folder} holds a {FILE} that may belong to another run ({error}): {fix}") from error
    if there.digest == digest:
        return
    differing = _differing(there, run)
    if not differing and not there.digest:  # as far as a result of an earlier version can say
        return
    fake = "model" in differing and any(model.get("provider") == "fake" for model in run.models.values())
    hint = (
        " (a fake is known by what its function does and holds; FunctionModel by its name and version)" if fake else ""
    )
    raise InputError(
        f"{folder} holds the result of another run, {_named(_facts(there), there.digest)}; this one is "
        f"{_named(_facts(run), digest)}. They differ in {' and '.join(differing) or _REST}{hint}: {fix}"
    )


def _facts(run: RunStarted | Result) -> dict[str, Any]:
    return {
        "task": run.task,
        "strategy": run.strategy,
        "model": run.models,
        "seed": run.seed,
        "budget": run.budget,
        "seed prompt": run.seed_prompt.to_json() if isinstance(run, Result) else run.seed_prompt,
    }


def _differing(there: Result, run: RunStarted) -> list[str]:
    ours, theirs = _facts(run), _facts(there)
    return [name for name, value in ours.items() if _canonical(value) != _canonical(theirs[name])]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _named(facts: dict[str, Any], digest: str) -> str:
    """Return words to know a run by."""
    prompt = Prompt.from_json(facts["seed prompt"]).text
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
    which = f", {digest[:8]}" if digest else ""
    return f"{facts['task']!r} by {facts['strategy']['name']} from {shown!r} (seed {facts['seed']}, {facts['budget']}{which})"


def save(result: Result, folder: Path) -> Result:
    """Write a run's files; where its folder cannot be written to, elsewhere, which makes the run unfinished.

    Returns:
        The result, with the folder that it was written to ("" if none could be), and why that is not the run's.
    """
    try:
        _write(result, folder)
    except OSError as error:
        return _rescued(result, folder, error)
    return result


def _rescued(result: Result, folder: Path, error: OSError) -> Result:
    why = f"the run's folder {folder} could not be written ({error.strerror or error})"
    before = f"{result.unfinished}; " if result.unfinished else ""
    for home in (tempfile.gettempdir, os.getcwd):
        with suppress(OSError):
            other = Path(tempfile.mkdtemp(prefix="promptopt-run-", dir=home()))
            moved = replace(result, run_dir=str(other), unfinished=f"{before}{why}: its files are in {other}")
            _write(moved, other)
            return moved
    return replace(result, run_dir="", unfinished=f"{before}{why}, nor could any other: keep what is printed")


def _write(result: Result, folder: Path) -> None:
    make_private_folder(folder)  # it may have been deleted meanwhile
    result.save(folder / FILE)
    write_outcomes(result.test.outcomes if result.test else (), folder / OUTCOMES)
    write_private(folder / CANDIDATES, as_csv(candidate_rows(result)))
    _write_test(result, folder / TEST)
    write_report(result, folder / "report.md")
    write_predictor(result.predictor, folder)
    _write_prompts(result.prompt, folder / PROMPTS)


def _write_test(result: Result, path: Path) -> None:
    """Write the test as a table; without a test, remove that of an overwritten run."""
    if result.test is None:
        path.unlink(missing_ok=True)
    else:
        write_private(path, as_csv(outcome_rows(result.test.outcomes)))


def _write_prompts(prompt: Prompt, folder: Path) -> None:
    """Write the chosen prompts of a program, a file each; remove those of an overwritten run."""
    for file in (*folder.glob("*.txt"), *folder.glob("*.json")):
        file.unlink()
    if not isinstance(prompt, Prompts):
        return
    make_private_folder(folder)
    for name, contents in prompt_files(prompt).items():
        write_private(folder / name, contents)


@contextmanager
def spare_descriptors() -> Generator[Callable[[], None]]:
    """Hold some file descriptors back until the function that this gives is called: a run's end needs them."""
    held: list[int] = []

    def release() -> None:
        while held:
            os.close(held.pop())

    with suppress(OSError):  # as many as there are
        held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(_SPARE))
    try:
        yield release
    finally:
        release()
