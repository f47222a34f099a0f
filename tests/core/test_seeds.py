from __future__ import annotations

import subprocess
import sys

import pytest

from sparsespec.core.seeds import derive_seed, philox

# Known answers published with Random123 (kat_vectors, philox4x32 10).
KNOWN = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN)
def test_philox_gives_the_published_answers(key: tuple, counter: tuple, words: tuple) -> None:
    assert philox(key, counter) == words


def test_derived_seeds_are_distinct_fit_int64_and_never_change() -> None:
    seeds = [derive_seed(engine, number) for engine in (0, 1, 2**63 + 5, -1) for number in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 0) == derive_seed(2**64, 2**64)
    assert [derive_seed(0, 0), derive_seed(7, 3)] == [9015641781329192826, 2540973706764314071]


def test_seeds_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import sparsespec.core.seeds"
    subprocess.run([sys.executable, "-c", code], check=True)
