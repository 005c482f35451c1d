"""The compatibility site, its Markdown twin and badges: values in, files out.

site = gather(records, cells, made=now, claims=claims, locks=locks, causes=causes)
for path, data in render(site):
    write(folder / path, data)
"""

from __future__ import annotations

from assay.pages.badge import badge, badges
from assay.pages.gather import gather
from assay.pages.markdown import between_markers, table
from assay.pages.model import About, Cause, CellPage, LogExcerpt, Result, Site, Source
from assay.pages.pages import cell_file, render

__all__ = [
    "About",
    "Cause",
    "CellPage",
    "LogExcerpt",
    "Result",
    "Site",
    "Source",
    "badge",
    "badges",
    "between_markers",
    "cell_file",
    "gather",
    "render",
    "table",
]
