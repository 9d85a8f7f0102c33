"""Programs: tasks whose answer takes several prompts, as the user's own code.

Types only; `promptopt.evaluation.programs` runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from promptopt.errors import InputError
from promptopt.replies import TOOL
from promptopt.tools import PARAMETERS

if TYPE_CHECKING:
    from promptopt.prompt import Example, Prompts
    from promptopt.replies import Response


class Ask(Protocol):
    """What a program asks with. Each result is awaited; all programs of a `score` call wait together, as one batch."""

    def __call__(
        self, name: str, example: Example, /, *, model: str = "", tools: Sequence[Callable[..., Any]] = (), **slots: str
    ) -> Awaitable[Response]:
        """Send a prompt to a model.

        Args:
            name: of the prompt.
            example: fills the prompt's slots.
            model: name of one of the task's `models`; "" for the task model.
            tools: functions that the model may call, in chats. The reply's `tool_calls` are its calls, which the program answers as it
                likes; `agent` does so. A prompt named `tool:NAME` is the description of the function NAME; else its docstring is.
            slots: further slots that the program fills, as texts; where the prompt has no slot, they follow the example's fields.

        Raises:
            InputError: there is no such prompt or model, a slot of the prompt is not filled, or a tool cannot be described.
        """
        ...

    def agent(
        self, name: str, example: Example, /, *, tools: Sequence[Callable[..., Any]], model: str = "", **slots: str
    ) -> Awaitable[Response]:
        """Send a prompt, call the tools that the model asks for, tell it what they returned, and so on until it answers.

        Tools are called as by `tool`. A call with wrong arguments, or of no tool, is answered with what is wrong; an exception
        in a tool fails the program. The task's `max_calls` ends a loop.

        Args: as for `ask`.

        Returns:
            The reply that calls no tool.
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


DESCRIBES = f"{TOOL}:"
"""Beginning of the names of prompts that describe tools."""

VERSION, THREADS = "promptopt_version", "promptopt_threads"
"""Attributes of a function that `tool` marked."""


def check_version(version: object) -> None:
    """Raise InputError if a version is no text, or empty."""
    if not isinstance(version, str) or not version:
        raise InputError(f"the version of a tool must be a text such as '1', not {version!r}")


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def tool(
    *, version: str, threads: int = 1, parameters: Mapping[str, Any] | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that gives a tool a version, by which the memo knows it in place of its code.

    Needed for functions that use objects, such as an index or a client.

    Args:
        version: change it when the function's results change.
        threads: calls at once, for functions that wait, such as for a service.
        parameters: JSON schema of the arguments, an object, for models that call the tool; by default from the types of the arguments.

    Raises:
        InputError: `version` is empty or no text, or `threads` is below 1.
    """
    check_version(version)
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")

    def mark(function: FunctionT) -> FunctionT:
        setattr(function, VERSION, version)
        setattr(function, THREADS, threads)
        if parameters is not None:
            setattr(function, PARAMETERS, parameters)
        return function

    return mark


def as_program(predict: Callable[[dict[str, str], dict[str, str]], str], *, version: str, threads: int = 8) -> Program:
    """Return the program of code that asks models by itself: a pipeline of another library, a service, a subprocess.

    The memo keeps each output under the version, the texts of all prompts and the inputs. A budget counts calls of `predict`.

    Args:
        predict: maps {name: text of the prompt} and the example's inputs to an output.
        version: change it when the same prompts and inputs would give another output.
        threads: calls at once; `predict` is called from so many threads.

    Raises:
        InputError: as `tool`.
    """

    @tool(version=version, threads=threads)
    def output(prompts: dict[str, str], inputs: dict[str, str]) -> str:
        return predict(prompts, inputs)

    async def program(ask: Ask, prompts: Prompts, example: Example) -> str:
        texts = {name: prompt.text for name, prompt in prompts.components}
        said: str = await ask.tool(output, texts, dict(example.inputs))
        return said

    return program


Program: TypeAlias = Callable[["Ask", "Prompts", "Example"], Coroutine[Any, Any, "Response | str"]]
"""`async def program(ask, prompts, example)`: returns the answer to one example, as a response of `ask` or as a text.

It must be a function of its arguments and of the replies: without a clock, random numbers or calls of its own.
"""
