"""What every model promises: an identity without secrets, and one reply to each request."""

from __future__ import annotations

import json
import math
import os
import threading
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, PermanentModelError
from promptopt.models.base import CaptionModel, LabelModel, Model, Request, TokenModel
from promptopt.prompt import Message
from promptopt.replies import Failure, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from promptopt.prompt import Context
    from promptopt.replies import Arrival

CONTEXTS: tuple[Context, ...] = (
    (Message("system", "Answer yes or no."), Message("user", "Is the sea wet?")),
    (Message("user", "Is {text} a slot? Zwölf 🙂"),),
    (Message("user", "Is the sun cold?"),),
)
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # parts of names of environment variables
_SHORTEST_SECRET = 8  # characters
_TOLERANCE = 0.05  # of log-probabilities that were computed in batches of another order, in bfloat16


def check_model(
    model: Model,
    *,
    contexts: Sequence[Context] = CONTEXTS,
    labels: tuple[str, ...] = ("yes", "no"),
    repeatable: bool = True,
) -> None:
    """Check what a model promises. It is asked for a few short replies; a model that costs money costs that.

    Args:
        model: to check; what its type says that it can do (labels, tokens) is checked too.
        contexts: what it is asked; two or more, texts to continue for a model that takes no chats.
        labels: what a `LabelModel` scores.
        repeatable: whether a reply at temperature 0 is the same each time; few hosted models promise that.

    Raises:
        AssertionError: a promise is broken.
        InputError, PermanentModelError: the model cannot be used at all.
    """
    name = type(model).__name__
    if not isinstance(model, Model):
        raise AssertionError(f"{name} is not a model: it needs the attributes fingerprint, unit, price and generate")
    identity = _check_fingerprint(model)
    _check_unit_and_price(model)
    if not isinstance(model, CaptionModel):  # which writes no text
        first, second = _texts(model, contexts), _texts(model, contexts)
        if repeatable and first != second:
            raise AssertionError(
                f"{name} replies {first} and then {second} to the same requests at temperature 0: if an endpoint "
                "decides that, pass repeatable=False"
            )
    if isinstance(model, LabelModel):
        _check_labels(model, contexts, labels)
    if isinstance(model, TokenModel):
        _check_tokens(model, contexts)
    if _check_fingerprint(model) != identity:
        raise AssertionError(f"the fingerprint of {name} changes with use, so that the memo never finds its replies")


def _check_fingerprint(model: Model) -> str:
    """Return the fingerprint as JSON."""
    name = type(model).__name__
    texts = []
    for _ in range(2):
        try:
            texts.append(json.dumps(dict(model.fingerprint), sort_keys=True, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"the fingerprint of {name} is not plain JSON ({error})") from error
    if texts[0] != texts[1] or json.loads(texts[0]) != dict(model.fingerprint):
        raise AssertionError(f"the fingerprint of {name} is not the same when read twice, or from JSON: {texts[0]}")
    if texts[0] == "{}":
        raise AssertionError(f"the fingerprint of {name} is empty: name all that decides its replies")
    for variable, value in os.environ.items():
        secret = len(value) >= _SHORTEST_SECRET and any(part in variable.upper() for part in _SECRET_NAMES)
        if secret and json.dumps(value)[1:-1] in texts[0]:
            raise AssertionError(f"the fingerprint of {name} holds the value of {variable}: results would show it")
    return texts[0]


def _check_unit_and_price(model: Model) -> None:
    name = type(model).__name__
    if model.unit not in ("reply", "batch"):
        raise AssertionError(f"the unit of {name} is {model.unit!r}, not 'reply' or 'batch'")
    if model.price is not None and not all(part is None or 0 <= part < math.inf for part in model.price):
        raise AssertionError(f"the price of {name} is {model.price!r}: give dollars per million tokens, or None")


def _texts(model: Model, contexts: Sequence[Context]) -> list[str]:
    """Return the replies at temperature 0, "" for failures."""
    replies = _answers(model, [Request(context=context, max_tokens=8) for context in contexts], model.generate)
    return [reply.text if isinstance(reply, Response) else "" for reply in replies]


def _answers(
    model: Model, requests: Sequence[Any], ask: Callable[[Iterable[Any]], Iterator[Arrival]]
) -> list[Response | Failure]:
    """Return the replies in the order of the requests."""
    name = type(model).__name__
    if model.unit == "batch":
        arrivals = _collect(name, ask, requests)
    else:
        arrivals = _collect(name, ask, _pulled(name, requests))
        if _collect(name, ask, iter(())):
            raise AssertionError(f"{name} answers although nothing was asked")
    numbers = [arrival.number for arrival in arrivals]
    if sorted(numbers) != list(range(len(requests))):
        raise AssertionError(
            f"{name} answers {len(requests)} requests with the numbers {numbers}: answer each request exactly once"
        )
    by_number = {arrival.number: arrival.reply for arrival in arrivals}
    replies = [by_number[number] for number in range(len(requests))]
    for reply in replies:
        _check_reply(name, reply)
    return replies


def _pulled(name: str, requests: Sequence[Any]) -> Iterator[Any]:
    thread = threading.get_ident()
    for request in requests:
        if threading.get_ident() != thread:
            raise AssertionError(f"{name} takes requests in another thread than the one that reads its replies")
        yield request


def _collect(name: str, ask: Callable[[Iterable[Any]], Iterator[Arrival]], requests: Iterable[Any]) -> list[Arrival]:
    try:
        return list(ask(requests))
    except (AssertionError, InputError, PermanentModelError):
        raise
    except Exception as error:
        raise AssertionError(
            f"{name} raised {type(error).__name__} ({error}): yield a Failure for the request, or raise PermanentModelError"
        ) from error


def _check_reply(name: str, reply: Response | Failure) -> None:
    if isinstance(reply, Failure):
        return
    if not isinstance(reply, Response):
        raise AssertionError(f"{name} gives {reply!r}: give a Response, or a Failure with the reason")
    if not isinstance(reply.text, str) or reply.finish_reason not in ("stop", "length", "refusal"):
        raise AssertionError(f"{name} gives {reply!r}: its text or finish_reason is not valid for a Response")
    if any(not isinstance(count, int) or count < 0 for count in reply.usage):
        raise AssertionError(f"{name} reports the usage {reply.usage!r}: numbers of tokens are 0 or more")
    if Response.from_json(json.loads(json.dumps(reply.to_json()))) != reply:
        raise AssertionError(f"{name} gives {reply!r}, which the memo cannot store and give back")


def _check_labels(model: LabelModel, contexts: Sequence[Context], labels: tuple[str, ...]) -> None:
    name = type(model).__name__
    rows = _label_rows(model, contexts, labels)
    reverse = _label_rows(model, contexts, labels[::-1])
    for context, row, turned in zip(contexts, rows, reverse, strict=True):
        if row is None or turned is None:
            continue
        if any(not value <= _TOLERANCE for value in row):
            raise AssertionError(f"{name} gives {row} for {labels}: natural log-probabilities are 0 or less")
        if any(not math.isclose(a, b, abs_tol=_TOLERANCE) for a, b in zip(row, turned[::-1], strict=True)):
            raise AssertionError(
                f"{name} gives {row} for {labels}, but {turned} for {labels[::-1]}, after {context!r}: give one "
                "log-probability for each label, in their order"
            )


def _label_rows(
    model: LabelModel, contexts: Sequence[Context], labels: tuple[str, ...]
) -> list[tuple[float, ...] | None]:
    """Return the log-probabilities of the labels in each context, None for a failure."""
    rows: list[tuple[float, ...] | None] = []
    for reply in _answers(model, contexts, lambda asked: model.label_logprobs(asked, labels)):
        row = reply.label_logprobs if isinstance(reply, Response) else None
        if isinstance(reply, Response) and (row is None or len(row) != len(labels)):
            raise AssertionError(f"{type(model).__name__} gives {row} for {labels}: give one log-probability for each")
        rows.append(row)
    return rows


def _check_tokens(model: TokenModel, contexts: Sequence[Context]) -> None:
    texts = [
        text
        for context in contexts
        for text in ([context] if isinstance(context, str) else [turn.role + turn.content for turn in context])
    ]
    for text in ("", *texts):
        pieces = model.pieces(text)
        if "".join(pieces) != text:
            raise AssertionError(
                f"{type(model).__name__} cuts {text!r} into {pieces}, which is another text when joined"
            )
