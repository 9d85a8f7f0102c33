"""Models that are Python functions: what the memo takes for the same model, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptopt import Example, FakeLabelModel, FakeModel, FunctionModel, InputError, Prompt, Request, Task, optimize
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.memo import Memo
from promptopt.models.identity import code_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt import Model

REQUESTS = [Request(context="one", max_tokens=5)]


def replies(model: Model, memo: Memo) -> list[Any]:
    return [reply.text for reply in Caller(memo, Ledger()).generate("task", model, REQUESTS)]  # type: ignore[union-attr]


def wrong(_: Request) -> str:
    return "wrong"


def right(_: Request) -> str:
    return "right"


def closed(value: Any) -> Callable[[Request], str]:
    def answer(_: Request) -> str:
        return str(value)

    return answer


def defaulted(value: Any) -> Callable[[Request], str]:
    def answer(_: Request, said: Any = value) -> str:
        return str(said)

    return answer


class CallableObject:
    """A callable object, of which two may differ in any way."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __call__(self, _: Request) -> str:
        return self.said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (wrong, right),
        (lambda _: "wrong", lambda _: "right"),
        (closed("wrong"), closed("right")),
        (closed(1), closed(1.0)),
        (closed({"a": ["wrong"]}), closed({"a": ["right"]})),
        (closed(closed("wrong")), closed(closed("right"))),
        (defaulted("wrong"), defaulted("right")),
        (CallableObject("wrong"), CallableObject("right")),
        (closed(CallableObject("wrong")), closed(CallableObject("right"))),
        (CallableObject("wrong").__call__, CallableObject("right").__call__),
        ({"one": "wrong"}.__getitem__, {"one": "right"}.__getitem__),
    ],
)
@pytest.mark.parametrize("name", [{}, {"name": "model"}], ids=["unnamed", "named"])
def test_a_corrected_fake_is_asked_anew(
    before: Callable[..., str], after: Callable[..., str], name: dict[str, str], tmp_path: Path
) -> None:
    with Memo(tmp_path) as memo:
        keys = [FakeModel(handler, **name).fingerprint for handler in (before, after)]
        assert keys[0] != keys[1]
        if before is wrong:
            assert replies(FakeModel(wrong, **name), memo) == ["wrong"]
            assert replies(FakeModel(right, **name), memo) == ["right"]


def test_a_corrected_label_fake_is_asked_anew() -> None:
    one, other = (FakeLabelModel(lambda *asked, n=n: [-n] * len(asked[1])) for n in (1.0, 2.0))
    assert one.fingerprint != other.fingerprint


MODULE = """
import re, helpers
from functools import partial
from promptopt import FakeModel, Response

LINE = re.compile("ab+")
{table}

def reply(request):
    {comment}
    return Response(TABLE.get(LINE.sub("", request.context), helpers.{function}(1)))

def helped(request, times):
    return [word for word in request.context if word in {{"x", "y", "z"}}] and reply(request)

model = FakeModel(partial(helped, times=2), "m")
"""
HELPERS = "from json import dumps\n{more}\ndef one(x): return two(x) + '1'\ndef two(x): return dumps({{x: '{said}'}})\n"


def fingerprint(folder: Path, parts: dict[str, str], seed: int = 0) -> str:
    """Return the fingerprint that a process of its own computes of a module with these parts."""
    given = {"table": "TABLE = {'a': 'b'}", "comment": "pass", "function": "one", "said": "x", "more": ""} | parts
    (folder / "mine.py").write_text(MODULE.format(**given))
    (folder / "helpers.py").write_text(HELPERS.format(**given))
    command = [sys.executable, "-B", "-c", "import mine; print(mine.model.fingerprint)"]
    environment = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}", "PYTHONHASHSEED": str(seed)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_fake_is_the_same_in_every_process_until_something_that_decides_changes(tmp_path: Path) -> None:
    first = fingerprint(tmp_path, {})
    assert "'code'" in first
    same = {"comment": "# said otherwise\n    pass", "more": "\n\nUNUSED = 3"}
    assert fingerprint(tmp_path, same, seed=1) == first
    changes = [
        {"table": "TABLE = {'a': 'c'}"},
        {"function": "two"},
        {"said": "y"},
    ]
    others = [fingerprint(tmp_path, change) for change in changes]
    assert len({first, *others}) == 1 + len(changes)


def later() -> str:
    import mine  # type: ignore[import-not-found]

    return str(mine)


def recursive(n: int) -> int:
    return n and recursive(n - 1)


def undefined() -> Any:
    return not_there_yet  # type: ignore[name-defined]  # noqa: F821


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("function", [later, undefined, closed(LOOP), closed(object()), CallableObject("x"), "x".join])
def test_what_cannot_be_compared_across_processes_has_no_digest(function: Any) -> None:
    assert code_digest(function) is None


@pytest.mark.parametrize("function", [recursive, len, Path.exists, closed(Path("x")), closed(2.5), wrong, int])
def test_what_can_be_compared_has_one(function: Any) -> None:
    assert code_digest(function) == code_digest(function) is not None


def test_such_a_model_keeps_its_replies_as_long_as_it_lives(tmp_path: Path) -> None:
    said = CallableObject("first")
    model = FakeModel(said)
    with Memo(tmp_path) as memo:
        assert replies(model, memo) == ["first"]
        said.said = "second"
        assert replies(model, memo) == ["first"]
        assert replies(FakeModel(said), memo) == ["second"]


def test_a_function_model_is_known_by_name_and_version(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        assert replies(FunctionModel(wrong, name="mine", version="1"), memo) == ["wrong"]
        assert replies(FunctionModel(right, name="mine", version="1"), memo) == ["wrong"]
        assert replies(FunctionModel(right, name="mine", version="2"), memo) == ["right"]


@pytest.mark.parametrize("changed", [{"name": ""}, {"version": 2}])
def test_a_function_model_needs_both(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"of a FunctionModel must be a non-empty string such as 'v1'"):
        FunctionModel(wrong, **({"name": "mine", "version": "1"} | changed))


def test_a_corrected_model_and_a_corrected_reward_give_another_result(tmp_path: Path) -> None:
    items = tuple(Example({"text": f"{n}"}, "right", id=str(n)) for n in range(6))
    exact = Task(train=items, seed_prompt=Prompt("Say {text}"))
    results = [
        optimize(given, FakeModel(handler), "tapruning", memo=tmp_path, tracking=False)
        for given, handler in (
            (exact, wrong),
            (exact, right),
            (replace(exact, reward=lambda *_: 0.25), right),
        )
    ]
    assert [result.history[0].reward for result in results] == [0.0, 1.0, 0.25]
