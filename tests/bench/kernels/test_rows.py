"""`--read`: the table again, from what `--out` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.kernels import __main__ as kernels
from bench.kernels.rows import read
from sparsespec.core.errors import BadOption
from tests.bench.kernels.results import header, peer, row, written


def medians(path: Path) -> dict[str, float]:
    return {row["case"]: row["micros"]["p50"] for _, row in read(path)}


def test_the_newest_row_of_a_case_wins(tmp_path: Path) -> None:
    path = written(tmp_path, header(), row(p50=1), row("verify", 2), header(), row(p50=3), row("sparse", 4))
    assert medians(path) == {"decode": 3, "verify": 2, "sparse": 4}


def test_newest_is_by_date_before_it_is_by_line(tmp_path: Path) -> None:
    path = written(tmp_path, header("2026-11-23"), row(p50=1), header("2026-11-22"), row(p50=2))
    assert medians(path) == {"decode": 1}


def test_a_row_keeps_the_header_above_it(tmp_path: Path) -> None:
    path = written(tmp_path, header(device="old"), row("verify"), row(), header(device="new"), row())
    assert {row["case"]: above["device"] for above, row in read(path)} == {"verify": "old", "decode": "new"}


def test_the_table_shows_all_kinds_of_rows_and_each_origin_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = {"peers": {"fa2": peer(50.0)}, "peers_failed": {"fa3": "Error: no\nsuch"}, "bars": ["MISSES 94%"]}
    key = {"kind": "row", "model": "smollm2-135m", "op": "sample"}
    red, skipped = {**key, "case": "a", "red": "out errs by 1"}, {**key, "case": "b", "skipped": "needs triton"}
    plain = {**key, "case": "c", "micros": peer(7.0)}
    path = written(tmp_path, header(load=1), row(**beside), red, header(load=2), skipped, header(device="CPU"), plain)
    assert kernels.main(["--read", str(path)]) == 0
    origin, other, _, *lines = capsys.readouterr().out.splitlines()
    assert ("device=a GPU" in origin, "device=CPU" in other) == (True, True)
    assert lines[0].endswith("50.0%  fa2 50.0 µs (2.00 ×), fa3 was not timed (Error: no such), MISSES 94%")
    assert [line.split(maxsplit=3)[3] for line in lines[1:3]] == [
        "RED, not timed: out errs by 1",
        "skipped: needs triton",
    ]
    assert lines[3].split() == ["smollm2-135m", "sample", "c", "7.0", "7.0", "7.0", "—"]


def test_options_choose_among_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, header(), row("decode"), row("verify"))
    kernels.main(["--read", str(path), "--case", "ver", "--op", "attention", "--model", "qwen3-8b"])
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[2:]] == ["verify"]
    with pytest.raises(BadOption, match=r"^no case fits --op 'sample'; have cases of qwen3-8b attention$"):
        kernels.main(["--read", str(path), "--op", "sample"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no rows"),
        (json.dumps(header()), "has no rows"),
        ("prose", "line 1"),
        ("[1]", "line 1"),
        (json.dumps({"kind": "header"}), "line 1"),
        (json.dumps(row()), "line 1"),
        (json.dumps(header()) + "\n" + json.dumps({"kind": "row", "preset": "dense"}), "line 2"),
        (json.dumps(header()) + "\n" + json.dumps(row(micros={"p50": 1.0})), "line 2"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "other"
    path.write_text(text, "utf-8")
    with pytest.raises(BadOption, match=rf"^--read takes a file that --out of bench.kernels wrote; .*{why}$"):
        read(path)


def test_a_missing_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="none.jsonl cannot be read: No such file or directory$"):
        read(tmp_path / "none.jsonl")


@pytest.mark.parametrize("option", [["--out", "a.jsonl"], ["--kernel", "a:b"]])
def test_reading_goes_with_nothing_that_measures(option: list[str]) -> None:
    with pytest.raises(BadOption, match="leave out --out and --kernel$"):
        kernels.main(["--read", "results.jsonl", *option])
