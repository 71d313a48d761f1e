"""Tables of text on a terminal."""

from __future__ import annotations

from textwrap import fill

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stray.report.tables import MAJORITY
from stray.report.text import TextTable

HEAD_WIDTH = 12
"""Characters after which a column name may break into a new line."""


def drawn(table: TextTable) -> RenderableType:
    """Return the table for a terminal, with its title above and its note below."""
    made = Table(header_style="bold")
    for index, name in enumerate(table.head):
        head = Text(fill(name, HEAD_WIDTH, break_long_words=False))
        made.add_column(head, justify="left" if index < table.names else "right", no_wrap=index == 0)
    for row in table.rows:
        made.add_row(*map(Text, row), style="dim" if row[0] == MAJORITY else None)
    note = [Text(table.note, style="dim")] if table.note else []
    return Group(Text(table.title, style="bold"), made, *note, Text())
