"""Dense decoding at batch 1 against transformers' generate: same weights, same threads, interleaved runs, medians.

    python -m bench.dense_cpu [--profile]

Both sides fill the prompt and emit the same number of tokens, past any end-of-sequence token. Tokens are compared
first: where they differ there is nothing to time. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sparsespec.benchmarks.prompts import prose
from sparsespec.benchmarks.report import Parser, Report, count, exit_with, machine
from sparsespec.core.params import SamplingParams
from sparsespec.llm import LLM, load_model
from sparsespec.models.catalog import resolve
from sparsespec.models.tokenizer import Tokenizer

MODEL = "smollm2"
Decode = Callable[[int], tuple[int, ...]]
"""Decodes the prompt and returns that many new tokens."""


def ours(llm: LLM, prompt: list[int]) -> Decode:
    def decode(n: int) -> tuple[int, ...]:
        params = SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True)
        return llm.generate(prompt, params)[0].outputs[0].token_ids

    return decode


def theirs(folder: Path, prompt: list[int]) -> Decode:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])

    def decode(n: int) -> tuple[int, ...]:
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=n, pad_token_id=0)
        return tuple(out[0, len(prompt) :].tolist())

    return decode


def seconds(decode: Decode, n: int) -> float:
    start = time.perf_counter()
    assert len(decode(n)) == n
    return time.perf_counter() - start


def measure(sides: dict[str, Decode], n: int, runs: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds for the whole and for the first token alone, the sides taking turns."""
    taken = {side: {"whole": [], "first": []} for side in sides}
    for run in range(runs):
        for side, decode in sides.items():
            taken[side]["whole"].append(seconds(decode, n))
            taken[side]["first"].append(seconds(decode, 1))
            print(f"run {run}: {side:13} {n / taken[side]['whole'][-1]:6.2f} tokens/s", flush=True)
    return taken


def summary(taken: dict[str, list[float]], n: int) -> dict[str, float]:
    whole, first = statistics.median(taken["whole"]), statistics.median(taken["first"])
    return {
        "tokens_per_second": n / whole,
        "decode_tokens_per_second": (n - 1) / (whole - first),
        "seconds": whole,
        "seconds_first_token": first,
        "spread": (max(taken["whole"]) - min(taken["whole"])) / whole,
    }


def profile(decode: Decode, n: int) -> None:
    """Print where the time of `n` tokens goes: Python functions by own time, then torch operators."""
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.enable()
    decode(n)
    profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(25)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        decode(n)
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=32))


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="bench.dense_cpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompt", type=count, default=200, help="tokens")
    parser.add_argument("--tokens", type=count, default=256, help="new tokens")
    parser.add_argument("--runs", type=count, default=3)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="say where our time goes, and compare nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    folder = resolve(MODEL)
    model, tokenizer = load_model(folder, "float32")
    assert tokenizer is not None
    prompt = _prompt(tokenizer, args.prompt)
    header = {"bench": "dense_cpu", "model": MODEL, "dtype": "float32", "prompt": args.prompt, "tokens": args.tokens}
    Report(None, **header, **machine())
    with LLM(model, "dense", tokenizer=tokenizer, max_num_seqs=1, max_model_len=args.prompt + args.tokens) as llm:
        sides = {"sparsespec": ours(llm, prompt)}
        if args.profile:
            profile(sides["sparsespec"], min(32, args.tokens))
            return 0
        sides["transformers"] = theirs(folder, prompt)
        first = {side: decode(min(32, args.tokens)) for side, decode in sides.items()}  # also warms up
        if first["sparsespec"] != first["transformers"]:
            print("the two emit different tokens; run bench.lossless before timing anything")
            return 1
        taken = measure(sides, args.tokens, args.runs)
    result = {side: summary(t, args.tokens) for side, t in taken.items()}
    ratio = result["sparsespec"]["tokens_per_second"] / result["transformers"]["tokens_per_second"]
    print(f"sparsespec ÷ transformers: {ratio:.2f}")
    print(json.dumps(header | machine() | {"runs": args.runs, "ratio": ratio, "sides": result}))
    return 0


def _prompt(tokenizer: Tokenizer, n: int) -> list[int]:
    return tokenizer.encode(next(prose(None, 0)))[:n]


if __name__ == "__main__":
    exit_with(main)
