"""Replies to label, one question at a time, by keyboard. Pages say nothing of the prompts: not in texts, order, ids or addresses."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Route

from promptopt.errors import InputError
from promptopt.optimization.human_claim import sheet_items
from promptopt.view.labels import (
    COMPARISONS,
    LEFT,
    RIGHT,
    SAME,
    SCORES,
    SKIPPED,
    VALUES,
    Label,
    LabelFile,
    Question,
    person_key,
    questions,
)
from promptopt.view.pages.tabs import Tab
from promptopt.view.posted import read_fields

if TYPE_CHECKING:
    from typing import Any

    from starlette.requests import Request
    from starlette.responses import Response

    from promptopt.view.app import Viewer
    from promptopt.view.library import RunEntry
    from promptopt.view.posted import Fields


class Choice(NamedTuple):
    """A button: the label it gives, its key as scripts call it, the key's name, and what it says."""

    value: str
    key: str
    shown: str
    text: str


CHOICES = {
    SCORES: tuple(Choice(value, str(n), str(n), value) for n, value in enumerate(VALUES[SCORES], 1)),
    COMPARISONS: (
        Choice(LEFT, "ArrowLeft", "←", "left is better"),
        Choice(SAME, " ", "space", "the same"),
        Choice(RIGHT, "ArrowRight", "→", "right is better"),
    ),
}
_SKIP, _UNDO, _AGAIN, _FINISH = "skip", "undo", "again", "finish"


@dataclass(frozen=True, kw_only=True)
class Session:
    """One person's labels of one kind.

    Args:
        entry: the run.
        file: keeps the labels.
        asked: all questions, in order.
        labels: those given, in order.
    """

    entry: RunEntry
    file: LabelFile
    asked: list[Question]
    labels: list[Label]

    @property
    def current(self) -> Question | None:
        """The first question without a label."""
        answered = {label.question.key for label in self.labels}
        return next((question for question in self.asked if question.key not in answered), None)

    @property
    def skipped(self) -> int:
        """Number of questions skipped."""
        return sum(label.value == SKIPPED for label in self.labels)

    def after(self, action: str) -> list[Label]:
        """Return the labels after an action: a label, "skip", "undo" or "again".

        Raises:
            InputError: it is none of these.
        """
        if action == _UNDO:
            return self.labels[:-1]
        if action == _AGAIN:
            return [label for label in self.labels if label.value]
        if action not in {*VALUES[self.file.kind], _SKIP}:
            raise InputError(f"a label is one of {', '.join(VALUES[self.file.kind])}, not {action!r}")
        if self.current is None:
            return self.labels
        return [*self.labels, Label(self.current, SKIPPED if action == _SKIP else action)]


def open_session(viewer: Viewer, entry: RunEntry, kind: str, person: str) -> Session:
    """Return a person's labels.

    Raises:
        InputError: the run has no test to label, or the labels cannot be read.
    """
    items = run_items(viewer, entry)
    asked = questions(kind, items, seed=viewer.library.result(entry).seed, person=person)
    file = LabelFile(run=entry.folder, kind=kind, person=person)
    return Session(entry=entry, file=file, asked=asked, labels=file.read(asked))


def run_items(viewer: Viewer, entry: RunEntry) -> list[list[dict[str, Any]]]:
    """Return the rows of the run's test items, see `sheet_items`.

    Raises:
        InputError: the run has no test to label.
    """
    recorded = viewer.library.outcomes(entry)
    if not recorded:
        raise InputError(f"the run {entry.name} has no recorded test, so there are no replies to label")
    return sheet_items(viewer.library.result(entry), recorded, entry.name)


def routes(viewer: Viewer) -> list[Route]:
    """Return the routes."""
    pages = _Labelling(viewer)
    path = "/runs/{run}/labels/{kind}"
    return [Route(path, pages.show), Route(path, pages.act, methods=["POST"])]


@dataclass(frozen=True)
class _Labelling:
    viewer: Viewer
    lock: threading.Lock = field(default_factory=threading.Lock)  # between reading a file and replacing it

    def show(self, request: Request) -> Response:
        """Show what to label next."""
        person = person_key(request.query_params.get("person", ""))
        session = open_session(self.viewer, self.viewer.run(request), kind_of(request), person)
        if session.file.finished:
            return RedirectResponse(results_address(session.entry, session.file), 303)
        return self._page(session)

    async def act(self, request: Request) -> Response:
        """Keep a label, or undo, skip or finish."""
        return await run_in_threadpool(self._act, request, await read_fields(request))

    def _act(self, request: Request, fields: Fields) -> Response:
        entry, kind, person = self.viewer.run(request), kind_of(request), person_key(fields.text("person"))
        with self.lock:
            session = open_session(self.viewer, entry, kind, person)
            if session.file.finished:
                raise HTTPException(409, f"{person} has finished these labels: they can no longer be changed.")
            if fields.text("do") == _FINISH:
                if not session.labels:
                    raise HTTPException(409, "There are no labels yet: give some before you finish.")
                session.file.finish(run_items(self.viewer, entry), session.labels)
            elif fields.text("at") == str(len(session.labels)):  # else a page that is no longer current
                session.file.write(session.after(fields.text("do")))
        return RedirectResponse(question_address(entry, session.file), 303)

    def _page(self, session: Session) -> Response:
        kind, entry = session.file.kind, session.entry
        return self.viewer.pages.response(
            "labelling.html.j2",
            # No other page of the run: each of them says which reply is whose.
            tabs=[Tab("Labels", labels_address(entry), current=True)],
            scripts=["labelling.js"],
            entry=entry,
            person=session.file.person,
            kind=kind,
            question=session.current,
            choices=CHOICES[kind],
            done=len(session.labels),
            count=len(session.asked),
            skipped=session.skipped,
        )


def kind_of(request: Request) -> str:
    """Return the kind of labels in the address.

    Raises:
        HTTPException: there is none of this name; answered with 404.
    """
    kind = str(request.path_params["kind"])
    if kind not in VALUES:
        raise HTTPException(404, f"Labels are {' or '.join(VALUES)}.")
    return kind


def labels_address(entry: RunEntry) -> str:
    """Return the address of the page of a run's labels."""
    return f"/runs/{entry.id}/labels"


def results_address(entry: RunEntry, file: LabelFile) -> str:
    """Return the address of what a person's labels say."""
    return f"{labels_address(entry)}/{file.kind}/results?{urlencode({'person': file.person})}"


def question_address(entry: RunEntry, file: LabelFile) -> str:
    """Return the address where a person goes on."""
    return f"{labels_address(entry)}/{file.kind}?{urlencode({'person': file.person})}"
