"""From a name to a model: local folders, hub ids, and aliases with pinned weights.

`resolve` ends at a folder in Hugging Face layout, `load` at a `Transformer`. An alias wins over a
folder of the same name, because figures that name it must always mean the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from sparsespec.core.errors import BadModel, MissingPackage, unknown
from sparsespec.models import smollm2
from sparsespec.models.cache import cache_folder, chosen_cache
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from sparsespec.models.weights import load_folder

Progress = Callable[[str, int, int], None]
"""`progress(label, done, total)`; total is what done counts towards, in any unit."""

ALIASES: dict[str, Callable[[Path, Progress | None], Path]] = {"smollm2": smollm2.ensure}
TINY = "tiny"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve(name: str | Path, *, cache: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Return the local folder of a model, fetching and converting it if need be.

    Args:
        name: an alias (`smollm2`), an existing folder, or a hub id `org/name`.
        cache: where fetched models are kept; see `cache_folder`. Without it, and without
            `$SPARSESPEC_CACHE`, hub models go to the hub's own cache.
        progress: called as things advance.

    Raises:
        BadModel: if the folder is not there or the model cannot be fetched.
        UnknownName: for anything else that is not an alias.
        MissingPackage: if fetching needs a package that is not installed.
    """
    text = str(name)
    if text in ALIASES:
        return ALIASES[text](cache_folder(cache), progress)
    if text == TINY:
        raise BadModel("the model 'tiny' is made in memory and has no folder; use load('tiny')")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise BadModel(f"{folder} is a file; give the folder that holds it")
    if isinstance(name, str) and _HUB_ID.fullmatch(text):
        return _fetch(text, chosen_cache(cache), progress)
    if folder.is_absolute() or "/" in text or "\\" in text:
        raise BadModel(f"there is no folder {folder}; give one, a hub id org/name, or an alias")
    raise unknown("model", text, [*ALIASES, TINY])


def load(
    name: str | Path,
    dtype: str | torch.dtype = "float32",
    *,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """Load a model by any name that `resolve` takes, or the seeded random model `tiny`."""
    if str(name) == TINY:
        return tiny(dtype=dtype).to(dtype, device)
    return load_folder(resolve(name, cache=cache, progress=progress), dtype, device)


def _fetch(hub_id: str, cache: Path | None, progress: Progress | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackage(f"{hub_id} is a hub id, which needs: pip install huggingface_hub") from error
    if progress:
        progress(f"fetching {hub_id}", 0, 1)
    try:
        where = snapshot_download(hub_id, allow_patterns=_WANTED, cache_dir=cache / "hub" if cache else None)
    except Exception as error:  # the hub's client has no common base for what can go wrong
        raise BadModel(
            f"{hub_id} could not be fetched from the hub ({type(error).__name__}: "
            f"{_first_line(error)}); check the name and the network, or give a local folder"
        ) from error
    if progress:
        progress(f"fetching {hub_id}", 1, 1)
    return Path(where)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
