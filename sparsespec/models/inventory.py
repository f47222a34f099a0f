"""Which models can be named here, which of them lie on this machine, and how to be rid of one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsespec.core.errors import BadModel
from sparsespec.models.cache import cache_folder, chosen_cache
from sparsespec.models.catalog import ALIASES, TINY
from sparsespec.models.config import FAMILIES


@dataclass(frozen=True, slots=True)
class Entry:
    """One model.

    Attributes:
        kind: "alias", "hub" (fetched from the Hugging Face hub) or "memory".
        about: What it is, and what it takes to fetch it.
        path: Its folder, None if it was not fetched.
        n_bytes: What the folder takes, None if there is none.
    """

    name: str
    kind: str
    about: str
    path: Path | None = None
    n_bytes: int | None = None


def inventory(cache: str | Path | None = None) -> list[Entry]:
    """Return every model with a name of its own, and every model in the hub's cache."""
    found = [Entry(TINY, "memory", "seeded random model for tests; no tokenizer")]
    for name, alias in ALIASES.items():
        path = cache_folder(cache) / alias.folder
        there = path.is_dir()
        found.append(Entry(name, "alias", alias.about, path if there else None, _n_bytes(path) if there else None))
    return found + [_entry(repo) for repo in _repos(cache)]


def remove(name: str, cache: str | Path | None = None) -> int:
    """Delete a fetched model and return the bytes that it took; raises `BadModel` if there is none of that name."""
    entries = {entry.name: entry for entry in inventory(cache)}
    fetched = [entry.name for entry in entries.values() if entry.path]
    if name not in fetched:
        raise BadModel(f"there is no fetched model {name!r} to remove; have: {', '.join(fetched) or 'none'}")
    entry = entries[name]
    assert entry.path is not None and entry.n_bytes is not None
    folder = entry.path
    if entry.kind == "hub":
        # the whole of it: a revision's hash may stand in the cache twice, if one model is a copy of another
        (folder,) = (repo.repo_path for repo in _repos(cache) if repo.repo_id == name)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise BadModel(f"{error.filename} cannot be removed ({error.strerror}); remove it by hand") from error
    return entry.n_bytes


def _scan(cache: str | Path | None) -> Any:
    from huggingface_hub import scan_cache_dir

    chosen = chosen_cache(cache)
    return scan_cache_dir(chosen / "hub" if chosen else None)


def _repos(cache: str | Path | None) -> list[Any]:
    """Return the models in the hub's cache, by name; an absent cache holds none."""
    try:
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return []
    try:
        return sorted((r for r in _scan(cache).repos if r.repo_type == "model"), key=lambda r: r.repo_id)
    except CacheNotFound:
        return []


def _entry(repo: Any) -> Entry:
    revision = max(repo.revisions, key=lambda r: r.last_modified)
    family = _family(Path(revision.snapshot_path) / "config.json")
    about = f"family {family}" if family in FAMILIES else f"family {family or 'unknown'}, which is not supported"
    return Entry(repo.repo_id, "hub", about, Path(revision.snapshot_path), repo.size_on_disk)


def _family(config: Path) -> str | None:
    try:
        return str(json.loads(config.read_text("utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
