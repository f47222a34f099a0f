"""How Sphinx builds these pages: MyST markdown, tutorials executed, index and reference written from the code.

Blocks in a page are filled in when it is read: `{index}` by the names of modules, a line for each, `{reference}` by
their docstrings, `{shelf}` by the built-in parts of a shelf, `{commands}` by the command line. So what is in the code
is on its page.

Build with `python -m sphinx -W -E -b html docs docs/_build/html`: warnings are errors, and `-E` reads every page anew,
because one that did not change may show code that did. The build needs no network and no model from outside.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import sparsespec
from sparsespec import testing
from sparsespec.core import registry

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "sparsespec"
author = "the sparsespec authors"
release = version = metadata.version("sparsespec")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sparsespec {release}"
html_show_sourcelink = False
html_copy_source = False
# the code of a page is Python unless its fence says otherwise
highlight_language = "python"

# tutorials are run whenever the site is built: a stored result could belong to older code
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

# links may lead to the headings of a page
myst_heading_anchors = 2

# in docstrings, `x` is code
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("Bools", "Floats", "Ints")}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# every reference must lead somewhere, except into other projects and to names that only type checkers see
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(collections|hypothesis|numpy|pathlib|random|torch)\..*"),
    ("py:class", "Tensor|PartLike|Bools|Floats|Ints|Logprobs"),
]

DATA = {
    "PRESETS": "Every preset by name.",
    "__version__": "The version of the package, as `pip` knows it.",
}
"""Public names that are neither class nor function, and so have no docstring."""
_BLOCK = re.compile(r"^```\{(index|reference|shelf|commands)\} ?([\w. ]*)\n```$", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Fill in the blocks of each page when it is read."""
    app.connect("source-read", lambda app, docname, source: source.__setitem__(0, filled(source[0])))
    app.connect("autodoc-process-signature", _readable_signature)


def _readable_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leave out the constructor of a protocol, and write the default of a dataclass's factory as an ellipsis."""
    if getattr(obj, "_is_protocol", False):
        return "", None
    return signature and signature.replace("<factory>", "..."), returns


def filled(page: str) -> str:
    """Return the text of a page with each block replaced by what it stands for."""
    fill = {"index": _index, "reference": _reference, "shelf": _shelf, "commands": _commands}
    return _BLOCK.sub(lambda match: fill[match[1]](match[2]), page)


def public_names(module: ModuleType) -> list[str]:
    """Return `__all__`, or the classes and functions of a module that are not in the `__all__` of the package."""
    if listed := getattr(module, "__all__", None):
        return list(listed)
    elsewhere = [getattr(package, name) for package in (sparsespec, testing) for name in package.__all__]
    own = (
        (name, value)
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__
    )
    return [name for name, value in own if not name.startswith("_") and value not in elsewhere]


def members(value: Any) -> list[str]:
    """Return the public fields, attributes and methods that a class itself has."""
    if not inspect.isclass(value):
        return []
    return [name for name in dict.fromkeys([*inspect.get_annotations(value), *vars(value)]) if name[0] != "_"]


def named(paths: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of each public name of the modules, or of the single classes and functions, in `paths`."""
    for path in paths.split():
        found = pkgutil.resolve_name(path)
        if isinstance(found, ModuleType):
            yield from ((f"{path}.{name}", getattr(found, name)) for name in public_names(found))
        else:
            yield path, found


def _index(paths: str) -> str:
    """Return a table of names: where each is documented, what it has, and the first line of its docstring."""
    rows = ["| name | members | what it is |", "|---|---|---|"]
    for path, value in named(paths):
        name = path.rpartition(".")[2]
        inside = ", ".join(f"`{member}`" for member in members(value))
        doc = _first_line(DATA.get(name) or inspect.getdoc(value))
        rows.append(f"| {{py:obj}}`{name} <{path}>` | {inside} | {doc} |")
    return "\n".join(rows)


def _first_line(doc: str | None) -> str:
    return " ".join((doc or "").partition("\n\n")[0].split()).replace("|", "\\|")


def _reference(paths: str) -> str:
    """Return reStructuredText for the docstrings of modules and of their names."""
    modules = [path for path in paths.split() if isinstance(pkgutil.resolve_name(path), ModuleType)]
    lines = [f".. automodule:: {path}\n" for path in modules]
    for path, value in named(paths):
        module, _, name = path.rpartition(".")
        if name in DATA:
            lines.append(f".. py:data:: {name}\n   :module: {module}\n\n   {DATA[name]}\n")
        elif inspect.isclass(value):
            kind = "exception" if issubclass(value, BaseException) else "class"
            lines.append(f".. auto{kind}:: {path}\n   :members:\n")
        else:
            lines.append(f".. autofunction:: {path}\n")
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _commands(_: str) -> str:
    """Return a table of the commands, by what `--help` says of them."""
    from sparsespec.cli.app import app, models_app

    listed = [("", command) for command in app.registered_commands]
    listed += [("models ", command) for command in models_app.registered_commands]
    rows = ["| command | what it does |", "|---|---|"]
    for group, command in listed:
        name = command.name or getattr(command.callback, "__name__", "")
        rows.append(f"| `{group}{name}` | {_first_line(inspect.getdoc(command.callback))} |")
    return "\n".join(rows)


def _shelf(shelf: str) -> str:
    """Return the reference of every part of a shelf that belongs to sparsespec."""
    return "\n".join(_part(shelf, row) for row in registry.describe(shelf) if row.origin == "sparsespec")


def _part(shelf: str, row: registry.PartInfo) -> str:
    """Return heading and capabilities of one part, what its module says of it and its sources, and its docstring."""
    lines = [f"### `{row.name}`", ""]
    for verb, words in (("Needs", row.needs), ("Provides", row.provides)):
        if words:
            lines += [f"{verb} {', '.join(f'`{word}`' for word in sorted(words))}.", ""]
    if row.error:
        return "\n".join([*lines, row.error, ""])
    cls = registry.lookup(shelf, row.name)
    about = (inspect.getdoc(sys.modules[cls.__module__]) or "").partition("\n\n")[2]
    body = ["```{eval-rst}", about, "", f".. autoclass:: {cls.__module__}.{cls.__qualname__}", "```", ""]
    return "\n".join([*lines, *body])
