"""Convert one GGUF file of a small Llama to a Hugging Face folder in float32.

Written for SmolLM2 and refusing what it has not seen: architecture `llama`, tokenizer `gpt2` with
the `smollm` splitter, no rope scaling. GGUF stores q and k with the two halves of each head
interleaved; they are put back here, so the folder loads like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparsespec.core.errors import BadModel, MissingPackage
from sparsespec.models.gguf_tokenizer import write_tokenizer
from sparsespec.models.layout import EMBED, HEAD, NORM, expected_shapes, layer_prefix
from sparsespec.models.weights import SINGLE, read_config

Progress = Callable[[str, int, int], None]

_IN_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def need_gguf() -> Any:
    """Return the package `gguf`, or raise MissingPackage."""
    try:
        import gguf
    except ImportError as error:
        raise MissingPackage("reading GGUF files needs: pip install gguf") from error
    return gguf


def convert(source: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write config, weights and tokenizer of `source` into the new folder `folder`.

    Raises:
        BadModel: if the file is not what this converter knows.
        MissingPackage: if `gguf` is not installed.
    """
    from safetensors.numpy import save_file

    gguf = need_gguf()
    if progress:
        progress("reading the GGUF file", 0, 1)
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if progress:
        progress("reading the GGUF file", 1, 1)
    folder.mkdir()
    _write(folder / "config.json", _config(fields))
    _write(folder / "generation_config.json", _generation(fields))
    write_tokenizer(fields, folder)
    config = read_config(folder)
    heads = {"attn_q.weight": config.n_heads, "attn_k.weight": config.n_kv_heads}
    weights: dict[str, np.ndarray] = {}
    for done, tensor in enumerate(reader.tensors, 1):
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".", 2)[-1]
        if part in heads:
            wide = _halves(wide, heads[part])
        weights[_hf_name(tensor.name)] = np.ascontiguousarray(wide)
        if progress:
            progress("converting tensors", done, len(reader.tensors))
    _check({name: array.shape for name, array in weights.items()}, expected_shapes(config), source)
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the interleaving of `[heads * D, in]`: rows (2i, 2i+1) of a head go to (i, i + D/2)."""
    n_out, n_in = rows.shape
    pairs = rows.reshape(heads, n_out // heads // 2, 2, n_in)
    return pairs.swapaxes(1, 2).reshape(n_out, n_in)


def _hf_name(name: str) -> str:
    fixed = {"token_embd.weight": EMBED, "output_norm.weight": NORM, "output.weight": HEAD}
    if name in fixed:
        return fixed[name]
    kind, layer, part = (*name.split(".", 2), "", "")[:3]
    if kind != "blk" or part not in _IN_LAYER:
        raise BadModel(f"unexpected tensor {name} in a GGUF file; supported: plain llama")
    return layer_prefix(int(layer)) + _IN_LAYER[part]


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    if (found := fields.get("general.architecture")) != "llama":
        raise BadModel(f"unsupported GGUF architecture {found!r}; supported: llama")
    if scaled := sorted(name for name in fields if ".rope.scaling" in name):
        raise BadModel(f"rope scaling in GGUF files is not supported, got {', '.join(scaled)}")
    # stored as float32: 9.999999747378752e-06 was 1e-05
    eps = float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "vocab_size": fields["llama.vocab_size"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": eps,
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def _generation(fields: dict[str, Any]) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{k}_token_id": fields[f"tokenizer.ggml.{v}_token_id"] for k, v in names.items()}


def _check(found: dict[str, Any], expected: dict[str, Any], source: Path) -> None:
    if wrong := sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n)):
        raise BadModel(f"{source} does not match its own metadata at {', '.join(wrong[:3])}")


def _write(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
