"""Writes a prompt in the forms of other programs. Each form holds the request of `Layout.render`; none calls a model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.errors import InputError, nearest
from promptopt.images import reference
from promptopt.models.hosted.fields import merged
from promptopt.models.hosted.openai import OpenAIModel
from promptopt.models.options import RequestOptions
from promptopt.prompt import as_dicts
from promptopt.results.export.outline import check_fixed, check_request, turns_of
from promptopt.results.export.python_file import dspy_file, python_file
from promptopt.results.export.templates import jinja, langchain, mlflow, promptfoo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from promptopt.prompt import Layout, Prompt
    from promptopt.results.portable import PortablePrompt


class Form(NamedTuple):
    """A form of an exported prompt.

    Args:
        write: returns the contents of the file.
        ending: of the file's name.
    """

    write: Callable[[PortablePrompt], str]
    ending: str


def export(portable: PortablePrompt, form: str) -> str:
    """Return a prompt in a form of `FORMS`: the contents of a file.

    Raises:
        InputError: there is no such form, or it cannot hold the prompt.
    """
    return form_named(form).write(portable)


def form_named(form: str) -> Form:
    """Return a form.

    Raises:
        InputError: there is none of that name.
    """
    if form not in FORMS:
        names = (*FORMS, BATCH)
        raise InputError(f"there is no form {form!r}{nearest(form, names)}; the forms: {', '.join(names)}")
    return FORMS[form]


def text(portable: PortablePrompt) -> str:
    """Return the prompt's text for a file, as `--prompt-from` reads it.

    For completions, demonstrations are written out in it.

    Raises:
        InputError: a text cannot hold the prompt.
    """
    prompt = _as_text(portable)
    written = prompt.text
    if prompt.demonstrations is not None or prompt.turns:
        raise InputError("--as text cannot hold demonstrations or turns of a chat: use --as messages, python or json")
    if written.endswith("\n") or "\r\n" in written:
        raise InputError("--as text cannot keep the line ends of this prompt: use --as json")
    return f"{written}\n"


def _as_text(portable: PortablePrompt) -> Prompt:
    if portable.layout.format == "completion" and portable.prompt.demonstrations is not None:
        check_fixed(portable, "text")
        return portable.layout.flatten(portable.prompt)
    return portable.prompt


def messages(portable: PortablePrompt) -> str:
    """Return the messages as JSON, with slots such as {text}.

    Raises:
        InputError: the request is no chat, or differs from input to input.
    """
    turns = turns_of(portable, "messages")
    values = [
        {"role": turn.role, "content": "".join(f"{{{p}}}" if i % 2 else p for i, p in enumerate(turn.parts))}
        for turn in turns
    ]
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def saved(portable: PortablePrompt) -> str:
    """Return what `PortablePrompt.save` writes."""
    return json.dumps(portable.to_json(), ensure_ascii=False, indent=1) + "\n"


def openai_batch(
    portable: PortablePrompt, rows: Sequence[Mapping[str, str]], model: str = "", folder: Path | str = "."
) -> str:
    """Return the lines of a file for OpenAI's batch endpoint: one request for each row, in their order.

    Args:
        portable: the prompt.
        rows: field name -> text.
        model: name of the model; by default the one that the prompt was found for.
        folder: where the paths of images start, in rows and demonstrations.

    Raises:
        InputError: a row lacks a field or an image, the prompt is a caption, or no model is known.
    """
    check_request(portable, BATCH)
    name = model or portable.model
    if not name:
        raise InputError("--as openai-batch needs the name of a model: give --model, such as --model gpt-4.1-mini")
    filled = replace(portable, layout=replace(portable.layout, image_folder=str(folder)))
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            context = filled.render(_with_references(filled.layout, row))
        except InputError as error:
            raise InputError(f"row {number}: {error}") from None
        completes = isinstance(context, str)
        sent = {"prompt": context} if completes else {"messages": as_dicts(context)}
        path = "/v1/completions" if completes else "/v1/chat/completions"
        body = {"model": name, **sent, **_openai_settings(portable, "max_tokens" if completes else LENGTH)}
        line = {"custom_id": f"row-{number}", "method": "POST", "url": path, "body": body}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _with_references(layout: Layout, row: Mapping[str, str]) -> dict[str, str]:
    """Return a row with references to images in place of their paths."""
    images = [name for name in layout.images if name in row]
    return {**row, **{name: reference(row[name], layout.image_folder) for name in images}}


def _openai_settings(portable: PortablePrompt, length: str) -> dict[str, Any]:
    named = {"max_tokens": length}
    settings = {named.get(name, name): value for name, value in portable.request.items() if name != "format"}
    if "top_k" in settings:
        raise InputError(
            f"the task sends top_k = {settings['top_k']}, which OpenAI's protocol does not support: use another form"
        )
    options = RequestOptions(**settings.pop("options", {}))
    extra: dict[str, Any] = settings.pop("extra_body", {})
    return settings | merged(extra, OpenAIModel("any").option_fields(options))


LENGTH = "max_completion_tokens"
"""OpenAI's name of the length limit of a chat."""

BATCH = "openai-batch"
"""The form that also needs rows of data: `openai_batch` writes it."""

FORMS = {
    "text": Form(text, ".txt"),
    "messages": Form(messages, ".json"),
    "python": Form(python_file, ".py"),
    "json": Form(saved, ".json"),
    "jinja": Form(jinja, ".jinja"),
    "promptfoo": Form(promptfoo, ".yaml"),
    "dspy": Form(dspy_file, ".py"),
    "langchain": Form(langchain, ".json"),
    "mlflow": Form(mlflow, ".json"),
}
"""Name -> form."""
