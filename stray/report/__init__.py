"""Reports: tables, figures, pages. The only package that imports matplotlib."""

from __future__ import annotations

import logging


def _not_about_home(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(words in text for words in ("mkdir -p failed", "is not a writable directory", "MPLCONFIGDIR"))


# Where HOME takes no cache of fonts, matplotlib makes one in /tmp; that needs no three lines of every command.
logging.getLogger("matplotlib").addFilter(_not_about_home)
