"""The engine against plain forward passes of untouched networks: several architectures, cuts, growing rows, fallbacks."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch
import transformers

from promptopt import InputError
from promptopt.models.local import attention, kernels
from promptopt.models.local import engine as engine_module
from promptopt.models.local.engine import Engine
from promptopt.models.local.head import Head
from promptopt.models.local.padded import Padded
from promptopt.models.local.trial import engine_for
from promptopt.models.local.trie import merge

if TYPE_CHECKING:
    from collections.abc import Sequence

Ids = tuple[int, ...]

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOW = 6  # shorter than most sequences below, so that it cuts
CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "qwen2": transformers.Qwen2Config(**SHAPE),
    "gemma3": transformers.Gemma3TextConfig(
        **SHAPE, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "gemma2": transformers.Gemma2Config(
        **SHAPE, sliding_window=WINDOW, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "granite": transformers.GraniteConfig(**SHAPE, logits_scaling=3.0, attention_multiplier=0.2),
}


def network_of(config: Any, scale: float = 8.0) -> Any:
    """Random weights, large enough for predictions that depend on what is attended to."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    torch.random.set_rng_state(state)
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return {name: network_of(config) for name, config in CONFIGS.items()}


def some_sequences(seed: int = 0) -> list[Ids]:
    """Mutants of one start, each followed by several endings; prefixes of others, single tokens, one twice."""
    rng = np.random.default_rng(seed)
    start = rng.integers(2, VOCABULARY, 14)
    endings = [tuple(rng.integers(2, VOCABULARY, n).tolist()) for n in (5, 1, 9, 3)]
    starts = [tuple(np.delete(start, rng.choice(14, n, replace=False)).tolist()) for n in (0, 1, 2, 3)]
    return [*(s + e for s in starts for e in endings), starts[0], starts[0][:3], (5,), (6,), starts[1] + endings[1]]


def plain(network: Any, sequence: Ids) -> torch.Tensor:
    """Log-probabilities after the sequence, by one whole unpadded pass of the network itself; [vocabulary]."""
    with torch.inference_mode():
        return torch.as_tensor(network(torch.tensor([sequence])).logits[0, -1]).double().log_softmax(-1)


def read(engine: Engine | Padded, head: Head, sequences: Sequence[Ids]) -> torch.Tensor:
    """Log-probabilities after every sequence by an engine, [sequences, vocabulary]."""
    trie = merge(sequences)
    ends = np.array([trie.nodes(i)[-1] for i in range(len(sequences))])
    found, hidden = zip(*engine.read(trie, np.unique(ends)), strict=True)
    nodes = np.concatenate(found)
    order = np.argsort(nodes)
    places = order[np.searchsorted(nodes[order], ends)]
    with torch.inference_mode():
        return head.logits(torch.cat(hidden)[torch.from_numpy(places)]).double().log_softmax(-1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("most", [512, 7])
def test_a_trie_gives_what_whole_sequences_give(
    networks: dict[str, Any], name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine_module._PASS_TOKENS, "cpu", most)
    monkeypatch.setattr(engine_module, "_BLOCK", min(most, 5))
    network = copy.deepcopy(networks[name])
    head, sequences = Head.of(network), some_sequences()
    engine = engine_for(network, head, name)
    assert isinstance(engine, Engine)
    before = engine.computed
    found = read(engine, head, sequences)

    for row, sequence in zip(found, sequences, strict=True):
        assert (row - plain(networks[name], sequence)).abs().max() < 1e-4
    assert engine.computed - before == len(merge(sequences))


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_grow_and_leave_give_what_whole_sequences_give(networks: dict[str, Any], name: str) -> None:
    network = copy.deepcopy(networks[name])
    head = Head.of(network)
    engine = engine_for(network, head, name)
    rng = np.random.default_rng(1)
    rows = some_sequences()
    continued = engine.decoding_batch()
    hidden = continued.start(rows)
    for step in range(4):
        with torch.inference_mode():
            found = head.logits(hidden).double().log_softmax(-1)
        for row, sequence in zip(found, rows, strict=True):
            assert (row - plain(networks[name], sequence)).abs().max() < 1e-4
        if step % 2:
            going = sorted(rng.choice(len(rows), len(rows) - 5, replace=False).tolist())
            continued.keep(going)
            rows = [rows[i] for i in going]
        tokens = rng.integers(2, VOCABULARY, len(rows)).tolist()
        hidden = continued.append(tokens)
        rows = [(*row, token) for row, token in zip(rows, tokens, strict=True)]


@pytest.mark.parametrize("sequence", [(5,), (5, 6), (5, 6, 7)])
def test_one_short_sequence_alone_grows_token_by_token(networks: dict[str, Any], sequence: Ids) -> None:
    for name, reference in networks.items():
        network = copy.deepcopy(reference)
        head = Head.of(network)
        continued = engine_for(network, head, name).decoding_batch()
        hidden = continued.start([sequence])
        for token in (8, 9):
            with torch.inference_mode():
                found = head.logits(hidden).double().log_softmax(-1)
            assert (found[0] - plain(reference, sequence)).abs().max() < 1e-4
            hidden = continued.append([token])
            sequence = (*sequence, token)


def test_a_common_start_is_computed_once_for_all_calls_and_changes_no_bit(
    networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SEGMENT", 4)
    rng = np.random.default_rng(2)
    start = tuple(rng.integers(2, VOCABULARY, 13).tolist())

    def call(ending: int) -> list[Ids]:
        return [(*start, ending, last) for last in range(2, 6)]

    warm, cold = (copy.deepcopy(networks["gemma3"]) for _ in range(2))
    head = Head.of(warm)
    engine, fresh = engine_for(warm, head, "warm"), engine_for(cold, head, "cold")
    read(engine, head, call(7))
    before = engine.computed
    found = read(engine, head, call(8))

    assert engine.computed - before == len(merge(call(8))) - 12
    assert torch.equal(found, read(fresh, head, call(8)))
    for row, sequence in zip(found, call(8), strict=True):
        assert (row - plain(networks["gemma3"], sequence)).abs().max() < 1e-4


def test_a_kept_start_may_follow_what_is_computed_anew(
    networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same buffers."""
    monkeypatch.setattr(engine_module, "_SEGMENT", 4)
    rng = np.random.default_rng(3)
    kept, new = (tuple(rng.integers(2, VOCABULARY, n).tolist()) for n in (9, 40))
    kept, new = (60, *kept), (50, *new)  # a trie has the smaller token first
    network = copy.deepcopy(networks["llama"])
    head = Head.of(network)
    engine = engine_for(network, head, "llama")
    read(engine, head, [(*kept, last) for last in (7, 8)])
    before = engine.computed
    sequences = [(*new, 7), *((*kept, last) for last in (9, 10))]
    found = read(engine, head, sequences)

    assert engine.computed - before == len(merge(sequences)) - 8  # two steps of the kept start
    for row, sequence in zip(found, sequences, strict=True):
        assert (row - plain(networks["llama"], sequence)).abs().max() < 1e-4


def test_the_cache_of_starts_is_bounded(networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_SEGMENT", 4)
    network = copy.deepcopy(networks["llama"])
    head = Head.of(network)
    engine = engine_for(network, head, "llama")
    assert isinstance(engine, Engine)
    stem = 4 * 3 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, heads, width, bytes
    monkeypatch.setattr(engine_module, "_CACHE_BYTES", 2 * stem)
    for first in (10, 20, 30, 40):
        read(engine, head, [(first, 1, 2, 3, 4), (first, 1, 2, 3, 5)])
    before = engine.computed
    read(engine, head, [(40, 1, 2, 3, 4), (40, 1, 2, 3, 5)])
    again = engine.computed
    read(engine, head, [(10, 1, 2, 3, 4), (10, 1, 2, 3, 5)])

    assert (again - before, engine.computed - again) == (2, 6)


def test_a_growing_row_computes_one_token_a_step(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["llama"])
    engine = engine_for(network, Head.of(network), "llama")
    continued = engine.decoding_batch()
    continued.start([(5, 6, 7, 8)] * 3)
    before = engine.computed
    continued.append([9, 10, 11])

    assert engine.computed - before == 3


def test_bfloat16_is_no_further_from_float32_than_the_plain_pass_is(networks: dict[str, Any]) -> None:
    sequences = some_sequences()
    exact = torch.stack([plain(networks["llama"], sequence) for sequence in sequences])
    narrow = copy.deepcopy(networks["llama"]).bfloat16()
    theirs = torch.stack([plain(narrow, sequence) for sequence in sequences])
    head = Head.of(narrow)
    ours = read(engine_for(narrow, head, "llama"), head, sequences)

    assert (ours - exact).abs().mean() <= 1.5 * (theirs - exact).abs().mean()


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_norms_of_large_weights_keep_their_scale_in_bfloat16(name: str) -> None:
    # Gemma scales by 1 + w; in bfloat16 the two differ by less than rounding where w is large, as in its real weights.
    network = network_of(CONFIGS[name]).to(torch.bfloat16)
    norm = network.model.norm
    norm.weight.data = torch.linspace(60, 80, SHAPE["hidden_size"]).to(torch.bfloat16)
    x = torch.randn(5, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected = norm(x).float()

    kernels.speed_up(network)

    assert isinstance(network.model.norm, kernels.Norm)
    ratio = network.model.norm(x).float() / expected
    assert ratio.mean().item() == pytest.approx(1, abs=2e-3)


def test_a_processor_that_packs_no_weights_of_a_type_reads_them_as_they_are(
    networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(weight: torch.Tensor, rows: int) -> torch.Tensor:  # as oneDNN does for bfloat16 without AVX-512
        raise RuntimeError(f"needs cpu support for {weight.dtype} in {rows} rows")

    monkeypatch.setattr(kernels, "_pack", refuse)
    network = copy.deepcopy(networks["llama"])
    sequences = some_sequences()
    expected = torch.stack([plain(network, sequence) for sequence in sequences])
    head = Head.of(network)
    torch.testing.assert_close(
        read(engine_for(network, head, "llama"), head, sequences), expected, atol=1e-4, rtol=1e-4
    )
    assert isinstance(network.model.norm, kernels.Norm)


def test_a_recurrent_network_runs_whole_sequences_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2, bos_token_id=0, eos_token_id=1
    )
    network = network_of(config, scale=2.0)  # with 8 its own rounding grows to 1e-3
    reference, head, sequences = copy.deepcopy(network), Head.of(network), some_sequences()
    with caplog.at_level(logging.WARNING):
        engine = engine_for(network, head, "mamba")
        found = read(engine, head, sequences)
        rows = engine.decoding_batch()
        rows.start(sequences[:3])
        rows.keep([0, 2])
        grown = rows.append([4, 5])

    said = [record.getMessage() for record in caplog.records if record.name.startswith("promptopt")]
    assert len(said) == 1
    assert said[0].startswith("mamba cannot share prefixes (it is not built on transformers' attention interface)")
    for row, sequence in zip(found, sequences, strict=True):
        assert (row - plain(reference, sequence)).abs().max() < 1e-4
    with torch.inference_mode():
        last = head.logits(grown[1:]).double().log_softmax(-1)[0]
    assert (last - plain(reference, (*sequences[2], 5))).abs().max() < 1e-4


def test_attention_that_does_not_follow_the_tree_is_noticed(
    networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def blind(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        out, _ = honest(*args, **kwargs)
        return torch.zeros_like(out), None

    honest = attention.attend
    monkeypatch.setattr(attention, "attend", blind)
    network = copy.deepcopy(networks["llama"])
    head, sequences = Head.of(network), some_sequences()
    engine = engine_for(network, head, "llama")

    assert isinstance(engine, Padded)
    assert "from the network's own" in caplog.text
    found = read(engine, head, sequences)
    assert (found[0] - plain(networks["llama"], sequences[0])).abs().max() < 1e-4


def test_an_output_layer_that_is_not_known_is_refused(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["llama"])
    head = dataclasses.replace(Head.of(network), scale=0.1)
    with pytest.raises(InputError, match="an unsupported output layer"):
        engine_for(network, head, "odd")


def test_after_memory_ran_out_passes_are_halved_and_nothing_is_lost(
    networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = copy.deepcopy(networks["llama"])
    head, sequences = Head.of(network), [tuple(range(2, 40 + i)) for i in range(50)] + some_sequences()
    engine = engine_for(network, head, "llama")
    run = Engine.run

    def small_memory(self: Engine, tokens: Any, *rest: Any) -> torch.Tensor:
        out = run(self, tokens, *rest)
        if len(tokens) > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        return out

    monkeypatch.setattr(Engine, "run", small_memory)
    found = read(engine, head, sequences)

    assert "passes have 64 tokens from now on" in caplog.text
    for row, sequence in zip(found, sequences, strict=True):
        assert (row - plain(networks["llama"], sequence)).abs().max() < 1e-4


def test_another_error_of_a_pass_is_not_swallowed(networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = copy.deepcopy(networks["llama"])
    head = Head.of(network)
    engine = engine_for(network, head, "llama")

    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Engine, "run", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        read(engine, head, some_sequences())
