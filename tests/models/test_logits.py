"""Logits equal transformers' own, for every family, rope type and layout of files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sparsespec.models.weights import INDEX, load_folder
from tests.models.checkpoints import LLAMA3, SHAPE, YARN, reference_model, rewrite
from tests.models.dense import logits

CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 16}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 4}),
    "llama-eps-theta": (
        "llama",
        {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-llama3-wide": ("llama", {"head_dim": 32, "rope_parameters": LLAMA3}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied-yarn": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3-head-dim-biases": ("qwen3", {"head_dim": 24, "attention_bias": True}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "qwen3-yarn": ("qwen3", {"head_dim": 16, "rope_parameters": YARN}),
    "yarn-factor": ("llama", {"rope_parameters": YARN | {"attention_factor": 0.7}}),
    "yarn-mscale": ("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}}),
    "yarn-betas": (
        "llama",
        {"head_dim": 32, "rope_parameters": YARN | {"beta_fast": 4.0, "beta_slow": 0.5}},
    ),
    "yarn-untruncated": ("llama", {"head_dim": 32, "rope_parameters": YARN | {"truncate": False}}),
}


@pytest.fixture
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, SHAPE["vocab_size"], (100,), generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    family, changes = CASES[case]
    theirs = reference_model(family, **changes)
    theirs.save_pretrained(tmp_path)
    ours = load_folder(tmp_path)
    expected = theirs(tokens[None]).logits[0]
    assert expected.std() > 0.5
    # 2e-4 is float32 error: the same comparison in float64 leaves a hundredth of it
    torch.testing.assert_close(logits(ours, tokens), expected, atol=2e-4, rtol=1e-4)
    double = logits(load_folder(tmp_path, "float64"), tokens)
    torch.testing.assert_close(double, theirs.double()(tokens[None]).logits[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("rope", [None, LLAMA3, YARN], ids=["default", "llama3", "yarn"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_both_config_generations_read_the_same(rope: dict[str, float] | None, key: str, tmp_path: Path) -> None:
    new = rope or {"rope_type": "default", "rope_theta": 123.0}
    reference_model("llama", rope_parameters=new).save_pretrained(tmp_path)
    config = load_folder(tmp_path).config
    scaling = {k: v for k, v in new.items() if k != "rope_theta"}
    scaling[key] = scaling.pop("rope_type")
    rewrite(
        tmp_path,
        rope_parameters=None,
        rope_theta=new["rope_theta"],
        rope_scaling=scaling if rope else None,
    )
    assert load_folder(tmp_path).config == config
    assert config.rope.theta == new["rope_theta"]


def test_long_positions_follow_transformers(tmp_path: Path) -> None:
    """Angles are rounded as transformers rounds them, or position 8,000 would be 2e-4 off."""
    theirs = reference_model("llama", max_position_embeddings=8192)
    theirs.save_pretrained(tmp_path)
    cos, sin = load_folder(tmp_path).rope
    position = torch.arange(8192)[None]
    expected = theirs.model.rotary_emb(torch.zeros(1), position)
    for ours, other in zip((cos, sin), expected, strict=True):
        assert (ours - other[0, :, : ours.shape[1]]).abs().max() < 1e-6


def test_sharded_folder_loads_the_same(tmp_path: Path, tokens: torch.Tensor) -> None:
    theirs = reference_model("qwen3", head_dim=16)
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert (tmp_path / "many" / INDEX).exists()
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load_folder(tmp_path / "one"), load_folder(tmp_path / "many")
    assert torch.equal(logits(one, tokens), logits(many, tokens))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_float32(dtype: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    reference_model("qwen3", head_dim=8).save_pretrained(tmp_path)
    exact = logits(load_folder(tmp_path), tokens)
    half = load_folder(tmp_path, dtype)
    assert half.dtype == getattr(torch, dtype)
    error = (logits(half, tokens).float() - exact).abs().mean() / exact.std()
    assert error < (0.1 if dtype == "bfloat16" else 0.02)


def test_the_model_counts_itself(tmp_path: Path) -> None:
    theirs = reference_model("llama", tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path)
    ours = load_folder(tmp_path)
    assert ours.n_params == sum(p.numel() for p in theirs.parameters())
    assert ours.n_bytes == 4 * (ours.n_params + 2 * 128 * 4)
    assert ours.parameters.head is ours.parameters.embed
    assert ours.to("float64").parameters.head.dtype == torch.float64
    assert ours.dtype == torch.float32
    assert not any(t.requires_grad for t in ours.parameters.tensors())
    assert math.isclose(ours.config.rms_eps, 1e-6)
