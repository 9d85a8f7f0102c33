"""The command line's options of a model, and the model that they describe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.errors import InputError
from promptopt.models import HOSTED, load_model
from promptopt.models.base import Price
from promptopt.models.options import RequestOptions, read_options
from promptopt.utils.json_values import json_value

if TYPE_CHECKING:
    from promptopt.models.base import Model

_HEADER = "header:"

ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="Option of every request to --model (repeatable): response_format=json or =SCHEMA.json, reasoning_effort=low, "
        "thinking_budget=2048, seed=1, logit_bias='{\"1904\": 100}', or header:NAME=VALUE. VALUE of a header may be "
        "env:VARIABLE, for a secret.",
    ),
]


@dataclass(frozen=True)
class CallLimits:
    """Concurrency, timeout and rate limits of hosted models; None keeps the adapter's default."""

    concurrency: int | None
    timeout: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None

    def load(
        self,
        spec: str,
        base_url: str | None,
        price: str | None,
        tokenizer: str | None = None,
        replicas: int | None = None,
        ray: str | None = None,
        extra_body: str | None = None,
        model_options: list[str] | None = None,
    ) -> Model:
        """Load the model called `spec`; the limits apply to hosted models only."""
        options, headers = read_assignments(model_options or [])
        limits = self if spec.partition(":")[0] in HOSTED else CallLimits(None, None, None, None)
        return load_model(
            spec,
            base_url=base_url,
            tokenizer=tokenizer,
            price=read_price(price),
            replicas=replicas,
            ray_address=ray,
            extra_body=_read_extra_body(extra_body),
            options=options or None,
            headers=headers or None,
            **vars(limits),
        )


def read_assignments(assignments: list[str]) -> tuple[RequestOptions, dict[str, str]]:
    """Return the options and headers of --model-option.

    Raises:
        InputError: one of them is not NAME=VALUE, is given twice, or is not an option.
    """
    options: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals or not name:
            raise InputError(f"cannot read --model-option {assignment!r}: write NAME=VALUE")
        if name in options or name.removeprefix(_HEADER) in headers:
            raise InputError(f"--model-option sets {name!r} twice: remove one")
        if name.startswith(_HEADER):
            headers[name.removeprefix(_HEADER)] = value
        else:
            parsed = json_value(value)
            options[name] = value if parsed is None else parsed
    return read_options(options, "--model-option", Path.cwd()), headers


def _read_extra_body(text: str | None) -> dict[str, Any] | None:
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--extra-body must be a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"--extra-body must be a JSON object, not {text}")
    return fields or None


def read_price(text: str | None, option: str = "--price") -> Price | None:
    """Return the price that an option states.

    Raises:
        InputError: it states none.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        price = Price(*numbers)
    except (TypeError, ValueError):
        raise InputError(
            f"cannot read {option} {text!r}: write INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens, "
            "such as 0.4,1.6 or 0.4,1.6,0.1"
        ) from None
    if not all(0 <= number < float("inf") for number in numbers):
        raise InputError(f"{option} {text!r} must be finite and not negative")
    return price
