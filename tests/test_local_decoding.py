"""Decoding against its definition, over a network that runs whole sequences and one that writes what it is told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from promptopt import Failure, Request, Response, Usage

pytest.importorskip("torch", reason="the extra 'local' is not installed")

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from promptopt.models.local.decoding import decode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Ids = tuple[int, ...]

PROMPTS = ["Review:", "Answer with yes or no.", "naïve and short", "Review: a dull evening\nSentiment:"]
END = 1


class Whole:
    """A network that runs each sequence as a whole, and its output layer."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.rows: list[Ids] = []
        self.widths: list[int] = []

    def start(self, prompts: Sequence[Ids]) -> torch.Tensor:
        self.rows = list(prompts)
        return self._last()

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        self.widths.append(len(tokens))
        self.rows = [(*row, token) for row, token in zip(self.rows, tokens, strict=True)]
        return self._last()

    def keep(self, rows: Sequence[int]) -> None:
        assert 0 < len(rows) < len(self.rows)
        assert list(rows) == sorted(rows)
        self.rows = [self.rows[i] for i in rows]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.network.lm_head(hidden).float())

    def _last(self) -> torch.Tensor:
        known = {
            row: self.network.model(torch.tensor([row])).last_hidden_state[0, -1] for row in dict.fromkeys(self.rows)
        }
        return torch.stack([known[row] for row in self.rows])


class Told:
    """A network that writes given tokens, one list of them for each row; hidden states are logits."""

    def __init__(self, *scripts: Sequence[int], vocabulary: int = 400) -> None:
        self.scripts = [list(script) for script in scripts]
        self.vocabulary = vocabulary
        self.step = 0
        self.widths: list[int] = []

    def start(self, prompts: Sequence[Ids]) -> torch.Tensor:
        assert len(prompts) == len(self.scripts)
        return self._hidden()

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        assert list(tokens) == [script[self.step] for script in self.scripts]
        self.widths.append(len(tokens))
        self.step += 1
        return self._hidden()

    def keep(self, rows: Sequence[int]) -> None:
        self.scripts = [self.scripts[i] for i in rows]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def _hidden(self) -> torch.Tensor:
        told = torch.tensor([script[self.step] for script in self.scripts])
        return torch.nn.functional.one_hot(told, self.vocabulary).float()


class Flat(Told):
    """A network to which every token is as likely."""

    def __init__(self, rows: int, steps: int) -> None:
        super().__init__(*[[0] * (steps + 1)] * rows, vocabulary=300)

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        return super().append([0] * len(tokens))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden)


class Watched:
    """A tokenizer that writes down how many tokens it decodes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.decoded: list[int] = []

    def decode(self, tokens: Sequence[int], **settings: Any) -> Any:
        self.decoded.append(len(tokens))
        return self.tokenizer.decode(tokens, **settings)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def network(tiny_llama: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def tokenizers(tokenizer: Any) -> Mapping[str, Any]:
    """One whose tokens are bytes and more, and one that falls back to bytes and writes spaces before words."""
    words = ["<unk>", "</s>", "▁a", "▁the", "b", "\ufffd", ".", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {word: i for i, word in enumerate(words)}
    falling = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>"))  # noqa: S106
    spaced = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    falling.decoder = decoders.Sequence(spaced)
    special = {"eos_token": "</s>", "unk_token": "<unk>"}
    return {
        "bytes": tokenizer,
        "fallback": PreTrainedTokenizerFast(tokenizer_object=falling, **special),  # type: ignore[no-untyped-call]
    }


def run(
    model: Whole | Told, tokenizer: Any, requests: Sequence[Request], ends: Sequence[int] = (END,)
) -> list[Response]:
    prompts = [tuple(tokenizer(str(request.context))["input_ids"]) for request in requests]
    arrivals = list(decode(requests, prompts, batch=model, head=model, ends=frozenset(ends), tokenizer=tokenizer))
    assert sorted(arrival.number for arrival in arrivals) == list(range(len(requests)))
    return [reply for _, reply in sorted(arrivals) if isinstance(reply, Response)]


def sampled(context: str = "Review:", **settings: Any) -> Request:
    return Request(context=context, **{"max_tokens": 8, "temperature": 1.0} | settings)


def plain_loop(network: Any, tokenizer: Any, context: str, steps: int) -> list[int]:
    ids = tokenizer(context)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + steps:
            token = int(network(torch.tensor([ids])).logits[0, -1].argmax())
            if token == END:
                break
            ids.append(token)
    return [int(token) for token in ids[start:]]


# ---------------------------------------------------------------- greedy


def test_greedy_replies_equal_the_plain_loop(network: Any, tokenizer: Any) -> None:
    requests = [
        Request(context=context, max_tokens=steps) for context, steps in zip(PROMPTS, (6, 3, 9, 1), strict=True)
    ]
    for request, reply in zip(requests, run(Whole(network), tokenizer, requests), strict=True):
        ids = plain_loop(network, tokenizer, str(request.context), request.max_tokens)

        assert reply.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert reply.finish_reason == ("length" if len(ids) == request.max_tokens else "stop")
        assert reply.usage == Usage(input=len(tokenizer(str(request.context))["input_ids"]), output=len(ids))


def test_predictions_that_are_no_numbers_are_a_failure_of_their_row_alone(tokenizer: Any) -> None:
    class Overflown(Told):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            first = torch.tensor([script[0] for script in self.scripts])[:, None]
            return hidden.masked_fill((first == 60) & (self.step == 1), torch.nan)

    told = Overflown([60, 61, 62], [50, 51, 52])
    requests = [Request(context="", max_tokens=3), Request(context="", max_tokens=3)]
    replies = dict(decode(requests, [(5,), (6,)], batch=told, head=told, ends=frozenset({END}), tokenizer=tokenizer))

    assert isinstance(replies[0], Failure)
    assert "use a wider dtype" in replies[0].reason
    assert isinstance(replies[1], Response)
    assert replies[1].usage.output == 3


def test_a_reply_of_one_token_appends_none(tokenizer: Any) -> None:
    model = Told([5, 6])
    (reply,) = run(model, tokenizer, [Request(context="x", max_tokens=1)])

    assert (reply.text, reply.finish_reason, reply.usage.output) == (tokenizer.decode([5]), "length", 1)
    assert model.widths == []


def test_an_end_token_at_once_is_an_empty_reply(tokenizer: Any) -> None:
    (reply,) = run(Told([END]), tokenizer, [Request(context="x", max_tokens=1)])

    assert (reply.text, reply.finish_reason, reply.usage.output) == ("", "stop", 0)


def test_any_of_several_end_tokens_ends_a_reply_and_is_no_part_of_it(tokenizer: Any) -> None:
    requests = [Request(context="x", max_tokens=9)] * 2
    replies = run(Told([40, 41, END], [40, 41, 99]), tokenizer, requests, ends=(END, 99))

    assert replies[0] == replies[1]
    assert (replies[0].text, replies[0].finish_reason) == (tokenizer.decode([40, 41]), "stop")
    assert replies[0].usage.output == 2


def test_finished_rows_leave_the_batch_and_arrive_at_once(tokenizer: Any) -> None:
    model = Told([7, END], [7] * 5, [END], [7, 7, END])
    requests = [Request(context="x", max_tokens=5)] * 4
    prompts = [(7,)] * 4
    arrivals = decode(requests, prompts, batch=model, head=model, ends=frozenset({END}), tokenizer=tokenizer)
    seen = [(arrival.number, len(model.widths)) for arrival in arrivals]

    assert seen == [(2, 0), (0, 1), (3, 2), (1, 4)]
    assert model.widths == [3, 2, 1, 1]


# ---------------------------------------------------------------- samples


def test_a_sample_is_the_same_alone_and_among_others(network: Any, tokenizer: Any) -> None:
    ways: list[dict[str, Any]] = [{}, {"top_p": 0.8}, {"top_k": 20}, {"temperature": 0.5}, {"temperature": 0.0}]
    requests = [sampled(context, replicate=r, **way) for way in ways for context in PROMPTS for r in range(2)]
    together = run(Whole(network), tokenizer, requests)

    assert together == [run(Whole(network), tokenizer, [request])[0] for request in requests]
    assert len({reply.text for reply in together}) > len(requests) / 2


@pytest.mark.parametrize(
    "other",
    [{"replicate": 1}, {"temperature": 1.1}, {"top_p": 1 - 1e-9}, {"top_k": 300}, {"context": "Answer:"}],
)
def test_another_prompt_replicate_or_way_of_sampling_draws_other_numbers(tokenizer: Any, other: dict[str, Any]) -> None:
    one, same, another = run(Flat(3, 8), tokenizer, [sampled(), sampled(), sampled(**other)], ends=())

    assert one == same
    assert one.text != another.text


@pytest.mark.parametrize(("setting", "most"), [({"top_k": 3}, 3), ({"top_p": 0.01}, 3), ({"top_p": 1e-9}, 1)])
def test_top_k_and_top_p_leave_the_likeliest_tokens(tokenizer: Any, setting: dict[str, Any], most: int) -> None:
    requests = [sampled(max_tokens=1, replicate=r, **setting) for r in range(40)]
    replies = run(Flat(40, 1), tokenizer, requests, ends=())

    assert {reply.text for reply in replies} == {tokenizer.decode([i], skip_special_tokens=True) for i in range(most)}


def test_a_sample_with_a_stop_or_a_shorter_length_is_the_beginning_of_the_whole(network: Any, tokenizer: Any) -> None:
    (whole,) = run(Whole(network), tokenizer, [sampled()])
    stop = whole.text[4:6]
    short, stopped = run(Whole(network), tokenizer, [sampled(max_tokens=3), sampled(stop=(stop,))])

    assert whole.text.startswith(short.text)
    assert stopped.text == whole.text[: whole.text.index(stop)]


def test_replicates_are_samples_of_the_models_distribution(network: Any, tokenizer: Any) -> None:
    draws = 3000
    requests = [sampled("Review:", max_tokens=1, replicate=r) for r in range(draws)]
    counts = Counter(reply.text for reply in run(Whole(network), tokenizer, requests, ends=()))
    with torch.inference_mode():
        logits = network(torch.tensor([tokenizer("Review:")["input_ids"]])).logits[0, -1]
    shares: Counter[str] = Counter()
    for token, share in enumerate(logits.double().softmax(-1).tolist()):
        shares[tokenizer.decode([token], skip_special_tokens=True)] += share
    texts = [text for text, share in shares.items() if share * draws >= 10]
    seen = np.array([*(counts[text] for text in texts), draws - sum(counts[text] for text in texts)])
    expected = draws * np.array([*(shares[text] for text in texts), 1 - sum(shares[text] for text in texts)])

    assert len(texts) > 20
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-3, df=len(texts))


# ---------------------------------------------------------------- stop strings


def by_definition(tokenizer: Any, script: Sequence[int], request: Request, ends: Sequence[int]) -> tuple[str, str, int]:
    """Return text, finish reason and number of tokens of the reply, decoding the whole at each token."""
    for count in range(len(script)):
        text = tokenizer.decode(script[:count], skip_special_tokens=True)
        places = [text.find(stop) for stop in request.stop if stop in text]
        if places and count:
            return text[: min(places)], "stop", count
        if count == request.max_tokens:
            return text, "length", count
        if script[count] in ends:
            return text, "stop", count
    raise AssertionError(script)


def outcome(reply: Response) -> tuple[str, str, int]:
    return reply.text, reply.finish_reason, reply.usage.output


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("great\n\nReview: dull", ("\n\n",), "great"),
        ("the film is a joy", ("is a",), "the film "),
        ("the film is a joy", ("joy", "film"), "the "),
        ("the film is a joy", ("s a", "is a"), "the film "),
        ("terrible", ("terrible",), ""),
        ("\nyes", ("\n",), ""),
        ("one 😀 two", ("😀",), "one "),
        ("日本語", ("本",), "日"),
        ("no such thing", ("never", "nor this"), "no such thing"),
    ],
)
def test_a_reply_ends_before_the_first_stop_string(
    tokenizer: Any, text: str, stops: tuple[str, ...], left: str
) -> None:
    ids = tokenizer(text)["input_ids"]
    request = Request(context="x", max_tokens=100, stop=stops)
    (reply,) = run(Told([*ids, END]), tokenizer, [request])

    assert (reply.text, reply.finish_reason) == (left, "stop")
    assert outcome(reply) == by_definition(tokenizer, [*ids, END], request, [END])


def test_stop_strings_of_the_cases_above_span_tokens(tokenizer: Any) -> None:
    assert all(len(tokenizer(stop)["input_ids"]) > 1 for stop in ("is a", "terrible", "😀", "本", "joy"))


def test_a_stop_string_that_the_last_token_completes_counts_as_a_stop(tokenizer: Any) -> None:
    ids = tokenizer("great END")["input_ids"]
    (reply,) = run(Told(ids), tokenizer, [Request(context="x", max_tokens=len(ids), stop=("END",))])

    assert outcome(reply) == ("great ", "stop", len(ids))


def test_an_empty_stop_string_stands_before_everything(tokenizer: Any) -> None:
    (reply,) = run(Told([7, 7]), tokenizer, [Request(context="x", max_tokens=9, stop=("",))])

    assert outcome(reply) == ("", "stop", 1)


@st.composite
def scripts(draw: st.DrawFn, kind: str) -> list[int]:
    """Token ids of one of the tokenizers: any at all, or such as spell characters of several bytes."""
    if kind == "bytes":
        return draw(st.lists(st.integers(0, 299), max_size=30))
    spelled = st.sampled_from(["é", "日", "😀", "a", " "]).map(lambda text: [8 + byte for byte in text.encode()])
    parts = draw(st.lists(st.one_of(spelled, st.lists(st.integers(0, 263), min_size=1, max_size=2)), max_size=12))
    return [token for part in parts for token in part]


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
@given(data=st.data())
def test_any_tokens_end_where_decoding_the_whole_at_each_of_them_finds_a_stop_string(
    tokenizers: Mapping[str, Any], kind: str, data: st.DataObject
) -> None:
    tokenizer, end = tokenizers[kind], 10_000
    script = [*data.draw(scripts(kind)), end]
    text = tokenizer.decode(script[:-1], skip_special_tokens=True)
    place = data.draw(st.integers(0, len(text)))
    stops = tuple(
        data.draw(
            st.lists(st.sampled_from([text[place : place + n] or "?" for n in (1, 2, 5)]), max_size=2, unique=True)
        )
    )
    # What ends in U+FFFD may be the first bytes of a character to come: whether a stop string is there is not known yet.
    assume(not any("\ufffd" in stop for stop in stops))
    request = Request(context="x", max_tokens=data.draw(st.integers(1, 40)), stop=stops)
    told = Told(script, vocabulary=end + 1)
    (arrival,) = decode([request], [(0,)], batch=told, head=told, ends=frozenset({end}), tokenizer=tokenizer)

    assert isinstance(arrival.reply, Response)
    assert outcome(arrival.reply) == by_definition(tokenizer, script, request, [end])


def test_a_stop_string_counts_in_the_whole_reply_only() -> None:
    tokens = Tokenizer(models.WordLevel({"x": 0, "a": 1, "b": 2}, unk_token="x"))  # noqa: S106
    tokens.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("xab", "c")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens)  # type: ignore[no-untyped-call]
    told = Told([0, 1, 2, 0, 3], vocabulary=4)
    (reply,) = run(told, tokenizer, [Request(context="x", max_tokens=9, stop=("b",))], ends=(3,))

    assert outcome(reply) == ("cx", "stop", 4)


def test_without_stop_strings_a_reply_is_decoded_once(tokenizer: Any) -> None:
    told, watched = Told([*range(40, 90), END]), Watched(tokenizer)
    request = Request(context="x", max_tokens=100)
    list(decode([request], [(7,)], batch=told, head=told, ends=frozenset({END}), tokenizer=watched))

    assert watched.decoded == [50]


def test_with_stop_strings_only_the_tail_is_decoded_at_each_token(tokenizer: Any) -> None:
    ids = tokenizer("a joy from start to end, naïve 😀 and short. " * 20)["input_ids"]
    told, watched = Told([*ids, END]), Watched(tokenizer)
    request = Request(context="x", max_tokens=1000, stop=("STOP",))
    list(decode([request], [(7,)], batch=told, head=told, ends=frozenset({END}), tokenizer=watched))
    *tails, whole = watched.decoded

    assert len(tails) == whole == len(ids) > 200
    assert max(tails) <= 4 * (4 + 1)  # four tokens a character: those of the stop string and one more
