"""Writes a prompt as templates of other tools: Jinja, LangChain, MLflow's registry and promptfoo.

Every form renders to the request of `Layout.render`. What a tool's syntax cannot hold is refused.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.results.export.outline import text_of, turns_of

if TYPE_CHECKING:
    from promptopt.results.export.outline import TurnTemplate
    from promptopt.results.portable import PortablePrompt

_MLFLOW_VARIABLE = re.compile(r"\{\{\s*([a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*)\s*\}\}")
_PROMPTFOO_SETTINGS = ("max_tokens", "temperature", "top_p", "stop")
_LANGCHAIN_TURNS = {"system": "System", "user": "Human", "assistant": "AI"}


def jinja(portable: PortablePrompt) -> str:
    """Return a Jinja template of the text to continue, or of a JSON list of messages.

    Raises:
        InputError: the request differs from input to input, or a field's name is no variable.
    """
    _check_names(portable, "jinja")
    if portable.layout.format == "completion":
        return _jinja_expression(text_of(portable, "jinja")) + "\n"
    turns = [
        f'  {{"role": "{turn.role}", "content": {_jinja_expression(turn.parts, "tojson")}}}'
        for turn in turns_of(portable, "jinja")
    ]
    return "[\n" + ",\n".join(turns) + "\n]\n"


def langchain(portable: PortablePrompt) -> str:
    """Return LangChain's serialised `ChatPromptTemplate` or, for completions, `PromptTemplate`, which `load` reads.

    Raises:
        InputError: the request differs from input to input, or a field's name is no variable.
    """
    _check_names(portable, "langchain")
    if portable.layout.format == "completion":
        value = _langchain_template(text_of(portable, "langchain"))
    else:
        turns = turns_of(portable, "langchain")
        value = _langchain_object(
            ["langchain", "prompts", "chat", "ChatPromptTemplate"],
            input_variables=sorted({name for turn in turns for name in _fields_in(turn.parts)}),
            messages=[_langchain_turn(turn) for turn in turns],
        )
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def mlflow(portable: PortablePrompt) -> str:
    """Return the arguments of `mlflow.genai.register_prompt` as JSON.

    Raises:
        InputError: the request differs from input to input, a field's name is no variable, or a text has double braces.
    """
    _check_names(portable, "mlflow")
    template: Any
    if portable.layout.format == "completion":
        template = _double_braces(text_of(portable, "mlflow"))
    else:
        template = [{"role": turn.role, "content": _double_braces(turn.parts)} for turn in turns_of(portable, "mlflow")]
    name = re.sub(r"[^\w.-]+", "-", portable.name).strip("-") or "prompt"
    return json.dumps({"name": name, "template": template}, ensure_ascii=False, indent=1) + "\n"


def promptfoo(portable: PortablePrompt) -> str:
    """Return a configuration of promptfoo with the prompt, its variables to be filled in tests.

    Raises:
        InputError: the request differs from input to input, or a field's name is no variable.
    """
    _check_names(portable, "promptfoo")
    if portable.layout.format == "completion":
        prompt = _nunjucks(text_of(portable, "promptfoo"))
    else:
        turns = turns_of(portable, "promptfoo")
        values = [{"role": turn.role, "content": _nunjucks(turn.parts)} for turn in turns]
        prompt = json.dumps(values, ensure_ascii=False)
    variables = "".join(f"      {name}: ''\n" for name in portable.layout.fields)
    provider = _as_yaml(f"openai:{portable.model or 'gpt-4.1-mini'}")
    settings = json.dumps({name: value for name, value in portable.request.items() if name in _PROMPTFOO_SETTINGS})
    return (
        f"prompts:\n  - label: {_as_yaml(portable.name or 'prompt')}\n    raw: {_as_yaml(prompt)}\n"
        f"providers:\n  - id: {provider}\n    config: {settings}\ntests:\n  - vars:\n{variables}"
    )


def _check_names(portable: PortablePrompt, form: str) -> None:
    invalid = next((name for name in portable.layout.fields if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)), None)
    if invalid is not None and portable.layout.format != "caption":
        raise InputError(
            f"--as {form} needs fields named by letters, digits and underscores, not {invalid!r}: rename the field in the "
            "task, or use --as python or json"
        )


def _fields_in(parts: tuple[str, ...]) -> list[str]:
    return sorted(set(parts[1::2]))


def _jinja_expression(parts: tuple[str, ...], filter_name: str = "") -> str:
    """Return an expression of string literals and variables: a template's own text would need escapes of tags and line ends."""
    terms = [part if number % 2 else json.dumps(part, ensure_ascii=False) for number, part in enumerate(parts)]
    joined = " ~ ".join(term for term in terms if term != '""') or '""'
    return f"{{{{ ({joined}) | {filter_name} }}}}" if filter_name else f"{{{{ {joined} }}}}"


def _langchain_object(path: list[str], **values: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": values}


def _langchain_template(parts: tuple[str, ...]) -> dict[str, Any]:
    template = "".join(
        f"{{{part}}}" if number % 2 else part.replace("{", "{{").replace("}", "}}") for number, part in enumerate(parts)
    )
    return _langchain_object(
        ["langchain", "prompts", "prompt", "PromptTemplate"],
        input_variables=_fields_in(parts),
        template=template,
        template_format="f-string",
    )


def _langchain_turn(turn: TurnTemplate) -> dict[str, Any]:
    kind = _LANGCHAIN_TURNS[turn.role]
    return _langchain_object(
        ["langchain", "prompts", "chat", f"{kind}MessagePromptTemplate"], prompt=_langchain_template(turn.parts)
    )


def _double_braces(parts: tuple[str, ...]) -> str:
    """Return the template of MLflow, which has no escape for its own syntax."""
    text = "".join(f"{{{{{part}}}}}" if number % 2 else part for number, part in enumerate(parts))
    if tuple(_MLFLOW_VARIABLE.findall(text)) != parts[1::2] or ("{%" in text and "%}" in text):
        raise InputError(
            "--as mlflow cannot hold the prompt: it has words in double braces, or {% %}, which MLflow takes for its own "
            "syntax: use --as python or json"
        )
    return text


def _nunjucks(parts: tuple[str, ...]) -> str:
    """Return a template of Nunjucks, with the braces that would begin a tag as expressions."""
    filled = [
        f"{{{{{part}}}}}" if number % 2 else _nunjucks_text(part, before_slot=number + 1 < len(parts))
        for number, part in enumerate(parts)
    ]
    return "".join(filled)


def _nunjucks_text(text: str, *, before_slot: bool) -> str:
    special = r"\{+(?=[%#\r])|\{\{+|#\}|\r" + (r"|\{+\Z" if before_slot else "")  # Jinja would change line ends
    return re.sub(special, lambda match: f"{{{{ {json.dumps(match[0])} }}}}", text)


def _as_yaml(text: str) -> str:
    """Return a quoted scalar of YAML: as in JSON, but surrogate pairs are no escapes there, and some characters must be."""
    unprintable = r"[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    return re.sub(unprintable, lambda match: f"\\U{ord(match[0]):08x}", json.dumps(text, ensure_ascii=False))
