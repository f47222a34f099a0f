"""Options that several commands take, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsespec.core.loops import LOOPS
from sparsespec.core.spec import PRESETS

PARTS, SAMPLING, OUTPUT = "Composition", "Sampling", "Output"


def _part(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel=PARTS, show_default=False)


def _many(*names: str, help: str, panel: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


def _sampling(help_text: str, *, default: str | None = None) -> Any:
    """Return an option; where it is absent the model's generation_config.json decides, or else `default`."""
    shown = f"the model's generation_config.json, or {default}" if default else True
    return typer.Option(help=help_text, rich_help_panel=SAMPLING, show_default=shown)


Model = Annotated[str, typer.Option("--model", "-m", help="Alias, local folder or hub id.")]
DType = Annotated[str, typer.Option(help="Type of weights and KV; half types may part from dense at near-ties.")]
Preset = Annotated[str, typer.Option("--preset", "-p", help=f"One of {', '.join(PRESETS)}.")]
Selector = Annotated[str | None, _part("What drafts read, like 'pillar(budget=0.05,min_budget=64)'.")]
Proposer = Annotated[str | None, _part("Cheap guesses, like 'ngram'.")]
Length = Annotated[str | None, _part("How far rounds draft, like 'fixed(draft=8)'.")]
Scheduler = Annotated[str | None, _part("Which requests run in a step, like 'staggered'.")]
Tiers = Annotated[str | None, _part("Where KV lives, like 'gpu'.")]
Attention = Annotated[str | None, _part("Attention backend, like 'reference'.")]
Verifier = Annotated[str | None, _part("How drafts are verified, like 'shared-noise'.")]
Loop = Annotated[str | None, _part(f"How late results are collected: {', '.join(LOOPS)}.")]
Temperature = Annotated[float | None, _sampling("0 is greedy.", default="1.0")]
TopP = Annotated[float | None, _sampling("Probability kept.", default="1.0")]
TopK = Annotated[int | None, _sampling("Tokens kept; 0 is off.", default="0")]
MinP = Annotated[float | None, _sampling("Share of the top probability below which tokens are dropped.", default="0")]
Seed = Annotated[int | None, _sampling("64 bits; derived and reported if not given.")]
MaxTokens = Annotated[int, _sampling("New tokens, at most.")]
Stop = Annotated[list[str] | None, _sampling("A string that ends the output; may be repeated.")]
Chat = Annotated[bool, typer.Option(help="Render the prompt with the model's chat template.")]
Models = Annotated[
    list[str] | None, _many("--model", "-m", help="Alias, folder, hub id or tiny; may be repeated. smollm2 if absent.")
]
Presets = Annotated[
    list[str] | None,
    _many("--preset", "-p", help="Like 'sparsespec:selector=window,loop=sync'; all if absent.", panel=PARTS),
]
Specs = Annotated[list[Path] | None, _many("--spec", help="A file *.json with a whole engine spec.", panel=PARTS)]
PromptFiles = Annotated[
    list[Path] | None,
    _many("--prompts", help="JSON lines with a prompt, problem or question; may be repeated. Generated if absent."),
]
Temperatures = Annotated[
    list[float] | None, _many("--temperature", help="0, which is greedy, if absent.", panel=SAMPLING)
]
Seeds = Annotated[list[int] | None, _many("--seed", help="For temperatures above 0; 0 if absent.", panel=SAMPLING)]
MaxNumSeqs = Annotated[
    list[int] | None, _many("--max-num-seqs", help="Requests that run at once; may be repeated. 8 if absent.")
]
Budgets = Annotated[
    list[float] | None,
    _many("--budget", help="Share of the context drafts read, for all selectors with a budget.", panel=PARTS),
]
MinBudgets = Annotated[
    list[int] | None,
    _many("--min-budget", help="Tokens drafts read at least, for all selectors with a min_budget.", panel=PARTS),
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on past the end of a text.", rich_help_panel=SAMPLING)
]
Exact = Annotated[bool, typer.Option("--exact", help="Make all engines exact, the dense ones too, on a GPU.")]
Rows = Annotated[
    Path | None,
    typer.Option("--out", "-o", rich_help_panel=OUTPUT, help="Append rows to a file as JSON lines, as they come."),
]
Plot = Annotated[Path | None, typer.Option("--plot", rich_help_panel=OUTPUT, help="Draw a file *.svg.")]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="JSON instead of text.")]
