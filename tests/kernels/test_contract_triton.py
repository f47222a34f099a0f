"""What holds for the Triton kernels of every op, over the cases of `sparsespec.testing.op_cases`.

Interpreted on small arguments where there is no GPU; compiled there with `-m gpu`, on real sizes too.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import MissingPackage, UnknownName
from sparsespec.testing.checks.kernel import replayed
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.bundles import changed, copied, leaves
from sparsespec.testing.ops.op import Args, Compared, KernelOp, Sizes, exactly, outputs
from sparsespec.testing.ops.step import CONTEXT
from tests.kernels.launched import DEVICE, WHERE, alone, launched, mutants, poisoned, room

OPS = kernel_ops()
MODULES = {op.folder: room(op.folder) for op in OPS.values()}
# the tiles of `linear` are among the mutants' data
FAMILIES = importlib.import_module("tests.kernels.mutants").FAMILIES
SMALL_SAMPLE = importlib.import_module("tests.kernels.mutants").SMALL_SAMPLE

pytestmark = [
    WHERE,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]
ON_GPU = DEVICE == "cuda"
EXAMPLES = {"attention": 13, "sample": 16, "probs": 20, "top_probability": 20, "confidence": 20, "logprobs": 20}
"""Random cases of a type, 40 of the other ops; more of all on a GPU."""
KERNELS = {
    "attention": "triton.attend", "append_kv": "triton._append_kv", "copy_pages": "triton._copy_pages",
    "top_positions": "triton._top_positions", "sample": "triton._pick", "probs": "triton_probs._probs",
    "top_probability": "triton_probs._invert", "confidence": "triton_probs._invert",
    "logprobs": "triton_probs._logprobs", "lay_out_rows": "triton._lay_out_rows",
    "lay_out_tokens": "triton._lay_out_tokens", "verify_inputs": "triton._verify_inputs",
    "per_logit_row": "triton._per_logit_row", "verify_tokens": "triton._verify_tokens",
    "match_tokens": "triton._verify_tokens", "settle": "triton._settle", "rms_norm": "triton._rms_norm",
    "add_rms_norm": "triton._rms_norm", "silu_mul": "triton._silu_mul", "linear": "triton._multiply",
}  # fmt: skip
"""A kernel that each op launches."""
MANY_ROWS: list[Sizes] = [{"n_rows": n} for n in (1, 16, 17, 127, 128, 129)]
AXES: list[Sizes] = [
    {"lead": lead, "width": width}
    for lead, width in (((), 8), ((2, 3), 8), ((0,), 8), ((3,), 0), ((2, 0), 8))
]  # fmt: skip
NO_ROWS: Sizes = {"filters": (), "vocab": 5}
EDGES: dict[str, list[Sizes]] = {
    "append_kv": [{"n": 0, "heads": (2, 1), "head_dim": 8}],
    "copy_pages": [{"shape": (1, 2, 1, 2), "n": 0}, {"shape": (1, 2, 1, 2), "count": 0}],
    "top_positions": [{"shape": (2, 1, 1, 0), "k_max": 3, "pool": pool} for pool in (1, 3)],
    "sample": [NO_ROWS],
    "probs": [NO_ROWS],
    "top_probability": [{"n": 0, "vocab": 5}],
    "confidence": [{"n": 0, "vocab": 5}],
    "logprobs": [{"n": 0, "vocab": 5, "best": 2}],
    **{name: MANY_ROWS for name in ("lay_out_rows", "lay_out_tokens", "settle")},
    "verify_inputs": [*MANY_ROWS, {"n_rows": 7, "width": 1}, {"n_rows": 4, "near_the_end": CONTEXT + 12}],
    "per_logit_row": [*MANY_ROWS, {"n_rows": 7, "width": 1}],
    **{name: [*MANY_ROWS, {"counts": (-1, -1)}, {"counts": ()}] for name in ("match_tokens", "verify_tokens")},
    **{name: AXES for name in ("rms_norm", "add_rms_norm", "silu_mul")},
    "linear": [dict(zip("mnk", size, strict=True)) | {"bias": True}
               for size in ((0, 8, 4), (3, 0, 4), (3, 8, 0), (0, 0, 0))],
}  # fmt: skip
"""Sizes where there is nothing to do, where there are axes more or fewer, or rows for more than one program."""
CONTIGUOUS = ("append_kv", "rms_norm", "add_rms_norm", "silu_mul", "linear")
"""Ops that give contiguous results, whatever they are given."""
FEW_SCORES = {"WRITE_BLOCK": 16, "STREAMED_BLOCK": 16, "LARGEST_BLOCK": 32}
SMALL_TILES = importlib.import_module("tests.kernels.attention_calls").SMALL


def parts_of(folder: str) -> list[ModuleType]:
    """Return the loaded modules of an op's Triton implementation."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(f"sparsespec.kernels.{folder}.triton") and module is not None
    ]


@contextmanager
def patched(modules: list[ModuleType], constants: Any) -> Iterator[None]:
    """Give modules other constants, those that have them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, value in constants.items():
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield


def small(op: KernelOp) -> Any:
    """Let small arguments span several blocks."""
    if op.folder == "sample":
        return patched(parts_of("sample"), SMALL_SAMPLE)
    few = {"top_positions": FEW_SCORES, "attention": {"tiling_for": lambda *_: SMALL_TILES}}
    return nullcontext() if ON_GPU else patched(parts_of(op.folder), few.get(op.folder, {}))


def ran(op: KernelOp, args: Args, fn: Any = None) -> list[Compared]:
    """Call the Triton implementation where nothing unwritten can be right by chance, and compare."""
    given = copied(args)
    with poisoned(), alone(op.api):
        returned = op.call(fn or op.function("triton"), args)
    if op.name in CONTIGUOUS:
        assert all(x.is_contiguous() for _, x in leaves({"result": returned}))
    return op.compare(given, returned, args)


def wrong(op: KernelOp, args: Args) -> list[str]:
    return [one.name for one in ran(op, args) if not one.is_right]


def same_outputs(got: list[tuple[str, torch.Tensor]], want: list[tuple[str, torch.Tensor]]) -> bool:
    """Say whether outputs are the same to the last bit, page 0 excepted, where dead tokens collide."""
    pairs = [(path, x, y) for (path, x), (_, y) in zip(got, want, strict=True)]
    return all(
        exactly(path, x[1:], y[1:]).is_right if path.endswith("_pages") else exactly(path, x, y).is_right
        for path, x, y in pairs
    )


def types_of(op: KernelOp) -> list[torch.dtype]:
    """Return the types to be tried: the interpreter computes bfloat16 wrongly, and moves it rightly."""
    taken = [dtype for dtype in op.dtypes if op.name in ("copy_pages", "settle") or dtype != torch.float64]
    return [dtype for dtype in taken if ON_GPU or op.name == "copy_pages" or dtype != torch.bfloat16]


# attention is compiled for every size: on a GPU, the real ones are enough
TRIED = [(name, dtype) for name, op in OPS.items() for dtype in types_of(op) if name != "attention" or not ON_GPU]


@pytest.mark.parametrize(("name", "dtype"), TRIED)
def test_random_cases_give_what_the_reference_gives(name: str, dtype: torch.dtype) -> None:
    op = OPS[name]

    @settings(max_examples=EXAMPLES.get(name, 40) * (5 if ON_GPU else 1))
    @given(seed=st.integers(0, 10**6))
    def check(seed: int) -> None:
        args = op.make(seed, dtype=dtype, device=DEVICE, **op.random_sizes(random.Random(seed)))
        with patched(parts_of("sample") if op.folder == "sample" else [], {"HEAD": (1, 4, 16)[seed % 3]}):
            assert wrong(op, args) == []

    with small(op):
        check()


@pytest.mark.parametrize("name", EDGES)
def test_sizes_at_the_edge_give_what_the_reference_gives(name: str) -> None:
    op = OPS[name]
    with small(op):
        for sizes in EDGES[name]:
            for seed in range(2):
                args = op.make(seed, dtype=torch.float32, device=DEVICE, **sizes)
                assert wrong(op, args) == [], sizes


@pytest.mark.parametrize("name", OPS)
def test_the_kernel_is_launched(name: str) -> None:
    op, (file, kernel) = OPS[name], KERNELS[name].split(".")
    args = op.make(0, dtype=torch.float32, device=DEVICE, **op.fixed)
    given, module = copied(args), importlib.import_module(f"sparsespec.kernels.{op.folder}.{file}")
    with launched(module, kernel, op.api):
        returned = op.call(op.function("triton"), args)
    assert all(one.is_right for one in op.compare(given, returned, args))


@pytest.mark.parametrize(("name", "mistake"), [(name, mistake) for name, op in OPS.items() for mistake in op.bad])
def test_bad_input_is_named(name: str, mistake: str) -> None:
    op, bad = OPS[name], OPS[name].bad[mistake]
    if "triton" not in bad.impls:
        pytest.skip("kernels cannot see it")
    args = op.make(0, dtype=torch.float32, device=DEVICE, **(op.fixed if bad.sizes is None else bad.sizes))
    before = copied(args)
    with pytest.raises(bad.error, match=bad.message):
        op.call(op.function("triton"), {**changed(args, bad.path, bad.change), **bad.options})
    same = [exactly(path, x, y).is_right for (path, x), (_, y) in zip(leaves(args), leaves(before), strict=True)]
    assert all(same), "nothing is written before the check"


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if any(bad.options for bad in op.bad.values())])
def test_where_checked_what_is_in_range_passes(name: str) -> None:
    op = OPS[name]
    for seed in range(30):
        args = op.make(seed, dtype=torch.float32, device=DEVICE, **op.random_sizes(random.Random(seed)))
        impl = "triton" if seed < 2 else "reference"
        one = copied(args)
        free, checked = op.call(op.function(impl), one), op.call(op.function(impl), {**args, "checked": True})
        assert same_outputs(outputs(op, checked, args), outputs(op, free, one))


@pytest.mark.parametrize("name", OPS)
def test_unknown_and_missing_implementations_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS[name]
    args = op.make(0, dtype=torch.float32, device=DEVICE, **op.fixed)
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        op.call(op.function("tritom"), args)
    monkeypatch.setitem(sys.modules, "triton", None)
    for module in parts_of(op.folder):
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.delattr(module.__name__, raising=False)
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        op.call(op.function("triton"), args)
    assert issubclass(MissingPackage, ImportError)


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, one in FAMILIES.items() for name in (None, *one.mutants)]
)
def test_mutants_run_and_are_caught(
    family: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = FAMILIES[family]
    modules = [importlib.import_module(f"sparsespec.kernels.{one.folder}.{part}") for part in one.parts]
    by_name = dict(zip(one.parts, modules, strict=True))
    mutant = one.mutants[name] if name else None
    changes = [(by_name[part], old, new) for part, old, new in mutant.changes] if mutant else []
    made = mutants(tmp_path, modules, *changes) if mutant else []
    # what is left unwritten must be caught by being wrong, not by the poison it would hold
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch, "empty_like", torch.zeros_like)
    shown: list[bool] = []
    constants = {**one.patch, **(mutant.patch if mutant else {})}
    # as they are, the kernels are tried on a dozen of the rounds
    for tried in one.rounds if name else one.rounds[:12]:
        with patched([*made, *parts_of(one.folder)], constants):
            shown.append(any(is_shown(each, made[-1:], mutant) for each in tried))
        if shown[-1] and not one.every:
            break
    assert (all(shown) if one.every else any(shown)) == bool(name), f"{name}: {shown}"


def is_shown(tried: Any, made: list[ModuleType], mutant: Any) -> bool:
    """Say whether a call by a mutant, or by the kernels as they are, gives something wrong, which is finite."""
    op = OPS[tried.op]
    sizes = {**tried.sizes, **(mutant.sizes if mutant else {})}
    args = op.make(tried.seed, dtype=tried.dtype, device=DEVICE, **sizes)
    given = copied(args)
    with patched([*made, *parts_of(op.folder)], tried.patch), alone(op.api, made[0] if made else None):
        returned = op.call(op.function("triton"), args)
    if op.name == "top_positions":
        length = given["scores"].shape[-1]
        assert ((returned >= 0) & (returned < length)).all(), "a mutant must give positions that a list can hold"
    return not all(each.is_right for each in op.compare(given, returned, args))


REAL = [
    (name, size, dtype) for name, op in OPS.items() for size in op.real for dtype in op.dtypes
    if name != "linear" or dtype != torch.float32 or op.real[size]["m"] <= 256
]  # fmt: skip
SEEDS = {"attention": 6, "copy_pages": 3}
"""Seeds of a real size, 2 of the other ops."""


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "size", "dtype"), REAL)
def test_real_sizes_give_what_the_reference_gives(name: str, size: str, dtype: torch.dtype) -> None:
    op = OPS[name]
    if dtype == torch.float64 and name not in ("copy_pages", "settle"):
        pytest.skip("kernels take no float64")
    for seed in range(SEEDS.get(name, 2)):
        args = op.make(seed, dtype=dtype, device=DEVICE, **op.real[size])
        assert wrong(op, args) == []


HELD: dict[str, list[Sizes]] = {
    "rms_norm": [{"lead": (64,), "width": 4096}],
    "add_rms_norm": [{"lead": (64,), "width": 4096}],
    "silu_mul": [{"lead": (64,), "width": 12288}],
    "linear": [{"m": m, "n": 4096, "k": 4096, "bias": True} for m in (64, 300)],
    "copy_pages": [{"shape": (3, 16, 2, 64)}],
}
"""Sizes of what is recorded, where others than the fixed ones matter."""


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_a_captured_launch_follows_its_inputs(name: str) -> None:
    op = OPS[name]
    dtype = torch.bfloat16 if torch.bfloat16 in op.dtypes else op.dtypes[0]
    for sizes in HELD.get(name, [op.fixed]):
        seeds = (1, 2, 3)
        found = replayed(op, op.function("triton"), sizes, seeds, dtype, DEVICE)
        for seed, (args, compared, replay) in zip(seeds, found, strict=True):
            assert all(one.is_right for one in compared), f"seed {seed}"
            direct = outputs(op, op.call(op.function("triton"), args), args)
            assert same_outputs(replay, direct)
