"""The default strategy: which it is, and that it is the same run as under that strategy's name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import toys

from promptopt import Example, FakeModel, InputError, Joint, Prompt, Task, estimate, optimize
from promptopt.optimization.job import prepare
from promptopt.strategies.auto import choose

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Response


def one(example: Example, response: Response) -> float:
    return 1.0


IN_A_WORLD = Task(
    train=(Example({"instance": "{}"}, None, "a"),),
    validation=(Example({"instance": '{"a": 1}'}, None, "b"),),
    seed_prompt=Prompt("Play."),
    environment=object,  # type: ignore[arg-type]
)


def without_targets(task: Task) -> Task:
    return replace(task, train=tuple(replace(example, target=None) for example in task.train))


@pytest.mark.parametrize(
    ("task", "name", "reason"),
    [
        (toys.TASK, "joint", "instruction and the demonstrations together"),
        (without_targets(toys.TASK), "unsupervised", "has no label"),
        (
            without_targets(replace(toys.TASK, labels=(), reward=one)),
            "joint",
            "no training example has a target",
        ),
        (IN_A_WORLD, "promst", "environment"),
    ],
)
def test_the_task_decides(task: Task, name: str, reason: str) -> None:
    chosen = choose(task, writes=True)

    assert chosen.name == name
    assert reason in chosen.reason


def test_without_a_writer_nothing_is_written() -> None:
    assert choose(toys.TASK, writes=False).settings == {"instructions": 1}
    assert choose(without_targets(replace(toys.TASK, labels=(), reward=one)), writes=False).name == "promptquine"


def test_a_function_writes_if_it_is_asked_to(tmp_path: Path) -> None:
    run = partial(estimate, toys.TASK, FakeModel(toys.answer), budget="300 calls", memo=tmp_path)

    assert "writer" not in {need.role for need in run().needs}
    assert "writer" in {need.role for need in run(settings={"instructions": 2}).needs}
    assert "writer" in {need.role for need in run(writer=FakeModel(toys.writer)).needs}


def test_a_local_model_is_not_the_writer_of_its_own_prompts() -> None:
    job = partial(prepare, toys.TASK, "local:smollm2", budget=None, seed=0)

    assert not job("auto", writer=None, settings=None).strategy.writes
    assert job("auto", writer="local:smollm2", settings=None).strategy.writes
    assert job("auto", writer=None, settings={"instructions": 4}).strategy.writes
    assert job("joint", writer=None, settings=None).strategy.writes


def test_it_is_the_run_of_the_strategy_that_it_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "promptopt")
    run = partial(
        optimize, toys.TASK, FakeModel(toys.answer), budget="300 calls", memo=tmp_path / "memo", tracking=False
    )
    default = run()
    named = run(Joint(instructions=1))

    assert caplog.messages[0] == default.notes[0]
    assert default.notes[0] == (
        "strategy auto runs joint: it searches the demonstrations; no writer is given, and a function or a local model is not "
        "asked to write"
    )
    assert replace(default, notes=default.notes[1:]) == named


def test_a_wrong_setting_is_one_of_the_strategy_that_it_names() -> None:
    with pytest.raises(InputError, match="Joint has no setting 'instruction', did you mean 'instructions'"):
        estimate(toys.TASK, FakeModel(toys.answer), settings={"instruction": 1}, budget="300 calls")
