"""A fast tokenizer from a folder that transformers wrote, without transformers, whose import takes seconds.

Has the part of transformers' interface that is used here; `converted` checks once for each model that it does the same.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class FastTokenizer:
    """A tokenizer.

    Args:
        folder: with `tokenizer.json`, `tokenizer_config.json` and, for chats, `chat_template.jinja`.

    Raises:
        OSError: the files cannot be read.
    """

    is_fast = True

    def __init__(self, folder: Path) -> None:
        self.backend_tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._special: dict[str, str] = {name: config[name] for name in _SPECIAL_TOKENS if config.get(name)}
        template = folder / "chat_template.jinja"
        self.chat_template = template.read_text(encoding="utf-8") if template.exists() else None

    def __call__(
        self,
        texts: str | list[str],
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,  # noqa: ARG002  they always are
    ) -> Mapping[str, Any]:
        """Return `input_ids` and `offset_mapping` of a text, or lists of them for a list of texts."""
        if isinstance(texts, str):
            encoded = self.backend_tokenizer.encode(texts, add_special_tokens=add_special_tokens)
            return {"input_ids": encoded.ids, "offset_mapping": encoded.offsets}
        rows = self.backend_tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return {"input_ids": [row.ids for row in rows], "offset_mapping": [row.offsets for row in rows]}

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of tokens."""
        return str(self.backend_tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Return the index of each token, added ones included."""
        return dict(self.backend_tokenizer.get_vocab())

    @property
    def bos_token(self) -> str | None:
        """The token that begins texts."""
        return self._special.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The index of the token that begins texts."""
        return self._index("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The index of the token that ends texts."""
        return self._index("eos_token")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: bool = False,  # noqa: ARG002  never is
        add_generation_prompt: bool = False,
    ) -> str:
        """Return a chat as text.

        Raises:
            jinja2.TemplateError: the template refuses the chat.
        """
        given = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": None,
        }
        return str(self._template.render(**given, **self._special))

    @cached_property
    def _template(self) -> Any:
        import jinja2  # noqa: PLC0415  only for chats
        from jinja2.ext import loopcontrols  # noqa: PLC0415
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        def to_json(value: Any, **options: Any) -> str:
            settings: dict[str, Any] = {"ensure_ascii": False, **options}
            return json.dumps(value, **settings)

        environment: Any = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = to_json
        environment.globals["raise_exception"] = refuse
        return environment.from_string(self.chat_template or "")

    def _index(self, name: str) -> int | None:
        token = self._special.get(name)
        return None if token is None else self.backend_tokenizer.token_to_id(token)
