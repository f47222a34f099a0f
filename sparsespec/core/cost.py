"""What a step takes on a device: a `CostModel` turns tokens, bytes and copies into seconds.

Numbers only: `sparsespec profile` measures them on a device and writes them as JSON, and some files come with the
package. It is shared by whoever has to know a price without paying it: lengths, schedulers, the simulator. It adds up
what the forward of a step takes; settling, sampling and choosing positions are in no term of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

from sparsespec.core.curve import Curve, Line
from sparsespec.core.errors import BadOption, show, unknown
from sparsespec.core.literals import read_object
from sparsespec.core.roofline import Roofline

FOLDER = resources.files("sparsespec.core") / "costs"
"""Where the cost models of the package are."""
SUFFIX = ".json"
WHAT = "a cost model"


class FitError(NamedTuple):
    """How far a fit is from what was measured, relative to it, over `n` points."""

    largest: float
    median: float
    n: int


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """Seconds of attention in all layers of a step, with the writing of its K and V.

    Attributes:
        seconds: Paid by every step, whatever it reads.
        per_dense_byte: For each byte of K and V that decoding rows without a selection read.
        per_sparse_byte: For each byte that rows with a selection read.
        per_prefill_pair: For each pair of a query and a key that PREFILL rows look at.
    """

    seconds: float
    per_dense_byte: float
    per_sparse_byte: float
    per_prefill_pair: float

    def __call__(self, dense_bytes: float, sparse_bytes: float, prefill_pairs: float) -> float:
        """Return the seconds of a step."""
        return (
            self.seconds
            + dense_bytes * self.per_dense_byte
            + sparse_bytes * self.per_sparse_byte
            + prefill_pairs * self.per_prefill_pair
        )


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a step of one model on one device.

    Attributes:
        name: The model it was fitted for.
        device: What it was measured on, in words.
        versions: Packages by name.
        geometry: Sizes of the model, float type and attention backend.
        weight_bytes: Weights that a step reads, LM head included.
        kv_token_bytes: K and V of one token, all layers together.
        read_bytes_per_second: How fast memory is read from end to end.
        layers: Seconds of all layers and the final norm, attention left out, by query tokens.
        products: Seconds of the matrix products among them, by query tokens.
        head: Seconds of the LM head, by rows of logits.
        attention: Attention by what it reads.
        to_device: Copies from the host, by bytes; None where there is nothing to copy between.
        to_host: Copies to the host, likewise.
        host_seconds: What the host takes for a step.
        errors: How far the fit is off, by group. Curves go through their points, so theirs is how far each inner point
            is from the line between its neighbours.
    """

    name: str
    device: str
    versions: Mapping[str, str]
    geometry: Mapping[str, int | str]
    weight_bytes: float
    kv_token_bytes: float
    read_bytes_per_second: float
    layers: Curve
    products: Curve
    head: Curve
    attention: AttentionCost
    to_device: Line | None
    to_host: Line | None
    host_seconds: float
    errors: Mapping[str, FitError]

    @property
    def roofline(self) -> Roofline:
        """Return what the device could yield at most, if it did products and read KV at the read rate."""
        return Roofline(self.products, self.head, self.kv_token_bytes, self.read_bytes_per_second)

    def forward(
        self, n_tokens: float, n_logits: float, dense_bytes: float, sparse_bytes: float, prefill_pairs: float = 0.0
    ) -> float:
        """Return the seconds that the device computes in a step; see `step`."""
        for size in (n_tokens, n_logits, dense_bytes, sparse_bytes, prefill_pairs):
            if not size >= 0:
                raise BadOption(f"a step has 0 or more tokens, logits, bytes and pairs, got {size}")
        if not n_tokens:
            return 0.0
        return self.layers(n_tokens) + self.head(n_logits) + self.attention(dense_bytes, sparse_bytes, prefill_pairs)

    def step(
        self,
        n_tokens: float,
        n_logits: float,
        dense_bytes: float,
        sparse_bytes: float,
        *,
        prefill_pairs: float = 0.0,
        to_device_bytes: float = 0.0,
        to_host_bytes: float = 0.0,
        lag: int = 1,
    ) -> float:
        """Return the seconds from one step to the next.

        Copies run beside the forward, each way for itself, so the slowest of the three counts. Where the host collects
        results late it works beside them too, and without lag before them. Sizes beyond the largest that was measured
        are extrapolated along straight lines.

        Args:
            n_tokens: Query tokens of all rows.
            n_logits: Query tokens whose logits are wanted: those of DRAFT and VERIFY rows.
            dense_bytes: K and V that VERIFY rows read, and DRAFT rows without a selection: tokens of context times
                `kv_token_bytes`, once a row.
            sparse_bytes: K and V that DRAFT rows read of their selections and tails.
            prefill_pairs: Pairs of a query and a key of PREFILL rows, counted once and not for each layer and head.
            to_device_bytes: KV restored from the host.
            to_host_bytes: KV spilled to it.
            lag: Steps that the host collects late, 0 in the loop `sync`.
        """
        copies = (_copy(self.to_device, to_device_bytes), _copy(self.to_host, to_host_bytes))
        busy = max(self.forward(n_tokens, n_logits, dense_bytes, sparse_bytes, prefill_pairs), *copies)
        return max(busy, self.host_seconds) if lag else busy + self.host_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("attention", "to_device", "to_host"):
            values[name] = values[name] and asdict(values[name])
        for name in ("layers", "products", "head"):
            values[name] = [list(point) for point in values[name].points]
        values["versions"], values["geometry"] = dict(self.versions), dict(self.geometry)
        values["errors"] = {group: error._asdict() for group, error in self.errors.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CostModel:
        """Read what `to_dict` wrote; raises `BadOption` for anything else."""
        for name in values:
            if name not in _READERS:
                raise unknown(f"field of {WHAT}", name, _READERS)
        for name in _READERS:
            if name not in values:
                raise BadOption(f"{WHAT} needs {name!r}; `sparsespec profile` writes whole ones")
        return cls(**{name: read(values[name], f"{name} of {WHAT}") for name, read in _READERS.items()})

    def to_json(self) -> str:
        """Return JSON with a line for each field."""
        lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in self.to_dict().items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> CostModel:
        """Read what `to_json` wrote."""
        return cls.from_dict(read_object(text, WHAT, BadOption))

    @classmethod
    def load(cls, name: str | Path) -> CostModel:
        """Return a cost model of the package by name, or one in a file `*.json`."""
        if str(name).endswith(SUFFIX):
            try:
                text = Path(name).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise BadOption(
                    f"{name} cannot be read ({type(error).__name__}); give a file that `sparsespec profile` wrote"
                ) from None
            return cls.from_json(text)
        have = names()
        if name not in have:
            raise unknown("cost model", name, have)
        return cls.from_json((FOLDER / f"{name}{SUFFIX}").read_text("utf-8"))


def names() -> list[str]:
    """Return the names of the cost models that come with the package."""
    if not FOLDER.is_dir():
        return []
    return sorted(one.name.removesuffix(SUFFIX) for one in FOLDER.iterdir() if one.name.endswith(SUFFIX))


def _copy(line: Line | None, n_bytes: float) -> float:
    if not n_bytes >= 0:
        raise BadOption(f"a step copies 0 or more bytes, got {n_bytes}")
    return line(n_bytes) if line else 0.0


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadOption(f"{what} must be text, got {show(value)}")
    return value


def _number(value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise BadOption(f"{what} must be a number, 0 or more, got {show(value)}")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadOption(f"{what} must be an object, got {show(value)}")
    return dict(cast("Mapping[str, Any]", value))


def _numbers(value: object, what: str, names: tuple[str, ...]) -> dict[str, float]:
    found = _object(value, what)
    if found.keys() != set(names):
        raise BadOption(f"{what} must have {', '.join(names)}, got {show(list(found))}")
    return {name: _number(found[name], f"{name} of {what}") for name in names}


def _line(value: object, what: str) -> Line | None:
    return None if value is None else Line(**_numbers(value, what, ("seconds", "seconds_per_byte")))


def _attention(value: object, what: str) -> AttentionCost:
    return AttentionCost(**_numbers(value, what, tuple(f.name for f in fields(AttentionCost))))


def _errors(value: object, what: str) -> dict[str, FitError]:
    def read(group: str, one: object) -> FitError:
        found = _numbers(one, f"{group} of {what}", FitError._fields)
        return FitError(found["largest"], found["median"], int(found["n"]))

    return {group: read(group, one) for group, one in _object(value, what).items()}


_READERS: dict[str, Callable[[object, str], Any]] = {
    "name": _text,
    "device": _text,
    "versions": _object,
    "geometry": _object,
    "weight_bytes": _number,
    "kv_token_bytes": _number,
    "read_bytes_per_second": _number,
    "layers": Curve.of,
    "products": Curve.of,
    "head": Curve.of,
    "attention": _attention,
    "to_device": _line,
    "to_host": _line,
    "host_seconds": _number,
    "errors": _errors,
}
