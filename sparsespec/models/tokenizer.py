"""Text to token ids and back, through the tokenizer that a model's folder brings.

A thin door to `transformers.AutoTokenizer`, imported when a tokenizer is made and not before. Text
that arrives token by token is the business of `incremental.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsespec.core.errors import BadModel, BadOption, BadRequest, MissingPackage
from sparsespec.models.config import eos_ids
from sparsespec.models.weights import read_json


class Tokenizer:
    """The tokenizer of a folder.

    Attributes:
        eos_ids: tokens that end a text: the tokenizer's own, and those of config.json and
            generation_config.json, each once.
        special_ids: tokens that `decode` leaves out.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load it.

        Raises:
            BadModel: if the folder has no tokenizer that transformers can read.
            MissingPackage: if transformers is not installed.
        """
        folder = Path(folder)
        self._inner = _auto(folder)
        tables = [
            read_json(path) for name in ("config.json", "generation_config.json") if (path := folder / name).exists()
        ]
        own = {"eos_token_id": self._inner.eos_token_id}
        ids = [i for table in (own, *tables) for i in eos_ids(table, None)]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(ids))
        marked = (i for i, t in self._inner.added_tokens_decoder.items() if t.special)
        self.special_ids: frozenset[int] = frozenset((*self._inner.all_special_ids, *marked))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a plain text, with the start token where the model wants one.

        Raises:
            BadRequest: if the text cannot be written in UTF-8.
        """
        _check_text(text)
        return list(self._inner.encode(text))

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation up to where the assistant answers.

        Args:
            messages: tables with `role` and `content`, oldest first.

        Raises:
            BadModel: if the model has no chat template.
            BadOption: if the template refuses the messages.
            BadRequest: if a text cannot be written in UTF-8.
        """
        if not self._inner.chat_template:
            raise BadModel("this model has no chat template; encode the prompt as plain text")
        if not messages or any("role" not in m or "content" not in m for m in messages):
            raise BadOption("a chat needs at least one message, each with 'role' and 'content'")
        for message in messages:
            _check_text(message["content"])
        try:
            return list(
                self._inner.apply_chat_template(
                    [dict(m) for m in messages],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                )
            )
        except Exception as error:  # templates raise what their author chose
            raise BadOption(f"the chat template refuses these messages: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out, spaces as they are."""
        return self._inner.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def piece(self, token: int) -> str | None:
        """Return the raw vocabulary entry of one id, None if there is none."""
        return self._inner.convert_ids_to_tokens(token)

    @property
    def vocab(self) -> int:
        """Number of ids that have a piece; a model's V may be larger."""
        return len(self._inner)


def _check_text(text: object) -> None:
    """Raise `BadRequest` for a text that holds what bytes that are no UTF-8 were decoded to."""
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"a text must be Unicode, and character {error.start} is half of one; read it as UTF-8"
        ) from error


def _auto(folder: Path) -> Any:
    if not folder.is_dir():
        raise BadModel(f"{folder} is not a folder; give one with tokenizer.json")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingPackage("tokenizers need: pip install transformers") from error
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # broken files surface as errors of many kinds
        raise BadModel(
            f"{folder} has no tokenizer that transformers can read; it needs tokenizer.json and tokenizer_config.json"
        ) from error
