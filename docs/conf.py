"""Configuration of the documentation. Build it with `sphinx-build -W --keep-going docs docs/_build`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate
import imports

import stray

project = "stray"
author = "the stray developers"
version = release = stray.__version__
copyright = "the stray developers, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"stray {version}"
html_static_path = ["_static"]
copybutton_exclude = ".linenos, .gp"

generate.write(Path(__file__).parent / "reference")
imports.write(Path(__file__).parent / "_static" / "imports.svg")
