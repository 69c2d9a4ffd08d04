"""Records and comparisons as one HTML file that needs nothing else: no network, no script.

It is read downwards: what was found, curves, comparisons, speed, mistakes, pictures, and at the end
how every number came about. What is not there is named in one line with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence

from suite.report.catalogue import INTRODUCTION, build_sections
from suite.report.entries import Entry
from suite.report.html.chart import render_chart
from suite.report.html.frame import Table, render_details, render_frame, render_table, text
from suite.report.html.gallery import gallery_section
from suite.report.html.learning import learning_section
from suite.report.html.mistakes import mistakes_section
from suite.report.html.provenance import render_row_sources, render_sources
from suite.report.html.references import references_section
from suite.report.html.section import Section, cite_row, number_entries
from suite.report.html.speed import latency_section, scaling_section
from suite.report.html.summary import summary_section
from suite.report.html.tradeoff import tradeoff_section
from suite.report.reference import ReferenceRow
from suite.report.render import NO_RECORDS

__all__ = ["render_html"]

_BUILDERS = (
    summary_section,
    learning_section,
    references_section,
    scaling_section,
    latency_section,
    tradeoff_section,
    mistakes_section,
    gallery_section,
)


def render_html(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return the page; without any record it lists the published results.

    Raises:
        InputError: what stands beside a record is damaged.
    """
    if not entries:
        return _render_catalogue(rows)
    numbered = number_entries(entries)
    found = [build(numbered) for build in _BUILDERS]
    there = [section for section in found if section.parts]
    missing = [section for section in found if not section.parts]
    used = {one.other for entry in entries for one in entry.comparisons or () if one.row}
    body = "".join(_render_section(section) for section in there)
    body += _render_missing(missing) if missing else ""
    body += '<section aria-labelledby="sources"><h2 id="sources">Where the numbers come from</h2>\n'
    body += render_sources(numbered)
    if used:
        sources = render_row_sources(row for row in rows if row.row_id in used)
        body += render_details(f"{len(used)} published results", sources, kind="sources")
    return render_frame("Report", f"{body}</section>\n", header=_render_header(there))


def _render_header(sections: Sequence[Section]) -> str:
    links = [(section.key, section.heading) for section in sections]
    links.append(("sources", "Where the numbers come from"))
    items = "".join(f'<li><a href="#{key}">{text(name)}</a></li>\n' for key, name in links)
    return (
        f'<header><h1>Report</h1>\n<nav aria-label="Sections"><ul>\n{items}</ul></nav></header>\n'
    )


def _render_section(section: Section) -> str:
    return (
        f'<section aria-labelledby="{section.key}"><h2 id="{section.key}">{text(section.heading)}'
        f"</h2>\n<p>{text(section.lead)}</p>\n{_render_parts(section)}</section>\n"
    )


def _render_parts(section: Section) -> str:
    """Render parts in order, neighbouring charts in one grid."""
    done: list[str] = []
    charts = 0
    for place, part in enumerate(section.parts):
        if isinstance(part, str):
            done.append(part)
            continue
        charts += 1
        before = place == 0 or isinstance(section.parts[place - 1], str)
        after = place + 1 == len(section.parts) or isinstance(section.parts[place + 1], str)
        drawn = render_chart(part, f"{section.key}-{charts}")
        done.append(f"{_GRID if before else ''}{drawn}{_GRID_END if after else ''}")
    return "".join(done)


_GRID = '<div class="charts">\n'
_GRID_END = "</div>\n"


def _render_missing(sections: Sequence[Section]) -> str:
    lines = "".join(
        f"<li>{text(one.heading)}: <code>{text(one.remedy[0])}</code> {text(one.remedy[1])}.</li>\n"
        for one in sections
    )
    return (
        '<section aria-labelledby="missing"><h2 id="missing">Not in this report</h2>\n'
        f'<ul class="missing">\n{lines}</ul></section>\n'
    )


def _render_catalogue(rows: Sequence[ReferenceRow]) -> str:
    parts = [f"<p>{text(INTRODUCTION)}</p>\n"]
    for section in build_sections(rows):
        titles = [title for title in section.cells[0] if any(c[title] for c in section.cells)]
        cells = [
            [cite_row(line[title]) if title == "row" else text(line[title]) for title in titles]
            for line in section.cells
        ]
        notes = "".join(f"<li>{text(note)}</li>\n" for note in section.notes)
        parts += [
            f"<h2>{text(section.heading)}</h2>\n",
            render_table(Table(label=section.heading, titles=titles, rows=cells)),
            f"<ul>\n{notes}</ul>\n" if notes else "",
        ]
    parts.append('<h2 id="sources">Sources</h2>\n')
    parts.append(render_row_sources(rows))
    header = f"<header><h1>Published results</h1>\n<p>{text(NO_RECORDS)}</p></header>\n"
    return render_frame("Published results", "".join(parts), header=header)
