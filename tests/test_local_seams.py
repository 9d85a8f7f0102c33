"""Seams: tokens of parts are those of the whole, and where that is not known nothing is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra 'local' is not installed")

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from promptopt.models.local.encoding import Encoder
from promptopt.models.local.seams import has_seams, shared_starts
from promptopt.prompt import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Context

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "Review: it's slow, and it ends well.\n\nSentiment: great\nReview: dull  and grey 12 34\nSentiment: terrible\n",
    "the film isn't dull\n\n\nthe film is great and the end is great\n",
] * 20
TEMPLATE = "{% for turn in messages %}<s>{{ turn.role }}\n{{ turn.content }}</s>\n{% endfor %}<s>assistant\n"
LABELS = ("great", "terrible", "great fun", "")

Words = st.sampled_from(["a", "great", "film", "'s", " ", "  ", "\n", "\n\n", ".", "7", "é", "\t", "<s>", "¿"])
Text = st.lists(Words, max_size=9).map("".join)
START = "Say in one word what is said of the film that is under review; great or terrible: a film"


def trained(pre_tokenizer: Any, normalizer: Any = None, *, first: bool = False, last: bool = False) -> Any:
    """Return a fast BPE tokenizer, with a token before or behind each text."""
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "▁", "\n", "\t", "é", "¿"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if first or last:
        single = f"{'<s> ' * first}$A{' </s>' * last}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]  # noqa: S106
    fast.chat_template = TEMPLATE
    return fast


def byte_level(**settings: Any) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **settings)


def qwen() -> Any:
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    return pre_tokenizers.Sequence([split, byte_level(use_regex=False)])


KNOWN = {
    "gpt-2": trained(byte_level()),
    "gpt-2 with a first token": trained(byte_level(), first=True),
    "digits apart": trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()])),
    "qwen": trained(qwen(), normalizers.NFC()),
}


def contexts_of(prompts: Sequence[str], items: Sequence[str], *, chat: bool) -> list[Context]:
    made = [(f"{prompt}{START}{prompt}", f" {item}\nSentiment:") for prompt in prompts for item in items]
    if chat:
        return [(Message("system", first), Message("user", second)) for first, second in made]
    return [first + second for first, second in made]


def whole(tokenizer: Any) -> Encoder:
    """Return an encoder that tokenises every text as it is."""
    out = Encoder("whole", tokenizer)
    vars(out)["_has_seams"] = False
    return out


def assert_parts_are_the_whole(name: str, prompts: Sequence[str], items: Sequence[str], *, chat: bool) -> None:
    contexts = contexts_of(prompts, [*items, "great", ""], chat=chat)
    parts, full = Encoder("parts", KNOWN[name]), whole(KNOWN[name])

    assert parts.queries(contexts, [LABELS] * len(contexts)) == full.queries(contexts, [LABELS] * len(contexts))
    assert parts.prompts(contexts) == full.prompts(contexts)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("chat", [False, True])
@settings(max_examples=30)
@given(prompts=st.lists(Text, min_size=1, max_size=3), items=st.lists(Text, min_size=1, max_size=3))
def test_tokens_of_texts_that_share_a_start_are_those_of_the_whole_texts(
    *, name: str, chat: bool, prompts: list[str], items: list[str]
) -> None:
    assert_parts_are_the_whole(name, prompts, items, chat=chat)


@pytest.mark.wide
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("chat", [False, True])
@given(prompts=st.lists(Text, max_size=6), items=st.lists(Text, max_size=6))
def test_tokens_of_many_texts_that_share_a_start_are_those_of_the_whole_texts(
    *, name: str, chat: bool, prompts: list[str], items: list[str]
) -> None:
    assert_parts_are_the_whole(name, prompts, items, chat=chat)


@pytest.mark.parametrize("name", KNOWN)
def test_a_common_start_is_tokenised_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    call = type(KNOWN[name]).__call__

    def counted(self: Any, texts: Any, **settings: Any) -> Any:
        read.extend(texts if isinstance(texts, list) else [])
        return call(self, texts, **settings)

    monkeypatch.setattr(type(KNOWN[name]), "__call__", counted)
    start = "The film is great and long. " * 10 + "Review: this"
    contexts = [f"{start} film {number}\nSentiment:" for number in range(20)]
    Encoder("parts", KNOWN[name]).queries(contexts, [("great", "terrible")] * 20)

    assert sum("long" in text for text in read) == 1


def test_starts_end_between_a_word_and_white_space() -> None:
    texts = [f"{START}\nReview: {item}" for item in ("one.", "two.", "three", "four")]

    assert shared_starts([*texts, "other", "words"]) == [len(START)] * 4 + [0, 0]
    assert shared_starts([]) == []
    assert shared_starts(["alone in the world"]) == [0]


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(trained(None), id="nothing is split, and merges go over the ends of words"),
        pytest.param(trained(byte_level(), last=True), id="a token is put behind each text"),
        pytest.param(trained(pre_tokenizers.ByteLevel(add_prefix_space=True)), id="a space is put before each text"),
        pytest.param(trained(byte_level(), normalizers.Strip()), id="texts lose the space at their ends"),
        pytest.param(trained(pre_tokenizers.Split(Regex("film gr"), "isolated")), id="an unknown rule"),
    ],
)
def test_of_other_tokenizers_no_seams_are_known(tokenizer: Any) -> None:
    assert not has_seams(tokenizer)


def test_where_nothing_is_split_seams_hold_if_no_token_goes_over_them() -> None:
    spaced = trained(pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"), first=True)
    crossing = any(
        token[i].isascii() and token[i].isalpha() and token[i + 1] in "▁\n"
        for token in spaced.get_vocab()
        for i in range(len(token) - 1)
    )

    assert has_seams(spaced) is not crossing
