from __future__ import annotations

import pytest

from sparsespec.core import errors


def test_an_unknown_name_lists_what_exists_and_the_near_miss() -> None:
    message = str(errors.unknown("selector", "pilar", ["window", "pillar", "full"]))
    assert message == ("unknown selector 'pilar'; did you mean 'pillar'? have: full, pillar, window")


def test_an_unknown_name_without_a_near_miss_still_lists_what_exists() -> None:
    assert str(errors.unknown("loop", "zzz", ["sync"])) == "unknown loop 'zzz'; have: sync"
    assert str(errors.unknown("loop", "zzz", [])).endswith("have: none")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.UnknownName, LookupError),
        (errors.BadOption, ValueError),
        (errors.BadRequest, ValueError),
        (errors.BadModel, ValueError),
        (errors.MissingPackage, ImportError),
        (errors.EngineClosed, RuntimeError),
        (errors.NotLossless, RuntimeError),
    ],
)
def test_a_callers_mistake_is_also_the_builtin_kind(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, errors.SparseSpecError)
    assert issubclass(error, builtin)


def test_a_broken_contract_cannot_be_caught_as_a_callers_mistake() -> None:
    assert not issubclass(errors.ContractBroken, errors.SparseSpecError)
    assert issubclass(errors.ContractBroken, AssertionError)
