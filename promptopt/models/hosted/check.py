"""What a hosted endpoint can do, found out by one small call and two questions that cost nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import ModelError, PassingModelError
from promptopt.models.base import LabelReader, Request, TokenModel
from promptopt.models.hosted.batches.base import HostedBatches, NoSuchPlaceError
from promptopt.models.hosted.completions import CompletionsModel
from promptopt.models.loading import batch_model
from promptopt.prompt import Message
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.models.hosted.model import HostedModel
    from promptopt.prompt import Context

_TOKENS = 256  # a model that thinks before it answers needs some
_NUMBERS = "one, two, three, four, one, two, three,"
_NEXT = ("four", "five", "dog")
_ROUNDING = 0.01


class Finding(NamedTuple):
    """One thing that an endpoint can do or not.

    Args:
        what: is asked.
        good: True, False, or None where it could not be found out or is no fault.
        says: in words.
    """

    what: str
    good: bool | None
    says: str


def check(model: HostedModel) -> Iterator[Finding]:
    """Yield what is found out, one after the other; ends early where nothing more can be.

    One call of a few tokens is paid for; of a server that is to score texts, some ten.
    """
    scoring = isinstance(model, CompletionsModel)
    question: Context = _NUMBERS if scoring else (Message("user", "Reply with the word yes."),)
    request = Request(context=question, max_tokens=8 if scoring else _TOKENS, labels=() if scoring else ("yes", "no"))
    try:
        reply = next(iter(model.generate([request]))).reply
    except PassingModelError as error:
        yield Finding("reachable", good=False, says=str(error))
        return
    except ModelError as error:  # says which of key, model name and request it is
        yield Finding("usable", good=False, says=str(error))
        return
    if isinstance(reply, Failure):
        yield Finding("reachable", good=False, says=reply.reason)
        return
    yield Finding("usable", good=True, says=f"{model.endpoint} took the key, knows {model.name}, and answered")
    yield _text(reply)
    for change in model.changes:
        if "log-probabilities" not in change:  # which have a line of their own
            yield Finding("note", good=None, says=f"{model.name} {change}")
    if isinstance(model, CompletionsModel):
        yield from _scores(model)
    else:
        yield _logprobs(model)
        yield _batches(model)
    price = model.price
    known = price is not None and f"${price.input:g} in, ${price.output:g} out, for a million tokens"
    yield Finding("price", good=price is not None or None, says=known or "not known: give --price INPUT,OUTPUT")


def _text(reply: Response) -> Finding:
    if reply.text:
        return Finding("text", good=True, says=f"{reply.usage.input} tokens in, {reply.usage.output} out")
    return Finding("text", good=False, says=f"none within {_TOKENS} tokens: give the task a larger max_tokens")


def _scores(model: CompletionsModel) -> Iterator[Finding]:
    """Yield whether it scores given texts and chats, and whether its probabilities can be such."""
    contexts: dict[str, Context] = {"scores texts": _NUMBERS}
    if isinstance(model, TokenModel):
        contexts["scores chats"] = (Message("user", f"What comes next: {_NUMBERS}"),)
    for what, context in contexts.items():
        try:
            way = model.way(chat=not isinstance(context, str))
            scored = next(model.label_logprobs([context], _NEXT)).reply
        except ModelError as error:
            yield Finding(what, good=False, says=str(error))
            continue
        if isinstance(scored, Failure) or scored.label_logprobs is None:
            yield Finding(
                what, good=False, says=scored.reason if isinstance(scored, Failure) else "no log-probabilities"
            )
            continue
        yield Finding(what, good=True, says=f"by {way}; a token that it wrote is scored as when it wrote it")
        each = [math.exp(logprob) for logprob in scored.label_logprobs]
        said = ", ".join(f"{label!r} {share:.2g}" for label, share in zip(_NEXT, each, strict=True))
        total = math.fsum(each)
        yield Finding("probabilities", good=total <= 1 + _ROUNDING, says=f"{said}: together {total:.2g}, at most 1")
    if len(contexts) == 1:
        yield Finding("scores chats", good=None, says="not without the model's tokenizer: --tokenizer")


def _logprobs(model: HostedModel) -> Finding:
    name = "log-probabilities"
    if not isinstance(model, LabelReader):
        return Finding(name, good=None, says="not part of this protocol: labels are read from the text, as votes")
    if any("log-probabilities" in change for change in model.changes):
        return Finding(name, good=None, says="none: labels are read from the text, as votes")
    return Finding(name, good=True, says="of the 20 likeliest first tokens: labels of one token are scored by them")


def _batches(model: HostedModel) -> Finding:
    batches = batch_model(model)
    if not isinstance(batches, HostedBatches):
        return Finding("batches", good=None, says="none here")
    try:
        batches.get(batches.path, limit=1)
    except NoSuchPlaceError:
        return Finding("batches", good=None, says="none here")
    except ModelError as error:
        return Finding("batches", good=None, says=f"could not be found out: {error}")
    return Finding("batches", good=True, says="yes: --batch, for half the price")
