"""Draw the packages and who imports whom: ``python docs/rooms.py`` writes docs/images/rooms.svg.

Imports are read by grimp (import-linter's reader), the drawing is Graphviz's (``apt install
graphviz``). An arrow goes from the importer to the imported. Arrows that follow from others are
left out (``tred``), so that the order can be seen. ``--check`` draws nothing: it fails where
docs/images/rooms.dot is not what the imports give.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import grimp

FOLDER = Path(__file__).parent / "images"
ROOTS = ("hqvox", "pipelines", "annotator", "models")
COLOURS = {"hqvox": "#eef3fb", "pipelines": "#eaf6ee", "annotator": "#fdf3e4", "models": "#f6ecf5"}


def rooms() -> list[str]:
    """Packages that are drawn: those directly in ``hqvox``, and the three others whole."""
    graph = grimp.build_graph("hqvox", include_external_packages=False, cache_dir=None)
    return [*sorted(graph.find_children("hqvox")), "pipelines", "annotator", "models"]


def imports(names: list[str]) -> list[tuple[str, str]]:
    """Pairs (importer, imported) of rooms, sorted."""
    graph = grimp.build_graph(*ROOTS, include_external_packages=False, cache_dir=None)
    for name in names:
        if graph.find_children(name):
            graph.squash_module(name)
    return sorted(
        (name, other)
        for name in names
        for other in graph.find_modules_directly_imported_by(name)
        if other in names
    )


def purpose(name: str) -> str:
    """The first sentence of the package's docstring."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").split(":")[0].rstrip(".")


def dot(names: list[str], edges: list[tuple[str, str]]) -> str:
    """The graph in Graphviz's language."""
    lines = ["digraph rooms {", '  rankdir=TB; ranksep=0.35; nodesep=0.2; fontname="Helvetica";']
    lines.append('  node [shape=box style="rounded,filled" fontname="Helvetica" fontsize=12];')
    lines.append('  edge [color="#7a8594" arrowsize=0.6];')
    for name in names:
        colour = COLOURS[name.split(".")[0]]
        title = name.replace(".", "/")
        lines.append(
            f'  "{name}" [label="{title}" tooltip="{purpose(name)}" fillcolor="{colour}"];'
        )
    lines += [f'  "{importer}" -> "{imported}";' for importer, imported in edges]
    return "\n".join([*lines, "}", ""])


def main() -> None:
    """Run the command."""
    names = rooms()
    text = dot(names, imports(names))
    if "--check" in sys.argv[1:]:
        if (FOLDER / "rooms.dot").read_text("utf-8") != text:
            sys.exit("docs/images/rooms.dot is not what the imports give; run `make rooms`")
        return
    if shutil.which("dot") is None:
        sys.exit("Graphviz is missing: `apt install graphviz`, then run this again")
    (FOLDER / "rooms.dot").write_text(text, encoding="utf-8")
    reduced = subprocess.run(["tred"], input=text, capture_output=True, text=True, check=True)
    if "cycle" in reduced.stderr:
        sys.exit(f"packages import each other in a circle: {reduced.stderr.strip()}")
    svg = subprocess.run(
        ["dot", "-Tsvg"], input=reduced.stdout, capture_output=True, text=True, check=True
    )
    (FOLDER / "rooms.svg").write_text(svg.stdout, encoding="utf-8")
    print(f"{len(names)} packages; wrote {FOLDER / 'rooms.svg'}")


if __name__ == "__main__":
    main()
