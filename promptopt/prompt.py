"""What a model is shown: examples, prompts, and the message that the two make together.

Pure values and functions; knows nothing of models, rewards or scores.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Format: TypeAlias = Literal["chat", "completion", "caption"]

LABEL, IMAGE = "label", "image"
"""Of captions: the slot that stands for each label in turn, and the field that names the image."""


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Context: TypeAlias = str | tuple[Message, ...]
"""What stands before the reply: raw text to be continued (completion), or the turns of a chat."""


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Args:
        inputs: field name -> text; the fields that a prompt's slots may name.
        target: the right answer, or None for data without labels.
        id: unique within a task; names the item in errors, histories and pairings.
    """

    inputs: Mapping[str, str]
    target: str | None
    id: str

    def __hash__(self) -> int:
        return hash((self.id, self.target))


@dataclass(frozen=True)
class Demonstrations:
    """Labelled items shown before the query.

    Args:
        items: the labelled items, in the order in which they are shown.
        nearest: show only the k items most like the query, the most alike last; None shows all.
    """

    items: tuple[Example, ...]
    nearest: int | None = None

    def __post_init__(self) -> None:
        unlabelled = [item.id for item in self.items if item.target is None]
        if unlabelled:
            raise InputError(f"demonstration {unlabelled[0]!r} has no target: demonstrations must be labelled")
        if self.nearest is not None and not 1 <= self.nearest <= len(self.items):
            raise InputError(f"nearest must be between 1 and the {len(self.items)} demonstrations, not {self.nearest}")

    def for_example(self, example: Example) -> tuple[Example, ...]:
        """Return the items to show before `example`, which is never among them."""
        items = tuple(item for item in self.items if item.id != example.id)
        if self.nearest is None:
            return items
        likeness = _tfidf_cosines(_joined(example), [_joined(item) for item in items])
        order = sorted(range(len(items)), key=lambda i: (-likeness[i], i))[: self.nearest]
        return tuple(items[i] for i in reversed(order))


@dataclass(frozen=True)
class Prompt:
    """What a search changes and a user keeps.

    Args:
        text: with a slot such as `{input}` it is the whole message; without one it is the instruction
            (the system prompt of a chat) and the example follows by the task's template.
        demonstrations: labelled items to show, or None.
        turns: of a chat, messages that are sent word for word before the example, as pruned demonstrations are.
    """

    text: str
    demonstrations: Demonstrations | None = None
    turns: tuple[Message, ...] = ()

    def __str__(self) -> str:
        """Return the turns, the text and, below it, the demonstrations that go with it, for people to read."""
        if self.turns:
            shown = [f"{turn.role}: {turn.content}" for turn in self.turns]
            return "\n\n".join([*shown, str(replace(self, turns=()))])
        if self.demonstrations is None:
            return self.text
        items, nearest = self.demonstrations.items, self.demonstrations.nearest
        which = f"{len(items)}" if nearest is None else f"the {nearest} nearest of {len(items)}"
        shown = [f"  {_joined(item)} -> {item.target}" for item in items]
        return "\n".join([self.text, "", f"with {which} demonstrations before each item:", *shown])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads back."""
        out: dict[str, Any] = {"text": self.text}
        if self.demonstrations is not None:
            out["demonstrations"] = {
                "items": [
                    {"inputs": dict(item.inputs), "target": item.target, "id": item.id}
                    for item in self.demonstrations.items
                ],
                "nearest": self.demonstrations.nearest,
            }
        if self.turns:
            out["turns"] = [turn._asdict() for turn in self.turns]
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prompt:
        """Read back what `to_json` gave."""
        turns = tuple(Message(**turn) for turn in data.get("turns", ()))
        shown = data.get("demonstrations")
        if shown is None:
            return cls(data["text"], turns=turns)
        items = tuple(Example(**item) for item in shown["items"])
        return cls(data["text"], Demonstrations(items, shown["nearest"]), turns)


@dataclass(frozen=True)
class Layout:
    """How prompts and examples of one task become messages.

    Args:
        fields: the slots that are replaced; braces around anything else are text.
        template: how an example is written where the prompt has no slot, such as `Review: {text}`.
        format: "chat" sends turns, "completion" sends one text to be continued, "caption" sends the prompt with its slot
            `{label}` and, as the user's turn, the image to compare it with.
    """

    fields: tuple[str, ...]
    template: str
    format: Format = "chat"

    def has_slot(self, text: str) -> bool:
        """Whether `text` names a field, and so is a whole message by itself."""
        return self._slots.search(text) is not None

    def split(self, text: str) -> list[str]:
        """Cut `text` into [text, slot, text, slot, ..., text], so that a search can leave the slots alone."""
        return re.split(f"({self._slots.pattern})", text)

    def render(self, prompt: Prompt, example: Example) -> Context:
        """Return what the model is shown for `example` under `prompt`."""
        if self.format == "caption":
            return (Message("system", prompt.text), Message("user", example.inputs[IMAGE]))
        items = prompt.demonstrations.for_example(example) if prompt.demonstrations else ()
        if self.format == "completion":
            instruction, turn = self._parts(prompt)
            shown = [f"{self.fill(turn, item)} {item.target}" for item in items]
            return "\n\n".join(part for part in (instruction, *shown, self.fill(turn, example)) if part)
        *before, query = self.messages(prompt, items)
        return (*before, Message(query.role, self.fill(query.content, example)))

    def messages(self, prompt: Prompt, items: Sequence[Example]) -> tuple[Message, ...]:
        """Return the turns of a chat with `items` as its demonstrations; the last one has its slots still."""
        instruction, turn = self._parts(prompt)
        turns = [Message("system", instruction)] if instruction else []
        turns += prompt.turns
        for item in items:
            turns += [Message("user", self.fill(turn, item)), Message("assistant", str(item.target))]
        return (*turns, Message("user", turn))

    def _parts(self, prompt: Prompt) -> tuple[str, str]:
        """Return the instruction, "" where the text is a whole message, and how an example is written."""
        return ("", prompt.text) if self.has_slot(prompt.text) else (prompt.text, self.template)

    def flatten(self, prompt: Prompt) -> Prompt:
        """Return one text with slots that says what `prompt` says in a completion, its demonstrations written out.

        Raises:
            InputError: the demonstrations depend on the example, or one holds a slot as plain text.
        """
        shown = prompt.demonstrations
        if shown is not None and shown.nearest is not None:
            raise InputError(
                "demonstrations chosen by nearness differ from example to example: give fixed ones instead"
            )
        instruction, turn = self._parts(prompt)
        parts = [instruction] if instruction else []
        for item in shown.items if shown else ():
            written = f"{self.fill(turn, item)} {item.target}"
            if self.has_slot(written):
                raise InputError(f"demonstration {item.id!r} holds a slot of the task as text: leave it out")
            parts.append(written)
        return Prompt("\n\n".join([*parts, turn]))

    def fill(self, text: str, example: Example) -> str:
        """Replace the slots of `text` by the example's fields, all in one pass."""
        return self._slots.sub(lambda match: example.inputs[match[0][1:-1]], text)

    @cached_property
    def _slots(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(f"{{{field}}}") for field in self.fields))


def _joined(example: Example) -> str:
    return " ".join(example.inputs.values())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _tfidf_cosines(query: str, documents: Sequence[str]) -> list[float]:
    """Return the cosine of tf-idf word vectors of `query` and each document; idf = ln((1+n)/(1+df)) + 1."""
    counts = [Counter(_words(text)) for text in (query, *documents)]
    spread = Counter(word for count in counts for word in count)
    weights = [
        {word: n * (math.log((1 + len(counts)) / (1 + spread[word])) + 1) for word, n in count.items()}
        for count in counts
    ]
    return [_cosine(weights[0], other) for other in weights[1:]]


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    dot = math.fsum(weight * b[word] for word, weight in a.items() if word in b)
    norm = math.sqrt(_squares(a.values()) * _squares(b.values()))
    return dot / norm if norm else 0.0


def _squares(values: Iterable[float]) -> float:
    return math.fsum(value * value for value in values)
