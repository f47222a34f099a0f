"""Where prompts come from: files, lists, and what is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsespec.comparison.prompts import generated_prompts, prompt_sets, read_prompts
from sparsespec.core.errors import BadRequest


def test_a_line_has_its_text_in_one_of_three_fields(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": 3, "problem": "one"}, {"question": "two", "answer": "2"}, {"prompt": "three", "problem": "no"}]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    assert read_prompts(path) == ["one", "two", "three"]
    assert prompt_sets(path, 2) == {"problems": ("one", "two")}
    assert prompt_sets({"all": path, "own": [[1, 2]]}, None) == {"all": ("one", "two", "three"), "own": ([1, 2],)}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "has no prompts"),
        ("\n \n", "has no prompts"),
        ('{"problem": "one"}\n{', "line 2"),
        ('{"text": "one"}', "prompt, problem, question"),
        ('["one"]', "line 1"),
        ('{"prompt": 3}', "line 1"),
        ('{"prompt": " "}', "line 1"),
    ],
)
def test_a_file_without_prompts_says_what_a_line_is(text: str, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(BadRequest, match=fragment):
        read_prompts(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes", tmp_path / "nothing"):
        with pytest.raises(BadRequest, match="give a file of JSON lines in UTF-8"):
            read_prompts(path)


def test_made_up_prompts_are_the_same_every_time_and_differ_from_one_another() -> None:
    texts = generated_prompts(12, None, 100)
    assert texts == generated_prompts(12, None, 100)
    assert len({str(text) for text in texts}) == 12
    lists = generated_prompts(5, 61, 200)
    assert lists == generated_prompts(5, 61, 200)
    assert all(0 <= token < 61 for tokens in lists for token in tokens)  # type: ignore[operator]
    assert [len(tokens) for tokens in generated_prompts(3, 61, 10)] == [10] * 3
    # half of what is there has been there before, one motif earlier
    tokens = list(lists[0])
    assert sum(a == b for a, b in zip(tokens, tokens[24:], strict=False)) > len(tokens) // 3
