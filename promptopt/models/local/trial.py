"""Chooses how to run a network: by the engine if that reproduces the network's own forward pass, else padded.

Knows nothing of text.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from promptopt.errors import InputError
from promptopt.models.local.encoding import BREAK
from promptopt.models.local.engine import Engine
from promptopt.models.local.network import TransformersNetwork
from promptopt.models.local.padded import Padded, start_token
from promptopt.models.local.trie import unread_prefixes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.local.encoding import Ids
    from promptopt.models.local.head import Head
    from promptopt.models.local.trie import Segments

AnyEngine: TypeAlias = Engine | Padded

_log = logging.getLogger(__name__)

SEQUENCES = ((5, 3, 8, 2, 6, 4, 9), (5, 3, 8, 7, 2), (7,))  # two share a prefix, one is a single token
_PAIRS = ((5, 3, 8, BREAK, 2, 6), (5, 3, 8, BREAK, 7), (7, BREAK))
# Maximum mean absolute difference of log-probabilities; wrong attention gives 1 or more, rounding to bfloat16 about 0.05.
_TOLERANCE = {torch.float32: 1e-3}
_NARROW_TOLERANCE = 0.25


def engine_for(network: Any, head: Head, name: str, segments: Segments = unread_prefixes) -> AnyEngine:
    """Return the engine for a network; logs a warning if it needs padded batches.

    Args:
        network: a transformers language model, causal or encoder-decoder; changed in place.
        head: its output matrix.
        name: of the model, for messages.
        segments: chooses what the engine caches.

    Raises:
        InputError: the network's output layer is not supported by `Head`, so that neither reproduces its log-probabilities.
    """
    expected = own_logprobs(network)
    reason = "it is not built on transformers' attention interface"
    if network.config.is_encoder_decoder:
        reason = "it is an encoder-decoder"
    elif type(network)._supports_attention_backend:  # noqa: SLF001  transformers has no public name
        adapted = TransformersNetwork(network)
        engine = Engine(adapted, segments)
        try:
            error_size = _logprob_error(engine, head, SEQUENCES, expected)
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, NotImplementedError) as error:
            reason = (
                f"{type(error).__name__}: {error}"  # third-party network code may raise anything on unknown arguments
            )
        else:
            if error_size <= _tolerance(network):
                adapted.speed_up()
                return engine
            reason = f"log-probabilities differ by {error_size:.2g} from the network's own"
        adapted.release()
    _log.warning("%s cannot share prefixes (%s): running whole padded sequences, which is slower", name, reason)
    padded = Padded(network)
    if (error_size := _logprob_error(padded, head, _trial_sequences(network), expected)) > _tolerance(network):
        raise InputError(
            f"{name} has an unsupported output layer (log-probabilities differ by {error_size:.2g} from its own): "
            "use another model"
        )
    return padded


def _tolerance(network: Any) -> float:
    return _TOLERANCE.get(network.dtype, _NARROW_TOLERANCE)


@torch.inference_mode()
def own_logprobs(network: Any) -> torch.Tensor:
    """Return the log-probabilities after each trial sequence from the plain forward pass, [sequences, vocabulary]."""
    logits = []
    for ids in _trial_sequences(network):
        if BREAK in ids:
            split = ids.index(BREAK)
            inputs = {"input_ids": ids[:split], "decoder_input_ids": (start_token(network), *ids[split + 1 :])}
        else:
            inputs = {"input_ids": ids}
        tensors = {name: torch.tensor([tokens], device=network.device) for name, tokens in inputs.items()}
        logits.append(network(**tensors).logits[0, -1])
    return torch.stack(logits).float().log_softmax(-1)


def _trial_sequences(network: Any) -> Sequence[Ids]:
    return _PAIRS if network.config.is_encoder_decoder else SEQUENCES


@torch.inference_mode()
def _logprob_error(engine: AnyEngine, head: Head, sequences: Sequence[Ids], expected: torch.Tensor) -> float:
    """Return the mean absolute difference from the network's own log-probabilities after `sequences`."""
    actual = head.logits(engine.decoding_batch().start(sequences)).log_softmax(-1)
    return float((actual - expected).abs().mean())
