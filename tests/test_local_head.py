"""The output head against float64, against the models' own logits, and its Triton kernel under Triton's interpreter.

Run as a script, with TRITON_INTERPRET=1, this file prints what the kernel makes of `KERNEL_CASES`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from promptopt import InputError
from promptopt.models.local.head import DecodingHead, Head, log_sum_exp
from promptopt.models.local.kernels import decoding_linear

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A head and hidden states of random numbers; `spread` is the standard deviation of the logits."""

    rows: int = 3
    width: int = 8
    vocabulary: int = 40
    bias: bool = False
    scale: float = 1.0
    cap: float | None = None
    spread: float = 3.0
    hidden: torch.dtype = torch.float32
    weight: torch.dtype = torch.float32
    seed: int = 0
    forbidden: int = 0  # tokens whose bias is minus infinity
    programs: int = 512  # that the kernel has at most

    def head(self) -> tuple[torch.Tensor, Head]:
        random = torch.Generator().manual_seed(self.seed)
        hidden = torch.randn(self.rows, self.width, generator=random) * self.spread / self.width**0.5
        weight = torch.randn(self.vocabulary, self.width, generator=random)
        bias = torch.randn(self.vocabulary, generator=random).to(self.weight) if self.bias else None
        if bias is not None:
            bias[: self.forbidden] = -torch.inf
        return hidden.to(self.hidden), Head(weight.to(self.weight), bias, self.scale, self.cap)


def exact(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    """Logits in float64, [rows, vocabulary]."""
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits += head.bias.double()
    logits *= head.scale
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


def normalisers(case: Case, **options: Any) -> torch.Tensor:
    hidden, head = case.head()
    return log_sum_exp(hidden, head.weight, head.bias, scale=head.scale, cap=head.cap, **options)


# Chunks are of 1,024 tokens and blocks of 512 rows.
cases = st.builds(
    Case,
    rows=st.sampled_from([1, 2, 511, 513]),
    width=st.integers(1, 20),
    vocabulary=st.sampled_from([1, 2, 97, 1023, 1024, 1025, 2500]),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.0625, 4.0]),
    cap=st.sampled_from([None, 2.0, 30.0]),
    hidden=st.sampled_from([torch.float32, torch.bfloat16]),
    weight=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=30)
@given(case=cases)
def test_the_normaliser_is_the_log_sum_exp_of_unrounded_logits(case: Case) -> None:
    torch.testing.assert_close(normalisers(case).double(), exact(*case.head()).logsumexp(-1), rtol=1e-6, atol=1e-5)


@settings(max_examples=30)
@given(case=cases, data=st.data())
def test_log_probabilities_are_the_log_softmax_at_the_asked_tokens(case: Case, data: st.DataObject) -> None:
    hidden, head = case.head()
    asked = data.draw(
        st.lists(st.tuples(st.integers(0, case.rows - 1), st.integers(0, case.vocabulary - 1)), max_size=9)
    )
    rows, tokens = torch.tensor(asked, dtype=torch.int64).reshape(-1, 2).unbind(1)
    got = head.logprobs(hidden, rows, tokens)

    assert got.dtype == torch.float32
    assert (got <= 0).all()
    torch.testing.assert_close(got.double(), exact(hidden, head).log_softmax(-1)[rows, tokens], rtol=1e-6, atol=2e-5)


@settings(max_examples=10)
@given(case=cases)
def test_logits_are_those_of_every_token(case: Case) -> None:
    hidden, head = case.head()
    got = head.logits(hidden)

    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact(hidden, head), rtol=1e-6, atol=1e-5)


@given(cases)
@settings(max_examples=20)
def test_logits_of_decoding_are_those_of_every_token(case: Case) -> None:
    hidden, head = case.head()
    linear = decoding_linear(head.weight)
    if linear is not None:
        got = DecodingHead(head, linear).logits(hidden)

        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact(hidden, head), rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    hidden, head = Case(vocabulary=1500, spread=1e5).head()
    rows, likeliest = torch.arange(3), exact(hidden, head).argmax(-1)

    assert exact(hidden, head).abs().max() > 1e5
    # Two sums of the same products may be one float32 apart, which at this size is up to 1/32.
    apart = float(np.spacing(np.float32(exact(hidden, head).abs().max())))
    torch.testing.assert_close(head.logprobs(hidden, rows, likeliest), torch.zeros(3), rtol=0, atol=apart)
    assert head.logprobs(hidden, rows, (likeliest + 1) % 1500).isfinite().all()


def test_a_whole_chunk_of_forbidden_tokens_adds_nothing() -> None:
    case = Case(vocabulary=2048, bias=True, forbidden=1100)

    torch.testing.assert_close(normalisers(case).double(), exact(*case.head()).logsumexp(-1))


def test_no_rows_have_no_normalisers() -> None:
    assert normalisers(Case(rows=0)).shape == (0,)


def test_without_a_gpu_the_kernel_is_not_asked() -> None:
    assert normalisers(Case(), use_triton=True).equal(normalisers(Case()))


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the largest number of bytes of a tensor that shares no memory with the given ones."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._given:
                self.largest = max(self.largest, storage.nbytes())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(5000, 8, 1100), (700, 2500, 1700)])
def test_no_tensor_grows_with_rows_times_vocabulary_nor_with_the_whole_matrix(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype
) -> None:
    hidden, head = Case(rows, width, vocabulary, hidden=dtype, weight=dtype).head()
    asked = torch.arange(rows).repeat(3)
    with Allocations(hidden, head.weight) as allocations:
        head.logprobs(hidden, asked, asked % vocabulary)

    assert 0 < allocations.largest <= 2**23


SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8}
MPT = {"vocab_size": 97, "d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 32}
# The config's class, and what it says about the head.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaConfig", {"tie_word_embeddings": False}),
    ("LlamaConfig", {"tie_word_embeddings": True}),
    ("PhiConfig", {}),  # has a bias
    ("Gemma2Config", {"final_logit_softcapping": 0.5}),
    ("Gemma2Config", {"final_logit_softcapping": None}),
    ("RecurrentGemmaConfig", {"num_hidden_layers": 3, "logits_soft_cap": 0.5}),
    ("GraniteConfig", {"logits_scaling": 0.25}),
    ("HyperCLOVAXConfig", {"logits_scaling": 4.0}),
    ("MiniCPM3Config", {"dim_model_base": 8}),
    ("CohereConfig", {"logit_scale": 3.0}),
    ("FalconH1Config", {"lm_head_multiplier": 5.0, **MAMBA}),
    ("MptConfig", {"logit_scale": 7.0}),
    ("InklingTextConfig", {"unpadded_vocab_size": 90, "logits_mup_width_multiplier": 0.5}),
]


def build(name: str, settings: dict[str, Any]) -> Any:
    """Return a causal language model of random weights, large enough that its predictions are not flat."""
    if name not in dir(transformers):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, name)(**(MPT if name == "MptConfig" else SIZES) | settings)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
        for parameter in network.parameters():
            parameter.mul_(8.0) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


@pytest.mark.parametrize(("name", "settings"), MODELS)
@torch.inference_mode()
def test_the_head_of_a_model_gives_that_model_s_logits(name: str, settings: dict[str, Any]) -> None:
    network = build(name, settings)
    ids = torch.arange(3, 20)[None]
    expected, hidden = network(ids).logits[0], network.base_model(ids).last_hidden_state[0]
    head = Head.of(network)
    rows, tokens = torch.cartesian_prod(torch.arange(17), torch.arange(expected.shape[1])).unbind(1)

    assert expected.std() > 0.1
    torch.testing.assert_close(head.logits(hidden), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        head.logprobs(hidden, rows, tokens), expected.log_softmax(-1).flatten(), rtol=1e-5, atol=1e-5
    )


def test_a_network_without_an_output_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="LlamaModel has no output matrix"):
        Head.of(build("LlamaConfig", {}).base_model)


# Tiles of 64 rows, 128 tokens and 32 (float32) or 64 columns, and ragged ends of each. The interpreter multiplies the
# bits of bfloat16 as if they were integers, so that float16 stands for both.
KERNEL_CASES = [
    Case(1, 32, 97),
    Case(64, 32, 256, bias=True),
    Case(70, 50, 300, bias=True, scale=0.25),
    Case(3, 100, 129, scale=2.0, cap=5.0, spread=50.0),
    Case(65, 33, 127, hidden=torch.float16, weight=torch.float16, cap=30.0),
    Case(2, 130, 1, hidden=torch.float16, weight=torch.float16, bias=True),
    Case(5, 40, 140, weight=torch.bfloat16),
    Case(5, 40, 140, hidden=torch.float16, weight=torch.float32),
    Case(4, 16, 500, spread=1e5),
    Case(4, 16, 300, bias=True, forbidden=140),
    Case(1, 4, 128 * 10, programs=4),  # more tiles than programs: a program walks over several, the last past the end
    Case(0, 32, 97),
]


def kernel_results() -> list[list[float]]:
    from promptopt.models.local import triton_head

    results = []
    for case in KERNEL_CASES:
        hidden, head = case.head()
        triton_head._PROGRAMS = case.programs
        got = triton_head.log_sum_exp(hidden, head.weight, head.bias, scale=head.scale, cap=head.cap)
        results.append(got.tolist())
    return results


@pytest.fixture(scope="module")
def interpreted() -> list[list[float]]:
    """What the kernel gives under Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton", reason="Triton is for Linux")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: list[list[float]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("number", range(len(KERNEL_CASES)))
def test_the_interpreted_kernel_gives_what_the_chunks_give(interpreted: list[list[float]], number: int) -> None:
    case, got = KERNEL_CASES[number], torch.tensor(interpreted[number])

    torch.testing.assert_close(got, normalisers(case), rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(got.double(), exact(*case.head()).logsumexp(-1), rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("number", "step", "product"), [("fp32", 32, "fma.rn.f32"), ("bf16", 64, "mma.sync")])
def test_the_kernel_compiles_for_a_gpu(
    number: str, step: int, product: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton", reason="Triton is for Linux")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from promptopt.models.local import triton_head

    kernel: Any = triton_head._write_parts
    constants = {"has_bias": True, "has_cap": True, "tile_rows": 64, "tile_tokens": 128, "step": step}
    types = dict.fromkeys(("hidden", "weight", "bias"), f"*{number}") | {
        "parts": "*fp32",
        "scale": "fp32",
        "cap": "fp32",
    }
    signature = dict.fromkeys(kernel.arg_names, "i32") | types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": True})

    assert product in compiled.asm["ptx"]
    assert (
        compiled.metadata.shared <= 99 * 1024
    )  # what a program may have on the GPUs of this generation that have least


if __name__ == "__main__":
    print(json.dumps(kernel_results()))  # noqa: T201 - read by the fixture `interpreted`
