"""Runs programs: every set of prompts answers every example. All programs wait together, one batch per round.

A program is a coroutine that yields what it waits for. No event loop runs, so a program cannot wait for anything else. Knows
nothing of rewards or strategies; memo and budget belong to the caller.
"""

from __future__ import annotations

import inspect
import json
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from promptopt.errors import InputError, nearest
from promptopt.evaluation.threads import call_in_threads
from promptopt.models.base import Price, Request
from promptopt.models.identity import code_digest
from promptopt.parsing.slots import slot_names
from promptopt.program import DESCRIBES, PRICE, THREADS, TIMEOUT, VERSION
from promptopt.prompt import Layout, Prompts
from promptopt.replies import TOOL, Arrival, Call, Failure, Response, Usage
from promptopt.task import default_template
from promptopt.tools import Exchange, parse_arguments, tool_schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence

    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Context, Example, Prompt
    from promptopt.replies import Reply
    from promptopt.task import Task
    from promptopt.tools import ToolCall, ToolSchema

_REPEAT_BITS = 20  # the k-th equal request of a program at a temperature has the replicate number (k << 20) + r
_OWN_LOOP = "no running event loop"  # what asyncio says to a program that waits for something of its own


class Replays:
    """What programs asked, by cell, to find those that ask something else when they are run again."""

    def __init__(self) -> None:
        self._asked: dict[tuple[Prompt, str, int], int] = {}

    def check(self, cell: tuple[Prompt, Example, int], response: Response) -> None:
        """Raise if the program asked other things before, given the same replies.

        Raises:
            InputError: it did.
        """
        prompt, example, replicate = cell
        asked = hash(response.trace)
        if self._asked.setdefault((prompt, example.id, replicate), asked) != asked:
            raise InputError(
                f"run again on example {example.id!r}, the program asked for something else: it must depend on its "
                "arguments and the replies only, not on random numbers, a clock or a file that changes"
            )


class _Wanted(NamedTuple):
    """A call that a program waits for: of a prompt by a context, or of a function by its arguments in JSON."""

    name: str
    inputs: tuple[tuple[str, str], ...]
    context: Context
    function: Callable[..., Any] | None = None
    model: str = ""
    tools: tuple[ToolSchema, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    def __await__(self) -> Generator[_Wanted, Any, Any]:
        return (yield self)


class _Together(NamedTuple):
    """Several things that a program waits for at once."""

    waiting: tuple[Awaitable[Any], ...]

    def __await__(self) -> Generator[_Together, Any, Any]:
        return (yield self)


@dataclass(eq=False)
class _Strand:
    """A coroutine of a program: its main one, or one that another gathers."""

    coroutine: Coroutine[Any, Any, Any]
    parent: _Strand | None = None
    place: int = 0
    results: list[Any] = field(default_factory=list)
    missing: int = 0


@dataclass
class _Asker:
    """What one program asks with."""

    prompts: Prompts
    task: Task

    def __call__(
        self, name: str, example: Example, /, *, model: str = "", tools: Sequence[Callable[..., Any]] = (), **slots: str
    ) -> _Wanted:
        prompt, models = self.prompts[name], self.task.models or {}
        if name.startswith(DESCRIBES):
            raise InputError(
                f"the prompt {name!r} describes a tool: give the function in tools=[...] of another prompt"
            )
        if model and model not in models:
            advice = f"the models: {', '.join(models)}" if models else f"give the task models={{{model!r}: ...}}"
            raise InputError(f"the task has no model {model!r}{nearest(model, models)}; {advice}")
        not_text = next((slot for slot, value in slots.items() if not isinstance(value, str)), None)
        if not_text is not None:
            raise InputError(
                f"the program fills the slot {not_text!r} of {name!r} with {slots[not_text]!r}: give a text"
            )
        inputs = {**example.inputs, **slots}
        self._check_slots(name, prompt, inputs)
        items = prompt.demonstrations.items if prompt.demonstrations else ()
        lacking = next(((item.id, slot) for item in items for slot in inputs if slot not in item.inputs), None)
        if lacking is not None:
            raise InputError(
                f"demonstration {lacking[0]!r} of the prompt {name!r} has no field {lacking[1]!r}, which the program fills: give it one"
            )
        layout = Layout(tuple(inputs), default_template(tuple(inputs)), self.task.format)
        context = layout.render(prompt, _filled(example, inputs))
        if tools and isinstance(context, str):
            raise InputError("tools need chats: set the task's format to 'chat'")
        return _Wanted(name, tuple(inputs.items()), context, model=model, tools=self._schemas(tools))

    def _schemas(self, tools: Sequence[Callable[..., Any]]) -> tuple[ToolSchema, ...]:
        described = {name: prompt.text for name, prompt in self.prompts.components if name.startswith(DESCRIBES)}
        schemas = [tool_schema(tool, described.get(f"{DESCRIBES}{tool.__name__}")) for tool in tools]
        names = [schema.name for schema in schemas]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"two tools are named {twice!r}: rename one")
        return tuple(schemas)

    async def agent(
        self, name: str, example: Example, /, *, tools: Sequence[Callable[..., Any]], model: str = "", **slots: str
    ) -> Response:
        wanted = self(name, example, model=model, tools=tools, **slots)
        functions = {tool.__name__: tool for tool in tools}
        schemas = {schema.name: schema for schema in wanted.tools}
        while True:
            reply: Response = await wanted
            if not reply.tool_calls:
                return reply
            called = [self._called(call, functions, schemas) for call in reply.tool_calls]
            results: list[Any] = await self.gather(*called)
            exchange = Exchange(reply.text, reply.tool_calls, tuple(map(_as_text, results)))
            wanted = wanted._replace(exchanges=(*wanted.exchanges, exchange))

    async def _called(
        self, call: ToolCall, functions: Mapping[str, Callable[..., Any]], schemas: Mapping[str, ToolSchema]
    ) -> Any:
        """Return what a tool returns, or what is wrong with the call."""
        if call.name not in functions:
            return f"error: there is no tool {call.name!r}; the tools are: {', '.join(functions) or 'none'}"
        arguments = parse_arguments(call, schemas[call.name])
        return arguments if isinstance(arguments, str) else await self.tool(functions[call.name], **arguments)

    def _check_slots(self, name: str, prompt: Prompt, inputs: dict[str, str]) -> None:
        seed = self.task.seed_prompt
        declared = slot_names(seed[name].text) if isinstance(seed, Prompts) else []
        empty = next((slot for slot in declared if slot not in inputs and f"{{{slot}}}" in prompt.text), None)
        if empty is not None:
            raise InputError(
                f"nothing fills the slot {{{empty}}} of the prompt {name!r}: write ask({name!r}, example, {empty}=...) in the "
                f"program, or take the slot out of the prompt; filled are {', '.join(inputs)}"
            )

    def tool(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> _Wanted:
        if not inspect.isroutine(function):
            raise InputError(f"a tool is a function, not {function!r}: write a function that calls it")
        name = function.__name__
        try:
            written = json.dumps([arguments, named], sort_keys=True, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"the arguments of the tool {name!r} must be JSON values: {error}") from None
        return _Wanted(f"{TOOL}:{name}", (("arguments", written),), written, function)

    def gather(self, *waiting: Awaitable[Any]) -> _Together:
        return _Together(waiting)


@dataclass(eq=False)
class _Running:
    """One program in progress."""

    task: Task
    replicate: int
    waiting: list[tuple[_Strand, _Wanted]] = field(default_factory=list)
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
        for (strand, wanted), reply in zip(waiting, replies, strict=True):
            if self.outcome is not None:
                return
            if isinstance(reply, Failure):
                self._end(Failure(f"{wanted.name}: {reply.reason}", refused=reply.refused))
                return
            self.usage = Usage(*(total + new for total, new in zip(self.usage, reply.usage, strict=True)))
            self.trace.append(Call(wanted.name, wanted.inputs, reply.text, reply.tool_calls))
            self._advance(strand, reply if wanted.function is None else _result(reply.text))
        if self.outcome is None and len(self.trace) + len(self.waiting) > self.task.max_calls:
            self._end(
                Failure(
                    f"the program makes more than {self.task.max_calls} calls: end its loop, or raise the task's max_calls"
                )
            )

    def _strand(self, coroutine: Coroutine[Any, Any, Any], parent: _Strand | None = None, place: int = 0) -> _Strand:
        strand = _Strand(coroutine, parent, place)
        self.strands.append(strand)
        return strand

    def _advance(self, strand: _Strand, value: Any) -> None:
        try:
            wanted = strand.coroutine.send(value)
        except StopIteration as end:
            self._returned(strand, end.value)
        except InputError:
            self._close()
            raise
        except Exception as error:  # noqa: BLE001  user code may raise anything
            if _OWN_LOOP in str(error):
                raise _foreign(error) from None
            self._end(Failure(f"the program raised {_last_line(error)}"))
        else:
            self._wait(strand, wanted)

    def _wait(self, strand: _Strand, wanted: object) -> None:
        if isinstance(wanted, _Wanted):
            self.waiting.append((strand, wanted))
        elif isinstance(wanted, _Together):
            strand.results, strand.missing = [None] * len(wanted.waiting), len(wanted.waiting)
            if not wanted.waiting:
                self._advance(strand, [])
            for place, awaitable in enumerate(wanted.waiting):
                if self.outcome is None:
                    self._advance(self._strand(_awaited(awaitable), strand, place), None)
        else:
            self._close()
            raise _foreign(wanted)

    def _returned(self, strand: _Strand, value: Any) -> None:
        parent = strand.parent
        if parent is not None:
            parent.results[strand.place] = value
            parent.missing -= 1
            if not parent.missing:
                self._advance(parent, parent.results)
            return
        if not isinstance(value, str | Response):
            raise InputError(f"the program returned {value!r}: return a response of ask, or a text")
        response = Response(value) if isinstance(value, str) else value
        self.outcome = Response(
            response.text,
            usage=self.usage,
            finish_reason=response.finish_reason,
            trace=(*self.trace, *response.trace),
        )

    def _end(self, failure: Failure) -> None:
        self.outcome = failure
        self._close()

    def _close(self) -> None:
        self.waiting = []
        for strand in reversed(self.strands):
            strand.coroutine.close()


def run_programs(
    task: Task, model: Model, caller: Caller, cells: Sequence[tuple[Prompt, Example, int]], replays: Replays
) -> list[Reply]:
    """Run the task's program for each (prompts, example, replicate).

    Args:
        task: supplies the program and sampling settings.
        model: the task model.
        caller: sends requests, and calls functions, through memo and budget.
        cells: [N] prompts, examples and replicate numbers.
        replays: what programs asked before.

    Returns:
        [N] what each program returned, with its trace and the usage of all its calls; or the failure that ended it.

    Raises:
        InputError: the program cannot be used: it names an unknown prompt, leaves a slot empty, returns nothing, waits for
            something else than `ask`, or asks for something else when it is run again.
        BudgetExhaustedError, PermanentModelError, StoppedError: as for `Caller.generate`. Earlier replies are in the memo.
    """
    running = [_begun(task, *cell) for cell in cells]
    while active := [program for program in running if program.outcome is None]:
        replies = iter(_replies(task, model, caller, active))
        for program in active:
            program.answer(list(islice(replies, len(program.waiting))))
    outcomes = [program.outcome or Failure("never begun") for program in running]
    for cell, outcome in zip(cells, outcomes, strict=True):
        if isinstance(outcome, Response):
            replays.check(cell, outcome)
    return outcomes


def _begun(task: Task, prompt: Prompt, example: Example, replicate: int) -> _Running:
    if not isinstance(prompt, Prompts) or task.program is None:
        raise InputError(f"a program is run with Prompts, not with {str(prompt)[:60]!r}")
    coroutine = task.program(_Asker(prompt, task), prompt, example)
    if not inspect.iscoroutine(coroutine):
        raise InputError(f"the program {task.program!r} must be written `async def program(ask, prompts, example)`")
    running = _Running(task, replicate)
    running.begin(coroutine)
    return running


def _replies(task: Task, model: Model, caller: Caller, active: Sequence[_Running]) -> list[Reply]:
    """Return the replies to all that the programs wait for, in order."""
    wanted = [(program, one) for program in active for _, one in program.waiting]
    groups: dict[tuple[Callable[..., Any] | None, str], list[int]] = defaultdict(list)
    for number, (_, one) in enumerate(wanted):
        groups[one.function, one.model].append(number)
    out: dict[int, Reply] = {}
    for (function, name), numbers in groups.items():
        asked = [wanted[number] for number in numbers]
        if function is None:
            requests = [_request(task, program, one) for program, one in asked]
            replies = caller.generate(name or "task", (task.models or {}).get(name, model), requests)
        else:
            requests = [Request(context=one.context, max_tokens=1) for _, one in asked]
            replies = caller.generate(TOOL, _tool_model(function), requests)
        out.update(zip(numbers, replies, strict=True))
    return [out[number] for number in range(len(wanted))]


def _request(task: Task, program: _Running, wanted: _Wanted) -> Request:
    """Return the request; at a temperature, equal requests of one program are further samples."""
    asked = wanted.model, wanted.context, wanted.tools, wanted.exchanges
    repeat = program.repeated[asked] if task.temperature else 0
    program.repeated[asked] += 1
    return Request(
        context=wanted.context,
        max_tokens=task.max_tokens,
        temperature=task.temperature,
        top_p=task.top_p,
        top_k=task.top_k,
        stop=task.stop,
        replicate=(repeat << _REPEAT_BITS) + program.replicate,
        tools=wanted.tools,
        exchanges=wanted.exchanges,
    )


class _ToolModel:
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
            return Failure(f"it raised {_last_line(error)}")
        output, usage = (result.text, result.usage) if isinstance(result, Response) else (result, Usage())
        try:
            return Response(json.dumps(output, ensure_ascii=False, allow_nan=False), usage=usage)
        except (TypeError, ValueError) as error:
            raise InputError(f"the tool {self._function.__name__!r} must return JSON values: {error}") from None


@lru_cache
def _tool_model(function: Callable[..., Any]) -> _ToolModel:
    return _ToolModel(function)


def _result(written: str) -> Any:
    try:
        return json.loads(written)
    except ValueError:  # a simulated reply
        return written


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _filled(example: Example, inputs: dict[str, str]) -> Example:
    return type(example)(inputs, example.target, example.id)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _foreign(wanted: object) -> InputError:
    return InputError(
        f"the program waits for something else than ask ({wanted!r}): only calls of ask can be awaited; do other work in a "
        "function, and write `await ask.tool(function, ...)`"
    )


def _last_line(error: BaseException) -> str:
    """Return the error in one line, with the place in the code."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{line} (line {frame.lineno} of {frame.filename.rpartition('/')[2]})"
