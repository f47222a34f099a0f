"""The command line: reads arguments, and turns every outcome into an exit code.

0: done. 1: outputs part from dense decoding, a request broke off, or something does not work. 2: the caller's mistake,
one sentence on stderr. 130: interrupted. 141: the reader of stdout has gone. What a command does is in the module of
its name, imported when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sparsespec import __version__
from sparsespec.cli import options as o
from sparsespec.core.errors import BadRequest, SparseSpecError
from sparsespec.core.spec import SHELVES
from sparsespec.core.vllm_names import sentence_for

# Typer brings a click of its own and exports the subclasses only.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="sparsespec",
    help="Lossless self-speculative decoding with sparse attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="List models, fetch them, remove them.", invoke_without_command=True)
app.add_typer(models_app, name="models")


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
    model: o.Model = "smollm2",
    dtype: o.DType = "float32",
    preset: o.Preset = "sparsespec",
    selector: o.Selector = None,
    proposer: o.Proposer = None,
    length: o.Length = None,
    scheduler: o.Scheduler = None,
    tiers: o.Tiers = None,
    attention: o.Attention = None,
    verifier: o.Verifier = None,
    loop: o.Loop = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    top_k: o.TopK = None,
    min_p: o.MinP = None,
    seed: o.Seed = None,
    n: Annotated[int, typer.Option(help="Samples.", rich_help_panel=o.SAMPLING)] = 1,
    max_tokens: o.MaxTokens = 256,
    stop: o.Stop = None,
    chat: o.Chat = True,
    json: o.AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", rich_help_panel=o.OUTPUT, help="Compare with dense decoding.")
    ] = False,
) -> None:
    """Decode a prompt and say what speculation did."""
    given = dict(locals())
    from sparsespec.cli.files import text_of

    text = text_of(prompt, file)
    from sparsespec.cli.generate import GenerateArgs, run

    _end(lambda: run(GenerateArgs(text, chat, _composition(given), {**_sampling(given), "n": n}, json, check)))


@app.command()
def chat(
    model: o.Model = "smollm2",
    dtype: o.DType = "float32",
    preset: o.Preset = "sparsespec",
    selector: o.Selector = None,
    proposer: o.Proposer = None,
    length: o.Length = None,
    scheduler: o.Scheduler = None,
    tiers: o.Tiers = None,
    attention: o.Attention = None,
    verifier: o.Verifier = None,
    loop: o.Loop = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    top_k: o.TopK = None,
    min_p: o.MinP = None,
    seed: o.Seed = None,
    max_tokens: o.MaxTokens = 256,
    stop: o.Stop = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_model_len: Annotated[int, typer.Option(help="Tokens a conversation may hold, at most.")] = 4096,
    json: o.AsJson = False,
) -> None:
    """Talk with a model; a line is a turn, and stdin may be a pipe."""
    given = dict(locals())
    from sparsespec.cli.chat import ChatArgs, run

    _end(lambda: run(ChatArgs(_composition(given), _sampling(given), system, max_model_len, json)))


@app.command()
def plugins(
    shelf: Annotated[str | None, typer.Argument(help=f"One of {', '.join(SHELVES)}, presets; all if absent.")] = None,
    json: o.AsJson = False,
) -> None:
    """List the parts an engine can be composed of, where each comes from, and the presets."""
    from sparsespec.cli.plugins import run

    _end(lambda: run(shelf, as_json=json))


@models_app.callback()
def models(context: typer.Context, json: o.AsJson = False) -> None:
    """List the models that have a name, and those that were fetched."""
    if context.invoked_subcommand is None:
        from sparsespec.cli.models import list_models

        _end(lambda: list_models(as_json=json))
    if json:
        raise BadRequest("--json belongs behind the subcommand; write it there")


@models_app.command("list")
def models_list(json: o.AsJson = False) -> None:
    """List the models that have a name, and those that were fetched."""
    from sparsespec.cli.models import list_models

    _end(lambda: list_models(as_json=json))


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="Alias or hub id.")], json: o.AsJson = False) -> None:
    """Fetch a model, so that decoding need not wait for it."""
    from sparsespec.cli.models import pull

    _end(lambda: pull(name, as_json=json))


@models_app.command("remove")
def models_remove(
    name: Annotated[str, typer.Argument(help="A fetched model, as `sparsespec models` names it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: o.AsJson = False,
) -> None:
    """Delete a fetched model's files."""
    from sparsespec.cli.models import remove

    _end(lambda: remove(name, yes=yes, as_json=json))


@app.command()
def doctor(json: o.AsJson = False) -> None:
    """Say what is installed, and which attention backends work here; exit code 1 if the reference does not."""
    from sparsespec.cli.doctor import run

    _end(lambda: run(as_json=json))


@app.command()
def profile(
    model: Annotated[str, typer.Option("--model", "-m", help="Geometry like qwen3-8b, alias, folder or hub id.")],
    device: Annotated[str | None, typer.Option(help="'cuda' or 'cpu'; a GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of weights and KV; bfloat16 on a GPU, else float32.")] = None,
    attention: Annotated[
        str | None, typer.Option(help="Attention backend; triton on a GPU, else reference.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the cost model to a file *.json.")] = None,
    json: o.AsJson = False,
) -> None:
    """Measure what a model's steps take on this device, with random weights, and fit a cost model."""
    from sparsespec.cli.profile import ProfileArgs, run

    _end(lambda: run(ProfileArgs(model, device, dtype, attention), out, as_json=json))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Measure an engine beside dense decoding and the roofline; `bench --help` lists its options."""
    from sparsespec.cli.bench import run

    _end(lambda: run(context.args))


@app.command()
def compare(
    model: o.Models = None,
    preset: o.Presets = None,
    spec: o.Specs = None,
    prompts: o.PromptFiles = None,
    n: Annotated[
        int | None, typer.Option(help="Prompts of each file; if absent all of them, or 8 that are generated.")
    ] = None,
    max_tokens: o.MaxTokens = 128,
    temperature: o.Temperatures = None,
    seed: o.Seeds = None,
    max_num_seqs: o.MaxNumSeqs = None,
    budget: o.Budgets = None,
    min_budget: o.MinBudgets = None,
    ignore_eos: o.IgnoreEos = False,
    chat: o.Chat = True,
    dtype: o.DType = "float32",
    exact: o.Exact = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' or one of several such as 'cuda:1'.")] = "cpu",
    out: o.Rows = None,
    plot: o.Plot = None,
    json: o.AsJson = False,
) -> None:
    """Decode the same prompts with several compositions, beside dense decoding: speed, acceptance, bytes, equality."""
    given = dict(locals())
    from sparsespec.cli.compare import CompareArgs, run

    _end(lambda: run(CompareArgs(**given)))


def _end(command: Callable[[], int]) -> NoReturn:
    """Run a command and leave with its exit code; Typer would make a closed pipe an ordinary failure."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still buffered would raise again when the interpreter closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    raise typer.Exit(code)


def _composition(given: Mapping[str, Any]) -> Any:
    from sparsespec.cli.composition import Composition

    changes = {name: given[name] for name in (*SHELVES, "loop") if given[name] is not None}
    return Composition(given["model"], given["dtype"], given["preset"], changes)


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that were given; the model's defaults are for the others."""
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "stop")
    return {name: given[name] for name in names if given[name] is not None}


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        # without standalone mode, Ctrl-C and typer.Exit arrive here as an exit code
        code = app(args=list(sys.argv[1:] if args is None else args), standalone_mode=False)
    except SparseSpecError as error:
        return _complain(str(error))
    except UsageError as error:
        option = getattr(error, "option_name", "")
        sentence = sentence_for(option.lstrip("-").replace("-", "_"))
        return _complain(f"no such option {option}: {sentence}" if sentence else error.format_message())  # type: ignore[attr-defined]
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
