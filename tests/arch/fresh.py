"""Runs code in a fresh interpreter in which some packages cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.arch.layout import ROOT

_BLOCK = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Block())
sys.path.insert(0, ROOT)
"""


def run(code: str, blocked: tuple[str, ...] = (), **names: Any) -> Any:
    """Run `code` with `names` bound; return what it puts in `result`, by way of JSON."""
    bound = {"BLOCKED": blocked, "ROOT": str(ROOT), **names}
    head = "".join(f"{name} = {value!r}\n" for name, value in bound.items())
    program = f"{head}{_BLOCK}\n{code}\nprint(json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
