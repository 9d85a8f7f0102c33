"""Which prompt of a result is meant, and how its requests are laid out. Reads results of earlier versions as far as they say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from promptopt.errors import InputError
from promptopt.parsing.slots import slot_names
from promptopt.prompt import Layout, Prompts, default_template
from promptopt.results.portable import PortablePrompt

if TYPE_CHECKING:
    from promptopt.prompt import Format, Prompt
    from promptopt.results.result import Result


def portable_prompt(result: Result, component: str, candidate: int | str) -> PortablePrompt:
    """Return a prompt of a result with all that its request needs; arguments and errors are those of `Result.portable`."""
    prompt, name = _candidate(result, candidate), result.task
    if isinstance(prompt, Prompts):
        if not component:
            raise InputError(f"the run has several prompts: name one of them ({', '.join(prompt.names)})")
        layout, name = _component_layout(result, prompt, component), f"{name}: {component}"
        prompt = prompt[component]
    elif component:
        raise InputError(f"the run has one prompt, and none named {component!r}: leave the name out")
    else:
        layout = _prompt_layout(result, prompt)
    fitted = result.predictor is not None and result.predictor.prompt == prompt
    return PortablePrompt(
        prompt=prompt,
        layout=layout,
        request=result.request,
        model=str(result.models.get("task", {}).get("model", "")),
        name=name,
        predictor=result.predictor if fitted else None,
    )


def format_of(result: Result) -> Format:
    """Return the task's format."""
    return result.layout.format if result.layout else cast("Format", result.request.get("format", "chat"))


def _candidate(result: Result, candidate: int | str) -> Prompt:
    named = {"chosen": result.prompt, "seed": result.seed_prompt}
    named |= {"predictor": result.predictor.prompt} if result.predictor else {}
    if candidate in named:
        return named[str(candidate)]
    if not str(candidate).isdecimal() or int(candidate) >= len(result.history):
        numbers = f", or a number from 0 to {len(result.history) - 1}" if result.history else ""
        raise InputError(f"there is no candidate {candidate!r}: give {', '.join(named)}{numbers}")
    return result.history[int(candidate)].prompt


def _prompt_layout(result: Result, prompt: Prompt) -> Layout:
    """Return the task's layout; of results of earlier versions, what their prompts show of it.

    Raises:
        InputError: they do not show enough.
    """
    known = result.layout or (result.predictor and result.predictor.layout)
    if known:
        return known
    shown = [each.demonstrations.items[0].inputs for each in (prompt, result.seed_prompt) if each.demonstrations]
    fields = tuple(shown[0]) if shown else tuple(dict.fromkeys(slot_names(result.seed_prompt.text)))
    if not fields or not Layout(fields, "").has_slot(prompt.text):
        raise InputError(
            "the result was written by an earlier version, which did not record the task's template: run the same command "
            "again (its replies are in the memo), or use result.prompt.render(inputs, template=...)"
        )
    return Layout(fields, default_template(fields), format_of(result))


def _component_layout(result: Result, prompts: Prompts, name: str) -> Layout:
    """Return the layout of a prompt of a program, by its slots and demonstrations: what a program fills is not recorded.

    Raises:
        InputError: there is no such prompt, or nothing shows its fields.
    """
    prompt, seeds = prompts[name], result.seed_prompt
    declared = slot_names(seeds[name].text) if isinstance(seeds, Prompts) else []
    fields = tuple(dict.fromkeys([*(result.layout.fields if result.layout else ()), *declared]))
    if prompt.demonstrations is not None:
        fields = tuple(prompt.demonstrations.items[0].inputs)
    elif any(f"{{{field}}}" in prompt.text for field in fields):
        fields = tuple(field for field in fields if f"{{{field}}}" in prompt.text)
    if not fields:
        raise InputError(
            f"the result does not say what the prompt {name!r} is filled with: use result.prompt[{name!r}].render(inputs) "
            "with all that the program asks with"
        )
    return Layout(fields, default_template(fields), format_of(result))
