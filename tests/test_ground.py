"""The ground others build on: hooks equal to CI, templates that load, a citation of this version, a complete wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsespec import __version__
from sparsespec.core.spec import SHELVES
from tests.arch.layout import ROOT

GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
LICENSE = "Apache-2.0"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def checks_of_ci() -> set[str]:
    """Return what `.ci/run` runs before the tests, less what installs and what builds the documents."""
    before = (ROOT / ".ci" / "run").read_text("utf-8").partition('"$py" -m pytest')[0]
    commands = re.findall(r'^(?:\w+=\S+ )*"\$py" -m (.+)$', before, re.MULTILINE)
    wanted = [command for command in commands if command.split()[0] not in ("pip", "sphinx")]
    # a hook runs in the active environment, which CI must name
    return {command.replace(' --pythonpath "$py"', "") for command in wanted}


def test_the_hooks_before_a_commit_are_the_checks_of_ci() -> None:
    (repo,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local", "a hook from elsewhere would bring a version of its own"
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repo["hooks"])
    hooks = {hook["entry"].removeprefix("python -m ") for hook in repo["hooks"]}
    assert hooks == checks_of_ci()
    assert hooks == {"ruff check .", "ruff format --check .", "pyright"}


@pytest.mark.parametrize("form", [f for f in FORMS if f.stem != "config"], ids=lambda f: f.stem)
def test_an_issue_form_is_one_that_can_be_filled_in(form: Path) -> None:
    page = loaded(form)
    assert {"name", "description", "body"} <= page.keys()
    ids = [field["id"] for field in page["body"]]
    assert len(set(ids)) == len(ids)
    for field in page["body"]:
        assert field["type"] in ("input", "textarea", "dropdown")
        assert field["attributes"]["label"]
        assert field["type"] != "dropdown" or len(set(field["attributes"]["options"])) > 1


def test_a_bug_comes_with_its_machine_and_its_spec() -> None:
    fields = {field["id"]: field for field in loaded(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert "sparsespec doctor --json" in fields["doctor"]["attributes"]["label"]
    assert all(fields[name]["validations"]["required"] for name in ("doctor", "spec"))


def test_the_form_for_parts_offers_every_shelf() -> None:
    (shelf,) = [f for f in loaded(GITHUB / "ISSUE_TEMPLATE" / "new-part.yml")["body"] if f["id"] == "shelf"]
    assert shelf["attributes"]["options"] == list(SHELVES)


def test_the_citation_is_of_this_version() -> None:
    page = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= page.keys()
    assert (page["cff-version"], page["type"], page["license"]) == ("1.2.0", "software", LICENSE)
    assert page["version"] == __version__
    assert any("2512.01278" in reference["url"] for reference in page["references"])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pip") is None or find_spec("setuptools") is None, reason="needs pip and setuptools")
def test_the_wheel_holds_the_package_its_types_and_its_licence_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("sparsespec", "tests", "bench", "examples"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w"]
    done = subprocess.run([*command, str(tmp_path), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
        (about,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(about).decode("utf-8"))
    package = ROOT / "sparsespec"
    parts = {p.relative_to(ROOT).as_posix() for p in (*package.rglob("*.py"), *package.rglob("costs/*.json"))}
    info = about.partition("/")[0]
    assert {name for name in files if not name.startswith(info)} == parts | {"sparsespec/py.typed"}
    assert f"{info}/licenses/LICENSE" in files
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == LICENSE
