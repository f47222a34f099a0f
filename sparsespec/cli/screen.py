"""What the commands share on the screen: tables on stdout, progress on stderr, figures in words."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sparsespec.core.plan import Phase
from sparsespec.engine.outputs import StepResult
from sparsespec.metrics.pages import PageMetrics
from sparsespec.metrics.speculation import SpecMetrics

WIDTH = 110
"""Columns where stdout is no terminal: a fixed width keeps tables whole in files and pipes."""


def stdout() -> Console:
    """Return a console for tables."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def say_json(value: Any) -> None:
    """Print one JSON value on one line."""
    print(json.dumps(value), flush=True)


def figure(value: float, form: str) -> str:
    """Write a figure, or a dash for NaN."""
    return "–" if value != value else form.format(value)


def size(n_bytes: int | None) -> str:
    """Write a number of bytes in MB or GB, or a dash for None."""
    if n_bytes is None:
        return "–"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def speculation_rows(m: SpecMetrics) -> list[tuple[str, str]]:
    """Return what speculation did as (name, figure)."""
    return [
        ("mean acceptance length", figure(m.mean_acceptance_length, "{:.2f} tokens a round")),
        ("draft acceptance rate", figure(m.draft_acceptance_rate, "{:.1%}")),
        ("rejected drafts", f"{m.num_rejected_tokens} of {m.num_draft_tokens}"),
        ("KV read by drafts", figure(m.draft_kv_share, "{:.1%} of the context")),
        ("KV read in all", figure(m.kv_share, "{:.1%} of what dense decoding reads")),
    ]


def memory_rows(pages: PageMetrics, recomputed: int) -> list[tuple[str, str]]:
    """Return where KV was as (name, figure); what was copied or computed again only if anything was."""
    rows = [("KV pages used", f"{pages.most_used:.1%} of {pages.n_pages} at most")]
    if pages.num_spilled:
        moved = (size(n * pages.page_bytes) for n in (pages.num_spilled, pages.num_restored))
        rows.append(("KV copied", "{} to the host, {} back".format(*moved)))
    if recomputed:
        rows.append(("KV computed again", f"{recomputed} tokens"))
    return rows


class Bars:
    """Progress bars on stderr: from the first report on, gone when hidden, and none where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done; 0 of 1 says that something is under way, and no more."""
        if not self._console.is_terminal:
            return
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
        length = None if total == 1 and not done else total
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=length)
        self._progress.update(self._tasks[label], completed=done, total=length)

    def hide(self) -> None:
        """Take all bars off the screen, so that text can be printed; the next report shows new ones."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hide()


class Reading:
    """A step watcher that shows how much of a prompt has been read, until its first token comes."""

    def __init__(self, bars: Bars, n_prompt: int) -> None:
        # the last token of a prompt is read by the first step that decodes
        self._bars, self._total, self._done = bars, n_prompt - 1, 0

    def __call__(self, result: StepResult) -> None:
        """Count the step's prefill tokens."""
        read = sum(row.n_query for row in result.info.placed.rows if row.phase is Phase.PREFILL)
        if read and self._done < self._total:
            self._done = min(self._total, self._done + read)
            self._bars("reading the prompt", self._done, self._total)
