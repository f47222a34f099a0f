"""`sparsespec plugins`: everything on the shelves, and nothing that is not."""

from __future__ import annotations

import pytest

from sparsespec import PRESETS
from sparsespec.cli import app as cli
from sparsespec.core import registry
from sparsespec.core.spec import SHELVES, EngineSpec
from tests.cli.mistakes import Capture, answer, one_sentence


def test_json_lists_every_part_with_options_and_origin(capsys: Capture) -> None:
    found = answer(capsys, "plugins")
    assert list(found) == [*SHELVES, "presets"]
    for shelf in SHELVES:
        assert [part["name"] for part in found[shelf]] == registry.names(shelf)
    (pillar,) = (part for part in found["selector"] if part["name"] == "pillar")
    assert pillar["needs"] == ["scores"]
    assert pillar["origin"] == "sparsespec"
    assert pillar["options"]["budget"] == {"default": 0.05}
    assert {p["name"]: EngineSpec.from_dict(p["spec"]) for p in found["presets"]} == {
        name: preset.spec for name, preset in PRESETS.items()
    }


def test_the_table_names_every_part(capsys: Capture) -> None:
    assert cli.run(["plugins"]) == 0
    out = capsys.readouterr().out
    for shelf in SHELVES:
        assert f"{shelf}  " in out
        assert all(f"│ {name} " in out for name in registry.names(shelf))
    assert all(f"│ {name} " in out for name in PRESETS)


def test_one_shelf_alone(capsys: Capture) -> None:
    assert list(answer(capsys, "plugins", "length")) == ["length"]


def test_a_part_that_cannot_be_loaded_says_why_in_its_row(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {("selector", "broken"): "no_such_package.at_all:Part"})
    assert cli.run(["plugins", "selector"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "broken" in out
    assert "no_such_package" in out.replace(" ", "").replace("│", "") or "no_such_package" in out
    assert "pillar" in out


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["selektor"], "did you mean 'selector'"),
        (["selector", "length"], "unexpected extra argument"),
        (["--jsn"], "--json"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], fragment: str, capsys: Capture) -> None:
    one_sentence(cli.run(["plugins", *arguments]), capsys, fragment)
