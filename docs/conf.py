"""How the documentation is built: offline, from Markdown, with a reference that is told by the code itself."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "truing"
author = "the truing contributors"
copyright = author
version = release = version_of("truing")

extensions = ["myst_parser", "sphinx_copybutton", "told_by_the_code"]
exclude_patterns = ["_build", "_ext", "_static"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
nitpicky = True
smartquotes = False

html_theme = "furo"
html_title = f"truing {version}"
html_static_path = ["_static"]
html_show_copyright = False
html_copy_source = False

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
