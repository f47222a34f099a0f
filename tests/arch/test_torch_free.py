"""The control plane is integers: it is imported here where torch does not exist."""

from __future__ import annotations

from pathlib import PurePosixPath

from tests.arch.fresh import run
from tests.arch.layout import modules

TENSOR_FILES = {
    "sparsespec.core.noise",
    "sparsespec.core.batch",
    "sparsespec.core.device",
    "sparsespec.kv.pool",
    "sparsespec.kv.host_pool",
    "sparsespec.kv.mover",
}
TORCH_FREE = (
    "sparsespec.core",
    "sparsespec.sched",
    "sparsespec.policies.lengths",
    "sparsespec.kv",
    "sparsespec.sim",
)


def control_plane() -> list[str]:
    return [
        name
        for name in modules()
        if name not in TENSOR_FILES and any(name == room or name.startswith(f"{room}.") for room in TORCH_FREE)
    ]


def test_the_control_plane_runs_where_torch_cannot_be_imported() -> None:
    names = control_plane()
    rooms = {PurePosixPath(name.replace(".", "/")).parts[1] for name in names}
    assert {"core", "kv", "sched", "policies"} <= rooms
    assert len(names) >= 15
    failed = run(
        """
import importlib
try:
    import torch
    raise SystemExit("torch is not blocked")
except ImportError:
    pass
failed = []
for name in NAMES:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
result = failed
""",
        blocked=("torch",),
        NAMES=names,
    )
    assert failed == []


def test_the_package_itself_is_lazy_without_torch() -> None:
    assert run(
        """
import sparsespec
spec = sparsespec.EngineSpec.from_json(sparsespec.PRESETS["sparsespec"].spec.to_json())
try:
    sparsespec.nothing
except AttributeError as error:
    result = [str(spec.selector), str(error)]
""",
        blocked=("torch", "numpy"),
    ) == [
        "pillar(budget=0.05,groups=1,recent=0.5)",
        "module 'sparsespec' has no attribute 'nothing'",
    ]
