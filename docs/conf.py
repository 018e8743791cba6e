"""Settings of the documentation site: `make docs` builds it into build/docs."""

from __future__ import annotations

import hqvox

project = "hqvox"
version = release = hqvox.__version__
copyright = "the hqvox authors, Apache License 2.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.apidoc", "sphinx.ext.viewcode", "myst_parser"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
exclude_patterns = ["images/*.py", "api/*/modules.rst", "api/annotator/annotator.script.rst"]
html_theme = "furo"
html_title = "hqvox"

# Pages link to each other and to headings as on GitHub.
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]

# Docstrings: `single backticks` are code.
default_role = "code"
# Type hints such as ``bytes`` also match attributes of that name. The model cards are outside this
# folder: tests/docs checks links to them, and all others.
suppress_warnings = ["ref.python", "myst.xref_missing"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
apidoc_modules = [
    {
        "path": f"../{name}",
        "destination": f"api/{name}",
        "max_depth": 2,
        "separate_modules": True,
        "module_first": True,
        "exclude_patterns": ["../annotator/script.py"],  # runs when it is imported
    }
    for name in ("hqvox", "pipelines", "annotator", "models")
]
