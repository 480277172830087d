"""A model's quality on labelled rows as one self-contained HTML page: ``softmaxnet evaluate --report``.

::

    chunks of rows --ReportRows.add--> a few numbers a row --write_report--> one file

The page has no script and loads nothing: charts are SVG, pictures are in the file, colours follow the reader's light or
dark mode. Everything that comes from the data is escaped.
"""

from __future__ import annotations

from softmaxnet.report.page import render_report, write_report
from softmaxnet.report.rows import ReportRows

__all__ = ["ReportRows", "render_report", "write_report"]
