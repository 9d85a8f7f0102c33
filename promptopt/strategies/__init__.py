"""The search strategies, one file each. A strategy is settings in a frozen dataclass and one method, `search(run)`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from promptopt.strategies.hillclimb import HillClimb as HillClimb
from promptopt.strategies.p1 import P1 as P1
from promptopt.strategies.promptquine import PromptQuine as PromptQuine
from promptopt.strategies.promst import Promst as Promst
from promptopt.strategies.randomsearch import RandomSearch as RandomSearch
from promptopt.strategies.tapruning import SteepestAscent as SteepestAscent
from promptopt.strategies.tapruning import TAPruning as TAPruning
from promptopt.strategies.unsupervised import Unsupervised as Unsupervised

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.run import Run


@runtime_checkable
class Strategy(Protocol):
    """What a strategy is.

    Attributes:
        writes: whether it asks a prompt writer, so that one is looked for before anything is spent; a class variable, or a
            property where it follows from the settings.
    """

    @property
    def writes(self) -> bool: ...

    def search(self, run: Run) -> None:
        """Score prompts through `run` until the search is done; the harness picks the winner."""
        ...


@runtime_checkable
class Unlabelled(Strategy, Protocol):
    """A strategy that says whether it looks at labels of the training items.

    Attributes:
        unlabelled: whether it looks at none, so that they need have none.
    """

    @property
    def unlabelled(self) -> bool: ...


def needs_no_labels(strategy: Strategy) -> bool:
    """Tell whether the training items need no labels; a strategy that does not say so needs them."""
    return isinstance(strategy, Unlabelled) and strategy.unlabelled


BUILT_IN: dict[str, Callable[[], Strategy]] = {
    "promptquine": PromptQuine,
    "promptquine.paper": PromptQuine.paper,
    "promptquine.ssga": partial(PromptQuine.paper, mode="ssga"),
    "tapruning": TAPruning,
    "steepest": SteepestAscent,
    "hillclimb": HillClimb,
    "hillclimb.paper": HillClimb.paper,
    "random": RandomSearch,
    "unsupervised": Unsupervised,
    "unsupervised.paper": Unsupervised.paper,
    "promst": Promst,
    "promst.paper": Promst.paper,
    "p1": P1,
    "p1.paper": P1.paper,
}
