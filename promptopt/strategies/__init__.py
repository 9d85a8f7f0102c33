"""The search strategies, one file each. A strategy is settings in a frozen dataclass and one method, `search(run)`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

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
        writes: whether it asks a prompt writer, so that one is looked for before anything is spent.
    """

    writes: ClassVar[bool]

    def search(self, run: Run) -> None:
        """Score prompts through `run` until the search is done; the harness picks the winner."""
        ...


@runtime_checkable
class Unlabelled(Strategy, Protocol):
    """A strategy that looks at no label of the training items, so that they need have none.

    Attributes:
        unlabelled: true.
    """

    unlabelled: ClassVar[bool]


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
