"""How Sphinx builds the manual. Its source is the whole repository, so links are the same here and on the web."""

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

# The repository's root is the source, or a page could not link a notebook by the path that it has in the repository.
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

# The tests run the notebooks: what is shown is what they have stored.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no notebook has widgets, and no page loads a script from elsewhere
html_math_renderer = "mathml"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # or PyTorch's texts would stand for what overrides them
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
    """What is PyTorch's or Python's, or is no name of this library, is shown as code and leads nowhere.

    A name that says it is ours has to lead somewhere, or the build fails; one of an internal module leads to the
    public module that has it, if any.
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
    """A formula as MathML, which browsers show by themselves; MathJax would come from another machine."""
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _formula_in_a_line_of_its_own(translator: Any, node: nodes.Element) -> None:
    _formula(translator, node, "block")


def setup(app: Sphinx) -> None:
    """Connect what Sphinx calls."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula_in_a_line_of_its_own, None))
    app.connect("missing-reference", _as_code)
