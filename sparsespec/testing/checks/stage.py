"""What the checks share: making a part, small sizes, and a device state and batches put together by hand.

No engine is involved: a check must be able to accuse one part alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sparsespec.core import protocols, registry
from sparsespec.core.batch import Batch, State
from sparsespec.core.capabilities import declared
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, ContractBroken, show
from sparsespec.core.plan import Phase
from sparsespec.core.spec import PartLike, PartSpec
from sparsespec.engine.state import make_state


def require(holds: bool, sentence: str) -> None:
    """Raise `ContractBroken` with `sentence` unless it holds."""
    if not holds:
        raise ContractBroken(sentence)


def make_part(shelf: str, spec: PartLike | object) -> Any:
    """Return a fresh part like `spec` (a name, a spec or an instance), having checked how it is constructed."""
    part = registry.make(spec, shelf=shelf)
    cls = type(part)
    protocol = getattr(protocols, shelf.capitalize())
    missing = [name for name in _members(protocol) if not hasattr(part, name)]
    require(not missing, f"{cls.__name__} lacks {', '.join(missing)}, which every {shelf} has")
    for side in ("needs", "provides"):
        declared(cls, side)
    fresh = _again(shelf, part)
    options = registry.spec_of(shelf, part).options
    stored: dict[str, object] = getattr(fresh, "__dict__", {})
    extra = sorted(name for name, value in stored.items() if name not in options and not _is_plain(value))
    require(not extra, f"the constructor of {cls.__name__} allocates {', '.join(extra)}; that is for bind to do")
    return fresh


def rounds(examples: int) -> range:
    """Return the numbers of a check's random rounds; a check without any would accuse nobody."""
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise BadOption(f"examples is a whole number of 1 or more, got {show(examples)}")
    return range(examples)


def another(shelf: str, part: Any) -> Any:
    """Return a second part with the options of `part`, not bound."""
    return type(part)(**registry.spec_of(shelf, part).to_dict()["options"])


def _again(shelf: str, part: Any) -> Any:
    """Return `part` after a round trip through JSON, its options unchanged."""
    spec = registry.spec_of(shelf, part)
    read = PartSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    fresh = type(part)(**read.to_dict()["options"])
    same = registry.spec_of(shelf, fresh) == spec
    require(same, f"{type(part).__name__} does not come back from its spec {spec}: options are stored changed")
    return fresh


def _is_plain(value: object) -> bool:
    """Say whether a value can be a hyper-parameter: nothing that grows or holds state."""
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
    return value is None or isinstance(value, int | float | str)


def _members(protocol: type) -> list[str]:
    return [name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")]


def small_geometry(**changes: Any) -> Geometry:
    """Return the sizes of a tiny engine, with `changes`."""
    sizes: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 4,
        "vocab": 13,
        "n_seats": 4,
        "max_model_len": 64,
        "block_size": 4,
        "num_gpu_blocks": 80,
        "dtype": "float64",
        "max_draft": 4,
        "max_guess": 4,
    }
    return Geometry(**(sizes | changes))


def state_of(geometry: Geometry, generator: torch.Generator, *, draft_logits: bool = False) -> State:
    """Return a state with random tokens, and page tables in random order in which no page has two owners."""
    state = make_state(geometry, draft_logits=draft_logits)
    state.tokens.random_(0, geometry.vocab, generator=generator)
    pages = 1 + torch.randperm(geometry.num_gpu_blocks - 1, generator=generator)
    wanted = state.table.numel()
    require(len(pages) >= wanted, f"the stage needs {wanted} pages, got {len(pages)}")
    state.table.copy_(pages[:wanted].view_as(state.table))
    return state


@dataclass(frozen=True, slots=True)
class RowAt:
    """A row of a batch made by hand; `live` of its `n_query` queries count, the first stands at `start`."""

    seat: int
    phase: Phase
    n_query: int
    start: int
    live: int
    k: int = 0
    scored: bool = False


def batch_of(geometry: Geometry, state: State, rows: Sequence[RowAt], step: int = 0) -> Batch:
    """Return the batch of `rows` as the engine would lay it out."""

    def column(name: str, kind: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=kind)

    owner = [(b, j) for b, row in enumerate(rows) for j in range(row.n_query)]
    row_of = torch.tensor([b for b, _ in owner], dtype=torch.int64)
    index = torch.tensor([j for _, j in owner], dtype=torch.int64)
    seat, live, n_query = column("seat"), column("live"), column("n_query")
    alive = index < live[row_of]
    positions = torch.where(alive, column("start")[row_of] + index, 0)
    size = geometry.block_size
    slots = state.table[seat[row_of], positions // size] * size + positions % size
    return Batch(
        seat=seat,
        phase=column("phase"),
        n_query=n_query,
        k=column("k"),
        offset=n_query.cumsum(0) - n_query,
        scored=column("scored", torch.bool),
        start=column("start"),
        live=live,
        tokens=torch.where(alive, state.tokens[seat[row_of], positions], 0),
        positions=positions,
        row_of=row_of,
        alive=alive,
        slots=torch.where(alive, slots, 0),
        state=state,
        step=step,
        widest=max((row.n_query for row in rows), default=1),
    )


def snapshot(state: State) -> dict[str, Tensor]:
    """Return copies of all tensors of a state."""
    values = {f.name: getattr(state, f.name) for f in fields(state)}
    return {name: value.clone() for name, value in values.items() if value is not None}


def require_untouched(state: State, before: dict[str, Tensor], who: str, *, but: Sequence[str] = ()) -> None:
    """Raise `ContractBroken` if `who` changed any tensor of `state` except those named in `but`."""
    for name, value in before.items():
        same = name in but or torch.equal(getattr(state, name), value)
        require(same, f"{who} changed state.{name}, which belongs to the engine")
