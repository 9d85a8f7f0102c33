"""The request of a prompt as a template: turns or a text, whose parts are fixed or filled by a field.

Knows nothing of any library's syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError

if TYPE_CHECKING:
    from promptopt.results.portable import PortablePrompt


class TurnTemplate(NamedTuple):
    """One turn, not filled yet.

    Args:
        role: "system", "user" or "assistant".
        parts: fixed text, field name, fixed text, ..., fixed text: fields have odd indices.
    """

    role: str
    parts: tuple[str, ...]

    @property
    def fixed(self) -> bool:
        """Whether no field is filled."""
        return len(self.parts) == 1


def turns_of(portable: PortablePrompt, form: str) -> tuple[TurnTemplate, ...]:
    """Return the turns of a chat; only the last, and a prompt that is the system's turn, have fields.

    Raises:
        InputError: the form cannot express the request: it is no chat, or differs from input to input.
    """
    if portable.layout.format == "completion":
        raise InputError(
            f"--as {form} holds messages, but the task has the format 'completion', which sends one text: use --as text, "
            "python, jinja or json"
        )
    check_fixed(portable, form)
    demonstrations = portable.prompt.demonstrations
    *before, query = portable.layout.messages(portable.prompt, demonstrations.items if demonstrations else ())
    turns = [TurnTemplate(turn.role, (turn.content,)) for turn in before]
    if portable.layout.fills_instruction(before):
        turns[0] = TurnTemplate(before[0].role, _parts(portable, before[0].content))
    return (*turns, TurnTemplate(query.role, _parts(portable, query.content)))


def text_of(portable: PortablePrompt, form: str) -> tuple[str, ...]:
    """Return the parts of a text to continue, as those of a turn. Inputs whose fields are all empty are not covered.

    Raises:
        InputError: the form cannot express the request, because it differs from input to input.
    """
    check_fixed(portable, form)
    layout, prompt = portable.layout, portable.prompt
    instruction, turn = layout.parts(prompt)
    items = prompt.demonstrations.items if prompt.demonstrations else ()
    before = [instruction, *(f"{layout.fill(turn, item)} {item.target}" for item in items)]
    first, *rest = _parts(portable, turn)
    return ("\n\n".join([*filter(None, before), first]), *rest)


def _parts(portable: PortablePrompt, text: str) -> tuple[str, ...]:
    parts = portable.layout.split(text)
    return tuple(part[1:-1] if number % 2 else part for number, part in enumerate(parts))


def check_request(portable: PortablePrompt, form: str) -> None:
    """Refuse captions, for forms that hold a request of text.

    Raises:
        InputError: the prompt is a caption.
    """
    if portable.layout.format == "caption":
        raise InputError(
            f"--as {form} holds a request of text, but the prompt is a caption that is compared with images: use --as text "
            "or json"
        )


def check_texts(portable: PortablePrompt, form: str) -> None:
    """Refuse captions and images, for forms that are filled with texts only.

    Raises:
        InputError: the prompt is a caption, or the task sends images.
    """
    check_request(portable, form)
    if portable.layout.images:
        raise InputError(
            f"--as {form} is filled with texts, but the task sends images ({', '.join(portable.layout.images)}): use --as "
            "openai-batch, which holds them, or text or json"
        )


def check_fixed(portable: PortablePrompt, form: str) -> None:
    """Refuse requests that no template of a text holds.

    Raises:
        InputError: the prompt is a caption, the task sends images, or demonstrations depend on the input.
    """
    check_texts(portable, form)
    demonstrations = portable.prompt.demonstrations
    if demonstrations is not None and demonstrations.nearest is not None:
        raise InputError(
            f"--as {form} holds one text for all inputs, but the prompt shows the {demonstrations.nearest} demonstrations "
            "nearest to each input: use --as python, which chooses them, openai-batch or json"
        )
