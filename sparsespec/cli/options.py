"""Options that several commands take, spelled once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparsespec.core.spec import LOOPS, PRESETS

PARTS, SAMPLING, OUTPUT = "Composition", "Sampling", "Output"


def _part(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel=PARTS, show_default=False)


def _wish(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel=SAMPLING)


Model = Annotated[str, typer.Option("--model", "-m", help="Alias, local folder or hub id.")]
DType = Annotated[str, typer.Option(help="Type of weights and KV; half types may part from dense at near-ties.")]
Preset = Annotated[str, typer.Option("--preset", "-p", help=f"One of {', '.join(PRESETS)}.")]
Selector = Annotated[str | None, _part("What drafts read, like 'pillar(budget=0.05,min_budget=64)'.")]
Proposer = Annotated[str | None, _part("Cheap guesses, like 'ngram'.")]
Length = Annotated[str | None, _part("How far rounds draft, like 'fixed(draft=8)'.")]
Scheduler = Annotated[str | None, _part("Who runs when, like 'staggered'.")]
Tiers = Annotated[str | None, _part("Where KV lives, like 'gpu'.")]
Attention = Annotated[str | None, _part("Attention backend, like 'reference'.")]
Verifier = Annotated[str | None, _part("How drafts are judged, like 'shared-noise'.")]
Loop = Annotated[str | None, _part(f"How late the host hears: {', '.join(LOOPS)}.")]
Temperature = Annotated[float, _wish("0 is greedy.")]
TopP = Annotated[float, _wish("Probability kept.")]
TopK = Annotated[int, _wish("Tokens kept; 0 is off.")]
MinP = Annotated[float, _wish("Share of the top probability below which tokens go.")]
Seed = Annotated[int | None, _wish("64 bits; one is made up and reported if not given.")]
MaxTokens = Annotated[int, _wish("New tokens, at most.")]
Stop = Annotated[list[str] | None, _wish("A string that ends the output; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="JSON instead of words.")]
