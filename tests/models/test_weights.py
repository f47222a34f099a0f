"""Folders that are broken in the ways folders break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsespec.core.errors import BadModel, UnknownName
from sparsespec.models.weights import INDEX, SINGLE, load_folder
from tests.models.checkpoints import YARN, reference_model, rewrite
from tests.refusals import assert_refused

Break = Callable[[Path], object]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def run(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE)

    return run


def cut(share: float) -> Break:
    def run(folder: Path) -> None:
        data = (folder / SINGLE).read_bytes()
        (folder / SINGLE).write_bytes(data[: int(len(data) * share)])

    return run


def index(table: object) -> Break:
    return lambda folder: (folder / INDEX).write_text(json.dumps(table))


def keys(**changes: Any) -> Break:
    return lambda folder: rewrite(folder, **changes)


def only_bin(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Break, str]] = {
    "half-downloaded": (cut(0.5), f"{SINGLE} is truncated .*download it again"),
    "empty file": (cut(0), f"{SINGLE} is truncated or not safetensors"),
    "header only": (cut(0.01), f"{SINGLE} is truncated"),
    "lfs pointer": (lambda f: (f / SINGLE).write_bytes(POINTER), "git-lfs pointer.*git lfs pull"),
    "garbage": (lambda f: (f / SINGLE).write_bytes(b"\x00" * 999), "not safetensors"),
    "only bin": (only_bin, f"only .bin files, which hold pickles; it needs {SINGLE}"),
    "no weights": (lambda f: (f / SINGLE).unlink(), "has no weights; it needs"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config cut": (lambda f: (f / "config.json").write_text('{"a":'), "config.json is not valid"),
    "config lfs": (lambda f: (f / "config.json").write_bytes(POINTER), "git-lfs pointer"),
    "config list": (lambda f: (f / "config.json").write_text("[]"), "JSON object, got list"),
    "missing": (edit(lambda t: t.pop(UP)), f"lacks {UP}, which its config.json asks for"),
    "extra": (edit(lambda t: t.update(odd=torch.ones(1))), "has odd, which its config.json does"),
    "shape": (edit(lambda t: t.update({UP: torch.ones(3, 2)})), r"shape \[48, 32\], got \[3, 2\]"),
    "integers": (
        edit(lambda t: t.update({UP: torch.ones(48, 32, dtype=torch.int8)})),
        "must be a plain float, got I8",
    ),
    "missing shard": (
        index({"weight_map": {"a": "model-00001-of-00002.safetensors"}}),
        f"model-00001-of-00002.safetensors is missing, but {INDEX} lists it",
    ),
    "empty index": (index({}), "has no weight_map"),
    "other layers": (keys(num_hidden_layers=3), "lacks .* and 6 more"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reference_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders_say_which_file_and_why(case: str, folder: Path) -> None:
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(BadModel, match=message) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)


# what is wrong, what it got, and what would work
WRONG: dict[str, tuple[Break, str, str]] = {
    "bottomless config": (lambda f: (f / "config.json").write_text("[" * 99999), "config.json", "download it again"),
    "another family": (keys(model_type=["llama"]), "['llama']", "supported: llama, qwen2, qwen3"),
    "layers in words": (keys(num_hidden_layers="2"), "got '2'", "a whole number above 0"),
    "epsilon in words": (keys(rms_norm_eps="small"), "got 'small'", "a number, 0 or more"),
    "negative epsilon": (keys(rms_norm_eps=-1), "got -1", "a number, 0 or more"),
    "end token in words": (keys(eos_token_id="</s>"), "got '</s>'", "a token id or a list of them"),
    "a table of end tokens": (keys(eos_token_id={"a": 1}), "got {'a': 1}", "a token id or a list of them"),
    "one layer type": (keys(layer_types=3), "got 3", "a list of words"),
    "unsupported layer types": (keys(layer_types=["mamba"]), "['mamba']", "supported: full_attention"),
    "theta in words": (keys(rope_parameters={"rope_theta": "big"}), "got 'big'", "'rope_theta' to be a number"),
    "theta of 0": (keys(rope_parameters={"rope_theta": 0}), "got 0", "'rope_theta' to be above 0"),
    "part of the head": (keys(partial_rotary_factor="half"), "got 'half'", "to be a number"),
    "no original context": (
        keys(rope_parameters=YARN | {"original_max_position_embeddings": 0}),
        "got 0",
        "'original_max_position_embeddings' to be above 0",
    ),
    "beta in words": (keys(rope_parameters=YARN | {"beta_fast": "x"}), "got 'x'", "'beta_fast' to be a number"),
    "shards without names": (index({"weight_map": {"a": 3}}), "weight_map", "from names to files"),
    "a folder for a shard": (index({"weight_map": {"a": "."}}), "/model is missing", "download that shard"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_answered_with_what_would_work(case: str, folder: Path) -> None:
    damage, got, works = WRONG[case]
    damage(folder)
    assert_refused(lambda: load_folder(folder), BadModel, got, works)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="is not a folder; give one"):
        load_folder(tmp_path / "nowhere")


def test_unknown_dtype_names_the_near_miss(folder: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'float32'"):
        load_folder(folder, "float31")


def test_leftovers_of_older_checkpoints_are_ignored(tmp_path: Path) -> None:
    reference_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "lm_head.weight": torch.zeros(61, 32),
    }
    edit(lambda t: t.update(old))(tmp_path)
    assert load_folder(tmp_path).parameters.head.abs().sum() > 0


def test_weights_outlive_their_file(folder: Path) -> None:
    model = load_folder(folder)
    before = model.parameters.embed.clone()
    (folder / SINGLE).write_bytes(b"")
    assert torch.equal(model.parameters.embed, before)
