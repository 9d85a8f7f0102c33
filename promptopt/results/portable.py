"""A prompt with all that its request needs, as a value that can be saved, loaded, rendered and exported.

Knows nothing of runs, and calls no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.prompt import Layout, Prompt, Prompts, as_dicts
from promptopt.results.predictor import Predictor  # noqa: TC001  read when a prompt is loaded
from promptopt.results.saved import write_json
from promptopt.utils.json_values import read_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.prompt import Context

MARK = "promptopt_prompt"
"""The key by which a file of JSON is known as a saved prompt; its value is the number of the format."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PortablePrompt:
    """A prompt with the layout and the settings of its request.

    Args:
        prompt: the prompt; not the prompts of a program, which are sent one by one.
        layout: the task's fields, template and format.
        request: the task's settings sent with the prompt, such as `max_tokens`.
        model: name of the model that it was found for, or "".
        name: what the prompt is called, such as "tickets" or "pipeline: query".
        predictor: the label bias fitted for this prompt, or None.

    Raises:
        InputError: the prompt is a program's.
    """

    prompt: Prompt
    layout: Layout
    request: dict[str, Any] = field(default_factory=dict, hash=False)
    model: str = ""
    name: str = ""
    predictor: Predictor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.prompt, Prompts):
            raise InputError(
                f"a program sends each of its prompts by itself: name one of them ({', '.join(self.prompt.names)})"
            )

    def render(self, inputs: Mapping[str, str]) -> Context:
        """Return what the model is sent for one input: turns, or with the format "completion" a text.

        Args:
            inputs: field name -> text; fields that the task does not have are ignored.

        Raises:
            InputError: a field has no text.
        """
        return self.layout.render_inputs(self.prompt, inputs)

    def messages(self, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the turns of a chat for one input, as `{"role": ..., "content": ...}`.

        Raises:
            InputError: as `render`, or the format is "completion".
        """
        return as_dicts(self.render(inputs))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for `from_json`."""
        out = {MARK: _FORMAT, "name": self.name, "model": self.model, "prompt": self.prompt.to_json()}
        out |= {"layout": self.layout.to_json(), "request": self.request}
        return out if self.predictor is None else out | {"predictor": self.predictor.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> PortablePrompt:
        """Return the prompt that `to_json` wrote.

        Raises:
            ValueError: a part is missing or has another type, or the data has another format.
        """
        found = data.get(MARK) if isinstance(data, dict) else None
        if found != _FORMAT:
            raise ValueError(f"its {MARK} is {found!r}, not {_FORMAT}")
        return read_value(cls, {name: value for name, value in data.items() if name != MARK})

    def save(self, path: Path | str) -> None:
        """Write the prompt as JSON, atomically."""
        write_json(self.to_json(), path)

    @classmethod
    def load(cls, path: Path | str) -> PortablePrompt:
        """Read a saved prompt.

        Raises:
            InputError: the file cannot be read, or is not a saved prompt.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"cannot read {path} ({error}): give a file that `promptopt export` wrote") from error
        except ValueError as error:  # from JSON, UTF-8 or `from_json`
            raise InputError(f"{path} is not a saved prompt: {error}") from error


def is_portable(text: str) -> bool:
    """Whether the text of a file is a saved prompt, not a prompt itself."""
    try:
        data = json.loads(text)
    except ValueError:
        return False
    return isinstance(data, dict) and MARK in data
