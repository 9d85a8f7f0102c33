"""Programs: tasks whose answer takes several prompts, as the user's own code.

Types only; `promptopt.evaluation.programs` runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from promptopt.prompt import Example, Prompts
    from promptopt.replies import Response


class Ask(Protocol):
    """What a program asks with. Each result is awaited; all programs of a `score` call wait together, as one batch."""

    def __call__(self, name: str, example: Example, /, *, model: str = "", **slots: str) -> Awaitable[Response]:
        """Send a prompt to a model.

        Args:
            name: of the prompt.
            example: fills the prompt's slots.
            model: name of one of the task's `models`; "" for the task model.
            slots: further slots that the program fills, as texts; where the prompt has no slot, they follow the example's fields.

        Raises:
            InputError: there is no such prompt or model, or a slot of the prompt is not filled.
        """
        ...

    def tool(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Awaitable[Any]:
        """Call a function, or take its result from the memo, which knows it by its code and its arguments.

        Args:
            function: returns JSON values, the same for the same arguments.
            arguments: JSON values.
            named: JSON values.
        """
        ...

    def gather(self, *waiting: Awaitable[Any]) -> Awaitable[list[Any]]:
        """Wait for several results at once: calls of `ask`, or coroutines of the program's own."""
        ...


VERSION = "promptopt_version"
"""Attribute of a function that `tool` marked."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def tool(*, version: str) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that gives a tool a version, by which the memo knows it in place of its code.

    Needed for functions that use objects, such as an index or a client. Raise the version when results change.
    """

    def mark(function: FunctionT) -> FunctionT:
        setattr(function, VERSION, version)
        return function

    return mark


Program: TypeAlias = Callable[["Ask", "Prompts", "Example"], Coroutine[Any, Any, "Response | str"]]
"""`async def program(ask, prompts, example)`: returns the answer to one example, as a response of `ask` or as a text.

It must be a function of its arguments and of the replies: without a clock, random numbers or calls of its own.
"""
