"""Examples, prompts, and how both are rendered as a request.

Pure values and functions; knows nothing of models, rewards or scores.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.errors import InputError, nearest
from promptopt.images import Image, encoded_content, parse_reference, refuse_outside
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Format: TypeAlias = Literal["chat", "completion", "caption"]
PromptRole: TypeAlias = Literal["auto", "system"]

LABEL, IMAGE = "label", "image"
"""For captions: the slot that is replaced by each label in turn, and the input field with the image."""


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class ImageMessage(NamedTuple):
    """A user's turn with images.

    Args:
        role: always "user".
        content: the turn as text, with a placeholder for each image.
        parts: texts and images, in the order sent; texts are not blank, and no two are adjacent.
    """

    role: Literal["user"]
    content: str
    parts: tuple[str | Image, ...]


Turn: TypeAlias = Message | ImageMessage
Context: TypeAlias = str | tuple[Turn, ...]
"""The input before the reply: raw text to continue (completion), or the turns of a chat."""


@dataclass(frozen=True)
class Example:
    """One example of a task.

    Args:
        inputs: field name -> text; the fields that a prompt's slots may name.
        target: the correct answer, or None for unlabelled data.
        id: unique within a task; identifies the example in errors, histories and pairings.
        group: such as the customer whom the example is from. Examples of one group are not independent: the splits and folds of this
            package do not divide a group, and intervals over test examples are those of groups.
    """

    inputs: Mapping[str, str]
    target: str | None
    id: str
    group: str | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash((self.id, self.target))


@dataclass(frozen=True)
class Demonstrations:
    """Labelled examples shown before the query.

    Args:
        items: the labelled examples, in the order shown.
        nearest: show only the k examples most similar to the query, the most similar last; None shows all.
    """

    items: tuple[Example, ...]
    nearest: int | None = None

    def __post_init__(self) -> None:
        unlabelled = [example.id for example in self.items if example.target is None]
        if unlabelled:
            raise InputError(f"demonstration {unlabelled[0]!r} has no target: demonstrations must be labelled")
        if self.nearest is not None and not 1 <= self.nearest <= len(self.items):
            raise InputError(f"nearest must be between 1 and the {len(self.items)} demonstrations, not {self.nearest}")

    def for_example(self, example: Example) -> tuple[Example, ...]:
        """Return the demonstrations to show before `example`, which is never among them."""
        others = tuple(other for other in self.items if other.id != example.id)
        if self.nearest is None:
            return others
        similarity = _tfidf_cosines(_joined_inputs(example), [_joined_inputs(other) for other in others])
        order = sorted(range(len(others)), key=lambda i: (-similarity[i], i))[: self.nearest]
        return tuple(others[i] for i in reversed(order))


@dataclass(frozen=True)
class Prompt:
    """A prompt: the object of a search.

    Args:
        text: the whole message if it has a slot such as `{input}`; else the instruction (the system prompt of a chat),
            which is followed by the example in the task's template.
        demonstrations: labelled examples to show, or None.
        turns: for chats, messages that are sent verbatim before the example, such as pruned demonstrations.
    """

    text: str
    demonstrations: Demonstrations | None = None
    turns: tuple[Message, ...] = ()

    def __str__(self) -> str:
        """Return a readable form: the turns, the text and the demonstrations."""
        if self.turns:
            shown = [f"{turn.role}: {turn.content}" for turn in self.turns]
            return "\n\n".join([*shown, str(replace(self, turns=()))])
        if self.demonstrations is None:
            return self.text
        items, nearest = self.demonstrations.items, self.demonstrations.nearest
        count = f"{len(items)} demonstration{'s' * (len(items) != 1)}"
        which = count if nearest is None else f"the {nearest} nearest of {count}"
        shown = [f"  {_joined_inputs(item)} -> {item.target}" for item in items]
        return "\n".join([self.text, "", f"with {which} before each item:", *shown])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for `from_json`."""
        data: dict[str, Any] = {"text": self.text}
        if self.demonstrations is not None:
            data["demonstrations"] = {
                "items": [
                    {"inputs": dict(item.inputs), "target": item.target, "id": item.id}
                    for item in self.demonstrations.items
                ],
                "nearest": self.demonstrations.nearest,
            }
        if self.turns:
            data["turns"] = [turn._asdict() for turn in self.turns]
        return data

    def render(self, inputs: Mapping[str, str], *, template: str = "", format: Format = "chat") -> Context:  # noqa: A002  the task file's name
        """Return what a model is sent for one input: exactly what a run sends for an example with these fields.

        A text with a slot, such as `Review: {text}`, is the user's whole turn. A text without one is the system's turn, and the
        example follows in the task's template. Demonstrations come before it, as a user's and an assistant's turn each. A slot is
        replaced if `inputs` has its name; other braces are text.

        Args:
            inputs: field name -> text, with the task's fields and no others: they decide what a slot is.
            template: of the task, for a text without a slot; by default the only field, or `name: value` lines.
            format: of the task. "completion" is one text to continue; "caption" is the caption and its image.

        Returns:
            The turns, the system's first; with the format "completion", the text.

        Raises:
            InputError: a field has no text or a demonstration lacks it, or the prompt is a program's.
        """
        return layout_for(inputs, template, format).render_inputs(self, inputs)

    def messages(self, inputs: Mapping[str, str], *, template: str = "") -> list[dict[str, Any]]:
        """Return the turns of `render` for a chat, as `{"role": ..., "content": ...}`, which the providers' SDKs take.

        Args: as of `render`.

        Raises:
            InputError: as `render`.
        """
        return as_dicts(self.render(inputs, template=template))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prompt:
        """Restore what `to_json` returned.

        Raises:
            ValueError: a part is missing or has another type.
        """
        if is_program_prompts(data):
            try:
                return Prompts({name: Prompt.from_json(prompt) for name, prompt in data["prompts"].items()})
            except InputError as error:
                raise ValueError(str(error)) from None
        return read_value(Prompt, data)


def is_program_prompts(data: Any) -> bool:
    """Whether JSON values are the prompts of a program, not one prompt."""
    return isinstance(data, Mapping) and isinstance(data.get("prompts"), Mapping)


@dataclass(frozen=True, init=False)
class Prompts(Prompt):
    """The prompts of a program, by name: one candidate of its search.

    Its `text` shows all of them; what is sent is `prompts["name"]`.

    Args:
        prompts: name -> prompt.

    Raises:
        InputError: there are none, or a name or a prompt has another type.
    """

    components: tuple[tuple[str, Prompt], ...] = ()

    def __init__(self, prompts: Mapping[str, Prompt]) -> None:
        if not prompts:
            raise InputError("a program needs prompts: give at least one, such as {'answer': Prompt('...')}")
        for name, prompt in prompts.items():
            if not isinstance(name, str) or not name or not isinstance(prompt, Prompt) or isinstance(prompt, Prompts):
                raise InputError(f"a program's prompts are {{name: Prompt('...')}}, not {{{name!r}: {prompt!r}}}")
        object.__setattr__(self, "components", tuple(prompts.items()))
        object.__setattr__(self, "text", "\n\n".join(f"[{name}]\n{prompt}" for name, prompt in prompts.items()))
        object.__setattr__(self, "demonstrations", None)
        object.__setattr__(self, "turns", ())

    def __str__(self) -> str:
        return self.text

    def __getitem__(self, name: str) -> Prompt:
        """Return the prompt of that name.

        Raises:
            InputError: there is none.
        """
        prompts = dict(self.components)
        if name not in prompts:
            raise InputError(f"there is no prompt {name!r}{nearest(name, prompts)}; the prompts: {', '.join(prompts)}")
        return prompts[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the prompts."""
        return tuple(name for name, _ in self.components)

    def replaced(self, name: str, prompt: Prompt) -> Prompts:
        """Return the same prompts with another one under a name.

        Raises:
            InputError: there is no prompt of that name.
        """
        _ = self[name]
        return Prompts({**dict(self.components), name: prompt})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for `from_json`."""
        return {"prompts": {name: prompt.to_json() for name, prompt in self.components}}


@dataclass(frozen=True)
class Layout:
    """Renders the prompts and examples of a task as requests.

    Args:
        fields: the slots that are replaced; braces around anything else are text.
        template: how an example is rendered if the prompt has no slot, such as `Review: {text}`.
        format: "chat" sends turns; "completion" sends one text to continue; "caption" sends the prompt with its slot
            `{label}` and, as the user's turn, the image to compare it with.
        prompt_role: "auto" makes a prompt with a slot the user's turn, and one without the system's. "system", for chats, makes
            every prompt the system's turn, with its slots filled by the example; the template follows as the user's turn.
        turns: sent verbatim after the system's turn, before those of the prompt.
        images: for chats, fields with references to images. An image is sent where the user's turn has its slot; without a
            slot, before the text of the turn.
        image_folder: where the paths of these images start; they stay inside it.
    """

    fields: tuple[str, ...]
    template: str
    format: Format = "chat"
    prompt_role: PromptRole = "auto"
    turns: tuple[Message, ...] = ()
    images: tuple[str, ...] = ()
    image_folder: str = "."

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, as the arguments of another layout; without the folder, which differs among machines."""
        out = {"fields": list(self.fields), "template": self.template, "format": self.format}
        out |= {} if self.prompt_role == "auto" else {"prompt_role": self.prompt_role}
        out |= {"images": list(self.images)} if self.images else {}
        return out | ({"turns": [turn._asdict() for turn in self.turns]} if self.turns else {})

    def has_slot(self, text: str) -> bool:
        """Whether `text` contains a slot, and so is a complete message by itself."""
        return self._slots.search(text) is not None

    def split(self, text: str) -> list[str]:
        """Split `text` into [text, slot, text, slot, ..., text], so that a search can leave the slots unchanged."""
        return re.split(f"({self._slots.pattern})", text)

    def render(self, prompt: Prompt, example: Example) -> Context:
        """Return the model's input for `example` under `prompt`."""
        if self.format == "caption":
            return (Message("system", prompt.text), Message("user", example.inputs[IMAGE]))
        items = prompt.demonstrations.for_example(example) if prompt.demonstrations else ()
        if self.format == "completion":
            instruction, turn = self.parts(prompt)
            shown = [f"{self.fill(turn, item)} {item.target}" for item in items]
            return "\n\n".join(part for part in (instruction, *shown, self.fill(turn, example)) if part)
        *before, query = self.messages(prompt, items)
        if self.fills_instruction(before):
            before[0] = self._fill_turn(before[0], example)
        return (*before, self._fill_turn(query, example))

    def fills_instruction(self, turns: Sequence[Turn]) -> bool:
        """Whether the first of the turns before the example is a prompt with slots; an empty prompt is no turn."""
        return self.prompt_role == "system" and bool(turns) and turns[0].role == "system"

    def image(self, field: str, example: Example) -> Image:
        """Return the image in a field of an example.

        Raises:
            InputError: the field has no reference to an image, or its path is outside the folder.
        """
        image = parse_reference(example.inputs[field])
        refuse_outside(str(image.path))
        return image._replace(folder=Path(self.image_folder))

    def _fill_turn(self, turn: Turn, example: Example) -> Turn:
        if not self.images or turn.role != "user":
            return Message(turn.role, self.fill(turn.content, example))
        pieces = self.split(turn.content)
        in_front = [self.image(name, example) for name in self.images if f"{{{name}}}" not in pieces[1::2]]
        filled = [self._value(piece[1:-1], example) if i % 2 else piece for i, piece in enumerate(pieces)]
        parts = tuple(_joined([*in_front, *filled]))
        shown = "\n".join(part if isinstance(part, str) else part.placeholder for part in parts)
        return ImageMessage("user", shown, parts)

    def _value(self, field: str, example: Example) -> str | Image:
        return self.image(field, example) if field in self.images else example.inputs[field]

    def render_inputs(self, prompt: Prompt, inputs: Mapping[str, str]) -> Context:
        """Return the model's input for inputs that are no example of a task; fields other than the layout's are ignored.

        Args:
            prompt: the prompt.
            inputs: field name -> text.

        Raises:
            InputError: a field has no text, or a demonstration lacks it.
        """
        if isinstance(prompt, Prompts):
            raise InputError(
                f"a program sends each of its prompts by itself: name one of them, such as prompt[{prompt.names[0]!r}]; the "
                f"prompts: {', '.join(prompt.names)}"
            )
        fields = self.fields if self.format != "caption" else (IMAGE,)
        missing = [name for name in fields if name not in inputs]
        if missing:
            raise InputError(f"the input has no field {missing[0]!r}, only {list(inputs)}: give it")
        invalid = next((name for name in fields if not isinstance(inputs[name], str)), None)
        if invalid is not None:
            value = inputs[invalid]
            raise InputError(f"the field {invalid!r} of the input holds {value!r}: give a text, such as {str(value)!r}")
        items = prompt.demonstrations.items if prompt.demonstrations else ()
        lacking = next(((item, name) for item in items for name in fields if name not in item.inputs), None)
        if lacking is not None:
            raise InputError(
                f"demonstration {lacking[0].id!r} has no field {lacking[1]!r}: give the fields of the task only, as it has "
                f"them ({', '.join(lacking[0].inputs)})"
            )
        return self.render(prompt, Example({name: inputs[name] for name in fields}, None, ""))

    def messages(self, prompt: Prompt, items: Sequence[Example]) -> tuple[Turn, ...]:
        """Return the turns of a chat with the demonstrations `items`; slots of the prompt and the last turn are not filled yet."""
        instruction, turn = self.parts(prompt)
        turns: list[Turn] = [Message("system", instruction)] if instruction else []
        turns += (*self.turns, *prompt.turns)
        for item in items:
            turns += [self._fill_turn(Message("user", turn), item), Message("assistant", str(item.target))]
        return (*turns, Message("user", turn))

    def parts(self, prompt: Prompt) -> tuple[str, str]:
        """Return the instruction ("" if the text is a complete message) and the template of an example."""
        is_message = self.prompt_role == "auto" and self.has_slot(prompt.text)
        return ("", prompt.text) if is_message else (prompt.text, self.template)

    def flatten(self, prompt: Prompt) -> Prompt:
        """Return a completion prompt equivalent to `prompt`, with its demonstrations written out in the text.

        Raises:
            InputError: the demonstrations depend on the example, or one contains a slot as plain text.
        """
        demonstrations = prompt.demonstrations
        if demonstrations is not None and demonstrations.nearest is not None:
            raise InputError(
                "nearest demonstrations differ from example to example, so they cannot be written out: use fixed ones"
            )
        instruction, turn = self.parts(prompt)
        parts = [instruction] if instruction else []
        for demonstration in demonstrations.items if demonstrations else ():
            text = f"{self.fill(turn, demonstration)} {demonstration.target}"
            if self.has_slot(text):
                raise InputError(f"demonstration {demonstration.id!r} contains a slot of the task as text: remove it")
            parts.append(text)
        return Prompt("\n\n".join([*parts, turn]))

    def fill(self, text: str, example: Example) -> str:
        """Replace the slots of `text` by the example's inputs, all in one pass. Slots of images stay: a text holds no image."""
        images = {f"{{{name}}}" for name in self.images}
        return self._slots.sub(lambda slot: slot[0] if slot[0] in images else example.inputs[slot[0][1:-1]], text)

    @cached_property
    def _slots(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(f"{{{field}}}") for field in self.fields))


def layout_for(inputs: Iterable[str], template: str = "", format: Format = "chat") -> Layout:  # noqa: A002  the task file's name
    """Return the layout of a task whose examples have these fields.

    Args:
        inputs: names of the fields.
        template: of the task; by default that of `default_template`.
        format: of the task.

    Raises:
        InputError: there are no fields.
    """
    fields = (LABEL,) if format == "caption" else tuple(inputs)
    if not fields:
        raise InputError("the inputs have no fields: give {field: text}, such as {'text': 'It rained.'}")
    return Layout(fields, template or default_template(fields), format)


def as_dicts(context: Context) -> list[dict[str, Any]]:
    """Return the turns of a chat as JSON values, with images as OpenAI's protocol has them: data URLs among parts of content.

    Raises:
        InputError: the context is a text, or an image cannot be read or has changed.
    """
    if isinstance(context, str):
        raise InputError("the task has the format 'completion', which sends a text and no messages: use render(inputs)")
    return [
        {"role": turn.role, "content": [_openai_part(part) for part in turn.parts]}
        if isinstance(turn, ImageMessage)
        else turn._asdict()
        for turn in context
    ]


def _openai_part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    media_type, data = encoded_content(part)
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _joined(parts: Iterable[str | Image]) -> Iterator[str | Image]:
    """Join adjacent texts, and drop blank ones, which providers refuse."""
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
        if not is_text:
            yield from group
        elif (text := "".join(map(str, group))).strip():
            yield text


def default_template(fields: Sequence[str]) -> str:
    """Return the default template: the only field, or `name: value` lines."""
    if len(fields) == 1:
        return f"{{{fields[0]}}}"
    return "\n".join(f"{name}: {{{name}}}" for name in fields)


def _joined_inputs(example: Example) -> str:
    return " ".join(example.inputs.values())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _tfidf_cosines(query: str, documents: Sequence[str]) -> list[float]:
    """Return the cosine of tf-idf word vectors of `query` and each document; idf = ln((1+n)/(1+df)) + 1."""
    counts = [Counter(_words(text)) for text in (query, *documents)]
    document_frequency = Counter(word for count in counts for word in count)
    weights = [
        {word: n * (math.log((1 + len(counts)) / (1 + document_frequency[word])) + 1) for word, n in count.items()}
        for count in counts
    ]
    return [_cosine(weights[0], other) for other in weights[1:]]


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    dot = math.fsum(weight * b[word] for word, weight in a.items() if word in b)
    norm = math.sqrt(_squares(a.values()) * _squares(b.values()))
    return dot / norm if norm else 0.0


def _squares(values: Iterable[float]) -> float:
    return math.fsum(value * value for value in values)
