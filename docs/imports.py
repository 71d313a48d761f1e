"""Draw the packages of stray and their imports, read from the source, as an SVG file."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).resolve().parent.parent / "stray"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 108, 34, 22, 42, 20


def write(path: Path) -> None:
    """Write the diagram to `path`, unless it already holds it."""
    text = svg(imports())
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def imports() -> dict[str, set[str]]:
    """Return package (or top-level module) of stray -> those that it imports anywhere."""
    found: dict[str, set[str]] = defaultdict(set)
    parts = {file.stem if file.is_file() else file.name for file in PACKAGE.iterdir() if _is_part(file)}
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in parts:
            continue
        found[part] |= set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            used = {name.split(".")[1] for name in names if name.startswith("stray.")}
            found[part] |= (used & parts) - {part}
    return dict(found)


def svg(graph: dict[str, set[str]]) -> str:
    """Return the diagram: a package above all that it imports, arrows that follow from others left out."""
    level = _levels(graph)
    rows: dict[int, list[str]] = defaultdict(list)
    for part in sorted(graph):
        rows[level[part]].append(part)
    top, widest = max(rows), max(len(row) for row in rows.values())
    width = 2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + (top + 1) * (HEIGHT + GAP_Y) - GAP_Y
    place: dict[str, tuple[float, float]] = {}
    for number in range(top + 1):
        row = rows[number]
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, part in enumerate(_ordered(row, graph, place)):
            place[part] = (left + column * (WIDTH + GAP_X), MARGIN + (top - number) * (HEIGHT + GAP_Y))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7a8794"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for part, used in sorted(_reduced(graph).items()):
        for other in sorted(used):
            (x1, y1), (x2, y2) = place[part], place[other]
            lines.append(
                f'<path d="M{x1 + WIDTH / 2:.0f} {y1 + HEIGHT}L{x2 + WIDTH / 2:.0f} {y2}" stroke="#7a8794" fill="none" '
                'stroke-width="1.2" marker-end="url(#tip)"/>'
            )
    for part, (x, y) in sorted(place.items()):
        lines.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef3f8" stroke="#345"/>'
        )
        lines.append(
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 5:.0f}" text-anchor="middle">{escape(part)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _is_part(file: Path) -> bool:
    return (file.is_dir() and (file / "__init__.py").exists()) or (
        file.suffix == ".py" and not file.stem.startswith("__")
    )


def _levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return each part's longest way down."""
    level: dict[str, int] = {}

    def of(part: str) -> int:
        if part not in level:
            level[part] = 1 + max((of(other) for other in graph[part]), default=-1)
        return level[part]

    for part in graph:
        of(part)
    return level


def _reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the arrows that follow from two or more others."""

    def below(part: str) -> set[str]:
        return graph[part].union(*(below(other) for other in graph[part]))

    return {part: used - set().union(*(below(other) for other in used)) for part, used in graph.items()}


def _ordered(row: list[str], graph: dict[str, set[str]], place: dict[str, tuple[float, float]]) -> list[str]:
    """Return the row sorted by the mean position of what each part imports."""

    def centre(part: str) -> float:
        xs = [place[other][0] for other in graph[part] if other in place]
        return sum(xs) / len(xs) if xs else 0.0

    return sorted(row, key=lambda part: (centre(part), part))
