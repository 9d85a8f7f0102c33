"""Toy problems with a known optimum, on fake models, for every strategy.

In all of them the seed prompt carries words that spoil certain items, and the best prompt is one without them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt import Ask, Example, FakeLabelModel, FakeModel, Program, Prompt, Prompts, Request, Response, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.models.base import Model
    from promptopt.prompt import Context

SPOILERS = ("never", "perhaps", "loudly")
LABELS = ("yes", "no")
SEED = "Read never the item perhaps and answer it loudly : {text}"


@dataclass(frozen=True)
class Toy:
    """A task, the model for it, and the best mean reward there is."""

    name: str
    task: Task
    model: Callable[[], Model]
    optimum: float


def splits(count: int) -> dict[str, tuple[Example, ...]]:
    def items(split: str) -> tuple[Example, ...]:
        return tuple(Example({"text": f"item{i}"}, LABELS[i % 2], f"{split}{i}") for i in range(count))

    return {split: items(split) for split in ("train", "validation", "test")}


def text_of(context: Context) -> str:
    return context if isinstance(context, str) else "\n".join(message.content for message in context)


def spoiled(text: str) -> bool:
    """Whether a spoiler in the prompt reaches this item: each spoils a third of the items."""
    number = int(re.findall(r"item(\d+)", text)[-1])
    return any(word in text and number % len(SPOILERS) == i for i, word in enumerate(SPOILERS))


def right_answer(text: str) -> str:
    return LABELS[int(re.findall(r"item(\d+)", text)[-1]) % 2]


def answer(request: Request) -> str:
    text = text_of(request.context)
    right = right_answer(text)
    return LABELS[1 - LABELS.index(right)] if spoiled(text) else right


def needing(word: str) -> Callable[[Request], str]:
    """As `answer`, and every item is lost without one word of the seed prompt."""

    def handler(request: Request) -> str:
        text = text_of(request.context)
        return answer(request) if word in text else "unsure"

    return handler


def logprobs(context: Context, labels: Sequence[str]) -> list[float]:
    """The more spoilers, the less sure; a spoiler that reaches the item turns it over."""
    text = text_of(context)
    sure = 2.0 - 0.4 * sum(word in text for word in SPOILERS)
    right = right_answer(text)
    return [(-0.1 if (label == right) != spoiled(text) else -0.1 - sure) for label in labels]


def writer(request: Request) -> str:
    """A writer that drops words at random from the prompts that it is shown, slots apart; a hash is its chance."""
    shown = re.findall(r"<prompt>(.*?)</prompt>", text_of(request.context), flags=re.DOTALL)
    shown = [text for text in shown if "{text}" in text] or ["{text}"]
    return "\n".join(f"<prompt>{_thinned(shown[0], f'{request.replicate} {n} {shown[0]}')}</prompt>" for n in range(4))


def _thinned(text: str, salt: str) -> str:
    chances = hashlib.sha256(salt.encode()).digest()
    words = text.split()
    return " ".join(word for i, word in enumerate(words) if word.startswith("{") or chances[i % 32] % 3)


_SPLITS = splits(12)

TASK = Task(
    train=_SPLITS["train"],
    validation=_SPLITS["validation"],
    test=_SPLITS["test"],
    seed_prompt=Prompt(SEED),
    labels=LABELS,
    description="Answer.",
    name="toy",
)


def shortened(text: str) -> str:
    """A tool: the last two words."""
    return " ".join(text.split()[-2:])


def program(find: Callable[[str], str]) -> Program:
    """A program of two prompts and a tool; both prompts can spoil an answer."""

    async def read_and_answer(ask: Ask, prompts: Prompts, example: Example) -> Response:
        read = await ask("read", example)
        found = await ask.tool(find, f"{read.text} {example.inputs['text']}")
        return await ask("answer", example, read=found)

    return read_and_answer


PROGRAM_PROMPTS = {
    "read": Prompt("Read never the {text}"),
    "answer": Prompt("As {read} says, answer loudly perhaps {text}"),
}
PROGRAM_TASK = Task(
    train=_SPLITS["train"],
    validation=_SPLITS["validation"],
    test=_SPLITS["test"],
    seed_prompts=PROGRAM_PROMPTS,
    program=program(shortened),
    name="toy program",
)

TOYS = [
    Toy("spoilers, text", TASK, lambda: FakeModel(answer, "spoilers"), 1.0),
    Toy("spoilers, log-probabilities", TASK, lambda: FakeLabelModel(logprobs, "spoilers-labels"), 1.0),
    Toy("spoilers and a needed word", TASK, lambda: FakeModel(needing("answer"), "needed"), 1.0),
]
