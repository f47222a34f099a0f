"""Small tokenizers built on the spot: byte-level BPE, and BPE with byte fallback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = ["the quick brown fox jumps over the lazy dog", "naïve café 日本語 😀 😃 👩‍👩‍👧"]
CHAT = (
    "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no bad roles') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(folder: Path, template: str | None = CHAT) -> Path:
    """Write a tokenizer like Qwen's and SmolLM2's: 256 bytes and some merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 2, trainer)
    return _save(folder, tokenizer, template)


def byte_fallback(folder: Path) -> Path:
    """Write a tokenizer like Llama 2's: pieces with a space mark, and one token for each byte."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", *SPECIAL, *(f"<0x{b:02X}>" for b in range(256))]
    pieces += ["▁", *"abcdeé日\ufffd", "▁a", "▁b", "▁the"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return _save(folder, tokenizer, None)


def _save(folder: Path, tokenizer: Any, template: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    table = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if template is not None:
        table["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 0}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}))
    return folder
