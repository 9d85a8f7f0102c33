"""Encoder-decoder models against the plain forward pass, one sequence at a time, on tiny ones of random weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from promptopt import InputError, Message, Request, Response

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from promptopt.models.local import LocalModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.prompt import Context

REVIEWS = ["a joy", "dull", "the film is a very long and very good evening, naïve 😀 and short", ""]
CONTEXTS: list[Context] = [f"Sentiment of: {review}" for review in REVIEWS]
CHATS: list[Context] = [(Message("system", "Say yes or no."), Message("user", review)) for review in REVIEWS]
LABELS = ("x", "great", "very good indeed", "a terrible evening from start to end")
T5 = {"d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
# With small random weights networks hardly look at what they read, with large ones they round by more than they are held
# to: each has its factor.
NETWORKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "t5": ("T5", T5, 3.0),
    "t5 without scaled outputs": ("T5", T5 | {"tie_word_embeddings": False}, 1.5),
    "bart": ("Bart", BART, 8.0),
}


class Plain:
    """A model as transformers loads and runs it: nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.network: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()

    def read(self, context: Context) -> list[int]:
        if isinstance(context, str):
            return list(self.tokenizer(context)["input_ids"])
        turns = [message._asdict() for message in context]
        return list(
            self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        )

    def logprobs(self, context: Context, text: str) -> list[float]:
        """One whole unpadded forward pass for one text."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = [self.network.config.decoder_start_token_id, *ids]
        with torch.inference_mode():
            out = self.network(torch.tensor([self.read(context)]), decoder_input_ids=torch.tensor([decoded])).logits[0]
        return [out[place].double().log_softmax(-1)[token].item() for place, token in enumerate(ids)]

    def greedy(self, context: Context, tokens: int) -> str:
        ids = torch.tensor([self.read(context)])
        out = self.network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return str(self.tokenizer.decode(out[0], skip_special_tokens=True))


@pytest.fixture(scope="module", params=list(NETWORKS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("seq2seq")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind, settings, factor = NETWORKS[request.param]
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=400, d_model=32, pad_token_id=0, eos_token_id=1, **settings
        )
        network = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(factor if parameter.ndim > 1 else 1.0)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Plain:
    return Plain(folder)


def answers(model: LocalModel, contexts: Sequence[Context]) -> list[Response]:
    replies = [reply for _, reply in sorted(model.label_logprobs(contexts, LABELS))]
    assert all(isinstance(reply, Response) for reply in replies)
    return [reply for reply in replies if isinstance(reply, Response)]


def test_label_logprobs_equal_the_plain_forward_pass(model: LocalModel, plain: Plain) -> None:
    assert [len(plain.tokenizer(label, add_special_tokens=False)["input_ids"]) for label in LABELS][:2] == [1, 2]
    contexts = [*CONTEXTS, *CHATS]
    for context, reply in zip(contexts, answers(model, contexts), strict=True):
        expected = [sum(plain.logprobs(context, label)) for label in LABELS]

        assert reply.label_logprobs == pytest.approx(expected, abs=1e-4)
        assert reply.text == LABELS[max(range(len(LABELS)), key=expected.__getitem__)]


def test_an_answer_depends_on_what_the_encoder_reads(model: LocalModel) -> None:
    first, second, *_ = answers(model, CONTEXTS)

    assert first.label_logprobs != pytest.approx(second.label_logprobs, abs=0.1)


def test_token_logprobs_equal_the_plain_forward_pass(model: LocalModel, plain: Plain) -> None:
    texts = ["great", "a long and terrible evening", "", "naïve 😀"]
    for text, context, found in zip(texts, CONTEXTS, model.token_logprobs(texts, CONTEXTS), strict=True):
        assert found.tolist() == pytest.approx(plain.logprobs(context, text), abs=1e-4)


def test_a_text_without_a_context_is_refused_with_the_mend(model: LocalModel) -> None:
    with pytest.raises(InputError, match="scores texts only after a context: pass contexts"):
        model.token_logprobs(["great"])


def test_greedy_text_equals_transformers_own(model: LocalModel, plain: Plain) -> None:
    contexts = [*CONTEXTS, *CHATS]
    replies = dict(model.generate([Request(context=context, max_tokens=12) for context in contexts]))
    texts = [plain.greedy(context, 12) for context in contexts]

    assert len(set(texts)) > 1
    for index, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        reply = replies[index]
        assert isinstance(reply, Response)
        assert reply.text == text
        assert reply.usage.input == len(plain.read(context)) + 1


def test_a_sample_depends_on_its_replicate_and_not_on_its_neighbours(model: LocalModel) -> None:
    def sample(replicate: int, context: Context = "a joy") -> Request:
        return Request(context=context, max_tokens=8, temperature=3.0, replicate=replicate)

    alone = next(model.generate([sample(0)])).reply
    among = dict(model.generate([sample(1), sample(0), sample(2, "a dull evening")]))

    assert among[1] == alone
    assert among[0] != alone


def test_it_says_once_that_it_is_loaded_and_that_whole_sequences_are_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = LocalModel(str(folder), dtype="float32")
    with caplog.at_level(logging.INFO, "promptopt"):
        answers(model, CONTEXTS)
        list(model.generate([Request(context="a joy", max_tokens=2)]))

    said = [record.getMessage() for record in caplog.records if record.name.startswith("promptopt")]
    assert said == [
        f"loading {folder} (float32, {model.device})",
        f"{folder} cannot share prefixes (it is an encoder-decoder): running whole padded sequences, which is slower",
    ]
