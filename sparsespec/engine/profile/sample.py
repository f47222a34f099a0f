"""One measurement, and the plan of what a device is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds that something took.

    Attributes:
        group: What was measured: a field of the cost model.
        label: How large it was, in words.
        sizes: The same in numbers: tokens or bytes; of attention dense bytes, sparse bytes, pairs of prefill.
        seconds: What it took.
    """

    group: str
    label: str
    sizes: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Rows:
    """An attention step: `dense` rows of some queries, `sparse` ones of one, `fill` queries of one that prefills.

    All rows end at `context` tokens. Dense rows of several queries are scored, as a verification is.
    """

    context: int
    dense: int = 0
    queries: int = 1
    sparse: int = 0
    share: float = 0.05
    fill: int = 0

    def __str__(self) -> str:
        words: list[str] = []
        if self.dense:
            words.append(f"{self.dense} dense of {self.queries}")
        if self.sparse:
            words.append(f"{self.sparse} sparse at {self.share:.0%}")
        if self.fill:
            words.append(f"prefill of {self.fill}")
        return f"{', '.join(words)}; {self.context} tokens"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        read_bytes: Size of the buffer that is read from end to end.
        tokens: Query tokens of a step.
        logits: Rows of logits.
        rows: Steps of attention.
        copies: Bytes of a copy.
        rotated_bytes: Weights that take turns, and KV pools, are so large together that no cache holds them.
        host_rows: Rows of the step whose host time is taken.
    """

    read_bytes: int
    tokens: tuple[int, ...]
    logits: tuple[int, ...]
    rows: tuple[Rows, ...]
    copies: tuple[int, ...]
    rotated_bytes: int
    host_rows: int

    def within(self, max_model_len: int) -> Plan:
        """Return the plan without rows longer than the model's context."""
        return replace(self, rows=tuple(rows for rows in self.rows if rows.context <= max_model_len))


MIB = 2**20
CUDA = Plan(
    read_bytes=2048 * MIB,
    tokens=(1, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512, 576, 1024, 1152, 2048),
    logits=(1, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512, 576, 1024),
    rows=(
        *(Rows(s, dense=b) for b, s in ((8, 1024), (8, 8192), (32, 4096), (64, 1024), (64, 4096), (64, 8192))),
        *(Rows(s, dense=b, queries=9) for b, s in ((8, 4096), (32, 8192), (64, 2048), (64, 4096))),
        *(Rows(s, sparse=b) for b, s in ((8, 8192), (32, 8192), (64, 2048), (64, 4096), (64, 8192), (128, 2048))),
        Rows(8192, sparse=64, share=0.1),
        *(Rows(s, dense=7, queries=9, sparse=57) for s in (2048, 4096, 8192)),
        *(Rows(s, fill=n) for s, n in ((2048, 2048), (4096, 512), (8192, 512), (8192, 2048))),
    ),
    copies=tuple(n * MIB for n in (1, 4, 16, 64, 256)),
    rotated_bytes=256 * MIB,
    host_rows=64,
)
CPU = Plan(
    read_bytes=256 * MIB,
    tokens=tuple(n for n in CUDA.tokens if n <= 256),
    logits=tuple(n for n in CUDA.logits if n <= 128),
    rows=(
        *(Rows(s, dense=b) for b, s in ((1, 64), (4, 64), (1, 256), (4, 256), (1, 1024), (4, 1024))),
        *(Rows(s, dense=4, queries=9) for s in (64, 256, 1024)),
        *(Rows(s, sparse=b, share=0.1) for b, s in ((1, 256), (4, 256), (1, 1024), (4, 1024))),
        *(Rows(s, dense=1, queries=9, sparse=3, share=0.1) for s in (256, 1024)),
        *(Rows(s, fill=n) for s, n in ((64, 64), (256, 64), (256, 256), (1024, 256))),
    ),
    copies=(),
    rotated_bytes=64 * MIB,
    host_rows=4,
)
