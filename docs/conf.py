"""How Sphinx builds the documentation; scripts/docs runs it."""

from typing import TYPE_CHECKING

import imgsim

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_OTHERS = "builtins|collections|concurrent|np|numpy|os|pa|pathlib|pd|pyarrow|PIL|types|typing"
_MADE_BY_OTHERS = {"Collection", "Curation", "Encoders", "Listing", "Searcher"}

project = "imgsim"
version = release = imgsim.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"imgsim {release}"
html_show_copyright = False
html_show_sphinx = False
myst_heading_anchors = 3
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
nitpicky = True  # a docstring that names what does not exist is an error
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})\..*|NDArray")]


def _without_arguments(*event: object) -> tuple[str, None] | None:
    """Hide how a class is made that users get from a method."""
    _app, kind, name, *_ = event
    made_by_others = kind == "class" and str(name).rpartition(".")[2] in _MADE_BY_OTHERS
    return ("", None) if made_by_others else None


def _resolved(
    app: "Sphinx", environment: "BuildEnvironment", node: "pending_xref", text: "Element"
) -> "Element | None":
    """Link a public name that a signature gives with the module that defines it."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if not module.startswith("imgsim") or name not in imgsim.__all__:
        return None
    python, target = environment.domains.python_domain, f"imgsim.{name}"
    return python.resolve_xref(environment, node["refdoc"], app.builder, "obj", target, node, text)


def setup(app: "Sphinx") -> None:
    """Register the functions above."""
    app.connect("autodoc-process-signature", _without_arguments)
    app.connect("missing-reference", _resolved)
