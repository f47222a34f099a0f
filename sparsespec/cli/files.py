"""Files that commands read and write, checked before anything takes long."""

from __future__ import annotations

import sys
from pathlib import Path

from sparsespec.core.errors import BadOption, BadRequest


def text_of(prompt: str | None, file: Path | None) -> str:
    """Return the prompt from wherever it comes; raises `BadRequest`."""
    if prompt is not None and file is not None:
        raise BadRequest("the prompt is given twice; give an argument or --file, not both")
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"cannot read {file} ({type(error).__name__}); give a text file in UTF-8") from None
    elif prompt is None or prompt == "-":
        if sys.stdin.isatty():
            raise BadRequest("there is no prompt; give it as an argument, with --file, or on stdin")
        text = sys.stdin.read()
    else:
        text = prompt
    if not text.strip():
        raise BadRequest("the prompt is empty; give at least one word")
    return text


def check_writable(out: Path) -> None:
    """Raise `BadOption` for a file that cannot be written; leaves none behind."""
    try:
        there = out.exists()
        out.open("a").close()
        if not there:
            out.unlink()
    except OSError as error:
        raise BadOption(
            f"{out} cannot be written ({error.strerror}); give a file in a folder that exists and is yours"
        ) from None
