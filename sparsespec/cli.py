"""The command line: reads arguments, and turns every outcome into an exit code.

0: done. 1: outputs part from dense decoding, or a request broke off. 2: the caller's mistake, one sentence on stderr.
130: interrupted. 141: whoever read our output has gone. What a command does is in `cli_generate.py`, imported when it
runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sparsespec import __version__
from sparsespec.core.errors import BadRequest, SparseSpecError
from sparsespec.core.spec import LOOPS, PRESETS

# Typer brings a click of its own and exports the subclasses only.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

PARTS, SAMPLING, OUTPUT = "Composition", "Sampling", "Output"

app = typer.Typer(
    name="sparsespec",
    help="Lossless self-speculative decoding with sparse attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _part(help_text: str) -> typer.models.OptionInfo:
    return typer.Option(help=help_text, rich_help_panel=PARTS, show_default=False)


def _wish(help_text: str) -> typer.models.OptionInfo:
    return typer.Option(help=help_text, rich_help_panel=SAMPLING)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Lossless self-speculative decoding with sparse attention."""


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to go on from; '-', or none at all, reads stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Alias, local folder or hub id.")] = "smollm2",
    dtype: Annotated[
        str, typer.Option(help="Type of weights and KV; half types may part from dense at near-ties.")
    ] = "float32",
    preset: Annotated[str, typer.Option("--preset", "-p", help=f"One of {', '.join(PRESETS)}.")] = "sparsespec",
    selector: Annotated[str | None, _part("What drafts read, like 'pillar(budget=0.05,min_budget=64)'.")] = None,
    proposer: Annotated[str | None, _part("Cheap guesses, like 'ngram'.")] = None,
    length: Annotated[str | None, _part("How far rounds draft, like 'fixed(draft=8)'.")] = None,
    scheduler: Annotated[str | None, _part("Who runs when, like 'staggered'.")] = None,
    tiers: Annotated[str | None, _part("Where KV lives, like 'gpu'.")] = None,
    attention: Annotated[str | None, _part("Attention backend, like 'reference'.")] = None,
    verifier: Annotated[str | None, _part("How drafts are judged, like 'shared-noise'.")] = None,
    loop: Annotated[str | None, _part(f"How late the host hears: {', '.join(LOOPS)}.")] = None,
    temperature: Annotated[float, _wish("0 is greedy.")] = 0.0,
    top_p: Annotated[float, _wish("Probability kept.")] = 1.0,
    top_k: Annotated[int, _wish("Tokens kept; 0 is off.")] = 0,
    min_p: Annotated[float, _wish("Share of the top probability below which tokens go.")] = 0.0,
    seed: Annotated[int | None, _wish("64 bits; one is made up and reported if not given.")] = None,
    n: Annotated[int, _wish("Samples.")] = 1,
    max_tokens: Annotated[int, _wish("New tokens, at most.")] = 256,
    stop: Annotated[list[str] | None, _wish("A string that ends the output; may be repeated.")] = None,
    chat: Annotated[bool, typer.Option(help="Render the prompt with the model's chat template.")] = True,
    json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="One JSON object.")] = False,
    check: Annotated[
        bool, typer.Option("--check", rich_help_panel=OUTPUT, help="Compare with dense decoding.")
    ] = False,
) -> None:
    """Decode a prompt and say what speculation did."""
    parts = dict(selector=selector, proposer=proposer, length=length, scheduler=scheduler, tiers=tiers)
    parts |= dict(attention=attention, verifier=verifier, loop=loop)
    sampling = dict(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed, n=n)
    sampling |= dict(max_tokens=max_tokens, stop=tuple(stop or ()))
    text = _prompt(prompt, file)
    from sparsespec.cli_generate import Job, run

    changes = {shelf: part for shelf, part in parts.items() if part is not None}
    job = Job(text, chat, model, dtype, preset, changes, sampling, as_json=json, check=check)
    try:
        code = run(job)
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still buffered would raise again when the interpreter closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    raise typer.Exit(code)


def _prompt(prompt: str | None, file: Path | None) -> str:
    """Return the prompt from wherever it comes."""
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


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        # without standalone mode, Ctrl-C and typer.Exit arrive here as an exit code
        code = app(args=list(sys.argv[1:] if args is None else args), standalone_mode=False)
    except SparseSpecError as error:
        return _complain(str(error))
    except UsageError as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        typer.echo("interrupted", err=True)
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


def main() -> NoReturn:
    """Console entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
