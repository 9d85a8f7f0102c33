"""What is scored: 50 prompts of eight demonstrations each before 400 items of a sentence, two labels, and who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt import Arrival, Example, Price, Prompt, Response, Task, Usage
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Request, Unit
    from promptopt.prompt import Context

PROMPTS, ITEMS = 50, 400
LABELS = ("terrible", "great")
FINGERPRINT = {
    "provider": "local",
    "model": "some.gguf",
    "digest": "ab" * 32,
    "dtype": "bfloat16",
    "template": "ab" * 8,
}
_TEMPLATE = "Review: {text}\nSentiment:"
_DEMONSTRATIONS = 8
_SENTENCE = 20  # words
_PLAIN = (
    "the film begins slowly and ends well though nobody in between is dull for once music knows when to be silent "
    "great acting saves a poor plot that every child of twelve could have written better on some rainy afternoon"
)


class Answering:
    """A model that answers at once: labels with log-probabilities, or a text.

    Args:
        unit: what is stored at once.
        text: of its replies.
    """

    price = Price(0.0, 0.0)

    def __init__(self, unit: Unit = "batch", text: str = LABELS[1]) -> None:
        self.unit = unit
        self.text = text
        self.fingerprint: Mapping[str, Any] = FINGERPRINT | {"text": text, "unit": unit}

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Answer one request after the other."""
        yield from (Arrival(number, Response(self.text, None, Usage(300, 0, 100))) for number, _ in enumerate(requests))

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Answer one context after the other; every number is another, as those of a model are."""
        for number, context in enumerate(contexts):
            low = -1.0 - (hash_of(context) + number) / 2**33
            yield Arrival(number, Response(labels[number % len(labels)], (low, -2.0 - low / 3), Usage(input=300)))


FAKE = Answering()
"""For replicas, which name it `python:benchmarks.driver.work:FAKE`."""


def hash_of(context: Context) -> int:
    """Return a number of 32 bits that is the same in every process."""
    return sum(map(ord, context[-64:])) * 2_654_435_761 % 2**32 if isinstance(context, str) else len(context)


def task_of(items: int = ITEMS) -> Task:
    """Return a task with that many training items."""
    rng = named_generator(0, "items of the driver's benchmark")
    train = tuple(Example({"text": _sentence(rng)}, LABELS[i % 2], f"train{i}") for i in range(items))
    return Task(train=train, seed_prompt=Prompt(_TEMPLATE), labels=LABELS, template=_TEMPLATE, format="completion")


def prompts_of(turn: int, count: int = PROMPTS) -> list[Prompt]:
    """Return mutants of one parent, which no other turn has: one to four words are left out."""
    rng = named_generator(turn, "prompts of the driver's benchmark")
    shown = (f"{_TEMPLATE.format(text=_sentence(rng))} {LABELS[n % 2]}\n\n" for n in range(_DEMONSTRATIONS))
    words = "".join(shown).split(" ")
    out = []
    for number in range(count):
        left = set(rng.choice(len(words), size=rng.integers(1, 5), replace=False).tolist())
        text = " ".join(word for n, word in enumerate(words) if n not in left)
        out.append(Prompt(f"{turn}.{number} {text}{_TEMPLATE}"))
    return out


def _sentence(rng: Any) -> str:
    return " ".join(rng.choice(_PLAIN.split(), _SENTENCE).tolist())
