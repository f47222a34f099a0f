"""What holds for the reference of every op, over the cases of `sparsespec.testing.op_cases`."""

from __future__ import annotations

import random

import pytest
import torch

from sparsespec.core.errors import UnknownName
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.bundles import changed, leaves

OPS = kernel_ops()
BAD = [(name, mistake) for name, op in OPS.items() for mistake, bad in op.bad.items() if "reference" in bad.impls]


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_right_by_its_own_judgement(name: str) -> None:
    op = OPS[name]
    for seed in range(8):
        for dtype in op.dtypes:
            args = op.make(seed, dtype=dtype, device="cpu", **op.random_sizes(random.Random(seed)))
            assert op.wrong(op.function("reference"), args) == []


@pytest.mark.parametrize("name", OPS)
def test_fixed_sizes_give_the_same_shapes_whatever_the_seed(name: str) -> None:
    op = OPS[name]
    found = [
        {path: (x.shape, x.dtype) for path, x in leaves(op.make(seed, dtype=op.dtypes[0], device="cpu", **op.fixed))}
        for seed in range(3)
    ]
    assert found[0] and found[0] == found[1] == found[2]


@pytest.mark.parametrize(("name", "mistake"), BAD)
def test_bad_input_is_named(name: str, mistake: str) -> None:
    op, bad = OPS[name], OPS[name].bad[mistake]
    args = op.make(0, dtype=torch.float32, device="cpu", **(op.fixed if bad.sizes is None else bad.sizes))
    before = {path: x.clone() for path, x in leaves(args)}
    with pytest.raises(bad.error, match=bad.message):
        op.call(op.function("reference"), {**changed(args, bad.path, bad.change), **bad.options})
    same = [torch.equal(x.nan_to_num(), before[path].nan_to_num()) for path, x in leaves(args)]
    assert all(same), "nothing is written before the check"


@pytest.mark.parametrize("name", OPS)
def test_an_unknown_implementation_is_named(name: str) -> None:
    op = OPS[name]
    args = op.make(0, dtype=op.dtypes[0], device="cpu", **op.fixed)
    with pytest.raises(
        UnknownName, match=f"unknown implementation of {op.folder} 'refernce'; did you mean 'reference'"
    ):
        op.call(op.function("refernce"), args)
