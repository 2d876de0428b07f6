"""One HTML page that needs nothing else: pictures inside it, no network, a few lines of script that sort tables."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# default-src 'none' makes the browser hold the promise: nothing is ever fetched
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}<nav>{links}</nav></header>
{sections}
</main>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { --ink: #1f2430; --muted: #5c6470; --line: #e1e4e9; --paper: #ffffff; --ground: #f5f6f8; --mark: #0b62a8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 28px 20px 60px; }
header { margin-bottom: 20px; }
h1 { font-size: 27px; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 0 0 8px; }
h3 { font-size: 15.5px; margin: 22px 0 6px; }
p { margin: 6px 0; max-width: 82ch; }
ul.lead { margin: 8px 0; padding-left: 20px; }
nav a { margin-right: 18px; color: var(--mark); text-decoration: none; font-weight: 600; }
nav a:hover { text-decoration: underline; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px 22px;
  margin-bottom: 18px; }
.muted, figcaption, caption { color: var(--muted); font-size: 13.5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; font-size: 14px; }
caption { text-align: left; caption-side: bottom; padding-top: 6px; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; max-width: 10em; color: var(--muted); font-weight: 600; }
th:first-child, td:first-child, .text { text-align: left; }
thead th button { all: unset; cursor: pointer; }
thead th button:hover, thead th button:focus-visible { color: var(--mark); text-decoration: underline; }
thead th[aria-sort=ascending] button::after { content: " \\25B2"; font-size: 9px; }
thead th[aria-sort=descending] button::after { content: " \\25BC"; font-size: 9px; }
tfoot td { border-bottom: none; font-weight: 600; }
tfoot tr:first-child td { border-top: 2px solid var(--ink); }
td.best { font-weight: 700; color: var(--mark); }
figure { margin: 12px 0 4px; }
img { max-width: 100%; height: auto; display: block; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--ground); padding: 10px 12px; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
dt { font-weight: 600; margin-top: 8px; } dd { margin: 0; max-width: 82ch; }
td.text { white-space: normal; overflow-wrap: anywhere; }
@media print { body { background: white; } section { border: none; padding: 0; } }
"""

SCRIPT = """
for (const header of document.querySelectorAll("thead th")) {
  const button = header.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const table = header.closest("table"), column = header.cellIndex;
    const up = header.getAttribute("aria-sort") === "descending";
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [Number(x), Number(y)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y, "en", {numeric: true}) : p - q;
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}
"""


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
    return f'<div class="scroll"><table>{words}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>{foot}</table></div>'


def picture(png: bytes, words: str, caption: str = "") -> str:
    """A picture inside the page; `words` say what it shows to whoever cannot see it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode("ascii")
    return f'<figure><img alt="{escape(words)}" src="data:image/png;base64,{data}">{below}</figure>'


def paragraph(text: str, muted: bool = False) -> str:
    kind = ' class="muted"' if muted else ""
    return f"<p{kind}>{escape(text)}</p>" if text else ""


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page: a title, the findings in `lead` one a line, and the sections with links to them."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in lead)
    return PAGE.format(
        title=escape(title),
        style=STYLE,
        script=SCRIPT,
        lead=f'<ul class="lead">{lines}</ul>' if lines else "",
        links="".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections),
        sections="\n".join(
            f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>\n{section.body}\n</section>'
            for section in sections
        ),
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
