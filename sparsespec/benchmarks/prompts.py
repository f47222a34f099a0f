"""Prompts of benchmarks: random tokens, or real text that is cut to length."""

from __future__ import annotations

import importlib
import inspect
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from sparsespec.core.errors import BadOption
from sparsespec.models.tokenizer import Tokenizer

Prompts = Callable[[Sequence[int]], Iterator[list[int]]]
"""Makes a prompt of each length, always the same ones for the same lengths."""
# Modules whose sources are mostly prose: the text that is at hand on every machine.
PROSE = (
    "argparse",
    "decimal",
    "difflib",
    "doctest",
    "fractions",
    "heapq",
    "random",
    "statistics",
    "textwrap",
    "typing",
)
PIECE = 4000
"""Characters of text that are tokenised at once."""
QUESTIONS = (
    "Find the remainder when 2^100 is divided by 7.",
    "How many ways are there to place 8 rooks on a chessboard so that no two attack each other?",
    "Let x and y be positive numbers with x + y = 10. Find the largest possible value of x^2 * y.",
    "A fair die is rolled four times. What is the probability that the four numbers increase strictly?",
    "Find all integers n such that n^2 + 3n + 5 is divisible by 121.",
    "The sides of a triangle are 13, 14 and 15. Find the radius of its inscribed circle.",
    "Prove that the square root of 2 is irrational.",
    "What is the sum of the first 50 odd numbers? Show each step.",
    "In how many zeros does 1000! end?",
    "A train travels 180 km in 2.5 hours. Find its mean speed in metres per second.",
)


def problems(path: Path | None) -> list[tuple[str, str]]:
    """Return (question, solution) pairs of a JSONL file; without one, the questions above and no solutions.

    The question is in the field `question` or `problem`, the solution in `solution` or `answer`.
    """
    if path is None:
        return [(question, "") for question in QUESTIONS]
    found: list[tuple[str, str]] = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        solution = row.get("solution") or row.get("answer") or ""
        found.append(
            (row.get("problem") or row["question"], solution if isinstance(solution, str) else "\n".join(solution))
        )
    return found


def prose(path: Path | None, skip: int) -> Iterator[str]:
    """Yield pieces of real text: solved problems from the `skip`-th on, or the standard library's own documentation."""
    if path is not None:
        yield from (f"{question}\n\n{solution}\n\n" for question, solution in problems(path)[skip:])
        return
    for name in PROSE:
        source = inspect.getsource(importlib.import_module(name))
        yield from (source[at : at + PIECE] for at in range(0, len(source), PIECE))


def prompts_for(vocab: int, tokenizer: Tokenizer | None, path: Path | None, seed: int) -> Prompts:
    """Return what makes prompts: of text where there is a tokenizer, else of random tokens."""
    if tokenizer is None:
        return partial(random_prompts, vocab, seed=seed)
    return partial(text_prompts, tokenizer, path, seed=seed)


def random_prompts(vocab: int, lengths: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Yield a prompt of random tokens of each length."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        yield torch.randint(vocab, (length,), generator=generator).tolist()


def text_prompts(tokenizer: Tokenizer, path: Path | None, lengths: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Yield a prompt of each length: pieces of the text, in an order of its own and again if they are too few."""
    pieces = [tokens for piece in pieces_of(path) if (tokens := tokenizer.encode(piece))]
    for number, length in enumerate(lengths):
        order = random.Random(f"{seed} {number}")
        prompt: list[int] = []
        while len(prompt) < length:
            for piece in order.sample(pieces, len(pieces)):
                prompt += piece
                if len(prompt) >= length:
                    break
        yield prompt[:length]


def pieces_of(path: Path | None) -> list[str]:
    """Return the pieces of a text: problems of a JSONL file, paragraphs of another, or what every machine has.

    Raises:
        BadOption: if the file cannot be read or holds no text.
    """
    try:
        if path is None or path.suffix == ".jsonl":
            found = [piece for piece in prose(path, 0) if piece.strip()]
        else:
            found = [piece + "\n\n" for piece in path.read_text("utf-8").split("\n\n") if piece.strip()]
    except OSError as error:
        raise BadOption(f"--prompts {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadOption(
            "--prompts takes UTF-8 text, or JSON lines with problem or question, and solution; "
            f"{path} holds something else"
        ) from error
    if not found:
        raise BadOption(f"--prompts takes a file with text, and {path} has none")
    return found
