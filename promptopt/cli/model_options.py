"""The command line's options of a model, and the model that they describe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.errors import InputError
from promptopt.models import HOSTED, load_model
from promptopt.models.base import LabelModel, Price
from promptopt.models.options import RequestOptions, read_options
from promptopt.utils.json_values import json_value

if TYPE_CHECKING:
    from promptopt.models.base import Model

_HEADER = "header:"

RequestOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="Option of every request to --model (repeatable): response_format=json or =SCHEMA.json, reasoning_effort=low, "
        "thinking_budget=2048, seed=1, logit_bias='{\"1904\": 100}', or header:NAME=VALUE. VALUE of a header may be "
        "env:VARIABLE, for a secret.",
    ),
]


ModelName = Annotated[str, typer.Option("--model", help="Task model as KIND:NAME; see `promptopt models`.")]
BaseUrl = Annotated[str | None, typer.Option(help="URL of a hosted model's endpoint, if not the provider's.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Tokenizer of a completions: model (folder, hub name or GGUF file); needed to score chats."),
]
PriceText = Annotated[
    str | None,
    typer.Option(
        "--price", help="INPUT,OUTPUT[,CACHED[,WRITTEN]] in dollars per million tokens; overrides the built-in price."
    ),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Maximum concurrent calls to a hosted model.")]
Timeout = Annotated[
    float | None,
    typer.Option(help="Timeout per attempt, in seconds (hosted models).", show_default="60"),
]
Rpm = Annotated[int | None, typer.Option(min=1, help="Maximum requests per minute to a hosted model.")]
Tpm = Annotated[int | None, typer.Option(min=1, help="Maximum tokens per minute to a hosted model.")]
ExtraBody = Annotated[
    str | None,
    typer.Option(
        help="Extra fields for every request to --model, as a JSON object such as "
        '\'{"logit_bias": {"1904": 100}}\'. Shown in the report.'
    ),
]
Batch = Annotated[
    bool, typer.Option("--batch", help="Score through the provider's batch API: half the price, results within a day.")
]
Replicas = Annotated[int | None, typer.Option(min=1, help="Number of copies of a local --model to run as Ray actors.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Ray cluster for --replicas: HOST:PORT or auto. Default: this machine."),
]


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How an endpoint is called: the options of every command that asks a hosted model."""

    base_url: BaseUrl = None
    price: PriceText = None
    concurrency: Concurrency = None
    timeout: Timeout = None
    rpm: Rpm = None
    tpm: Tpm = None
    extra_body: ExtraBody = None

    def load(self, spec: str, **settings: Any) -> Model:
        """Return the model called `spec`; further settings are those of `load_model`."""
        return load_model(
            spec,
            base_url=self.base_url,
            price=read_price(self.price),
            extra_body=_read_extra_body(self.extra_body),
            **self._limits(spec),
            **settings,
        )

    def load_writer(self, spec: str | None, base_url: str | None = None, price: str | None = None) -> Model | None:
        """Return the writer, with the limits of these options; None if there is no name."""
        if spec is None:
            return None
        return load_model(spec, base_url=base_url, price=read_price(price), **self._limits(spec))

    def _limits(self, spec: str) -> dict[str, Any]:
        """Return the limits, which only hosted models take."""
        if spec.partition(":")[0] not in HOSTED:
            return {}
        return {
            "concurrency": self.concurrency,
            "timeout": self.timeout,
            "requests_per_minute": self.rpm,
            "tokens_per_minute": self.tpm,
        }


@dataclass(frozen=True, kw_only=True)
class NewModelOptions(CallOptions):
    """What a task model is loaded with, beside its name."""

    tokenizer: Tokenizer = None
    batch: Batch = False
    replicas: Replicas = None
    ray: RayAddress = None

    def load(self, spec: str, **settings: Any) -> Model:
        """Return the model called `spec`."""
        model = super().load(spec, tokenizer=self.tokenizer, replicas=self.replicas, ray_address=self.ray, **settings)
        return _with_batches(model) if self.batch else model


@dataclass(frozen=True, kw_only=True)
class TaskModelOptions(NewModelOptions):
    """The task model of a command."""

    model: ModelName = "local:smollm2"
    model_option: RequestOption = None

    def task_model(self) -> Model:
        """Return the task model."""
        options, headers = read_assignments(self.model_option or [])
        return self.load(self.model, options=options or None, headers=headers or None)


def _with_batches(model: Model) -> Model:
    from promptopt.models.loading import batch_model  # noqa: PLC0415  loaded when used

    if isinstance(model, LabelModel):
        raise InputError(f"{model!r} scores labels, which batch endpoints do not support: remove --batch")
    return batch_model(model)


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
