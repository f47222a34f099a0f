"""What a config.json may say, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.errors import BadModel
from sparsespec.models.config import ModelConfig
from tests.models.checkpoints import LLAMA3, SHAPE, YARN

PLAIN: dict[str, Any] = {"model_type": "llama", **SHAPE}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "unsupported model_type 'mistral'; supported: llama, qwen2"),
        ({"model_type": None}, "unsupported model_type None"),
        ({"quantization_config": {"bits": 4}}, "quantised.*bfloat16"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; supported: silu"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"layer_types": ["linear_attention"]}, "supported: full_attention"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic'; supported: default, ll"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'; supported: default, llama3, ya"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "same in all layers"),
        ({"rope_parameters": {"mrope_section": [2, 1, 1]}}, "'mrope_section' is not supported"),
        ({"rope_parameters": YARN | {"factor": -1.0}}, "positive 'factor', got -1.0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "positive 'low_freq_factor'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
        ({"hidden_size": None}, "'hidden_size' to be a whole number above 0, got None"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers'.*got 0"),
        ({"vocab_size": "61"}, "'vocab_size'.*got '61'"),
        ({"num_key_value_heads": 3}, "multiple of the number of KV heads, got 4 and 3"),
        ({"head_dim": 7}, "head_dim must be even"),
    ],
)
def test_what_is_not_supported_says_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadModel, match=message):
        ModelConfig.from_hf(PLAIN | changes)


def test_families_differ_in_biases_and_norms() -> None:
    llama, qwen2, qwen3 = (
        ModelConfig.from_hf(PLAIN | {"model_type": family, "attention_bias": True})
        for family in ("llama", "qwen2", "qwen3")
    )
    assert (llama.qkv_bias, llama.o_bias, llama.qk_norm) == (True, True, False)
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.qk_norm) == (True, True, True)
    plain = ModelConfig.from_hf(PLAIN | {"model_type": "qwen2"})
    assert (plain.qkv_bias, plain.o_bias) == (True, False)


def test_head_dim_is_derived_except_in_qwen3() -> None:
    assert ModelConfig.from_hf(PLAIN).head_dim == 8
    assert ModelConfig.from_hf(PLAIN | {"model_type": "qwen3"}).head_dim == 128
    assert ModelConfig.from_hf(PLAIN | {"head_dim": 20}).head_dim == 20


def test_end_tokens_come_from_both_files() -> None:
    config = PLAIN | {"eos_token_id": 2, "bos_token_id": 1}
    assert ModelConfig.from_hf(config).eos_ids == (2,)
    both = ModelConfig.from_hf(config, {"eos_token_id": [5, 2]})
    assert (both.eos_ids, both.bos_id) == ((2, 5), 1)
    assert ModelConfig.from_hf(PLAIN).eos_ids == ()


def test_yarn_stretches_the_context() -> None:
    assert ModelConfig.from_hf(PLAIN | {"rope_parameters": YARN}).max_model_len == 128
    short = PLAIN | {"rope_parameters": YARN, "max_position_embeddings": 32}
    assert ModelConfig.from_hf(short).max_model_len == 128
    assert ModelConfig.from_hf(PLAIN | {"rope_parameters": LLAMA3}).max_model_len == 128


def test_a_sliding_window_that_is_off_is_fine() -> None:
    config = PLAIN | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 64}
    assert ModelConfig.from_hf(config | {"layer_types": ["full_attention"] * 2}).n_layers == 2
