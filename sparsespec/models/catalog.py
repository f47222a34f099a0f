"""From a name to a model: local folders, hub ids, and aliases with pinned weights.

`resolve` ends at a folder in Hugging Face layout, `load` at a `Transformer`. An alias wins over a
folder of the same name, because figures that name it must always mean the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsespec.core.errors import BadModel, BadOption, MissingPackage, brief, show, unknown
from sparsespec.models import smollm2
from sparsespec.models.cache import cache_folder, chosen_cache
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from sparsespec.models.weights import load_folder

Progress = Callable[[str, int, int], None]
"""`progress(label, done, total)`; total is what done counts towards, in any unit."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A model under a name of ours.

    Attributes:
        ensure: Returns its folder inside a cache folder, making it if it is not there.
        folder: That folder's name.
        about: What it is, and what it takes to fetch it.
    """

    ensure: Callable[[Path, Progress | None], Path]
    folder: str
    about: str


ALIASES: dict[str, Alias] = {"smollm2": Alias(smollm2.ensure, smollm2.FOLDER, smollm2.ABOUT)}
TINY = "tiny"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve(name: str | Path, *, cache: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Return the local folder of a model, fetching and converting it if need be.

    Args:
        name: an alias (`smollm2`), an existing folder, or a hub id `org/name`.
        cache: where fetched models are kept; see `cache_folder`. Without it, and without
            `$SPARSESPEC_CACHE`, hub models go to the hub's own cache.
        progress: called as things advance; the hub's own client draws bars of its own instead.

    Raises:
        BadModel: if the folder is not there or the model cannot be fetched.
        UnknownName: for anything else that is not an alias.
        MissingPackage: if fetching needs a package that is not installed.
    """
    text = str(name)
    if not isinstance(name, str | Path) or not text:
        raise BadModel(f"a model is a folder, a hub id org/name, an alias, or a loaded model, got {show(name)}")
    if text in ALIASES:
        return ALIASES[text].ensure(cache_folder(cache), progress)
    if text == TINY:
        raise BadModel("the model 'tiny' is made in memory and has no folder; use load('tiny')")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise BadModel(f"{folder} is a file; give the folder that holds it")
    if isinstance(name, str) and _HUB_ID.fullmatch(text):
        return _fetch(text, chosen_cache(cache))
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
    _check_device(device)
    if str(name) == TINY:
        return tiny(dtype=dtype).to(dtype, device)
    return load_folder(resolve(name, cache=cache, progress=progress), dtype, device)


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has no one error for a device it lacks
        raise BadOption(
            f"device {show(str(device))} cannot be used ({brief(error)}); use 'cpu', or 'cuda' where torch sees a GPU"
        ) from error


def _fetch(hub_id: str, cache: Path | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackage(f"{hub_id} is a hub id, which needs: pip install huggingface_hub") from error
    try:
        where = snapshot_download(hub_id, allow_patterns=_WANTED, cache_dir=cache / "hub" if cache else None)
    except Exception as error:  # the hub's client has no common base for what can go wrong
        raise BadModel(
            f"{hub_id} could not be fetched from the hub ({type(error).__name__}: "
            f"{_first_line(error)}); check the name and the network, or give a local folder"
        ) from error
    return Path(where)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
