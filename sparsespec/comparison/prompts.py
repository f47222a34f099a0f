"""The prompts of a comparison: problems of a file, lists, or generated ones; the same tokens for every composition."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from sparsespec.core.errors import BadModel, BadRequest, brief, show
from sparsespec.engine.validation import tokens_of
from sparsespec.models.tokenizer import Tokenizer

Prompt: TypeAlias = str | Sequence[int]
Prompts: TypeAlias = Path | Sequence[Prompt]
Tokens: TypeAlias = tuple[int, ...]

GENERATED = "generated"
N_GENERATED = 8
FIELDS = ("prompt", "problem", "question")
"""Where a line of a file has its text; the first that is there."""
MOTIF, REPEAT = 24, 0.8
"""Made-up prompts without words repeat so many tokens, and this share of the repeated ones is unchanged."""
_TASKS = (
    "A shop sells pens at {a} cents and books at {b} cents. What do {c} pens and {d} books cost? Show each step.",
    "List the multiples of {a} from {b} on, {c} of them, each with its sum of digits.",
    "A train covers {a} km in {c} hours and then {b} km in {d} hours. What is its mean speed? Show each step.",
    "Write {c} sentences about a farm with {a} hens and {b} sheep, each of which names both numbers.",
    "Compute {a} times {b}, digit by digit, and check the result by dividing it by {c} and by {d}.",
)


def prompt_sets(prompts: Prompts | Mapping[str, Prompts] | None, n: int | None) -> dict[str, tuple[Prompt, ...] | int]:
    """Return the first `n` prompts of each set by its name; a number is of prompts to be generated.

    Args:
        prompts: A file of JSON lines, a list of texts and token ids, either of them by name, or None to generate them.
        n: Prompts of each set; None is all there are, or 8 generated ones.

    Raises:
        BadRequest: if a file cannot be read, or a set has no prompt or fewer than `n`.
    """
    if n is not None and (type(n) is not int or n < 1):
        raise BadRequest(f"n is a number of prompts, 1 or more, got {show(n)}")
    if prompts is None:
        return {GENERATED: n or N_GENERATED}
    named = dict(prompts) if isinstance(prompts, Mapping) else {_name(prompts): prompts}
    return {name: _first(name, _listed(found), n) for name, found in named.items()}


def encode(
    prompts: Sequence[Prompt] | int, tokenizer: Tokenizer | None, *, vocab: int, room: int, chat: bool
) -> list[Tokens]:
    """Return the token ids of a set for one model.

    Args:
        prompts: Texts and token ids, or how many to generate.
        tokenizer: The model's; without one, texts are refused, and what is generated has no words.
        vocab: Tokens the model knows.
        room: Tokens a prompt may have at most.
        chat: Whether texts are rendered as a user's turn by the model's chat template.

    Raises:
        BadRequest: for texts without a tokenizer, tokens that are none, and prompts that leave no room for the output.
        BadModel: if there is no chat template.
    """
    if isinstance(prompts, int):
        prompts = generated_prompts(prompts, None if tokenizer else vocab, room)
    found = [_encoded(prompt, tokenizer, vocab, chat=chat) for prompt in prompts]
    for i, tokens in enumerate(found):
        if len(tokens) > room:
            raise BadRequest(
                f"prompt {i} has {len(tokens)} tokens and the model has room for {room} beside its output; "
                "leave it out, or lower max_tokens"
            )
    return found


def generated_prompts(n: int, vocab: int | None, room: int) -> list[Prompt]:
    """Return `n` small tasks in words or, for a model of `vocab` tokens without words, lists that repeat themselves."""
    prompts: list[Prompt] = []
    for i in range(n):
        dice = random.Random(i)
        if vocab is None:
            numbers = {"a": dice.randint(12, 98), "b": dice.randint(12, 98), "d": dice.randint(12, 98)}
            prompts.append(_TASKS[i % len(_TASKS)].format(c=dice.randint(3, 9), **numbers))
        else:
            motif = [dice.randrange(vocab) for _ in range(MOTIF)]
            tokens = (motif * (room // MOTIF + 1))[: max(1, min(room, 6 * MOTIF + dice.randrange(MOTIF)))]
            prompts.append([token if dice.random() < REPEAT else dice.randrange(vocab) for token in tokens])
    return prompts


def read_prompts(path: Path) -> list[str]:
    """Return the texts of a file of JSON lines, each in `prompt`, `problem` or `question`; raises `BadRequest`."""
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {path} ({type(error).__name__}); give a file of JSON lines in UTF-8") from None
    if not lines:
        raise BadRequest(f"{path} has no prompts; give a file with a JSON object a line, like {{'prompt': 'a text'}}")
    return [_text(path, number, line) for number, line in enumerate(lines, 1)]


def _text(path: Path, number: int, line: str) -> str:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    texts = [row[name] for name in FIELDS if name in row] if isinstance(row, dict) else []
    if not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise BadRequest(
            f"line {number} of {path} has no prompt; a line is a JSON object with a text as one of: "
            f"{', '.join(FIELDS)}; got {brief(line)}"
        )
    return texts[0]


def _name(prompts: Prompts) -> str:
    return prompts.stem if isinstance(prompts, Path) else "prompts"


def _listed(prompts: object) -> list[Prompt]:
    if isinstance(prompts, Path):
        return list(read_prompts(prompts))
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise BadRequest(
            f"prompts are a Path to a file of JSON lines, or a list of texts and token ids, got {show(prompts)}"
        )
    return list(cast("Sequence[Prompt]", prompts))


def _first(name: str, prompts: Sequence[Prompt], n: int | None) -> tuple[Prompt, ...]:
    if len(prompts) < (n or 1):
        raise BadRequest(f"{name} has {len(prompts)} of {n or 1} prompts that are wanted; give more, or a smaller n")
    return tuple(prompts[:n])


def _encoded(prompt: Prompt, tokenizer: Tokenizer | None, vocab: int, *, chat: bool) -> Tokens:
    if not isinstance(prompt, str):
        return tokens_of(prompt, vocab)
    if tokenizer is None:
        raise BadRequest("this model came without a tokenizer; give prompts of token ids, or none, for generated ones")
    if not chat:
        return tuple(tokenizer.encode(prompt))
    try:
        return tuple(tokenizer.encode_chat([{"role": "user", "content": prompt}]))
    except BadModel as error:
        raise BadModel(f"{error}, with chat=False or --no-chat") from error
