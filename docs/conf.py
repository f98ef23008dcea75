"""Sphinx configuration. The pages are built and read without a network."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))
from class_pages import example_of, method_page_of, picture_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

project = "lightning-focal"
author = "the lightning-focal authors"
project_copyright = f"2026, {author}. Apache-2.0"
version = release = installed("lightning-focal")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nb_execution_mode = "off"  # with its stored outputs; tests/docs/test_notebook.py executes it
nitpicky = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autosummary_ignore_module_all = False  # a module shows what its `__all__` names, wherever it is defined
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"lightning-focal {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def render_math(translator, node):
    """Write a formula as MathML, which browsers draw by themselves."""
    block = isinstance(node, nodes.math_block)
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        formula = f"<code>{translator.encode(node.astext())}</code>"
    translator.body.append(f'<div class="math">{formula}</div>' if block else re.sub(r"\n\s*", "", formula))
    raise nodes.SkipNode


def add_example(app, what, name, value, options, lines):
    """Add to the page of a class its picture, its example from the other pages, and a link to the page of its method."""
    if what != "class":
        return
    page, start = app.env.docname, "/"
    if not page.startswith("reference/api/"):
        return
    short = name.rsplit(".", 1)[-1]
    picture = picture_of(short)
    if picture:
        file, alt = picture
        lines[:] = [lines[0], "", f".. image:: {start}_static/{file}", f"   :alt: {alt}", "", *lines[1:]] if lines else lines
    method = method_page_of(short)
    if method:
        lines += ["", f"The method in one page: :doc:`/{method}`."]
    if not any(">>>" in line for line in lines):
        found = example_of(short)
        if found:
            language, text, source = found
            lines += ["", ".. rubric:: Example", "", f".. code-block:: {language}", ""]
            lines += [f"   {line}" for line in text.splitlines()]
            lines += ["", f"From :doc:`/{source}`."] if source != "reference/examples" else []
    lines.append("")


def setup(app):
    """Register how formulas and pages of classes are made."""
    app.add_html_math_renderer("mathml", inline_renderers=(render_math, None), block_renderers=(render_math, None))
    app.connect("autodoc-process-docstring", add_example, priority=400)  # before napoleon, at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
