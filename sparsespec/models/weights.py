"""Load a Hugging Face folder: config.json and safetensors, one file or shards.

Every tensor is checked by name, shape and kind against what the config asks for before the model is
built. Folders with only `.bin` files are refused: they hold pickles. What a file is wrong about is
said with its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsespec.core.errors import BadModel
from sparsespec.models.config import ModelConfig
from sparsespec.models.layout import HEAD, expected_shapes
from sparsespec.models.parameters import assemble, torch_dtype
from sparsespec.models.transformer import Transformer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LFS = b"version https://git-lfs"
_AGAIN = "download it again"


def load_folder(
    folder: str | Path,
    dtype: str | torch.dtype = "float32",
    device: torch.device | str = "cpu",
) -> Transformer:
    """Load a model from a local folder.

    Args:
        folder: holds `config.json` and `model.safetensors`, or the shards that
            `model.safetensors.index.json` lists.
        dtype: what weights are cast to.
        device: where they go, one tensor at a time.

    Raises:
        BadModel: if anything is missing, unexpected, misshapen, truncated or unsupported.
        UnknownName: for an unknown dtype.
    """
    folder, kind = Path(folder), torch_dtype(dtype)
    config = read_config(folder)
    with ExitStack() as stack:
        where: dict[str, tuple[Path, Any]] = {}
        for path in _weight_files(folder):
            handle = stack.enter_context(_open(path))
            where.update((name, (path, handle)) for name in handle.keys())  # noqa: SIM118
        _check(config, where, folder)

        def read(name: str) -> Tensor:
            path, handle = where[name]
            try:
                return handle.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise BadModel(f"{path} cannot be read ({error}); {_AGAIN}") from error

        return Transformer(config, assemble(config, read, kind, device))


def read_config(folder: Path) -> ModelConfig:
    """Read `config.json`, and `generation_config.json` where there is one."""
    if not folder.is_dir():
        raise BadModel(f"{folder} is not a folder; give one with config.json and safetensors")
    extra = folder / "generation_config.json"
    generation = read_json(extra) if extra.exists() else None
    return ModelConfig.from_hf(read_json(folder / "config.json"), generation, name=folder.name)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of the folder, or raise BadModel with the file's name."""
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadModel(f"{path} is missing; a model folder needs {path.name}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise BadModel(f"{path} is not valid JSON{_pointer(path)}; {_AGAIN}") from error
    if not isinstance(table, dict):
        raise BadModel(f"{path} must hold a JSON object, got {type(table).__name__}")
    return table


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files; an index wins over a single file, as it does in transformers."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE).exists():
            raise _no_weights(folder)
        return [folder / SINGLE]
    table = read_json(index).get("weight_map")
    if not isinstance(table, Mapping) or not table or not all(isinstance(name, str) for name in table.values()):
        raise BadModel(f"{index} has no weight_map from names to files; {_AGAIN}")
    files = [folder / name for name in sorted(set(table.values()))]
    for path in files:
        if not path.is_file():
            raise BadModel(f"{path} is missing, but {INDEX} lists it; download that shard")
    return files


def _no_weights(folder: Path) -> BadModel:
    have = "only .bin files, which hold pickles" if any(folder.glob("*.bin")) else "no weights"
    return BadModel(f"{folder} has {have}; it needs {SINGLE}, or shards with {INDEX}")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        why = _pointer(path) or f" ({error})"
        raise BadModel(f"{path} is truncated or not safetensors{why}; {_AGAIN}") from error


def _pointer(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    return " but a git-lfs pointer (run `git lfs pull`)" if start == _LFS else ""


def _check(config: ModelConfig, where: Mapping[str, tuple[Path, Any]], folder: Path) -> None:
    """Compare names, shapes and kinds with what the config asks for."""
    expected = expected_shapes(config)
    # older checkpoints store the frequencies, and tied ones may store the head again
    known = {n for n in where if n.endswith("rotary_emb.inv_freq")} | ({HEAD} & where.keys())
    if missing := expected.keys() - where.keys():
        raise BadModel(f"{folder} lacks {_some(missing)}, which its config.json asks for")
    if extra := where.keys() - expected.keys() - known:
        raise BadModel(f"{folder} has {_some(extra)}, which its config.json does not ask for")
    for name, shape in expected.items():
        path, handle = where[name]
        piece = handle.get_slice(name)
        if tuple(piece.get_shape()) != shape:
            raise BadModel(f"{name} in {path} must have shape {list(shape)}, got {piece.get_shape()}")
        if piece.get_dtype() not in ("F64", "F32", "F16", "BF16"):
            raise BadModel(f"{name} in {path} must be a plain float, got {piece.get_dtype()}")


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
