"""Chooses how a network is run: by the engine where that gives what the network's own forward pass gives, else padded.

Knows nothing of text.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from promptopt.errors import InputError
from promptopt.models.local.encoding import BREAK
from promptopt.models.local.engine import Engine
from promptopt.models.local.padded import Padded, start_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local.encoding import Ids
    from promptopt.models.local.head import Head

AnyEngine: TypeAlias = Engine | Padded

_log = logging.getLogger(__name__)

_TRIAL = ((5, 3, 8, 2, 6, 4, 9), (5, 3, 8, 7, 2), (7,))  # two share a start, one is a single token
_PAIRS = ((5, 3, 8, BREAK, 2, 6), (5, 3, 8, BREAK, 7), (7, BREAK))
# Mean absolute difference of log-probabilities; random attention gives 1 and more, rounding to bfloat16 some 0.05.
_TOLERANCE = {torch.float32: 1e-3}
_ROUNDED = 0.25


def engine_for(network: Any, head: Head, name: str) -> AnyEngine:
    """Return the engine for a network; logs a line where it must be padded batches.

    Args:
        network: a transformers language model, causal or encoder-decoder; changed in place.
        head: its output matrix.
        name: for the log.

    Raises:
        InputError: the network's last layers are not what `Head` knows, so that neither gives its log-probabilities.
    """
    expected = _own_logprobs(network)
    reason = "it is not built on transformers' attention interface"
    if network.config.is_encoder_decoder:
        reason = "it is an encoder-decoder"
    elif type(network)._supports_attention_backend:  # noqa: SLF001  transformers has no public name for it
        engine = Engine(network)
        try:
            apart = _apart(engine, head, _TRIAL, expected)
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError) as error:
            reason = f"{type(error).__name__}: {error}"  # whatever a foreign network's code may raise at unknown input
        else:
            if apart <= _most_apart(network):
                engine.speed_up()
                return engine
            reason = f"log-probabilities are {apart:.2g} away from the network's own"
        engine.release()
    _log.warning("%s cannot share common starts (%s): whole sequences are run, padded", name, reason)
    padded = Padded(network)
    if (apart := _apart(padded, head, _trial(network), expected)) > _most_apart(network):
        raise InputError(
            f"{name} has an output layer that is not known here (log-probabilities are {apart:.2g} away from its own): "
            "use another model"
        )
    return padded


def _most_apart(network: Any) -> float:
    return _TOLERANCE.get(network.dtype, _ROUNDED)


@torch.inference_mode()
def _own_logprobs(network: Any) -> torch.Tensor:
    """Return log-probabilities after each trial sequence by the plain forward pass, [sequences, vocabulary]."""
    logits = []
    for ids in _trial(network):
        if BREAK in ids:
            at = ids.index(BREAK)
            given = {"input_ids": ids[:at], "decoder_input_ids": (start_token(network), *ids[at + 1 :])}
        else:
            given = {"input_ids": ids}
        tensors = {name: torch.tensor([part], device=network.device) for name, part in given.items()}
        logits.append(network(**tensors).logits[0, -1])
    return torch.stack(logits).float().log_softmax(-1)


def _trial(network: Any) -> Sequence[Ids]:
    return _PAIRS if network.config.is_encoder_decoder else _TRIAL


@torch.inference_mode()
def _apart(engine: AnyEngine, head: Head, sequences: Sequence[Ids], expected: torch.Tensor) -> float:
    """Return the mean absolute difference of log-probabilities after `sequences` from the network's own."""
    found = head.logits(engine.continued().start(sequences)).log_softmax(-1)
    return float((found - expected).abs().mean())
