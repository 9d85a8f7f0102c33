"""Runs programs: every set of prompts answers every example. What a program asks with, and what it may ask.

Knows nothing of rewards or strategies; `driver` steps the programs, and memo and budget belong to the caller.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest
from promptopt.evaluation.driver import PendingCall, PendingGroup, ProgramRun, drive
from promptopt.parsing.slots import slot_names
from promptopt.program import DESCRIBES
from promptopt.prompt import Layout, Prompts, default_template
from promptopt.replies import TOOL, Response
from promptopt.tools import Exchange, parse_arguments, tool_schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from promptopt.evaluation.caller import Caller
    from promptopt.models.base import Model
    from promptopt.prompt import Example, Prompt
    from promptopt.replies import Reply
    from promptopt.task import Task
    from promptopt.tools import ToolCall, ToolSchema


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


@dataclass
class _Asker:
    """What one program asks with."""

    prompts: Prompts
    task: Task

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
    ) -> PendingCall:
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
        _check_choices(choices, tools)
        schemas = self._schemas(tools)
        return PendingCall(name, tuple(inputs.items()), context, model=model, choices=tuple(choices), tools=schemas)

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
        pending = self(name, example, model=model, tools=tools, **slots)
        functions = {tool.__name__: tool for tool in tools}
        schemas = {schema.name: schema for schema in pending.tools}
        while True:
            reply: Response = await pending
            if not reply.tool_calls:
                return reply
            called = [self._called(call, functions, schemas) for call in reply.tool_calls]
            results: list[Any] = await self.gather(*called)
            exchange = Exchange(reply.text, reply.tool_calls, tuple(map(_as_text, results)))
            pending = pending._replace(exchanges=(*pending.exchanges, exchange))

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

    def tool(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> PendingCall:
        if not inspect.isroutine(function):
            raise InputError(f"a tool is a function, not {function!r}: write a function that calls it")
        name = function.__name__
        try:
            written = json.dumps([arguments, named], sort_keys=True, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"the arguments of the tool {name!r} must be JSON values: {error}") from None
        return PendingCall(f"{TOOL}:{name}", (("arguments", written),), written, function)

    def gather(self, *waiting: Awaitable[Any]) -> PendingGroup:
        return PendingGroup(waiting)


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
    outcomes = drive(task, model, caller, (_begun(task, *cell) for cell in cells), max_calls=task.max_calls)
    for cell, outcome in zip(cells, outcomes, strict=True):
        if isinstance(outcome, Response):
            replays.check(cell, outcome)
    return outcomes


def _begun(task: Task, prompt: Prompt, example: Example, replicate: int) -> ProgramRun:
    if not isinstance(prompt, Prompts) or task.program is None:
        raise InputError(f"a program is run with Prompts, not with {str(prompt)[:60]!r}")
    coroutine = task.program(_Asker(prompt, task), prompt, example)
    if not inspect.iscoroutine(coroutine):
        raise InputError(f"the program {task.program!r} must be written `async def program(ask, prompts, example)`")
    return ProgramRun(coroutine, replicate)


def _check_choices(choices: Sequence[str], tools: Sequence[Callable[..., Any]]) -> None:
    if not choices:
        return
    if isinstance(choices, str) or len(choices) < 2 or len({*choices}) < len(choices) or not all(choices):  # noqa: PLR2004
        raise InputError(f"choices must be two or more different texts, such as ('yes', 'no'), not {choices!r}")
    if tools:
        raise InputError("a model either chooses or calls tools: give choices or tools")


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _filled(example: Example, inputs: dict[str, str]) -> Example:
    return type(example)(inputs, example.target, example.id)
