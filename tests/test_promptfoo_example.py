"""examples/promptfoo: scores as promptfoo 0.121.20 gave them (provider `echo`), and a task that a search runs on."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT

from promptopt import FakeModel, InputError, Request, optimize

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "examples" / "promptfoo"
CASES = [  # reply, assertions, score
    ("12", [{"type": "equals", "value": 12}], 1.0),
    ('{"a": 1}', [{"type": "equals", "value": {"a": 1}}], 1.0),
    ("a: 1", [{"type": "equals", "value": {"a": 1}}], 0.0),
    ("x y", [{"type": "not-icontains", "value": "X"}, {"type": "starts-with", "value": "x"}], 0.5),
    ("abc", [{"type": "regex", "value": "^b"}, {"type": "not-contains", "value": "z", "weight": 3}], 0.75),
    ("12", [{"type": "contains-any", "value": "1, 3"}], 1.0),
    (
        "Billing",
        [{"type": "icontains-all", "value": ["bill", "ING"]}, {"type": "contains-all", "value": ["bill"]}],
        0.5,
    ),
    ("[1", [{"type": "is-json"}, {"type": "not-is-json"}], 0.5),
]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("yaml", reason="needs PyYAML")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "promptfoo_config", raising=False)
    return importlib.import_module("promptfoo_config")


@pytest.mark.parametrize(("reply", "checks", "score"), CASES)
def test_a_reply_is_scored_as_promptfoo_does(
    example: Any, reply: str, checks: list[dict[str, Any]], score: float
) -> None:
    value, why = example.scored(reply, checks)

    assert value == pytest.approx(score)
    assert bool(why) == (score < 1)


def test_a_configuration_becomes_a_task_that_can_be_searched(example: Any, tmp_path: Path) -> None:
    task = example.load_promptfoo(FOLDER / "promptfooconfig.yaml", shares=(0.5, 0.25, 0.25))

    def reply(request: Request) -> str:
        text = str(request.context[-1][1])
        if "<prompt>" in text:
            return "<prompt>Is it billing, technical, delivery or account? {text}</prompt>"
        return "billing technical delivery account" if "Is it billing" in text else "no idea"

    result = optimize(task, FakeModel(reply), "hillclimb", budget="100 calls", memo=tmp_path, tracking=False)

    assert task.seed_prompt.text == "Which team is this message for? {text}"
    assert {len(task.train), len(task.validation), len(task.test)} == {6, 3}
    assert task.reward(task.train[0], _Reply("no\nidea"))[0] == 0.0
    assert result.prompt.text == "Is it billing, technical, delivery or account? {text}"


class _Reply:
    def __init__(self, text: str) -> None:
        self.text = text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("prompts: ['{{a}}']", "needs prompts and tests"),
        ("prompts: ['{{a}}']\ntests: [{vars: {a: 1}}]", "test 0 has no assertion"),
        ("prompts: ['{{a}}']\ntests: [{assert: [{type: javascript, value: '1'}]}]", "of type 'javascript'"),
        ('prompts: [\'[{"role": "user"}]\']\ntests: [{vars: {a: 1}, assert: [{type: is-json}]}]', "is a chat"),
        ("prompts: ['{{a | upper}}']\ntests: [{vars: {a: 1}, assert: [{type: is-json}]}]", "template code"),
    ],
)
def test_what_has_no_counterpart_is_named(example: Any, tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "promptfooconfig.yaml").write_text(
        config.replace(
            "]}]", "]}, {vars: {a: 2}, assert: [{type: is-json}]}, {vars: {a: 3}, assert: [{type: is-json}]}]"
        )
        if "is-json" in config
        else config,
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=said):
        example.load_promptfoo(tmp_path / "promptfooconfig.yaml")
