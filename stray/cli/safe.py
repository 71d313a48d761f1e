"""Untrusted text on a terminal: markup is not interpreted, control characters are shown as escapes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from stray.errors import without_secrets

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str, *, colours: bool = False) -> str:
    """Return `text` with control characters written as escapes: `\\x1b`, `\\u202e`. Newlines and tabs stay.

    Besides the control characters, what changes the direction of text, joins or ends lines in Unicode's way, and halves
    of surrogate pairs, which no stream can encode. `colours` keeps the sequences that only set colours. Secrets in
    addresses are cut.
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    if colours:
        kept = _COLOUR.findall(text)
        parts = [visible(part) for part in _COLOUR.split(text)]
        return "".join(part + colour for part, colour in zip(parts, [*kept, ""], strict=True))
    return "".join(_escaped(char) if unicodedata.category(char) in _UNSAFE else char for char in text)


_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escaped(char: str) -> str:
    # Some scripts need the zero-width joiner.
    return char if char in "\n\t\u200d" else char.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Return `text` as `visible` does, with newlines written as `\\n` too."""
    return visible(text).replace("\n", "\\n")


def block(text: str, indent: int) -> str:
    """Indent all lines but the first, so that a newline in a name does not look like a new message."""
    return text.rstrip("\n").replace("\n", "\n" + " " * indent)


class SafeConsole(Console):
    """Console that reads no markup and writes control characters as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, "markup": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before the width is measured: tables stay aligned."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape `Text` objects; pass the console's own control segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
