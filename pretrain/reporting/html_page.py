"""One HTML page that needs nothing else: tables that sort, charts and the library that draws them, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from neurochorus.pretrain.reporting.charts import packed

# default-src 'none' makes the browser hold the promise: nothing is ever fetched
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}<nav aria-label="sections">{links}</nav>{hint}</header>
{sections}
</main>
{library}<script>{script}</script>
</body>
</html>
"""

HINT = (
    '<p class="muted">Charts: point at a mark for its value, drag to zoom, double-click to go back; a click on a '
    "legend's entry hides and shows it.</p><noscript><p>Charts need JavaScript; tables do not.</p></noscript>"
)
LIBRARY = '<script type="text/plain" id="chart-library">{}</script>\n'
FOLDER = Path(__file__).resolve().parent
LONG_TABLE = 15
"Rows from which on a table gets a field that filters them."


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    body: str
    "HTML."


@dataclass(frozen=True)
class Cell:
    """A cell of a table; a number is also kept whole, to sort by."""

    text: str
    value: float | None = None
    best: bool = False


def number(value: float, digits: int = 4, signed: bool = False, best: bool = False) -> Cell:
    """A number with `digits` after the point, an en dash where it is undefined."""
    if math.isnan(value):
        return Cell("–", value)
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return Cell(text.replace("-", "−").replace("inf", "∞"), value, best)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    footer: Sequence[Sequence[Cell | str]] = (),
    caption: str = "",
    text_columns: Sequence[int] = (0,),
) -> str:
    """A table whose columns sort by a click on their header; rows of `footer` stay at the bottom."""
    heads = "".join(
        f'<th scope="col"{_text(column, text_columns)}><button type="button">{escape(title)}</button></th>'
        for column, title in enumerate(header)
    )
    body = "".join(_row(row, text_columns) for row in rows)
    foot = f"<tfoot>{''.join(_row(row, text_columns) for row in footer)}</tfoot>" if footer else ""
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    whole = (
        f'<div class="scroll"><table>{words}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>{foot}</table></div>'
    )
    if len(rows) < LONG_TABLE:
        return whole
    field = f'<label>show rows with <input type="search" data-filter placeholder="{escape(header[0])}"></label>'
    return f'<div class="filtered"><div class="controls">{field}</div>{whole}</div>'


def details(summary: str, body: str) -> str:
    """Something that is opened by a click on its summary."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def paragraph(text: str, muted: bool = False) -> str:
    kind = ' class="muted"' if muted else ""
    return f"<p{kind}>{escape(text)}</p>" if text else ""


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page: a title, the findings in `lead` one a line, and the sections with links to them."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in lead)
    body = "\n".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>\n{section.body}\n</section>'
        for section in sections
    )
    charts = 'class="charts"' in body
    return PAGE.format(
        title=escape(title),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
        lead=f'<ul class="lead">{lines}</ul>' if lines else "",
        links="".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections),
        hint=HINT if charts else "",
        library=LIBRARY.format(packed(get_plotlyjs())) if charts else "",
        sections=body,
    )


def _row(cells: Sequence[Cell | str], text_columns: Sequence[int]) -> str:
    return f"<tr>{''.join(_cell(cell, column, text_columns) for column, cell in enumerate(cells))}</tr>"


def _cell(cell: Cell | str, column: int, text_columns: Sequence[int]) -> str:
    if isinstance(cell, str):
        return f"<td{_text(column, text_columns)}>{escape(cell)}</td>"
    best = ' class="best"' if cell.best else ""
    value = "" if cell.value is None or math.isnan(cell.value) else repr(float(cell.value)).replace("inf", "Infinity")
    return f'<td data-value="{value}"{best}>{escape(cell.text)}</td>'


def _text(column: int, text_columns: Sequence[int]) -> str:
    return ' class="text"' if column in text_columns else ""
