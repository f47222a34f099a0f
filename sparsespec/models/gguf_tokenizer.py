"""Write a Hugging Face tokenizer from the fields of a GGUF file.

Byte-level BPE with each digit on its own (GGUF calls that splitter `smollm`). The vocabulary has no
token for a few control bytes; the published tokenizer drops them too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsespec.core.errors import BadModel

_CONTROL = 3  # GGUF's token type of special tokens


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, chat template included.

    Raises:
        BadModel: for another kind of tokenizer than SmolLM2's.
    """
    # comes with transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise BadModel(f"unsupported GGUF tokenizer {kind}; supported: ('gpt2', 'smollm')")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    table = _tokenizer_config(fields, tokens)
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _tokenizer_config(fields: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        **{f"{k}_token": tokens[fields[f"tokenizer.ggml.{v}_token_id"]] for k, v in names.items()},
        "chat_template": fields["tokenizer.chat_template"],
    }
