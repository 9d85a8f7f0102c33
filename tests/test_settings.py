"""Strategies by name: those of other packages too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import toys

from promptopt import InputError, Run, Strategy
from promptopt.randomness import named_generator
from promptopt.strategies.registry import (
    BUILT_IN,
    find_strategy,
    known_strategies,
    name_of,
    random_numbers,
    settings_of,
)
from promptopt.tracking import run_started

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

MODULE = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True, kw_only=True)
class Mine:
    writes: ClassVar[bool] = False
    tries: int = 3

    def search(self, run):
        run.score([run.task.seed_prompt])
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that registers a strategy, as pip would have installed it."""
    (tmp_path / "other_strategies.py").write_text(MODULE)
    info = tmp_path / "other_strategies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-strategies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[promptopt.strategies]\nmine = other_strategies:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("other_package")
def test_a_strategy_of_another_package_is_found_by_its_entry_point() -> None:
    strategy = find_strategy("mine", {"tries": "5"})

    assert isinstance(strategy, Strategy)
    assert settings_of(strategy) == {"tries": 5}
    assert "mine" in known_strategies()


def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(InputError, match="is not a strategy: it needs `writes`"):
        find_strategy(3)  # type: ignore[arg-type]  # what a user may give


def test_settings_change_a_strategy_that_was_made_already() -> None:
    strategy = find_strategy(find_strategy("random"), {"prompts": 9})

    assert settings_of(strategy) == {"prompts": 9, "batch": 8}


NAMES = {  # what results, run digests and random streams have always called them
    "components": "Components",
    "hillclimb": "HillClimb",
    "joint": "Joint",
    "p1": "P1",
    "promptquine": "PromptQuine",
    "promst": "Promst",
    "random": "RandomSearch",
    "steepest": "SteepestAscent",
    "tapruning": "TAPruning",
    "unsupervised": "Unsupervised",
    "unsupervised.paper": "PPD",
}


@contextmanager
def moved_and_renamed(cls: type) -> Generator[None]:
    names = cls.__module__, cls.__qualname__, cls.__name__
    cls.__module__, cls.__qualname__, cls.__name__ = "promptopt.elsewhere", "Renamed", "Renamed"
    yield
    cls.__module__, cls.__qualname__, cls.__name__ = names


@pytest.mark.parametrize("registered", BUILT_IN)
def test_a_strategy_is_known_by_the_same_name_whatever_its_class_is_called(registered: str) -> None:
    strategy = find_strategy(registered)
    expected = NAMES.get(registered) or NAMES[registered.partition(".")[0]]
    events = [run_started(toys.TASK, strategy, {}, 3, "9 calls")]
    with moved_and_renamed(type(strategy)):
        name, draw = name_of(strategy), random_numbers(strategy, 3).random()
        events.append(run_started(toys.TASK, strategy, {}, 3, "9 calls"))

    assert name == events[0].strategy["name"] == expected
    assert draw == named_generator(3, f"strategy {expected}").random()
    assert events[0] == events[1]


def test_a_strategy_of_ones_own_has_the_name_that_it_states_or_that_of_its_class() -> None:
    class Mine:
        writes = False

        def search(self, run: Run) -> None: ...

    class Renamed(Mine):
        name = "Mine"

    assert name_of(Mine()) == name_of(Renamed()) == "Mine"
    assert random_numbers(Mine(), 5).random() == random_numbers(Renamed(), 5).random()
