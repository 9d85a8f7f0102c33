"""Models by name, such as `openai:gpt-4.1-mini`; `kinds` has the table of what may stand before the colon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest
from promptopt.models.kinds import HOSTED, KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from promptopt.models.base import BatchModel, Model, Price
    from promptopt.models.hosted.fields import Secret
    from promptopt.models.options import RequestOptions


def load_model(
    spec: str,
    *,
    base_url: str | None = None,
    tokenizer: str | None = None,
    price: Price | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    backoff: float | None = None,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    extra_body: Mapping[str, Any] | None = None,
    options: RequestOptions | None = None,
    headers: Mapping[str, str | Secret] | None = None,
    replicas: int | None = None,
    ray_address: str | None = None,
) -> Model:
    """Return the model for a name such as `openai:gpt-4.1-mini`; nothing is loaded or called yet.

    Args:
        spec: kind, colon, name.
        base_url: endpoint of a hosted model, if not the provider's.
        tokenizer: of a `completions:` model: a folder, hub name or GGUF file. Without one the model scores only plain
            texts, not chats.
        price: dollars per million tokens of a hosted model.
        concurrency: maximum calls in flight to a hosted model; None for the default.
        timeout: seconds per attempt at a call to a hosted model; None for the default.
        backoff: seconds before the second attempt at a call to a hosted model, which double with each; None for the default, 0
            for no waits, in tests.
        requests_per_minute: rate limit for a hosted model; None for no limit.
        tokens_per_minute: rate limit for a hosted model; None for no limit.
        extra_body: additional fields of every request to a hosted model, such as {"logit_bias": {"1904": 100}}.
        options: options of every request to a hosted model, such as RequestOptions(reasoning_effort="low").
        headers: further headers of every request to a hosted model: texts, secrets such as pydantic's SecretStr, or `env:NAME`
            for the value of an environment variable.
        replicas: number of copies of a local model, as Ray actors; None for no replicas.
        ray_address: of the Ray cluster for the replicas, HOST:PORT or "auto"; None starts Ray on this machine.

    Raises:
        InputError: the kind is unknown, or an argument does not apply to it.
        MissingExtraError: an optional dependency is not installed.
    """
    kind, _, name = spec.partition(":")
    if kind not in KINDS or not name:
        raise InputError(
            f"unknown model {spec!r}{nearest(kind, KINDS)}: write KIND:NAME, where KIND is one of {', '.join(KINDS)}"
        )
    hosted = KINDS[kind].hosted
    if not hosted and base_url is not None:
        raise InputError(f"{spec!r} has no endpoint: omit the base URL, or use openai: or anthropic:")
    for argument, value in (("extra body", extra_body), ("options", options), ("headers", headers)):
        if not hosted and value:
            raise InputError(f"{spec!r} sends no requests: omit the {argument}, or use {', '.join(HOSTED)}")
    if not KINDS[kind].tokenizer and tokenizer is not None:
        raise InputError(f"{spec!r} does not take a tokenizer: omit it, or use completions:")
    if replicas is None and ray_address is not None:
        raise InputError("a Ray address needs replicas: set the number of replicas, or omit the address")
    if replicas is not None:
        from promptopt.models.replicas import RayModel  # noqa: PLC0415  loaded when used

        return RayModel(spec, replicas=replicas, address=ray_address)
    settings = {
        "base_url": base_url,
        "tokenizer": tokenizer,
        "price": price,
        "concurrency": concurrency,
        "timeout": timeout,
        "backoff": backoff,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "extra_body": extra_body,
        "options": options,
        "headers": headers,
    }
    given = {key: value for key, value in settings.items() if value is not None} if hosted else {}
    return KINDS[kind].make(name, **given)


def batch_model(model: Model, *, longest_pause: float = 60.0, attempts: int = 30) -> BatchModel:
    """Return a hosted model that uses its provider's batch endpoint.

    Args:
        model: an OpenAI or Anthropic model.
        longest_pause: maximum seconds between two polls of a batch.
        attempts: at a poll or a download; with the default pauses, 30 last about 25 minutes without a network.

    Raises:
        InputError: the model has no batch endpoint.
    """
    from promptopt.models.hosted.anthropic import AnthropicModel  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.batches.anthropic import AnthropicBatches  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.batches.client import BatchPatience  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.batches.openai import OpenAIBatches  # noqa: PLC0415  loaded when used
    from promptopt.models.hosted.openai import OpenAIModel  # noqa: PLC0415  loaded when used

    patience = BatchPatience(longest_pause=longest_pause, attempts=attempts)
    if isinstance(model, OpenAIModel) and model.service.batches:
        return OpenAIBatches(model, patience)
    if isinstance(model, AnthropicModel) and model.service.batches:
        return AnthropicBatches(model, patience)
    name = ":".join(str(model.fingerprint.get(part, "?")) for part in ("provider", "model"))
    raise InputError(f"the model {name} has no batch endpoint: omit --batch, or use an openai: or anthropic: model")
