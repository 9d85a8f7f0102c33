"""The strategy protocol, and what a strategy may state about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from promptopt.search.run import Run


@runtime_checkable
class Strategy(Protocol):
    """A search strategy.

    Attributes:
        writes: whether it uses a writer, so that the writer is checked before the search; a class variable, or a property
            if it depends on the settings.
    """

    @property
    def writes(self) -> bool: ...

    def search(self, run: Run) -> None:
        """Score prompts with `run.score` until the search is done; selection happens afterwards, outside the strategy."""
        ...


@runtime_checkable
class Named(Strategy, Protocol):
    """A strategy that states its name, so that renaming its class changes neither results nor random numbers.

    Attributes:
        name: in results and run names; a run's random numbers depend on it.
    """

    @property
    def name(self) -> str: ...


@runtime_checkable
class Unlabelled(Strategy, Protocol):
    """A strategy that declares whether it works without training labels.

    Attributes:
        unlabelled: whether it uses no labels of the training examples.
    """

    @property
    def unlabelled(self) -> bool: ...


@runtime_checkable
class ForPrograms(Strategy, Protocol):
    """A strategy that declares whether it searches the prompts of a program.

    Attributes:
        programs: whether candidates are `Prompts`; others search one prompt, or a `run.component`.
    """

    @property
    def programs(self) -> bool: ...


def searches_programs(strategy: Strategy) -> bool:
    """Tell whether the strategy searches the prompts of a program; by default it searches one prompt."""
    return isinstance(strategy, ForPrograms) and strategy.programs


def needs_no_labels(strategy: Strategy) -> bool:
    """Tell whether the strategy works without training labels; by default a strategy needs them."""
    return isinstance(strategy, Unlabelled) and strategy.unlabelled
