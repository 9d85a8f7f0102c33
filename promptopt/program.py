"""Programs: tasks whose answer takes several prompts, as the user's own code. What users write them with.

`promptopt.evaluation.programs` runs them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from promptopt.errors import InputError
from promptopt.models.base import Price
from promptopt.replies import TOOL, Response
from promptopt.tools import PARAMETERS

if TYPE_CHECKING:
    from promptopt.prompt import Example, Prompts


class Ask(Protocol):
    """What a program asks with. Each result is awaited; all programs of a `score` call wait together, as one batch."""

    def __call__(
        self,
        name: str,
        example: Example,
        /,
        *,
        model: str = "",
        choices: Sequence[str] = (),
        tools: Sequence[Callable[..., Any]] = (),
        **slots: str,
    ) -> Awaitable[Response]:
        """Send a prompt to a model.

        Args:
            name: of the prompt.
            example: fills the prompt's slots.
            model: name of one of the task's `models`; "" for the task model.
            choices: labels among which a model with log-probabilities chooses: the reply's text is the likeliest, and it has their
                `label_logprobs`. Any other model writes its reply.
            tools: functions that the model may call, in chats. The reply's `tool_calls` are its calls, which the program answers as it
                likes; `agent` does so. A prompt named `tool:NAME` is the description of the function NAME; else its docstring is.
            slots: further slots that the program fills, as texts; where the prompt has no slot, they follow the example's fields.

        Raises:
            InputError: there is no such prompt or model, a slot of the prompt is not filled, a tool cannot be described, or there are not two different choices.
        """
        ...

    def agent(
        self, name: str, example: Example, /, *, tools: Sequence[Callable[..., Any]], model: str = "", **slots: str
    ) -> Awaitable[Response]:
        """Send a prompt, call the tools that the model asks for, send their results back, and repeat this until it answers.

        Tools are called as by `tool`. The result of a call with wrong arguments, or of a tool that does not exist, says what is wrong; an
        exception in a tool fails the program. The task's `max_calls` ends a loop.

        Args: as for `ask`.

        Returns:
            The reply that calls no tool.
        """
        ...

    def tool(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Awaitable[Any]:
        """Call a function, or take its result from the memo, which knows it by its code and its arguments.

        Args:
            function: returns JSON values, the same for the same arguments; or, if it asks models by itself, a `Response` with a
                text and the usage to count.
            arguments: JSON values.
            named: JSON values.
        """
        ...

    def gather(self, *waiting: Awaitable[Any]) -> Awaitable[list[Any]]:
        """Wait for several results at once: calls of `ask`, or coroutines of the program's own."""
        ...


DESCRIBES = f"{TOOL}:"
"""Beginning of the names of prompts that describe tools."""

VERSION, THREADS, TIMEOUT = "promptopt_version", "promptopt_threads", "promptopt_timeout"
"""Attributes of a function that `tool` marked."""

PRICE = "promptopt_price"
"""Attribute of the function that calls `predict`: the price of the tokens that it reports, or None if unknown."""

DEFAULT_THREADS = 8
"""Calls of `predict` at once."""


def check_version(version: object) -> None:
    """Raise InputError if a version is no text, or empty."""
    if not isinstance(version, str) or not version:
        raise InputError(f"the version of a tool must be a text such as '1', not {version!r}")


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def tool(
    *, version: str, threads: int = 1, timeout: float | None = None, parameters: Mapping[str, Any] | None = None
) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that gives a tool a version, by which the memo knows it in place of its code.

    Needed for functions that use objects, such as an index or a client.

    Args:
        version: change it when the function's results change.
        threads: calls at once, for functions that wait, such as for a service.
        timeout: seconds after which a call counts as failed. Its thread cannot be stopped: it runs on, and its result is dropped.
        parameters: JSON schema of the arguments, an object, for models that call the tool; by default from the types of the arguments.

    Raises:
        InputError: `version` is empty or no text, `threads` is below 1, or `timeout` is not above 0.
    """
    check_version(version)
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise InputError(f"a timeout is a number of seconds above 0, or None for no limit, not {timeout!r}")

    def mark(function: FunctionT) -> FunctionT:
        setattr(function, VERSION, version)
        setattr(function, THREADS, threads)
        setattr(function, TIMEOUT, timeout)
        if parameters is not None:
            setattr(function, PARAMETERS, parameters)
        return function

    return mark


Predict: TypeAlias = Callable[[dict[str, str], dict[str, str]], str | Response]
"""`predict(prompts, inputs)`: {name: text of the prompt} and the example's inputs -> an output, perhaps with its usage."""


def as_program(
    predict: Predict,
    *,
    version: str,
    name: str = "",
    threads: int = DEFAULT_THREADS,
    timeout: float | None = None,
    price: Price | None = None,
) -> PredictProgram:
    """Return the program of code that asks models by itself: a pipeline of another library, a service, a subprocess.

    The memo keeps each output under the name, the version, the texts of all prompts and the inputs. A budget counts calls of
    `predict`, and the tokens that it reports.

    Args:
        predict: maps {name: text of the prompt} and the example's inputs to an output: a text, or `Response(text, usage=Usage(...))`
            to have its tokens counted. An exception fails this one example.
        version: change it when the same prompts and inputs would give another output.
        name: of the code, in the memo and in results; by default the function's.
        threads: calls at once; `predict` is called from so many threads.
        timeout: seconds after which a call counts as failed. Its thread cannot be stopped: it runs on, and its output is dropped.
        price: of the tokens that `predict` reports; needed for a budget in dollars. `Price(0, 0)` if it costs nothing.

    Raises:
        InputError: as `tool`; or `predict` cannot be called with two arguments, or is an `async def`, or `price` is no `Price`.
    """
    _check_predict(predict)
    if not isinstance(price, Price | None):
        raise InputError(f"the price of predict must be a Price, such as Price(0.4, 1.6), not {price!r}")

    @tool(version=version, threads=threads, timeout=timeout)
    def output(prompts: dict[str, str], inputs: dict[str, str]) -> str | Response:
        return _checked(predict(prompts, inputs), output.__name__, price)

    output.__name__ = name or getattr(predict, "__name__", type(predict).__name__)
    setattr(output, PRICE, price)
    return PredictProgram(output, version, price)


@dataclass(frozen=True)
class PredictProgram:
    """The program that `as_program` returns.

    Args:
        output: calls `predict`.
        version: as given.
        price: as given.
    """

    output: Predict
    version: str
    price: Price | None

    @property
    def fingerprint(self) -> dict[str, str]:
        """What identifies it in results."""
        return {"predict": self.output.__name__, "version": self.version}

    async def __call__(self, ask: Ask, prompts: Prompts, example: Example) -> str:
        """Give the texts of the prompts and the inputs to `predict`."""
        texts = {name: prompt.text for name, prompt in prompts.components}
        said: str = await ask.tool(self.output, texts, dict(example.inputs))
        return said


def _check_predict(predict: Predict) -> None:
    wanted = "give a function predict(prompts, inputs) that returns a text"
    if not callable(predict) or isinstance(predict, type):
        raise InputError(f"predict = {predict!r} is not a function: {wanted}")
    if inspect.iscoroutinefunction(predict):
        raise InputError(
            f"predict = {predict!r} is an async def, which no event loop runs: {wanted}, such as one that calls "
            "asyncio.run(...)"
        )
    try:
        signature = inspect.signature(predict)
    except ValueError:  # of a function written in C
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise InputError(f"predict = {predict!r} takes {signature}: {wanted}") from error


def _checked(output: object, name: str, price: Price | None) -> str | Response:
    if not isinstance(output, str | Response):
        raise InputError(
            f"{name!r} returned {output!r}: return a text, or Response(text, usage=Usage(...)) to have its tokens counted"
        )
    if isinstance(output, str) and price is not None and any(price):
        raise InputError(
            f"{name!r} has a price, but returned a text without the tokens that it used: return "
            "Response(text, usage=Usage(input=..., output=...)), or remove the price"
        )
    return output


Program: TypeAlias = Callable[["Ask", "Prompts", "Example"], Coroutine[Any, Any, "Response | str"]]
"""`async def program(ask, prompts, example)`: returns the answer to one example, as a response of `ask` or as a text.

It must be a function of its arguments and of the replies: without a clock, random numbers or calls of its own.
"""
