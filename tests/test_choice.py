"""The replay of rules for the final choice, on the kept table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'local' is not installed")

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def replay() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        yield pytest.importorskip("benchmarks.choice", reason="benchmarks come with a checkout only")


def test_every_rule_chooses_a_prompt_of_the_search_or_the_seed_prompt(replay: Any) -> None:
    table = replay.Table(**np.load(replay.TABLE))
    found = replay.search(table, 0, 60_000)
    chosen = {name: rule(table, found, 60_000).prompt for name, rule in replay.RULES.items()}

    assert {*found.search, *found.validation, *found.test} == set(range(len(table.targets)))
    assert found.rewards.shape == (len(found.prompts), replay.SPLIT)
    assert set(chosen.values()) <= set(found.prompts.tolist())
    assert chosen["the best, whatever the seed prompt has"] != 0
    assert chosen["the seed prompt with bias, no search"] == 0


def test_a_search_sees_the_tables_rewards_and_is_the_same_again(replay: Any) -> None:
    table = replay.Table(**np.load(replay.TABLE))
    first, again = (replay.search(table, 1, 40_000) for _ in range(2))
    seen = ~np.isnan(first.rewards)

    assert first.prompts.tolist() == again.prompts.tolist()
    assert np.array_equal(first.rewards, again.rewards, equal_nan=True)
    assert np.array_equal(first.rewards[seen], table.rewards[first.prompts][:, first.search][seen])
