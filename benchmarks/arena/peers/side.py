"""Shared by the peers' scripts: the case, the gate, posted prompts, and the end of the budget.

Standard library only, because it runs in the peers' environments.
"""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from ..post import post  # noqa: TID252  mypy knows the package by this name only

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..post import Answer  # noqa: TID252

INPUT = "{input}"
"""Where an item's input goes in the last user turn of a posted prompt."""

THREADS = 8  # concurrent requests, DSPy's default num_threads
TOO_LONG = 8192  # tokens that a refused request counts as where tokens are an objective

Messages = list[dict[str, str]]


class BudgetSpent(BaseException):
    """The gate refused a request because the budget is spent.

    Not an `Exception`: libraries that try again, or count a failed call as a wrong answer, must not catch it.
    """


class Item(NamedTuple):
    """An item of the task: its name at the gate, its input and the right answer."""

    id: str
    input: str
    target: str


@dataclass(frozen=True)
class Case:
    """A script's job, read from standard input.

    Args:
        method: which method of the library.
        task: name of the task.
        seed: of the method's own randomness.
        gate: address of the gate, without /v1.
        description: of the task, for methods that show it to the writer.
        instruction: the seed prompt.
        labels: the answers, if there are few.
        train: items for the search.
        validation: items for choosing.
        max_tokens: of a reply of the task model that counts.
        token_budget: of all roles and directions.
    """

    method: str
    task: str
    seed: int
    gate: str
    description: str
    instruction: str
    labels: tuple[str, ...]
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    max_tokens: int
    token_budget: int

    def to_json(self) -> str:
        """Return the case for `read_case`."""
        splits = {split: [item._asdict() for item in getattr(self, split)] for split in ("train", "validation")}
        return json.dumps(vars(self) | splits)


def read_case(text: str) -> Case:
    """Return the case that `Case.to_json` wrote."""
    values = json.loads(text)
    for split in ("train", "validation"):
        values[split] = tuple(Item(**item) for item in values[split])
    return Case(**values | {"labels": tuple(values["labels"])})


def prompt(messages: Messages, *, after: str | None = None, before: str | None = None) -> dict[str, Any]:
    """Return a prompt as the gate takes it.

    Args:
        messages: as the library sends them, with `INPUT` for the item's input in the last user turn.
        after: the answer follows this marker; None if the whole reply is the answer.
        before: the answer ends before this marker.
    """
    return {"messages": messages, "after": after, "before": before}


class Replied(NamedTuple):
    """A model's reply: its text, and the tokens of the request and of the reply."""

    text: str
    tokens: int


class Judged(NamedTuple):
    """A reply's reward, from 0 to 1, and the right answer."""

    reward: float
    target: str


class Spent(NamedTuple):
    """Tokens spent, the budget, and calls made, of all roles.

    The gate refuses requests a little earlier: it counts those in flight.
    """

    tokens: int
    budget: int
    calls: int

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.tokens >= self.budget


@dataclass(frozen=True)
class Gate:
    """A contestant's way to the models and the metric.

    Args:
        url: address, without /v1.
    """

    url: str

    def ask(self, model: str, messages: Messages, **settings: Any) -> str:
        """Return the text of a model's reply; see `reply`."""
        return self.reply(model, messages, **settings).text

    def reply(self, model: str, messages: Messages, **settings: Any) -> Replied:
        """Return a model's reply; empty if the server refuses the request, for example because it is too long for the model.

        Args:
            model: "task" or "writer".
            messages: the conversation.
            settings: OpenAI's, such as `temperature`.

        Raises:
            BudgetSpent: there are no tokens left.
        """
        answer = post(f"{self.url}/v1/chat/completions", {"model": model, "messages": messages} | settings)
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise BudgetSpent
        if answer.status == HTTPStatus.BAD_REQUEST:
            return Replied("", TOO_LONG)
        value = _value(answer)
        usage = value.get("usage", {})
        tokens = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        return Replied(str(value["choices"][0]["message"]["content"] or ""), tokens)

    def ask_all(self, model: str, conversations: Sequence[Messages], **settings: Any) -> list[str]:
        """Return the texts of the replies to several conversations; see `replies`."""
        return [reply.text for reply in self.replies(model, conversations, **settings)]

    def replies(self, model: str, conversations: Sequence[Messages], **settings: Any) -> list[Replied]:
        """Return the replies to several conversations, asked at the same time; see `reply`."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda messages: self.reply(model, messages, **settings), conversations))

    def reward(self, item: str, reply: str) -> Judged:
        """Apply the task's metric to a reply to an item, by the item's id."""
        verdict = _value(post(f"{self.url}/reward", {"id": item, "reply": reply}))
        return Judged(float(verdict["reward"]), str(verdict["target"]))

    def best(self, prompt: dict[str, Any], validation: float | None = None) -> None:
        """Post the best prompt so far; the last one posted is tested.

        Args:
            prompt: see `prompt`.
            validation: the library's own score of it, from 0 to 1; None where it has none.
        """
        _value(post(f"{self.url}/best", {"prompt": prompt, "validation": validation}))

    def spent(self) -> Spent:
        """Return what was spent so far."""
        with urllib.request.urlopen(f"{self.url}/spent") as reply:  # noqa: S310  of the loopback gate
            return Spent(**json.load(reply))

    @contextmanager
    def until_spent(self) -> Iterator[None]:
        """Run a library until the budget is spent; what it raises after that is ignored."""
        try:
            yield
        except BudgetSpent:
            return
        except Exception:
            if not self.spent().over:
                raise


def _value(answer: Answer) -> Any:
    if not answer.ok:
        raise RuntimeError(
            f"the gate answered with status {answer.status}: {answer.body.decode(errors='replace')[:200]}"
        )
    return answer.json()
