"""Steps coroutines that wait for models and functions: all of them wait together, one batch per round.

A coroutine yields what it waits for. No event loop runs, so it cannot wait for anything else. Knows nothing of prompts,
examples, environments or rewards; memo and budget belong to the caller.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError
from promptopt.evaluation.tool_model import last_line, tool_model
from promptopt.models.base import LabelModel, Request
from promptopt.models.options import NO_OPTIONS
from promptopt.replies import TOOL, Call, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence

    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Context
    from promptopt.replies import Reply
    from promptopt.task import Task
    from promptopt.tools import Exchange, ToolSchema

_REPEAT_BITS = 20  # the k-th equal request of a program at a temperature has the replicate number (k << 20) + r
_OWN_LOOP = "no running event loop"  # what asyncio says to a program that waits for something of its own


class PendingCall(NamedTuple):
    """A call that a program waits for: of a model by a context, or of a function by its arguments in JSON.

    Args:
        name: of the prompt, or `tool:` and the function's name; begins the reason of a failure.
        inputs: (field, text) pairs for the trace.
        context: what the model reads, or the arguments.
        function: called in place of a model.
        model: one of the task's `models`; "" for the task model.
        choices: a model with log-probabilities chooses among these.
        tools: that the model may call.
        exchanges: the tools that it called so far, and what they returned.
    """

    name: str
    inputs: tuple[tuple[str, str], ...]
    context: Context
    function: Callable[..., Any] | None = None
    model: str = ""
    choices: tuple[str, ...] = ()
    tools: tuple[ToolSchema, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    def __await__(self) -> Generator[PendingCall, Any, Any]:
        return (yield self)


class PendingGroup(NamedTuple):
    """Several things that a program waits for at once."""

    waiting: tuple[Awaitable[Any], ...]

    def __await__(self) -> Generator[PendingGroup, Any, Any]:
        return (yield self)


@dataclass(eq=False)
class _Strand:
    """A coroutine of a program: its main one, or one that another gathers."""

    coroutine: Coroutine[Any, Any, Any]
    parent: _Strand | None = None
    place: int = 0
    results: list[Any] = field(default_factory=list)
    missing: int = 0


@dataclass(eq=False)
class _Running:
    """One program in progress."""

    replicate: int
    max_calls: int
    resample: bool
    waiting: list[tuple[_Strand, PendingCall]] = field(default_factory=list)
    trace: list[Call] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    repeated: Counter[tuple[object, ...]] = field(default_factory=Counter)
    strands: list[_Strand] = field(default_factory=list)
    outcome: Reply | None = None

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run the program until it waits."""
        self._advance(self._strand(coroutine), None)

    def answer(self, replies: Sequence[Reply]) -> None:
        """Hand over the replies to all that the program waits for, and run it until it waits again."""
        waiting, self.waiting = self.waiting, []
        for (strand, call), reply in zip(waiting, replies, strict=True):
            if self.outcome is not None:
                return
            if isinstance(reply, Failure):
                self._end(Failure(f"{call.name}: {reply.reason}", refused=reply.refused))
                return
            self.usage = Usage(*(total + new for total, new in zip(self.usage, reply.usage, strict=True)))
            self.trace.append(Call(call.name, call.inputs, reply.text, reply.tool_calls))
            self._advance(strand, reply if call.function is None else _result(reply.text))
        if self.outcome is None and len(self.trace) + len(self.waiting) > self.max_calls:
            self._end(
                Failure(
                    f"the program makes more than {self.max_calls} calls: end its loop, or raise the task's max_calls"
                )
            )

    def _strand(self, coroutine: Coroutine[Any, Any, Any], parent: _Strand | None = None, place: int = 0) -> _Strand:
        strand = _Strand(coroutine, parent, place)
        self.strands.append(strand)
        return strand

    def _advance(self, strand: _Strand, value: Any) -> None:
        try:
            awaited = strand.coroutine.send(value)
        except StopIteration as end:
            self._returned(strand, end.value)
        except InputError:
            self._close()
            raise
        except Exception as error:  # noqa: BLE001  user code may raise anything
            if _OWN_LOOP in str(error):
                raise _foreign(error) from None
            self._end(Failure(f"the program raised {last_line(error)}"))
        else:
            self._wait(strand, awaited)

    def _wait(self, strand: _Strand, awaited: object) -> None:
        if isinstance(awaited, PendingCall):
            self.waiting.append((strand, awaited))
        elif isinstance(awaited, PendingGroup):
            strand.results, strand.missing = [None] * len(awaited.waiting), len(awaited.waiting)
            if not awaited.waiting:
                self._advance(strand, [])
            for place, awaitable in enumerate(awaited.waiting):
                if self.outcome is None:
                    self._advance(self._strand(_awaited(awaitable), strand, place), None)
        else:
            self._close()
            raise _foreign(awaited)

    def _returned(self, strand: _Strand, value: Any) -> None:
        parent = strand.parent
        if parent is not None:
            parent.results[strand.place] = value
            parent.missing -= 1
            if not parent.missing:
                self._advance(parent, parent.results)
            return
        if isinstance(value, Failure):
            self.outcome = value
            return
        if not isinstance(value, str | Response):
            raise InputError(f"the program returned {value!r}: return a response of ask, or a text")
        response = Response(value) if isinstance(value, str) else value
        self.outcome = Response(
            response.text,
            usage=self.usage,
            finish_reason=response.finish_reason,
            trajectory=response.trajectory,
            trace=(*self.trace, *response.trace),
        )

    def _end(self, failure: Failure) -> None:
        self.outcome = failure
        self._close()

    def _close(self) -> None:
        self.waiting = []
        for strand in reversed(self.strands):
            strand.coroutine.close()


class ProgramRun(NamedTuple):
    """A program that is to run.

    Args:
        coroutine: of the program.
        replicate: number of the sample.
    """

    coroutine: Coroutine[Any, Any, Any]
    replicate: int


def drive(
    task: Task, model: Model, caller: Caller, begun: Iterable[ProgramRun], *, max_calls: int, resample: bool = True
) -> list[Reply]:
    """Run programs, all of which wait together: one batch a round.

    Args:
        task: supplies sampling settings and further models.
        model: the task model.
        caller: sends requests, and calls functions, through memo and budget.
        begun: [N] programs; each one runs until it waits before the next one is taken.
        max_calls: a program that makes more fails.
        resample: whether equal requests of one program at a temperature are further samples, rather than the same.

    Returns:
        [N] what each program returned, with its trace and the usage of all its calls; or the failure that ended it.

    Raises:
        InputError: a program returns nothing, or waits for something else than `PendingCall` and `PendingGroup`.
        BudgetExhaustedError, PermanentModelError, StoppedError: as for `Caller.generate`. Earlier replies are in the memo.
    """
    running = []
    for coroutine, replicate in begun:
        running.append(_Running(replicate, max_calls, resample))
        running[-1].begin(coroutine)
    while active := [program for program in running if program.outcome is None]:
        replies = iter(_replies(task, model, caller, active))
        for program in active:
            program.answer(list(islice(replies, len(program.waiting))))
    return [program.outcome or Failure("never begun") for program in running]


def _replies(task: Task, model: Model, caller: Caller, active: Sequence[_Running]) -> list[Reply]:
    """Return the replies to all that the programs wait for, in order."""
    calls = [(program, call) for program in active for _, call in program.waiting]
    groups: dict[tuple[Callable[..., Any] | None, str, tuple[str, ...]], list[int]] = defaultdict(list)
    for number, (_, call) in enumerate(calls):
        groups[call.function, call.model, call.choices].append(number)
    out: dict[int, Reply] = {}
    for (function, name, choices), numbers in groups.items():
        group = [calls[number] for number in numbers]
        contexts, asked_model = [call.context for _, call in group], (task.models or {}).get(name, model)
        if function is not None:
            requests = [Request(context=context, max_tokens=1) for context in contexts]
            replies = caller.generate(TOOL, tool_model(function), requests)
        elif choices and isinstance(asked_model, LabelModel):
            replies = caller.label_logprobs(name or "task", asked_model, contexts, choices)
        else:
            requests = [_request(task, program, call) for program, call in group]
            replies = caller.generate(name or "task", asked_model, requests)
        out.update(zip(numbers, replies, strict=True))
    return [out[number] for number in range(len(calls))]


def _request(task: Task, program: _Running, call: PendingCall) -> Request:
    """Return the request; at a temperature, equal requests of one program may be further samples."""
    asked = call.model, call.context, call.tools, call.exchanges
    repeat = program.repeated[asked] if task.temperature and program.resample else 0
    program.repeated[asked] += 1
    return Request(
        context=call.context,
        max_tokens=task.max_tokens,
        temperature=task.temperature,
        top_p=task.top_p,
        top_k=task.top_k,
        stop=task.stop,
        replicate=(repeat << _REPEAT_BITS) + program.replicate,
        labels=call.choices,
        tools=call.tools,
        exchanges=call.exchanges,
        options=NO_OPTIONS if call.model else task.request,
    )


def _result(written: str) -> Any:
    try:
        return json.loads(written)
    except ValueError:  # a simulated reply
        return written


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _foreign(awaited: object) -> InputError:
    return InputError(
        f"the program awaits something other than ask ({awaited!r}): only calls of ask can be awaited; do other work in a "
        "function, and write `await ask.tool(function, ...)`"
    )
