"""Sphinx configuration of the manual. The source is the whole repository, so links work here and on the web."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "parametrizations"
author = "The parametrizations authors"
project_copyright = "2026, The parametrizations authors"
release = importlib.metadata.version("parametrizations")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_nb",
]

# The source is the root of the repository, so that pages can link notebooks by their paths in the repository.
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "notebooks/*.ipynb",
    "benchmarks/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "tests/RELIABILITY.md",
]
exclude_patterns = [".venv", "**/.*", "docs/_build", "build", "dist"]

# The tests run the notebooks. The manual shows their stored outputs.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # notebooks do not have widgets, and pages do not load remote scripts
html_math_renderer = "mathml"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # otherwise overriding methods would get PyTorch's docstrings
autodoc_type_aliases = {
    name: f"parametrizations.typing.{name}" for name in ("Infeasible", "MaskRules", "Product", "Rules")
}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "py:obj"
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "parametrizations"
html_favicon = "_static/diagonal.svg"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_extra_path = ["_extra"]
html_show_sourcelink = False


PUBLIC = (
    "parametrizations",
    *(f"parametrizations.{name}" for name in ("masks", "positive", "signs", "testing", "typing")),
)


def _as_code(app: Sphinx, env: Any, node: nodes.Element, contnode: nodes.TextElement) -> nodes.TextElement | None:
    """Show names of PyTorch and Python as code, without a link.

    A name of this library must have a target, or the build fails. A name of an internal module links to the public
    module with this name, if there is one.
    """
    del app
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    if not target.startswith("parametrizations."):
        return contnode
    module, _, name = target.rpartition(".")
    if module in PUBLIC:
        return None
    public = f"parametrizations.typing.{name}"
    found = env.get_domain("py").objects.get(public)
    if found is None:
        return contnode
    place = env.app.builder.get_relative_uri(env.docname, found.docname)
    return nodes.reference("", "", contnode, internal=True, refuri=f"{place}#{found.node_id}", reftitle=public)


def _formula(translator: Any, node: nodes.Element, display: str = "inline") -> None:
    """Write a formula as MathML, which browsers show without a script from another machine."""
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _formula_in_a_line_of_its_own(translator: Any, node: nodes.Element) -> None:
    _formula(translator, node, "block")


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula_in_a_line_of_its_own, None))
    app.connect("missing-reference", _as_code)
