"""The local model against the plain forward pass, on a tiny model and on SmolLM2."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from promptopt import Failure, InputError, LabelModel, Message, Model, Request, Response, TokenModel

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import gguf
import torch
from safetensors import SafetensorError
from tiny import build_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from promptopt.models.local import LocalModel, loading
from promptopt.models.local.catalog import file_digest
from promptopt.models.local.head import Head
from promptopt.models.local.kernels import PackedLinear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.prompt import Context

REVIEWS = ["a joy", "dull", "the film is a very long and very good evening, naïve 😀 and short", "x"]
DEMOS = ["Review: a dull evening\nSentiment: terrible\n\n", "Review: joy\nSentiment: great\n\n", ""]
CONTEXTS: list[Context] = [f"{demo}Review: {review}\nSentiment:" for demo in DEMOS for review in REVIEWS]
CHATS: list[Context] = [(Message("system", "Say yes or no."), Message("user", review)) for review in REVIEWS]


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> LocalModel:
    return LocalModel(str(tiny_llama), dtype="float32")


@pytest.fixture(scope="module")
def plain(tiny_llama: Path) -> Plain:
    return Plain(tiny_llama)


def answers(model: LocalModel, contexts: Sequence[Context], labels: Sequence[str]) -> list[Response]:
    replies = [reply for _, reply in sorted(model.label_logprobs(contexts, labels))]
    assert all(isinstance(reply, Response) for reply in replies)
    return [reply for reply in replies if isinstance(reply, Response)]


class Plain:
    """A model as transformers loads and runs it: nothing of ours."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, **extra: Any) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **extra)
        if extra:
            extra |= {"quantization_config": GgufConfig(dequantize=True)}
        self.network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra)


def naive(model: Plain, start: str, label: str, *, special: bool) -> float:
    """One whole unpadded forward pass for one label."""
    tokenizer = model.tokenizer
    before = tokenizer(start, add_special_tokens=special)["input_ids"]
    whole = tokenizer(start + label, add_special_tokens=special)["input_ids"]
    assert whole[: len(before)] == before
    with torch.inference_mode():
        logprobs = model.network(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return math.fsum(logprobs[i - 1, whole[i]].item() for i in range(len(before), len(whole)))


def greedy(model: Plain, start: str, count: int) -> str:
    """Append the likeliest token again and again."""
    tokenizer = model.tokenizer
    ids = tokenizer(start)["input_ids"]
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            token = int(model.network(torch.tensor([[*ids, *written]])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            written.append(token)
    return str(tokenizer.decode(written, skip_special_tokens=True))


def test_its_type_says_what_it_can(tiny: LocalModel) -> None:
    assert isinstance(tiny, Model)
    assert isinstance(tiny, LabelModel)
    assert isinstance(tiny, TokenModel)


def test_label_logprobs_equal_the_plain_forward_pass(tiny: LocalModel, plain: Plain) -> None:
    labels = ("terrible", "great", "very good indeed")
    for context, reply in zip(CONTEXTS, answers(tiny, CONTEXTS, labels), strict=True):
        expected = [naive(plain, str(context), f" {label}", special=True) for label in labels]

        assert reply.label_logprobs == pytest.approx(expected, abs=1e-4)
        assert reply.text == labels[expected.index(max(expected))]


def test_label_logprobs_of_a_chat_begin_the_reply(tiny: LocalModel, plain: Plain) -> None:
    labels = ("yes", "no")
    for context, reply in zip(CHATS, answers(tiny, CHATS, labels), strict=True):
        turns = [message._asdict() for message in context if isinstance(message, Message)]
        start = plain.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

        assert start.endswith("<s>assistant:\n")
        assert reply.label_logprobs == pytest.approx([naive(plain, start, x, special=False) for x in labels], abs=1e-4)


def test_a_batch_gives_what_its_items_give_alone(tiny: LocalModel) -> None:
    together = answers(tiny, CONTEXTS, ("yes", "no"))
    alone = [answers(tiny, [context], ("yes", "no"))[0] for context in CONTEXTS]

    for one, other in zip(together, alone, strict=True):
        assert one.label_logprobs == pytest.approx(other.label_logprobs, abs=1e-4)


def test_the_same_batch_gives_the_same_bits(tiny: LocalModel) -> None:
    assert answers(tiny, CONTEXTS, ("yes", "no")) == answers(tiny, CONTEXTS, ("yes", "no"))


def test_a_context_that_is_too_long_is_a_failure_and_the_rest_goes_on(tiny: LocalModel) -> None:
    contexts = ["short:", "long " * 300, "also short:"]
    replies = [reply for _, reply in sorted(tiny.label_logprobs(contexts, ("yes", "no")), key=lambda a: a.number)]

    assert isinstance(replies[1], Failure)
    assert "256" in replies[1].reason
    assert isinstance(replies[0], Response)
    assert isinstance(replies[2], Response)


def test_what_is_no_number_is_a_failure_and_no_score(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflown(*_: Any) -> torch.Tensor:
        return torch.full((2,), math.nan)

    monkeypatch.setattr(Head, "logprobs", overflown)
    reply = next(
        LocalModel(str(tiny_llama), dtype="float32").label_logprobs(["Review: a joy"], ("great", "dull"))
    ).reply

    assert isinstance(reply, Failure)
    assert "use a wider dtype" in reply.reason


def test_token_logprobs_equal_the_plain_forward_pass(tiny: LocalModel, plain: Plain) -> None:
    texts = ["the film is a joy", "dull", "dull evening", "x", ""]
    for text, found in zip(texts, tiny.token_logprobs(texts), strict=True):
        ids = [plain.tokenizer.bos_token_id, *plain.tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            logprobs = plain.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)

        assert found == pytest.approx([logprobs[i, token].item() for i, token in enumerate(ids[1:])], abs=1e-4)


def test_token_logprobs_after_a_context_add_up_to_the_label_logprob(tiny: LocalModel) -> None:
    labels = ("terrible", "very good indeed")
    replies = answers(tiny, CONTEXTS, labels)
    for label, column in zip(labels, range(2), strict=True):
        found = tiny.token_logprobs([label] * len(CONTEXTS), CONTEXTS)
        expected = [reply.label_logprobs[column] for reply in replies if reply.label_logprobs]

        assert [float(one.sum()) for one in found] == pytest.approx(expected, abs=1e-5)
        assert all(len(one) > 0 for one in found)


def test_a_text_that_is_too_long_is_named(tiny: LocalModel) -> None:
    with pytest.raises(InputError, match=r"text 1: \d+ tokens are more than the 256"):
        tiny.token_logprobs(["short", "long " * 300])


def test_a_common_start_is_computed_once(tiny_llama: Path, plain: Plain) -> None:
    model = LocalModel(str(tiny_llama), dtype="float32")
    contexts: list[Context] = [f"{DEMOS[0]}Review: {word}\nSentiment:" for word in ("joy", "dull", "good")]
    answers(model, contexts[:1], ("great",))
    before = model.computed_tokens
    answers(model, contexts, ("great", "terrible"))
    wholes = [
        plain.tokenizer(f"{context} {label}")["input_ids"][:-1]
        for context in contexts
        for label in ("great", "terrible")
    ]
    distinct = {tuple(whole[: i + 1]) for whole in wholes for i in range(len(whole))}

    assert model.computed_tokens - before == len(distinct) < sum(map(len, wholes)) / 2


def test_an_empty_context_starts_where_texts_start(tiny: LocalModel) -> None:
    reply = next(tiny.generate([Request(context="", max_tokens=4)])).reply

    assert isinstance(reply, Response)
    assert reply.usage.input == 1
    assert tiny.pieces("") == []
    assert answers(tiny, [""], ("yes", "no"))[0].label_logprobs is not None


def test_greedy_text_equals_the_plain_loop(tiny: LocalModel, plain: Plain) -> None:
    requests = [Request(context=context, max_tokens=6) for context in CONTEXTS[:5]]
    replies = dict(tiny.generate(requests))
    for index, request in enumerate(requests):
        reply = replies[index]

        assert isinstance(reply, Response)
        assert reply.text == greedy(plain, str(request.context), 6)


def test_a_sample_depends_on_its_replicate_and_not_on_its_neighbours(tiny: LocalModel) -> None:
    def sample(replicate: int, context: Context = "Review:") -> Request:
        return Request(context=context, max_tokens=8, temperature=1.0, replicate=replicate)

    alone = next(tiny.generate([sample(0)])).reply
    among = {a.number: a.reply for a in tiny.generate([sample(1), sample(0), sample(2, "Answer with yes or no.")])}

    assert among[1] == alone
    assert among[0] != alone


def test_a_stop_string_ends_the_reply_before_it(tiny: LocalModel) -> None:
    whole = next(tiny.generate([Request(context="Review:", max_tokens=12)])).reply
    assert isinstance(whole, Response)
    stop = whole.text[3:5]
    cut = next(tiny.generate([Request(context="Review:", max_tokens=12, stop=(stop,))])).reply

    assert isinstance(cut, Response)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert whole.finish_reason == "length"


@pytest.mark.parametrize("text", ["", "a", "Review: naïve 😀😀 é\n\nok ", "  two  spaces", "日本語"])
def test_pieces_join_to_the_text(tiny: LocalModel, text: str) -> None:
    assert "".join(tiny.pieces(text)) == text


def test_the_fingerprint_follows_weights_and_dtype(tiny_llama: Path, tiny: LocalModel, tmp_path: Path) -> None:
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    same = LocalModel(str(tmp_path), dtype="float32").fingerprint
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    assert same["digest"] == tiny.fingerprint["digest"]
    assert LocalModel(str(tmp_path), dtype="float32").fingerprint["digest"] != tiny.fingerprint["digest"]
    assert LocalModel(str(tiny_llama), dtype="bfloat16").fingerprint["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("./nowhere", "auto", "no model file or folder"),
        ("/no/such/model.gguf", "auto", "no model file or folder"),
        (".", "float23", "did you mean 'float32'"),
    ],
)
def test_what_is_not_there_is_said_at_once(name: str, dtype: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LocalModel(name, dtype=dtype)


def test_a_known_model_that_is_not_fetched_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="promptopt models fetch smollm2"):
        LocalModel("smollm2")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_is_converted_once_and_gives_what_transformers_makes_of_it(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    path = build_gguf(tmp_path / "tiny.gguf")
    chat = (Message("user", "the end"),)
    first = LocalModel(str(path), dtype=dtype)
    replies = answers(first, ["to the", chat], ("the", "end"))
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "GGUFReader", None)  # not read again
        patched.setattr(loading, "has_seams", None)
        again = answers(LocalModel(str(path), dtype=dtype), ["to the", chat], ("the", "end"))
    plain = Plain(path.parent, dtype=getattr(torch, dtype), gguf_file=path.name)
    expected = [naive(plain, "to the", f" {label}", special=True) for label in ("the", "end")]

    assert again == replies
    assert replies[0].label_logprobs == pytest.approx(expected, abs=1e-4 if dtype == "float32" else 0.1)
    assert first.fingerprint["digest"] == file_digest(path)
    verified = {file.parent.name: file.read_text() for file in tmp_path.glob("converted/*/*/verified.json")}
    assert verified == {"tokenizer": "true", dtype: "true"}  # later runs do without transformers


def test_a_folder_is_converted_once_and_its_weights_stay_where_they_are(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    chat = (Message("user", "the end"),)
    first = LocalModel(str(tiny_llama), dtype="float32")
    replies = answers(first, ["to the", chat], ("the", "end"))
    with monkeypatch.context() as patched:
        for name in (AutoTokenizer, AutoModelForCausalLM):
            patched.setattr(name, "from_pretrained", None)  # transformers loads nothing
        again = answers(LocalModel(str(tiny_llama), dtype="float32"), ["to the", chat], ("the", "end"))
    plain = Plain(tiny_llama)
    expected = [naive(plain, "to the", f" {label}", special=True) for label in ("the", "end")]

    assert again == replies
    assert replies[0].label_logprobs == pytest.approx(expected, abs=1e-4)
    assert {file.parent.name for file in tmp_path.glob("converted/*/*/verified.json")} == {"tokenizer", "float32"}
    assert not list(tmp_path.glob("converted/**/*.safetensors"))


def test_a_folder_that_only_transformers_can_run_is_run_by_it(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "data"))
    folder = with_gelu(tiny_llama, tmp_path / "gelu")
    plain = Plain(folder)
    expected = [naive(plain, "to the", f" {label}", special=True) for label in ("the", "end")]

    for _ in range(2):  # the second time, what the first one found is known
        (reply,) = answers(LocalModel(str(folder), dtype="float32"), ["to the"], ("the", "end"))
        assert reply.label_logprobs == pytest.approx(expected, abs=1e-4)


def with_gelu(model: Path, folder: Path) -> Path:
    """Return a copy of a model with another activation, which only transformers has."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    return folder


@pytest.mark.parametrize("pages", [None, 1], ids=["memory for both", "memory for one"])
def test_one_row_is_written_by_weights_of_the_file_or_by_packed_ones(
    pages: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    path = build_gguf(tmp_path / "tiny.gguf")
    if pages:
        monkeypatch.setattr(os, "sysconf", lambda _: pages)
    model = LocalModel(str(path), dtype="float32")
    ones = 0
    forward = PackedLinear.forward

    def counted(layer: PackedLinear, x: torch.Tensor, *activation: Any) -> torch.Tensor:
        nonlocal ones
        ones += x.shape[-2] == 1
        return forward(layer, x, *activation)

    ((_, read),) = model.label_logprobs(["to the"], ("the", "end"))
    with monkeypatch.context() as patched:
        patched.setattr(PackedLinear, "forward", counted)
        ((_, reply),) = model.generate([Request(context="to the", max_tokens=8)])

    assert isinstance(read, Response)
    assert isinstance(reply, Response)
    assert reply.text == greedy(Plain(path.parent, gguf_file=path.name), "to the", 8)
    assert (ones > 20) == (pages == 1)  # a few are the last layer's for the prompt's last token


def test_w16a32_rounds_the_weights_of_products_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    path = build_gguf(tmp_path / "tiny.gguf")
    model, labels = LocalModel(str(path), dtype="w16a32"), ("the", "end")
    (reply,) = answers(model, ["to the"], labels)
    (whole,) = answers(LocalModel(str(path), dtype="float32"), ["to the"], labels)
    ((_, written),) = model.generate([Request(context="to the", max_tokens=8)])
    plain = Plain(path.parent, gguf_file=path.name)
    for module in plain.network.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.half().float()

    expected = [naive(plain, "to the", f" {label}", special=True) for label in labels]
    assert reply.label_logprobs == pytest.approx(expected, abs=1e-5)
    assert whole.label_logprobs != pytest.approx(expected, abs=1e-5)
    assert isinstance(written, Response)
    assert written.text == greedy(plain, "to the", 8)
    assert model.fingerprint["dtype"] == "w16a32"


def test_w16a32_is_refused_where_it_cannot_run(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(InputError, match="use float16"):
        LocalModel(str(tiny_llama), dtype="w16a32", device="cuda")
    gelu = LocalModel(str(with_gelu(tiny_llama, tmp_path / "gelu")), dtype="w16a32")
    with pytest.raises(InputError, match="use float32"):
        answers(gelu, ["to the"], ("the", "end"))


def test_a_gguf_file_is_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    path = build_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path))
    expected = answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end"))
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(blocked))

    assert answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end")) == expected
    assert blocked.read_text() == "in the way of a folder"


def test_a_gguf_file_is_read_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = build_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "whole"))
    expected = answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end"))
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "full"))
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)

    assert answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end")) == expected
    assert [folder.name for folder in tmp_path.glob("full/converted/*/*") if folder.parent.name != "digests"] == [
        "tokenizer"
    ]


def convert_until_killed(path: Path) -> int:
    """Convert a file in a forked process, which kills itself when half of the weights are written; return its exit code."""
    save = PreTrainedModel.save_pretrained

    def half(network: PreTrainedModel, folder: Path, **settings: Any) -> None:
        save(network, folder, **settings)
        (weights,) = folder.glob("*.safetensors")
        os.truncate(weights, weights.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be other threads: none that the child needs
        process = os.fork()
    if not process:
        try:
            torch.set_num_threads(1)  # a pool of threads is not forked
            PreTrainedModel.save_pretrained = half  # type: ignore[method-assign,assignment]
            answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end"))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_kill_while_weights_are_written_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "whole"))
    expected = answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end"))
    monkeypatch.setenv("PROMPTOPT_DATA_DIR", str(tmp_path / "killed"))
    assert convert_until_killed(path) == -signal.SIGKILL
    (unfinished,) = tmp_path.glob("killed/converted/*/.float32.*")
    os.utime(unfinished, (0, 0))  # long ago

    assert answers(LocalModel(str(path), dtype="float32"), ["to the"], ("the", "end")) == expected
    assert not unfinished.exists()


_DEMO = "Review: I left before the end.\nSentiment: terrible\n\nReview: Pure joy.\nSentiment: great\n\n"
_READ: list[Context] = [f"{_DEMO}Review: {r}\nSentiment:" for r in ("I loved it.", "A waste of money.")]


@pytest.mark.smollm2
def test_smollm2_reads_reviews(smollm2: Path) -> None:
    replies = answers(LocalModel(str(smollm2), dtype="float32"), _READ, ("terrible", "great"))

    assert [reply.text for reply in replies] == ["great", "terrible"]


@pytest.mark.wide
@pytest.mark.smollm2
def test_smollm2_equals_the_plain_forward_pass_of_its_packed_file(smollm2: Path) -> None:
    labels = ("terrible", "great")
    replies = answers(LocalModel(str(smollm2), dtype="float32"), _READ, labels)
    plain = Plain(smollm2.parent, gguf_file=smollm2.name)
    expected = [naive(plain, str(_READ[1]), f" {label}", special=True) for label in labels]

    assert replies[1].label_logprobs == pytest.approx(expected, abs=1e-4)
