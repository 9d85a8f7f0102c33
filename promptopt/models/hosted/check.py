"""Checks what a hosted endpoint supports, with one small paid call and two free ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import ModelError, TransientModelError
from promptopt.models.base import LabelReader, Request, TokenModel
from promptopt.models.hosted.batches.base import HostedBatches
from promptopt.models.hosted.batches.client import NotFoundError
from promptopt.models.hosted.completions import CompletionsModel
from promptopt.models.loading import batch_model
from promptopt.prompt import Message
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.models.hosted.model import HostedModel
    from promptopt.prompt import Context

_TOKENS = 256  # reasoning models need some before they answer
_NUMBERS = "one, two, three, four, one, two, three,"
_NEXT = ("four", "five", "dog")
_ROUNDING = 0.01


class Finding(NamedTuple):
    """The result of one check.

    Args:
        name: what was checked.
        passed: True, False, or None if it could not be checked or is only a note.
        message: the result in words.
    """

    name: str
    passed: bool | None
    message: str


def check(model: HostedModel) -> Iterator[Finding]:
    """Yield the result of each check; ends early if the endpoint cannot be used.

    Makes one paid call of a few tokens, or about ten for a server that scores texts.
    """
    scoring = isinstance(model, CompletionsModel)
    question: Context = _NUMBERS if scoring else (Message("user", "Reply with the word yes."),)
    request = Request(context=question, max_tokens=8 if scoring else _TOKENS, labels=() if scoring else ("yes", "no"))
    try:
        reply = next(iter(model.generate([request]))).reply
    except TransientModelError as error:
        yield Finding("reachable", passed=False, message=str(error))
        return
    except ModelError as error:  # its message blames the key, the model name or the request
        yield Finding("usable", passed=False, message=str(error))
        return
    if isinstance(reply, Failure):
        yield Finding("reachable", passed=False, message=reply.reason)
        return
    yield Finding("usable", passed=True, message=f"{model.endpoint} accepted the key and {model.name} answered")
    yield _text(reply)
    for change in model.changes:
        if "log-probabilities" not in change:  # these are reported below
            yield Finding("note", passed=None, message=f"{model.name} {change}")
    if isinstance(model, CompletionsModel):
        yield from _scores(model)
    else:
        yield _logprobs(model)
        yield _batches(model)
    price = model.price
    price_text = price is not None and f"${price.input:g} in, ${price.output:g} out, per million tokens"
    yield Finding("price", passed=price is not None or None, message=price_text or "unknown: give --price INPUT,OUTPUT")


def _text(reply: Response) -> Finding:
    if reply.text:
        return Finding("text", passed=True, message=f"{reply.usage.input} tokens in, {reply.usage.output} out")
    return Finding("text", passed=False, message=f"none within {_TOKENS} tokens: raise the task's max_tokens")


def _scores(model: CompletionsModel) -> Iterator[Finding]:
    """Yield whether the server scores texts and chats, and whether its probabilities are plausible."""
    contexts: dict[str, Context] = {"scores texts": _NUMBERS}
    if isinstance(model, TokenModel):
        contexts["scores chats"] = (Message("user", f"What comes next: {_NUMBERS}"),)
    for name, context in contexts.items():
        try:
            method = model.scoring_method(chat=not isinstance(context, str))
            scored = next(model.label_logprobs([context], _NEXT)).reply
        except ModelError as error:
            yield Finding(name, passed=False, message=str(error))
            continue
        if isinstance(scored, Failure) or scored.label_logprobs is None:
            yield Finding(
                name, passed=False, message=scored.reason if isinstance(scored, Failure) else "no log-probabilities"
            )
            continue
        yield Finding(name, passed=True, message=f"by {method}; a generated token gets the same score when it is given")
        probabilities = [math.exp(logprob) for logprob in scored.label_logprobs]
        listed = ", ".join(f"{label!r} {value:.2g}" for label, value in zip(_NEXT, probabilities, strict=True))
        total = math.fsum(probabilities)
        yield Finding(
            "probabilities", passed=total <= 1 + _ROUNDING, message=f"{listed}: sum {total:.2g}, must be at most 1"
        )
    if len(contexts) == 1:
        yield Finding("scores chats", passed=None, message="needs the model's tokenizer: --tokenizer")


def _logprobs(model: HostedModel) -> Finding:
    name = "log-probabilities"
    if not isinstance(model, LabelReader):
        return Finding(
            name, passed=None, message="not available in this protocol: labels are read from the text, as votes"
        )
    if any("log-probabilities" in change for change in model.changes):
        return Finding(name, passed=None, message="none: labels are read from the text, as votes")
    return Finding(name, passed=True, message="for the 20 most likely first tokens: they score labels of one token")


def _batches(model: HostedModel) -> Finding:
    batches = batch_model(model) if model.service.batches else model
    if not isinstance(batches, HostedBatches):
        return Finding("batches", passed=None, message="none here")
    try:
        batches.client.get(batches.path, limit=1)
    except NotFoundError:
        return Finding("batches", passed=None, message="none here")
    except ModelError as error:
        return Finding("batches", passed=None, message=f"could not be checked: {error}")
    return Finding("batches", passed=True, message="available with --batch, at half the price")
