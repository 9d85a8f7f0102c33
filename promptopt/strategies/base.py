"""What a strategy is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from promptopt.search.run import Run


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
