"""No file of the repository knows the machine it was written on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.arch.layout import ROOT

# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN = tuple("/" + path for path in ("work" + "/", "root" + "/", "tmp/" + "venvs"))
SKIP = {".git", ".venv", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache"}


def repository_files() -> list[Path]:
    """Return tracked and untracked files that git does not ignore; all files without git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not SKIP & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def machine_paths(text: str) -> list[str]:
    return [word for word in FORBIDDEN if word in text]


def test_no_file_contains_a_machine_path() -> None:
    files = repository_files()
    assert len(files) >= 40
    found = {
        str(path.relative_to(ROOT)): words
        for path in files
        if (words := machine_paths(path.read_text("utf-8", errors="ignore")))
    }
    assert found == {}


def test_a_machine_path_is_seen() -> None:
    assert machine_paths("see " + FORBIDDEN[0] + "shared") == [FORBIDDEN[0]]
    assert machine_paths("a framework/of words") == []
