"""The pipeline as every contestant's choice is tested: query, search, answer. Standard library only, because it also runs in the peers' environments.

A posted choice is `{"prompts": ...}`, promptopt's, or for each of the two steps a peer's prompt as in the arena:
`{"query": {"messages", "after", "before"}, "answer": {...}}`, with `{question}` and `{passages}` where they go.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from ..post import post

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from promptopt import Example, Task

NAMES = ("query", "answer")
NOTHING = "nothing was found"
_AT_ONCE = 16


def filled(prompt: Mapping[str, Any], values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a posted prompt's messages with the values in place."""
    out = []
    for turn in prompt["messages"]:
        content = turn["content"]
        for name, value in values.items():
            content = content.replace(f"{{{name}}}", value)
        out.append({"role": turn["role"], "content": content})
    return out


def judged_part(prompt: Mapping[str, Any], reply: str) -> str:
    """Return the part of a reply that counts."""
    after, before = prompt.get("after"), prompt.get("before")
    if after and after in reply:
        reply = reply.rsplit(after, maxsplit=1)[-1]
    return (reply.split(before)[0] if before else reply).strip()


def run_pipeline(
    chosen: Mapping[str, Any],
    task: Task,
    examples: Sequence[Example],
    address: tuple[str, str],
    search: Callable[[str], list[str]],
) -> list[float]:
    """Return the reward of each example.

    Args:
        chosen: what a contestant posted.
        task: whose reward counts.
        examples: to test on.
        address: base URL and name of the task model.
        search: finds passages.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_reward, chosen, task, address, search), examples))


def _reward(
    chosen: Mapping[str, Any],
    task: Task,
    address: tuple[str, str],
    search: Callable[[str], list[str]],
    example: Example,
) -> float:
    from ..gate import judged  # noqa: PLC0415  not in the peers' environments

    question = example.inputs["question"]
    query = _asked(chosen, task, address, "query", {"question": question})
    passages = "\n\n".join(search(f"{question} {query}")) or NOTHING
    reply = _asked(chosen, task, address, "answer", {"question": question, "passages": passages})
    return judged(task.reward, example, reply)  # type: ignore[arg-type]  # a task has a reward


def _asked(
    chosen: Mapping[str, Any], task: Task, address: tuple[str, str], name: str, values: Mapping[str, str]
) -> str:
    url, model = address
    prompt = chosen.get(name, {})
    messages = filled(prompt, values) if prompt else _rendered(chosen["prompts"], name, values)
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": task.max_tokens}
    answer = post(f"{url}/chat/completions", body)
    if not answer.ok:
        raise RuntimeError(f"the server answered with status {answer.status}: {answer.body.decode()[:200]}")
    return judged_part(prompt, answer.json()["choices"][0]["message"]["content"] or "")


def _rendered(prompts: Mapping[str, Any], name: str, values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the messages of one of promptopt's prompts."""
    from promptopt import Example, Prompt  # noqa: PLC0415  not in the peers' environments
    from promptopt.prompt import Layout, default_template  # noqa: PLC0415

    prompt = Prompt.from_json(prompts)[name]  # type: ignore[index]  # a program's
    layout = Layout(tuple(values), default_template(tuple(values)), "chat")
    return [turn._asdict() for turn in layout.render(prompt, Example(values, None, "")) if not isinstance(turn, str)]
