"""The playground of a run: edit a prompt, choose examples, see the price, run it beside the chosen prompt, keep it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from promptopt.errors import InputError
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Prompts
from promptopt.view import query
from promptopt.view.pages.tabs import tabs_of
from promptopt.view.playground import Playground, keep
from promptopt.view.posted import read_fields

if TYPE_CHECKING:
    from starlette.requests import Request

    from promptopt.prompt import Example, Prompt
    from promptopt.results.result import Record, Result
    from promptopt.task import Task
    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry
    from promptopt.view.playground import Trial
    from promptopt.view.posted import Fields

_SPLITS = ("validation", "train")  # never the test
_LISTED = 100  # examples of a split on the page
_TICKED = 8
_BUDGET = 20  # calls
_MOST_BUDGET = 10_000
_TAB = "Playground"


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""
    pages = _PlayPages(viewer, Playground(viewer.load_run))
    here = "/runs/{run}/play"
    return [
        Route(here, pages.edit),
        Route(f"{here}/load", pages.load, methods=["POST"]),
        Route(here, pages.price, methods=["POST"]),
        Route(f"{here}/{{trial}}", pages.show),
        Route(f"{here}/{{trial}}/run", pages.run, methods=["POST"]),
        Route(f"{here}/{{trial}}/stop", pages.stop, methods=["POST"]),
        Route(f"{here}/{{trial}}/keep", pages.keep, methods=["POST"]),
    ]


@dataclass(frozen=True)
class _PlayPages:
    """The pages, in their order.

    Args:
        viewer: renders them.
        playground: what is tried.
    """

    viewer: Viewer
    playground: Playground

    def edit(self, request: Request) -> Response:
        """Show what will be loaded, or the form for a candidate."""
        entry, result = self._run(request)
        recorded = self.playground.loaded(entry)
        record = _candidate(request, result)
        return self.viewer.pages.response(
            "play.html.j2",
            tabs=tabs_of(entry, _TAB),
            entry=entry,
            record=record,
            program=isinstance(result.prompt, Prompts),
            loaded=recorded is not None,
            splits=[] if recorded is None else _offered(recorded.job.task),
            ticked=_TICKED,
            listed=_LISTED,
            budget=_BUDGET,
        )

    def load(self, request: Request) -> Response:
        """Load task and models, which may import code of the user's."""
        entry, result = self._run(request)
        self.playground.load(entry, result)
        return RedirectResponse(f"/runs/{entry.id}/play?{request.url.query}", 303)

    async def price(self, request: Request) -> Response:
        """Price what was filled in; its page is the trial's."""
        entry, result = await run_in_threadpool(self._run, request)
        fields = await read_fields(request)
        trial = await run_in_threadpool(self._trial, entry, result, _candidate(request, result), fields)
        return RedirectResponse(f"/runs/{entry.id}/play/{trial.id}", 303)

    def show(self, request: Request) -> Response:
        """Show the price; once the trial has ended, what it found."""
        entry, result = self._run(request)
        trial = self._known(request, entry)
        return self.viewer.pages.response(
            "trial.html.j2", tabs=tabs_of(entry, _TAB), scripts=["start.js"], entry=entry, trial=trial, result=result
        )

    def run(self, request: Request) -> Response:
        """Start the trial."""
        entry, _ = self._run(request)
        trial = self._known(request, entry)
        self.playground.start(trial)
        return RedirectResponse(f"/runs/{entry.id}/play/{trial.id}", 303)

    def stop(self, request: Request) -> Response:
        """Stop the trial, after the calls in flight."""
        entry, _ = self._run(request)
        trial = self._known(request, entry)
        trial.stop.requested = trial.waiting
        return RedirectResponse(f"/runs/{entry.id}/play/{trial.id}", 303)

    async def keep(self, request: Request) -> Response:
        """Write the prompt into the run's folder."""
        entry, _ = await run_in_threadpool(self._run, request)
        trial = self._known(request, entry)
        name = (await read_fields(request)).text("name").strip()
        await run_in_threadpool(keep, trial, entry, name)
        return RedirectResponse(f"/runs/{entry.id}/play/{trial.id}", 303)

    def _run(self, request: Request) -> tuple[RunEntry, Result]:
        entry = self.viewer.run(request)
        return entry, self.viewer.library.result(entry)

    def _known(self, request: Request, entry: RunEntry) -> Trial:
        """Return the trial whose id is in the address.

        Raises:
            HTTPException: there is none; answered with 404.
        """
        trial = self.playground.get(request.path_params["trial"], entry)
        if trial is None:
            raise HTTPException(404, "This prompt is no longer known: try it again. Prompts that were kept are files.")
        return trial

    def _trial(self, entry: RunEntry, result: Result, record: Record | None, fields: Fields) -> Trial:
        recorded = self.playground.loaded(entry)
        if recorded is None:
            raise InputError("the task of this run is not loaded: open the playground again and load it")
        task = recorded.job.task
        prompt = _edited(result.prompt if record is None else record.prompt, fields.text("prompt"), task)
        examples = _chosen_examples(fields, task)
        return self.playground.trial(entry, prompt, result.prompt, examples, _read_budget(fields.text("budget")))


def _candidate(request: Request, result: Result) -> Record | None:
    """Return the candidate that the address names; by default the chosen one, None if it is not among the candidates."""
    named = query.numbers(request, "c", below=len(result.history), most=1)
    return result.history[named[0]] if named else result.chosen_record


def _offered(task: Task) -> list[tuple[str, list[tuple[str, Example]], int]]:
    """Return each split with its first examples, by the values of their boxes, and its size."""
    splits = [(split, getattr(task, split)) for split in _SPLITS]
    return [
        (split, [(f"{split}-{i}", example) for i, example in enumerate(examples[:_LISTED])], len(examples))
        for split, examples in splits
        if examples
    ]


def _chosen_examples(fields: Fields, task: Task) -> tuple[Example, ...]:
    """Return the ticked examples.

    Raises:
        InputError: there is none.
    """
    offered = {name: example for _, examples, _ in _offered(task) for name, example in examples}
    chosen = [offered[name] for name in dict.fromkeys(fields.texts("item")) if name in offered]
    if not chosen:
        raise InputError("no example is ticked: tick those that the prompt is to be tried on")
    return tuple(chosen)


def _edited(prompt: Prompt, text: str, task: Task) -> Prompt:
    """Return a prompt with another text; demonstrations and turns stay.

    Raises:
        InputError: it is a program's, blank, or has a slot that the task does not have.
    """
    if isinstance(prompt, Prompts):
        raise InputError("the prompts of a program are not tried one by one: use promptopt score")
    if not text.strip():
        raise InputError("the prompt is empty: write one")
    check_slots(text, task.fields, "the prompt", task.template)
    return replace(prompt, text=text)


def _read_budget(text: str) -> int:
    """Return a number of calls.

    Raises:
        InputError: it is none, or too large.
    """
    digits = text.strip()
    if not (
        digits.isascii()
        and digits.isdecimal()
        and len(digits) <= len(str(_MOST_BUDGET))
        and 0 < int(digits) <= _MOST_BUDGET
    ):
        raise InputError(f"the budget {text!r} cannot be read: give a number of calls from 1 to {_MOST_BUDGET:,}")
    return int(digits)
