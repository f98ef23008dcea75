"""Sphinx configuration; builds without a network."""

from __future__ import annotations

import os
from importlib.metadata import version as installed

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

project = "lightning-focal"
author = "the lightning-focal authors"
project_copyright = f"2026, {author}. Apache-2.0"
version = release = installed("lightning-focal")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

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
html_show_sourcelink = False
