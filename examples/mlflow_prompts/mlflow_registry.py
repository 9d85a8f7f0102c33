"""A set of prompts in MLflow's registry: read as the prompts of a program, written back as new versions. Copy it into your project."""

import re
from collections.abc import Mapping

import mlflow.genai

from promptopt import InputError, Prompt, Prompts, Result


def load_prompts(registered: Mapping[str, str]) -> dict[str, Prompt]:
    """Return {name in the program: prompt} of {name in the program: URI such as `prompts:/desk.team@production`}.

    Raises:
        InputError: a prompt is a chat, which would have to be split into the instruction and the turns.
    """
    prompts = {}
    for name, uri in registered.items():
        text = mlflow.genai.load_prompt(uri).to_single_brace_format()
        if not isinstance(text, str):
            raise InputError(f"the registered prompt {uri} is a chat: register the text of its instruction")
        prompts[name] = Prompt(text)
    return prompts


def register_prompts(result: Result, registered: Mapping[str, str], *, alias: str) -> dict[str, str]:
    """Register the prompts that a run changed as new versions, under an alias.

    The alias is also set on the prompts that stayed as they were, so that `@alias` names the whole chosen set.

    Args:
        result: of a run from `load_prompts(registered)`.
        registered: as for `load_prompts`.
        alias: such as "candidate"; point "production" at it once you trust it.

    Returns:
        {name in the program: URI of the version}.

    Raises:
        InputError: a chosen prompt has demonstrations, for which a text has no place.
    """
    chosen, seed = result.prompt, result.seed_prompt
    if not isinstance(chosen, Prompts) or not isinstance(seed, Prompts):
        raise InputError("the result is of a task with one prompt, not of a program's")
    shown = next((name for name, prompt in chosen.components if prompt.demonstrations), None)
    if shown is not None:
        raise InputError(f"the prompt {shown!r} has demonstrations: search instructions only, settings={{'sets': 0}}")
    versions = {}
    for name, uri in registered.items():
        version = mlflow.genai.load_prompt(uri)
        if chosen[name] != seed[name]:
            version = mlflow.genai.register_prompt(
                name=version.name,
                template=in_double_braces(chosen[name].text, version.variables),
                commit_message=result.headline,
                tags={"promptopt.task": result.task, "promptopt.run": result.digest or "not saved"},
            )
        mlflow.genai.set_prompt_alias(version.name, alias, version.version)
        versions[name] = f"prompts:/{version.name}/{version.version}"
    return versions


def in_double_braces(text: str, slots: set[str]) -> str:
    """Write the slots as MLflow does, and leave other braces."""
    return re.sub(r"\{(\w+)\}", lambda match: f"{{{match[0]}}}" if match[1] in slots else match[0], text)
