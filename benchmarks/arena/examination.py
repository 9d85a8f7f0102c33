"""The test: a contestant's prompt is sent for every test example, and the replies are judged. It costs the contestant nothing.

A chosen prompt is JSON: `{"messages": [{"role", "content"}, ...], "after": null, "before": null}`, where `{input}` in the last
turn is replaced by the example's input, and the answer is the part of the reply between the two marks; or `{"prompt": ...}`,
a promptopt prompt, whose demonstrations may depend on the example.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt import Prompt

from .gate import judged
from .post import post

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt import Example

    from .tasks import Splits

_AT_ONCE = 32


class RefusedError(RuntimeError):
    """A request was refused: the budget is spent, or the prompt is too long for the model."""


class Measured(NamedTuple):
    """What a prompt did on one example: the reward of the reply, and the tokens of the request and of the reply."""

    reward: float
    tokens: int


def messages(chosen: Mapping[str, Any], splits: Splits, example: Example) -> list[dict[str, str]]:
    """Return the request for an example."""
    if "prompt" in chosen:
        context = splits.task().layout.render(Prompt.from_json(chosen["prompt"]), example)
        return [turn._asdict() for turn in context if not isinstance(turn, str)]
    *before, last = chosen["messages"]
    return [*before, {**last, "content": last["content"].replace("{input}", example.inputs["input"])}]


def answer(chosen: Mapping[str, Any], reply: str) -> str:
    """Return the part of a reply that is judged."""
    after, before = chosen.get("after"), chosen.get("before")
    if after and after in reply:
        reply = reply.rsplit(after, maxsplit=1)[-1]
    return reply.split(before)[0] if before else reply


def examine(
    chosen: Mapping[str, Any], splits: Splits, examples: Sequence[Example], address: tuple[str, str]
) -> list[float]:
    """Return the reward of each example; see `measure`."""
    return [measured.reward for measured in measure(chosen, splits, examples, address)]


def measure(
    chosen: Mapping[str, Any], splits: Splits, examples: Sequence[Example], address: tuple[str, str]
) -> list[Measured]:
    """Return what a prompt does on each example.

    Args:
        chosen: the prompt.
        splits: of the task.
        examples: to test on.
        address: base URL and name of the task model.

    Raises:
        RefusedError: a request was refused.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_measured, chosen, splits, address), examples))


def _measured(chosen: Mapping[str, Any], splits: Splits, address: tuple[str, str], example: Example) -> Measured:
    url, model = address
    body = {
        "model": model,
        "messages": messages(chosen, splits, example),
        "temperature": 0,
        "max_tokens": splits.source.max_tokens,
    }
    reply = post(f"{url}/chat/completions", body)
    if not reply.ok:
        raise RefusedError(f"the server answered with status {reply.status}: {reply.body.decode()[:200]}")
    value = reply.json()
    text = value["choices"][0]["message"]["content"] or ""
    tokens = value["usage"]["prompt_tokens"] + value["usage"].get("completion_tokens", 0)
    return Measured(judged(splits.metric, example, answer(chosen, text)), tokens)
