"""Replies without text: never a silent 0."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import toys
from test_harness import Fixed, search
from typer.testing import CliRunner

from promptopt import Failure, FakeModel, Response
from promptopt.cli import app
from promptopt.evaluation.silence import Silence

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request
    from promptopt.replies import Finish


def said(*replies: tuple[str, Finish]) -> Silence:
    return Silence.of([Response(text, finish_reason=finish) for text, finish in replies])


FINE: tuple[str, Finish] = ("fine", "stop")


def test_replies_are_counted_by_how_they_ended() -> None:
    tally = said(FINE, ("", "stop"), (" \n", "length"), ("", "refusal"), ("I decline.", "refusal"), ("", "stop"))

    assert tally == Silence(replies=6, cut_off=1, empty=2, filtered=1)
    assert tally + said(FINE) == Silence(replies=7, cut_off=1, empty=2, filtered=1)
    assert Silence.of([Failure("busy")]) == Silence()


@pytest.mark.parametrize(
    ("tally", "note", "headline"),
    [
        (Silence(replies=100), "", False),
        (Silence(), "", False),
        (Silence(replies=100, empty=9), "", False),
        (
            Silence(replies=100, empty=10),
            "10 of 100 replies hold no text: 10 finished without any (the model may",
            True,
        ),
        (
            Silence(replies=100, filtered=30),
            "30 of 100 replies hold no text: 30 declined or emptied by a content",
            True,
        ),
        (Silence(replies=100, cut_off=1), "", False),
        (Silence(replies=100, cut_off=2), "2 of 100 replies hold no text: 2 cut off at 16 tokens, before any", False),
        (
            Silence(replies=20, cut_off=1, empty=1),
            "2 of 20 replies hold no text: 1 cut off at 16 tokens, before any",
            True,
        ),
    ],
)
def test_many_replies_without_text_are_noted_with_what_may_help(tally: Silence, note: str, headline: bool) -> None:  # noqa: FBT001  expected
    notes = tally.notes(16)

    assert len(notes) == bool(note)
    assert "".join(notes).startswith(note)
    assert tally.headline == (f"{tally.silent} of {tally.replies} replies hold no text." if headline else "")


def silent(finish: Finish) -> FakeModel:
    """Says nothing about a third of the items."""

    def answer(request: Request) -> Response:
        text = toys.text_of(request.context)
        if int(text.split("item")[-1]) % 3 == 1:
            return Response("", finish_reason=finish)
        return Response(toys.answer(request))

    return FakeModel(answer, f"silent {finish}")


@pytest.mark.parametrize("finish", ["stop", "refusal", "length"])
def test_a_run_whose_replies_hold_no_text_says_so_in_its_headline(tmp_path: Path, finish: Finish) -> None:
    result = search(tmp_path, silent(finish), Fixed((toys.SEED, "Answer {text}")))

    assert result.headline.endswith(" replies hold no text.")
    assert sum("replies hold no text: " in note for note in result.notes) == 1


def test_score_says_of_each_prompt_how_many_replies_hold_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "silent_model.py").write_text(
        "from promptopt import FakeModel\nmodel = FakeModel(lambda r: '' if 'Say' in str(r.context) else 'yes', 'm')\n",
        encoding="utf-8",
    )
    rows = "".join(f"item{i},yes\nother{i},no\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    words = ["--data", "rows.csv", "--input", "text", "--label", "label", "--labels", "yes,no", "--seed-prompt", "Say."]
    words += ["--model", "python:silent_model:model", "--memo", "memo", "--quiet"]
    words += ["--prompt", "Say {text}", "--prompt", "Tell {text}", "--prompt", "Say {text}"]
    shown = CliRunner().invoke(app, ["score", *words])
    first, second, third = json.loads(CliRunner().invoke(app, ["score", *words, "--json"]).stdout)

    assert "replies hold no text" in " ".join(shown.stdout.split())
    assert "replies hold no text: " in first["notes"][0]
    assert second["notes"] == []
    assert third["less_first"] == [0.0, 0.0, 0.0]  # the same prompt
