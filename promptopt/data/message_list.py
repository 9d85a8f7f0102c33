"""A list of messages in a task file, as the prompt that is searched, fixed turns after it, and the template of an example.

Pure functions of values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Message

_LEAST = 2  # the prompt and the example


class MessageList(NamedTuple):
    """What a list of messages is.

    Args:
        prompt: the system message, which is searched.
        turns: those between it and the last, which are sent verbatim.
        template: the last message, which the example fills.
    """

    prompt: str
    turns: tuple[Message, ...]
    template: str


def read_messages(messages: Sequence[Message], fields: Sequence[str]) -> MessageList:
    """Return what a list of messages is.

    Args:
        messages: the system's, then any fixed turns, then the user's with the example.
        fields: names that slots may have.

    Raises:
        InputError: the first or last message has another role, or a fixed turn has a slot.
    """
    if len(messages) < _LEAST or messages[0].role != "system":
        raise InputError(
            "[[message]]: the first message must have the role 'system' and is the prompt that is searched, and a user message "
            "must follow: add them, or write seed_prompt and template"
        )
    if messages[-1].role != "user":
        raise InputError(
            f"[[message]]: the last message must have the role 'user', not {messages[-1].role!r}: it holds the example"
        )
    for number, message in enumerate(messages[1:-1], 2):
        if message.role == "system":
            raise InputError(f"[[message]] {number} is a second system message: put its text into the first")
        slot = next((field for field in fields if f"{{{field}}}" in message.content), None)
        if slot is not None:
            raise InputError(
                f"[[message]] {number} has the slot {{{slot}}}, but only the first and the last message are filled: write a text"
            )
    return MessageList(messages[0].content, tuple(messages[1:-1]), messages[-1].content)
