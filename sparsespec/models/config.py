"""What fixes a model's shape: `ModelConfig`, read from a Hugging Face `config.json`.

Three families share one decoder (RMS norm, grouped-query attention with RoPE, SwiGLU) and differ in
biases and in q/k norm. Whatever would change the mathematics and is not supported raises here,
before a byte of weights is read. Not the engine's configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsespec.core.errors import BadModel, BadRequest, show
from sparsespec.core.params import SamplingParams
from sparsespec.models.rope_config import RopeConfig

_log = logging.getLogger(__name__)

FAMILIES = ("llama", "qwen2", "qwen3")
_QWEN3_HEAD_DIM = 128  # the family's own default; hidden / heads is not


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder.

    Attributes:
        family: `llama`, `qwen2` or `qwen3`.
        n_layers: L.
        hidden: width of the residual stream.
        n_heads: Hq.
        n_kv_heads: Hkv.
        head_dim: D.
        vocab: V.
        intermediate: width of the MLP.
        rms_eps: added to every mean of squares, that of q/k norm included.
        rope: rotary parameters.
        tied: the LM head is the embedding.
        qkv_bias: the products that make q, k and v have a bias.
        o_bias: the product behind attention has one.
        mlp_bias: the products of the MLP have one.
        qk_norm: q and k are normalised per head before RoPE.
        max_model_len: longest context in tokens.
        eos_ids: tokens that end a text, from config.json and generation_config.json.
        default_sampling_params: how requests without parameters are sampled, from generation_config.json.
        bos_id: token that starts a text, or None.
        name: for messages.
    """

    family: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    intermediate: int
    rms_eps: float
    rope: RopeConfig
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_model_len: int
    eos_ids: tuple[int, ...] = ()
    default_sampling_params: SamplingParams = field(default_factory=SamplingParams)
    bos_id: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        sizes = ("n_layers", "hidden", "n_heads", "n_kv_heads", "head_dim", "vocab", "intermediate", "max_model_len")
        for name in sizes:
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadModel(f"{name} must be a whole number above 0, got {show(value)}")
        if self.n_heads % self.n_kv_heads:
            raise BadModel(
                f"the number of query heads must be a multiple of the number of KV heads, "
                f"got {self.n_heads} and {self.n_kv_heads}"
            )
        if self.head_dim % 2:
            raise BadModel(f"head_dim must be even, for RoPE turns pairs, got {self.head_dim}")

    @property
    def group(self) -> int:
        """G, query heads per KV head."""
        return self.n_heads // self.n_kv_heads

    @classmethod
    def from_hf(
        cls,
        config: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
        *,
        name: str = "",
    ) -> ModelConfig:
        """Read a `config.json`, and `generation_config.json` if the folder has one.

        Raises:
            BadModel: for another family, or anything that is not supported or not there.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise BadModel(f"unsupported model_type {show(family)}; supported: {', '.join(FAMILIES)}")
        _refuse(config)
        heads = _count(config, "num_attention_heads")
        hidden = _count(config, "hidden_size")
        rope = RopeConfig.from_hf(dict(config) | {"max_position_embeddings": _context(config)})
        bias = bool(config.get("attention_bias", False)) and family != "qwen2"
        return cls(
            family=family,
            n_layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            n_heads=heads,
            n_kv_heads=_count(config, "num_key_value_heads", default=heads),
            head_dim=_head_dim(config, hidden, heads),
            vocab=_count(config, "vocab_size"),
            intermediate=_count(config, "intermediate_size"),
            rms_eps=_epsilon(config),
            rope=rope,
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or family == "qwen2",
            o_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
            qk_norm=family == "qwen3",
            max_model_len=max(_context(config), int(rope.factor * rope.original_context))
            if rope.type == "yarn"
            else _context(config),
            eos_ids=eos_ids(config, generation),
            default_sampling_params=default_sampling_params(generation or {}),
            bos_id=config.get("bos_token_id"),
            name=name,
        )


def default_sampling_params(generation: Mapping[str, Any]) -> SamplingParams:
    """Return the sampling that a `generation_config.json` asks for; what it leaves open is that of `SamplingParams`.

    `do_sample` false is greedy, whatever stands beside it. A `repetition_penalty` is not supported and left out.
    """
    if generation.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    if generation.get("repetition_penalty") not in (None, 1, 1.0):
        penalty = generation["repetition_penalty"]
        _log.warning("repetition_penalty=%s of generation_config.json is not supported and left out", penalty)
    names = ("temperature", "top_p", "top_k", "min_p")
    try:
        return SamplingParams(**{name: generation[name] for name in names if generation.get(name) is not None})
    except BadRequest as error:
        raise BadModel(f"generation_config.json has sampling parameters that cannot work: {error}") from error


def eos_ids(config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the end tokens that either file names, in order, each once."""
    ids: list[int] = []
    for table in (config, generation or {}):
        value = table.get("eos_token_id")
        ids += value if isinstance(value, list) else [] if value is None else [value]
    wrong = [value for value in ids if type(value) is not int]
    if wrong:
        raise BadModel(f"eos_token_id must be a token id or a list of them, got {show(wrong[0])}")
    return tuple(dict.fromkeys(ids))


def _count(config: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadModel(f"config.json needs {key!r} to be a whole number above 0, got {show(value)}")
    return value


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps", 1e-6)
    if type(value) not in (int, float) or value < 0:
        raise BadModel(f"config.json needs 'rms_norm_eps' to be a number, 0 or more, got {show(value)}")
    return float(value)


def _context(config: Mapping[str, Any]) -> int:
    return _count(config, "max_position_embeddings")


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _count(config, "head_dim")
    return _QWEN3_HEAD_DIM if config["model_type"] == "qwen3" else hidden // heads


def _refuse(config: Mapping[str, Any]) -> None:
    """Raise for what would change the mathematics and is not built."""
    if config.get("quantization_config"):
        raise BadModel("quantised checkpoints are not supported; use one in float32, bfloat16 or float16")
    if config.get("hidden_act", "silu") != "silu":
        raise BadModel(f"unsupported hidden_act {config['hidden_act']!r}; supported: silu")
    listed = config.get("layer_types") or []
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise BadModel(f"config.json needs 'layer_types' to be a list of words, got {show(listed)}")
    layer_types: set[str] = set(listed)
    if config.get("use_sliding_window") or "sliding_attention" in layer_types:
        raise BadModel(
            "sliding-window attention is not supported; the model must attend to its whole context "
            "(use_sliding_window false, all layer_types full_attention)"
        )
    if layer_types - {"full_attention"}:
        raise BadModel(f"unsupported layer_types {sorted(layer_types)}; supported: full_attention")
