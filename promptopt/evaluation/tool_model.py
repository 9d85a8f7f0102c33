"""A function as a model, so that memo, budget and failures are those of any call. Knows nothing of programs."""

from __future__ import annotations

import json
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from promptopt.errors import InputError
from promptopt.evaluation.threads import call_in_threads
from promptopt.models.base import Price
from promptopt.models.identity import code_digest
from promptopt.program import PRICE, THREADS, TIMEOUT, VERSION
from promptopt.replies import TOOL, Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from promptopt.models.base import Request


class ToolModel:
    """A function as a model: its memo key is its code, or the version that the user gave, and its arguments."""

    unit: Literal["reply"] = "reply"

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.price: Price | None = getattr(function, PRICE, Price(0.0, 0.0))
        name, version = function.__name__, getattr(function, VERSION, None)
        code = code_digest(function) if version is None else None
        if version is None and code is None:
            raise InputError(
                f"the memo cannot tell what the tool {name!r} does, because it uses objects that cannot be compared across "
                "processes: write @promptopt.tool(version='1') above it, and raise the version when its results change"
            )
        self.fingerprint: Mapping[str, Any] = {"provider": TOOL, "model": name} | (
            {"code": code} if version is None else {"version": version}
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Call the function once for each request, whose context is the arguments in JSON."""
        threads, timeout = getattr(self._function, THREADS, 1), getattr(self._function, TIMEOUT, None)
        if threads > 1 or timeout is not None:
            yield from call_in_threads(self._call, requests, threads, timeout)
            return
        for number, request in enumerate(requests):
            yield Arrival(number, self._call(request))

    def _call(self, request: Request) -> Response | Failure:
        arguments, named = json.loads(str(request.context))
        try:
            result = self._function(*arguments, **named)
        except InputError as error:
            return Failure(str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  user code may raise anything
            return Failure(f"it raised {last_line(error)}")
        output, usage = (result.text, result.usage) if isinstance(result, Response) else (result, Usage())
        try:
            return Response(json.dumps(output, ensure_ascii=False, allow_nan=False), usage=usage)
        except (TypeError, ValueError) as error:
            raise InputError(f"the tool {self._function.__name__!r} must return JSON values: {error}") from None


@lru_cache
def tool_model(function: Callable[..., Any]) -> ToolModel:
    """Return a function as a model, the same one for the same function."""
    return ToolModel(function)


def last_line(error: BaseException) -> str:
    """Return the error in one line, with the place in the code."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{line} (line {frame.lineno} of {frame.filename.rpartition('/')[2]})"
