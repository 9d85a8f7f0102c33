"""Strategies by name: those of other packages too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from promptopt import InputError, Strategy
from promptopt.strategies.registry import find_strategy, known_strategies, settings_of

if TYPE_CHECKING:
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
    with pytest.raises(InputError, match="is no strategy: it needs `writes`"):
        find_strategy(3)  # type: ignore[arg-type]  # what a user may give


def test_settings_change_a_strategy_that_was_made_already() -> None:
    strategy = find_strategy(find_strategy("random"), {"prompts": 9})

    assert settings_of(strategy) == {"prompts": 9, "batch": 8}
