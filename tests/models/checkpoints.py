"""Small random checkpoints, made and saved by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 61,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}


def reference_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """Return a transformers model whose weights, biases and norms all matter to its logits."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # transformers fills in what the rope table lacks, in place
    copied = {k: dict(v) if isinstance(v, dict) else v for k, v in changes.items()}
    config = AutoConfig.for_model(family, **(SHAPE | copied))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)
    return model.requires_grad_(False)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json; None removes a key."""
    path = folder / "config.json"
    table = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))
