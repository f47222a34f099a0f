"""Parts of another distribution, in an environment of its own: found, checked, run, removed; a broken one harms nobody.

The environment sees what this one has installed through a path file, so nothing is fetched, and what is installed there
leaves this one as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.arch.layout import ROOT

EXAMPLE = ROOT / "examples" / "sparsespec-extras"
SELECTOR = "logsparse(min_budget=12,budget=0.05,sinks=2)"
TIMEOUT_S = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("pip") is None or find_spec("setuptools") is None, reason="needs pip and setuptools"),
]

LIST = """
import json, sys
from sparsespec.core import registry
named = sorted(name for shelf in ("selector", "length") for name in registry.names(shelf))
assert "torch" not in sys.modules, "listing names imports nothing"
rows = [row for shelf in ("selector", "length") for row in registry.describe(shelf)]
assert sorted(row.name for row in rows) == named
print(json.dumps({row.name: [row.origin, row.error] for row in rows}))
"""

DECODE = """
import json
from sparsespec import LLM, SamplingParams
prompts = [[(7 * i * i + 3 * i + shift) % 61 for i in range(150)] for shift in (0, 5)]
params = [SamplingParams(temperature=t, max_tokens=32, seed=1) for t in (0.0, 0.8)]
with LLM("tiny", "dense") as dense, LLM("tiny", selector="{selector}", length="aimd") as llm:
    expected, outputs = dense.generate(prompts, params), llm.generate(prompts, params)
    spec = llm.spec.to_dict()
metrics = outputs[0].metrics + outputs[1].metrics
print(json.dumps({{
    "same": [o.outputs[0].token_ids == e.outputs[0].token_ids for o, e in zip(outputs, expected)],
    "rejected": metrics.num_rejected_tokens,
    "share": metrics.draft_kv_share,
    "parts": [spec["selector"]["name"], spec["length"]["name"]],
}}))
"""

LOOKUP = """
from sparsespec import SparseSpecError, make
try:
    print(make("{part}"))
except SparseSpecError as error:
    print(type(error).__name__, error)
"""


class Environment:
    """A virtual environment that reads this one's packages and has installed ones of its own."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        paths = {"base": str(folder), "platbase": str(folder)}
        self.python = Path(sysconfig.get_path("scripts", "venv", paths)) / Path(sys.executable).name
        site = Path(sysconfig.get_path("purelib", "venv", paths))
        ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)}
        (site / "parent.pth").write_text("\n".join(sorted(ours)) + "\n", "utf-8")

    def run(self, *arguments: str) -> str:
        """Run the environment's Python and return what it printed; whatever fails shows why."""
        command = [str(self.python), *arguments]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "COVERAGE"))}
        done = subprocess.run(
            command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def pip(self, *arguments: str) -> None:
        """Let our pip work on the environment."""
        self.run("-m", "pip", "--no-input", "--disable-pip-version-check", *arguments)

    def install(self, source: Path) -> None:
        """Build and install a distribution without asking any index."""
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", str(source))


def parts(environment: Environment, *more: str) -> dict[str, list[str | None]]:
    return json.loads(environment.run("-c", "\n".join((LIST, *more))))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from, because a build writes beside its sources."""
    target = tmp_path_factory.mktemp("example") / EXAMPLE.name
    return Path(shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")))


@pytest.fixture(scope="module")
def installed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment") / "with-extras")
    environment.install(example)
    return environment


def test_installed_parts_are_on_their_shelves_with_their_origin(installed: Environment) -> None:
    listed = parts(installed)
    assert listed["logsparse"] == listed["aimd"] == ["sparsespec-extras", None]
    assert listed["pillar"] == listed["fixed"] == ["sparsespec", None]


def test_contract_laws_and_their_own_tests_hold_for_installed_parts(installed: Environment) -> None:
    said = installed.run(
        *("-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", "logsparse or aimd or extras or few_compositions"),
        *("tests/policies/test_contract.py", "tests/laws/test_exact_tokens.py", str(EXAMPLE / "tests")),
    )
    for name in (
        "test_is_a_selector[logsparse]",
        "test_is_a_length_policy[aimd]",
        "few_compositions",
        "test_extras.py",
    ):
        assert name in said


def test_an_engine_of_installed_parts_emits_what_dense_emits(installed: Environment) -> None:
    said = json.loads(installed.run("-c", DECODE.format(selector=SELECTOR)))
    assert said["same"] == [True, True]
    assert said["parts"] == ["logsparse", "aimd"]
    # an equality in which nothing was rejected would prove nothing
    assert said["rejected"] > 0
    assert said["share"] < 0.5


def test_the_command_line_takes_installed_parts(installed: Environment, folder: Path) -> None:
    prompt = "the quick brown fox jumps over the lazy dog " * 6
    arguments = ["generate", prompt, "--model", str(folder), "--max-tokens", "24", "--check", "--json"]
    said = json.loads(installed.run("-m", "sparsespec", *arguments, "--selector", SELECTOR, "--length", "aimd"))
    assert said["check"] == {"identical": 1, "of": 1, "parted": []}
    assert said["spec"]["selector"]["name"] == "logsparse"


def test_the_command_line_lists_installed_parts(installed: Environment) -> None:
    shelves = json.loads(installed.run("-m", "sparsespec", "plugins", "--json"))
    for shelf, name in (("selector", "logsparse"), ("length", "aimd")):
        (row,) = (row for row in shelves[shelf] if row["name"] == name)
        assert row["origin"] == "sparsespec-extras"
        assert row["doc"]
        assert row["options"]
        assert row["error"] is None


def test_uninstalling_makes_the_names_unknown_again(example: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment")
    before = parts(environment).keys()
    environment.install(example)
    assert parts(environment).keys() - before == {"logsparse", "aimd"}
    environment.pip("uninstall", "--yes", "sparsespec-extras")
    assert parts(environment).keys() == before
    for part, known in (("selector/logsparse", {"none", "pillar", "window"}), ("length/aimd", {"fixed", "zero"})):
        said = environment.run("-c", LOOKUP.format(part=part))
        shelf, _, name = part.partition("/")
        assert said.startswith(f"UnknownName unknown {shelf} {name!r}")
        assert said.count("\n") == 1
        assert known <= set(said.strip().partition("have: ")[2].split(", "))


BROKEN_PROJECT = """
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "sparsespec-broken"
version = "1.0"

[project.entry-points."sparsespec.selector"]
broken = "sparsespec_broken:Part"

[tool.setuptools]
py-modules = ["sparsespec_broken"]
"""


def test_a_broken_distribution_breaks_its_own_name_only(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(BROKEN_PROJECT, "utf-8")
    (tmp_path / "sparsespec_broken.py").write_text("import a_package_that_nobody_has\n", "utf-8")
    installed.install(tmp_path)
    try:
        listed = parts(installed, 'from sparsespec import make; make("selector/logsparse")')
        origin, error = listed.pop("broken")
        assert origin == "sparsespec-broken"
        assert "a_package_that_nobody_has" in str(error)
        assert "logsparse" in listed
        assert all(error is None for _, error in listed.values())
        said = installed.run("-c", LOOKUP.format(part="selector/broken"))
        assert said.startswith("BadOption selector 'broken' of sparsespec-broken cannot be loaded (ModuleNotFoundError")
        assert "mend or uninstall sparsespec-broken" in said
    finally:
        installed.pip("uninstall", "--yes", "sparsespec-broken")
