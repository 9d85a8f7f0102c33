"""A local model as a server needs it: token by token, with every prompt's states and scores kept for the next request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from promptopt.errors import InputError
from promptopt.models.local.decoding import Decoding, one_token_reply
from promptopt.models.local.model import LocalModel
from promptopt.models.local.token_scores import SegmentScores, TokenScores, score_tokens
from promptopt.models.local.trie import all_segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Request
    from promptopt.models.local.encoding import Ids, ToolChat
    from promptopt.prompt import Context
    from promptopt.replies import Response


class TextTokens(NamedTuple):
    """A tokenized text.

    Args:
        ids: [tokens].
        texts: [tokens], substrings that concatenate to the text; tokens that share a character leave it to the first.
    """

    ids: Ids
    texts: tuple[str, ...]


class ServedModel(LocalModel):
    """A local model whose callers choose the batches themselves. Takes the arguments of `LocalModel`.

    For one thread at a time, but for what only tokenizes.
    """

    _segments = staticmethod(all_segments)

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        super().__init__(name, dtype=dtype, device=device)
        self._segment_scores = SegmentScores()
        self._token_texts: dict[int, str] = {}

    @property
    def longest(self) -> int:
        """Maximum number of tokens of a prompt and its reply."""
        return self._files.longest

    @property
    def reads_texts(self) -> bool:
        """Whether `scores` works: an encoder-decoder model scores only replies."""
        return not self._files.is_encoder_decoder

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the network knows."""
        return len(self._runner.head.weight)

    def load(self) -> None:
        """Load the network now rather than at the first call."""
        self.prompt("")
        self.decoding()

    def prompt(self, context: Context | ToolChat) -> Ids:
        """Return the tokens of a context, ready for a reply.

        Raises:
            InputError: the context is a chat, and the model has no chat template, or none for tools.
        """
        (ids,) = self._encoder.prompts([context])
        return ids

    def tokenize(self, text: str) -> TextTokens:
        """Return the tokens of a text that is scored; special ones that the tokenizer adds have no text."""
        encoded = self._files.tokenizer(text, return_offsets_mapping=True)
        texts, done = [], 0
        for start, end in encoded["offset_mapping"]:
            texts.append(text[max(start, done) : end])
            done = max(done, end)
        return TextTokens(tuple(encoded["input_ids"]), tuple(texts))

    def token_text(self, token: int) -> str:
        """Return the text of a single token; replacement characters mark incomplete ones."""
        if token not in self._token_texts:
            self._token_texts[token] = str(self._files.tokenizer.decode([token]))
        return self._token_texts[token]

    def reply_text(self, tokens: Sequence[int]) -> str:
        """Return the text of a reply's tokens, without special tokens."""
        return str(self._files.tokenizer.decode(tokens, skip_special_tokens=True))

    def decoding(self) -> Decoding:
        """Return an empty batch of replies."""
        runner = self._runner
        return Decoding(runner.engine.decoding_batch(), runner.decoding_head, runner.ends, runner.tokenizer)

    def scores(self, sequences: Sequence[Ids], likeliest: int) -> list[TokenScores]:
        """Return log-probabilities of all tokens of sequences, and of the `likeliest` ones (1 or more) at each place.

        Raises:
            InputError: the model is an encoder-decoder.
        """
        if not self.reads_texts:
            raise InputError(f"{self.name} is an encoder-decoder model, which scores replies only: ask for no echo")
        return score_tokens(self._runner.engine, self._runner.head, sequences, likeliest, self._segment_scores)

    def one_token_reply(self, request: Request, prompt: Ids, token: int) -> Response:
        """Return the reply of up to one token, which is known from the prompt's scores."""
        return one_token_reply(request, prompt, token, self._runner.ends, self._runner.tokenizer)
