"""How Sphinx builds these pages: MyST markdown, tutorials executed, reference taken from docstrings.

Build with `python -m sphinx -W -E -b html docs docs/_build/html`: warnings are errors, and `-E` reads every page anew,
because one that did not change may show code that did. The build needs no network and no model from outside.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import metadata

from sphinx.application import Sphinx

from sparsespec.core import registry

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
    ("py:class", r"(collections|hypothesis|numpy|pathlib|torch)\..*"),
    ("py:class", "Tensor|PartLike|Bools|Floats|Ints"),
]

_SHELF = re.compile(r"^```\{shelf\} (\w+)\n```$", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Let the page of parts be filled in from the registry, so that a new part is on it by being on its shelf."""
    app.connect("source-read", _fill_shelves)
    app.connect("autodoc-process-signature", _readable_signature)


def _readable_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leave out the constructor of a protocol, and write the default of a dataclass's factory as an ellipsis."""
    if getattr(obj, "_is_protocol", False):
        return "", None
    return signature and signature.replace("<factory>", "..."), returns


def _fill_shelves(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each `{shelf}` block by the reference of the parts on that shelf."""
    source[0] = _SHELF.sub(lambda match: _shelf(match[1]), source[0])


def _shelf(shelf: str) -> str:
    """Return MyST text for every part of a shelf that belongs to sparsespec."""
    return "\n".join(_part(shelf, row) for row in registry.describe(shelf) if row.origin == "sparsespec")


def _part(shelf: str, row: registry.Row) -> str:
    """Return heading and capabilities of one part, what its module says of it and its sources, and its docstring."""
    lines = [f"### `{row.name}`", ""]
    for verb, words in (("Needs", row.needs), ("Gives", row.gives)):
        if words:
            lines += [f"{verb} {', '.join(f'`{word}`' for word in sorted(words))}.", ""]
    if row.error:
        return "\n".join([*lines, row.error, ""])
    cls = registry.lookup(shelf, row.name)
    about = (inspect.getdoc(sys.modules[cls.__module__]) or "").partition("\n\n")[2]
    body = ["```{eval-rst}", about, "", f".. autoclass:: {cls.__module__}.{cls.__qualname__}", "```", ""]
    return "\n".join([*lines, *body])
