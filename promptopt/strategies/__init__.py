"""The search strategies, one file each. A strategy is settings in a frozen dataclass and one method, `search(run)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from promptopt.strategies.hillclimb import HillClimb as HillClimb
from promptopt.strategies.promptquine import PromptQuine as PromptQuine
from promptopt.strategies.randomsearch import RandomSearch as RandomSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.run import Run


@runtime_checkable
class Strategy(Protocol):
    """What a strategy is.

    Attributes:
        writes: whether it asks a prompt writer, so that one is looked for before anything is spent.
    """

    writes: ClassVar[bool]

    def search(self, run: Run) -> None:
        """Score prompts through `run` until the search is done; the harness picks the winner."""
        ...


BUILT_IN: dict[str, Callable[[], Strategy]] = {
    "promptquine": PromptQuine,
    "promptquine.paper": PromptQuine.paper,
    "hillclimb": HillClimb,
    "hillclimb.paper": HillClimb.paper,
    "random": RandomSearch,
}
