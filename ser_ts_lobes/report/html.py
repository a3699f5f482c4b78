"""Pieces of the page: cells, tables, figures, and its style. Nothing is fetched, and no script runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np

from ser_ts_lobes.report.figures import color_of

_LIGHT = (
    "--page: #fff; --ink: #1b1f24; --faint: #6a737d; --grid: #dfe3e8; --s0: #1f6fb4; --s1: #c8500a; "
    "--s2: #0a7d5c; --s3: #8441a8; --s4: #8f6700; --s5: #c0397f; --s6: #2b8a9e; --s7: #5c6670"
)
_DARK = (
    "--page: #14171b; --ink: #e6e9ed; --faint: #9aa4af; --grid: #343b43; --s0: #6cb2f2; --s1: #ff9a5a; "
    "--s2: #4ccf9f; --s3: #cb9bef; --s4: #dfb84f; --s5: #f58cc0; --s6: #6fd0e3; --s7: #b5bec8"
)
_STYLE = f"""
:root {{{_LIGHT}; color-scheme: light dark}}
@media screen and (prefers-color-scheme: dark) {{:root {{{_DARK}}}}}
* {{box-sizing: border-box}}
body {{margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; max-width: 1320px; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif}}
h1 {{font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem}}
h2 {{font-size: 1.35rem; margin: 3rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--ink)}}
h3 {{font-size: 1.05rem; margin: 2.2rem 0 .4rem}}
p, li {{max-width: 46rem; overflow-wrap: break-word}}
p {{margin: .4rem 0}}
a {{color: var(--s0)}}
nav {{display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .9rem}}
.note, figcaption, .caption, small {{color: var(--faint)}}
.note {{border-left: 3px solid var(--s1); padding-left: .75rem}}
figure {{margin: .75rem 0}}
figcaption, .caption {{font-size: .85rem; line-height: 1.4}}
.caption {{margin-top: 1rem}} figcaption {{max-width: 46rem}}
.panels {{display: grid; gap: .5rem 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr))}}
.panels svg {{width: 100%; height: auto; display: block}}
.panels svg * {{stroke-linejoin: round}}
.keys {{display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; margin: .25rem 0}}
.keys i {{display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em}}
.wide {{overflow-x: auto; margin: .4rem 0 .75rem}}
table {{border-collapse: collapse; font-size: .85rem; line-height: 1.3; font-variant-numeric: tabular-nums}}
th, td {{padding: .3rem .7rem .3rem 0; text-align: right; vertical-align: top; border-top: 1px solid var(--grid)}}
thead th {{border-top: 0; border-bottom: 1px solid var(--ink); vertical-align: bottom}}
.words {{text-align: left}}
tbody th {{text-align: left; font-weight: 600}}
td {{white-space: nowrap}}
td small {{display: block}}
td b {{font-weight: 600}}
tbody th small {{display: block; font-weight: 400}}
@media print {{:root {{font-size: 10.5px}} body {{font-size: 1rem; padding: 0; max-width: none}} nav {{display: none}}
  h2, h3 {{break-after: avoid}} figure, tr, svg {{break-inside: avoid}} .wide {{overflow: visible}}
  .panels {{grid-template-columns: repeat(3, minmax(0, 1fr))}}}}
"""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell of a table: the number, and below it, smaller, what belongs to it."""

    value: str
    below: str = ""

    def __str__(self) -> str:
        below = f"<small>{escape(self.below)}</small>" if self.below else ""
        return f"<td><b>{escape(self.value)}</b>{below}</td>"


# Of a table; see `table`.
Row = list[str | Cell]


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Write a number for people; a dash for none.

    Example
    -------
    >>> number(0.6119), number(-0.05, 2, sign=True), number(float("nan"))
    ('0.612', '−0.05', '–')
    """
    if np.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def ends(interval: np.ndarray, digits: int = 3, sign: bool = False) -> str:
    """Write an interval, shape (2,).

    Example
    -------
    >>> ends(np.array([0.58, 0.64]), 2)
    '[0.58, 0.64]'
    """
    low, high = (number(end, digits, sign) for end in interval)
    return f"[{low}, {high}]"


def p_value(p: float) -> str:
    """Write a p-value.

    Example
    -------
    >>> p_value(0.0312), p_value(1e-9), p_value(float("nan"))
    ('p = 0.031', 'p < 0.001', 'no p')
    """
    return "no p" if np.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def table(caption: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    """Lay out a table.

    Parameters
    ----------
    caption
        How to read it.
    header
        Of the columns.
    rows
        The first of a row is its name, which rows below it share if they have the same; other words are text, and
        cells are numbers.

    Returns
    -------
    str
    """
    head = "".join(
        f'<th scope="col"{_words(*(row[column] for row in rows[:1]))}>{escape(name)}</th>'
        for column, name in enumerate(header)
    )
    body = []
    for name, of_name in groupby(rows, key=lambda row: str(row[0])):
        together = list(of_name)
        first = f'<th scope="rowgroup" rowspan="{len(together)}">{escape(name)}</th>'
        for place, (_, *cells) in enumerate(together):
            row = "".join(
                str(cell) if isinstance(cell, Cell) else f"<td{_words(cell)}>{escape(cell)}</td>" for cell in cells
            )
            body.append(f"<tr>{'' if place else first}{row}</tr>")
    return (
        f'<p class="caption">{escape(caption)}</p><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _words(*cells: str | Cell) -> str:
    return ' class="words"' if any(isinstance(cell, str) for cell in cells) else ""


def figure(panels: Iterable[str], caption: str, keys: Iterable[tuple[int, str]] = ()) -> str:
    """Put panels abreast, as many as there is room for, with what the colours stand for."""
    named = "".join(
        f'<span><i style="background: {color_of(number)}"></i>{escape(name)}</span>' for number, name in keys
    )
    legend = f'<div class="keys">{named}</div>' if named else ""
    abreast = f'<div class="panels">{"".join(panels)}</div>'
    return f"<figure>{legend}{abreast}<figcaption>{escape(caption)}</figcaption></figure>"


def text(words: str, css_class: str = "") -> str:
    """Make a paragraph."""
    return f"<p{f' class={css_class}' if css_class else ''}>{escape(words)}</p>"


def page(title: str, lede: str, sections: Sequence[tuple[str, str]]) -> str:
    """Put a page together.

    Parameters
    ----------
    title, lede
        Words.
    sections
        Heading and HTML of each.

    Returns
    -------
    str
        One file, which needs no other.
    """
    links = "".join(f'<a href="#part-{place}">{escape(name)}</a>' for place, (name, _) in enumerate(sections))
    parts = "".join(
        f'<section id="part-{place}"><h2>{escape(name)}</h2>{content}</section>'
        for place, (name, content) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{text(lede)}<nav>{links}</nav></header>\n"
        f"<main>{parts}</main></body></html>\n"
    )
