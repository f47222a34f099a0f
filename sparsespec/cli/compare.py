"""`sparsespec compare`: a table for each setting, a row for each composition, and what an equality proves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sparsespec.cli.files import check_writable
from sparsespec.cli.screen import Bars, say_json, stdout
from sparsespec.comparison.plot import check_plot, plot
from sparsespec.comparison.row import BAD, ComparisonRow, Setting
from sparsespec.comparison.runner import Comparison
from sparsespec.comparison.variants import Composition
from sparsespec.core.errors import BadOption
from sparsespec.core.spec import PRESETS, EngineSpec

COLUMNS = ("tokens/s", "×", "length", "forwards", "KV MB", "×", "read", "rejected")
LEGEND = (
    "×: of dense; length: mean acceptance length, bonus token included; forwards, KV MB: per token; "
    "read: by drafts, of the context"
)
NOTHING_PROVED = (
    "{name}: no draft was rejected, so being equal to dense proves nothing; ask for more tokens, or lower --min-budget"
)


@dataclass(frozen=True, slots=True)
class CompareArgs:
    """What the command line asks for; None where it does not say."""

    model: list[str] | None
    preset: list[str] | None
    spec: list[Path] | None
    prompts: list[Path] | None
    n: int | None
    max_tokens: int
    temperature: list[float] | None
    seed: list[int] | None
    max_num_seqs: list[int] | None
    budget: list[float] | None
    min_budget: list[int] | None
    ignore_eos: bool
    chat: bool
    dtype: str
    exact: bool
    device: str
    out: Path | None
    plot: Path | None
    json: bool

    def comparison(self) -> Comparison:
        """Return what is to be compared; raises `BadOption` for a spec that cannot be read."""
        return Comparison(
            models=self.model or ["smollm2"],
            compositions=_compositions(self.preset or [], self.spec or []),
            prompts=_named(self.prompts) if self.prompts else None,
            n=self.n,
            max_tokens=self.max_tokens,
            temperatures=self.temperature or [0.0],
            seeds=self.seed or [0],
            max_num_seqs=self.max_num_seqs or [8],
            budgets=self.budget or [],
            min_budgets=self.min_budget or [],
            ignore_eos=self.ignore_eos,
            chat=self.chat,
            dtype=self.dtype,
            exact=self.exact,
            device=self.device,
        )


def run(args: CompareArgs) -> int:
    """Compare, and return the exit code: 1 where outputs part or a composition failed."""
    if args.out:
        check_writable(args.out)
    if args.plot:
        check_plot(args.plot)
        check_writable(args.plot)
    rows: list[ComparisonRow] = []
    with Bars() as bars:
        for row in args.comparison().rows(bars):
            rows.append(row)
            if args.out:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row.to_dict()) + "\n")
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        say_json([row.to_dict() for row in rows])
    else:
        _show(rows)
    return int(any(row.verdict in BAD for row in rows))


def _compositions(presets: Sequence[str], specs: Sequence[Path]) -> dict[str, Composition]:
    """Return presets by themselves and specs by their files' names; every preset if there is neither."""
    if not presets and not specs:
        presets = list(PRESETS)
    found: dict[str, Composition] = dict(zip(presets, presets, strict=True))
    for path in specs:
        if path.stem in found:
            raise BadOption(f"two compositions are called {path.stem!r}; rename {path}")
        found[path.stem] = _spec(path)
    return found


def _spec(path: Path) -> EngineSpec:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(
            f"cannot read {path} ({type(error).__name__}); --spec takes a file that EngineSpec.to_json wrote"
        ) from None
    return EngineSpec.from_json(text)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names, or where those are equal by their paths."""
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in paths}


def _show(rows: Sequence[ComparisonRow]) -> None:
    console = stdout()
    settings: dict[Setting, list[ComparisonRow]] = {}
    for row in rows:
        settings.setdefault(row.setting, []).append(row)
    for setting, ours in settings.items():
        console.print(_table(setting, ours))
        for note in _notes(ours):
            console.print(f"  {note}", markup=False, soft_wrap=True)
        console.print()


def _table(setting: Setting, rows: Sequence[ComparisonRow]) -> Table:
    s = setting
    noise = "greedy" if s.seed is None else f"T={s.temperature:g}, seed {s.seed}"
    title = f"{s.model}, {s.prompts} ({s.n_prompts} × {s.max_tokens} tokens), {noise}, max_num_seqs {s.max_num_seqs}"
    table = Table(
        title=title, title_justify="left", title_style="bold", caption=LEGEND, caption_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("composition", style="bold", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("tokens are", overflow="fold")
    names = _names(rows)
    for name, row in zip(names, rows, strict=True):
        table.add_row(name, *_cells(row), _verdict(row))
    return table


def _cells(row: ComparisonRow) -> Iterator[str]:
    kv = None if row.kv_bytes_per_token is None else row.kv_bytes_per_token / 1e6
    yield from (_cell(row.tokens_per_second, ",.1f"), _cell(row.speed_of_dense, ".2f"))
    yield from (_cell(row.mean_acceptance_length, ".2f"), _cell(row.forwards_per_token, ".2f"))
    yield from (_cell(kv, ".3g"), _cell(row.kv_of_dense, ".2f"), _cell(row.draft_kv_share, ".1%"))
    yield f"{row.rejected}/{row.drafts}" if row.drafts else "–"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _verdict(row: ComparisonRow) -> str:
    if row.n_identical is None or row.verdict in ("baseline", "not compared"):
        return row.verdict
    return f"{row.verdict} {row.n_identical}/{row.setting.n_prompts}"


def _names(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return what tells rows apart: names, and the budgets in which rows of one name differ."""
    names = [row.composition for row in rows]
    for option in ("budget", "min_budget"):
        values = [getattr(row, option) for row in rows]
        for i, row in enumerate(rows):
            if len({v for v, other in zip(values, rows, strict=True) if other.composition == row.composition}) > 1:
                names[i] += f" {option}={values[i]:g}"
    return names


def _notes(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield what the reader of a table should know."""
    for name, row in zip(_names(rows), rows, strict=True):
        if row.error is not None:
            yield f"{name} failed: {row.error}"
        if row.verdict == "equal, proves nothing":
            yield NOTHING_PROVED.format(name=name)
        if row.verdict == "parted":
            yield from (f"{name}: {sentence}" for sentence in row.parted)
