"""`sparsespec models`: list, pull, remove, in a cache of the test's own."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsespec.cli import app as cli
from sparsespec.models import catalog, smollm2
from sparsespec.models.inventory import inventory
from tests.cli.mistakes import Capture, answer, one_sentence
from tests.cli.terminal import Terminal


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSESPEC_CACHE", str(tmp_path))
    return tmp_path


def fetch(cache: Path, n_bytes: int = 2_000_000) -> Path:
    """Put something in the alias's place."""
    folder = cache / smollm2.FOLDER
    folder.mkdir()
    for name in smollm2.FILES:
        (folder / name).write_bytes(b"")
    (folder / "model.safetensors").write_bytes(b"x" * n_bytes)
    return folder


def fetch_from_hub(cache: Path, name: str = "someone/small", family: str = "qwen3") -> Path:
    """Lay out a snapshot as the hub's client does."""
    repo = cache / "hub" / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repo / "snapshots" / ("0" * 40), repo / "blobs"
    for path in (snapshot, blobs, repo / "refs"):
        path.mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (blobs / "a").write_text(json.dumps({"model_type": family}))
    (snapshot / "config.json").symlink_to(blobs / "a")
    return repo


def listed(capsys: Capture, *arguments: str) -> dict[str, Any]:
    return {entry["name"]: entry for entry in answer(capsys, *arguments)}


@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_json_lists_aliases_and_what_was_fetched(arguments: list[str], cache: Path, capsys: Capture) -> None:
    before = listed(capsys, *arguments)
    assert set(before) == {"tiny", *catalog.ALIASES}
    assert before["smollm2"]["path"] is None
    folder = fetch(cache)
    fetch_from_hub(cache)
    fetch_from_hub(cache, "someone/other", "gpt2")
    after = listed(capsys, *arguments)
    assert after["smollm2"]["path"] == str(folder)
    assert after["smollm2"]["n_bytes"] == 2_000_000
    assert after["someone/small"]["about"] == "family qwen3"
    assert after["someone/other"]["about"] == "family gpt2, which is not supported"


def test_the_table_says_how_to_fetch(cache: Path, capsys: Capture) -> None:
    assert cli.run(["models"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "sparsespec models pull" in out
    assert str(cache) in out
    fetch(cache)
    assert cli.run(["models"]) == 0
    assert "2 MB" in capsys.readouterr().out


def test_pull_fetches_and_says_where(cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = catalog.Alias(lambda cache, progress: fetch(cache), smollm2.FOLDER, "a stand-in")
    monkeypatch.setitem(catalog.ALIASES, "smollm2", alias)
    assert answer(capsys, "models", "pull", "smollm2")["path"] == str(cache / smollm2.FOLDER)


def test_remove_deletes_an_alias(cache: Path, capsys: Capture) -> None:
    folder = fetch(cache)
    freed = {"name": "smollm2", "freed_bytes": 2_000_000}
    assert answer(capsys, "models", "remove", "smollm2", "--yes") == freed
    assert not folder.exists()
    assert inventory()[1].path is None


def test_remove_deletes_a_hub_model_and_no_other(cache: Path, capsys: Capture) -> None:
    gone, stays = fetch_from_hub(cache), fetch_from_hub(cache, "someone/other")
    assert cli.run(["models", "remove", "someone/small", "-y"]) == 0
    assert "removed someone/small" in capsys.readouterr().out
    assert not gone.exists()
    assert stays.exists()


@pytest.mark.slow
def test_at_a_terminal_remove_asks(cache: Path) -> None:
    folder = fetch(cache)
    terminal = Terminal("models", "remove", "smollm2")
    terminal.until("[y/N]")
    terminal.type("y\n")
    shown, code = terminal.end()
    assert code == 0
    assert "removed smollm2" in shown
    assert not folder.exists()


def test_who_says_no_keeps_it(cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, typed = fetch(cache), io.StringIO("n\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    assert cli.run(["models", "remove", "smollm2"]) == 0
    assert "kept" in capsys.readouterr().out
    assert folder.exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["pull"], "Missing argument"),
        (["pull", "smollm3"], "give a hub id org/name, or one of: smollm2"),
        (["pull", "./nowhere/at-all"], "there is no folder"),
        (["remove", "tiny"], "no fetched model 'tiny'"),
        (["remove", "smollm2"], "no fetched model 'smollm2' to remove; have: none"),
        (["remove"], "Missing argument"),
        (["delete", "smollm2"], "No such command"),
        (["--json", "pull", "smollm2"], "write it there"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], fragment: str, capsys: Capture) -> None:
    one_sentence(cli.run(["models", *arguments]), capsys, fragment)


def test_a_cache_that_cannot_be_written_is_one_sentence(
    cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").write_text("in the way")
    monkeypatch.setenv("SPARSESPEC_CACHE", str(cache / "file" / "below"))
    one_sentence(cli.run(["models", "pull", "smollm2"]), capsys, "set $SPARSESPEC_CACHE to one")


def test_nothing_is_removed_where_nobody_can_be_asked(cache: Path, capsys: Capture) -> None:
    folder = fetch(cache)
    one_sentence(cli.run(["models", "remove", "smollm2", "--json"]), capsys, "add --yes to remove smollm2")
    assert folder.exists()
