from __future__ import annotations

import math

import pytest
import torch

from sparsespec.testing.tolerance import FLOOR, TIMES, allowed, error, errors, log_error


def test_an_error_is_a_share_of_its_vector() -> None:
    want = torch.tensor([[100.0, 0.0], [0.0, 200.0]])
    got = want + torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert error(got, want) == pytest.approx(errors(got, want)[0].item())
    # the second vector is twice as large, and the first is measured by what is usual
    assert errors(got, want)[1].item() == pytest.approx(1 / 200)
    assert errors(got, want)[0].item() == pytest.approx(1 / math.sqrt(25000))


def test_a_vector_that_cancels_is_measured_by_what_is_usual() -> None:
    want = torch.tensor([[1.0, 1.0]] * 9 + [[1e-9, 0.0]])
    assert error(want + 1e-9, want) < 2e-9


def test_nan_must_meet_nan() -> None:
    want = torch.tensor([[1.0, torch.nan]])
    assert error(want, want) == 0
    assert error(torch.tensor([[torch.nan, torch.nan]]), want) == math.inf
    assert error(torch.tensor([[1.0, 1.0]]), want) == math.inf
    assert log_error(torch.tensor([torch.nan]), torch.tensor([1.0])) == math.inf


def test_zero_must_be_zero() -> None:
    assert error(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert error(torch.full((2, 3), 1e-30), torch.zeros(2, 3)) > 1e6


def test_empty_tensors_are_right() -> None:
    assert error(torch.zeros(0, 3), torch.zeros(0, 3)) == log_error(torch.zeros(0), torch.zeros(0)) == 0


@pytest.mark.parametrize("dtype", TIMES)
def test_what_is_allowed_grows_with_what_the_reference_errs(dtype: torch.dtype) -> None:
    assert allowed(dtype, 0.0) == FLOOR[dtype]
    assert allowed(dtype, 0.1) == pytest.approx(TIMES[dtype] * 0.1 + FLOOR[dtype])
