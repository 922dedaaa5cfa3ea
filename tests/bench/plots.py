"""Charts as SVG text, and tables: a bar is a median, the thin line over it the range. Every bar of a chart has the same weight, ours or not.

Written by hand so that a chart is a few hundred lines of text that a diff can show; no library, no fonts, no scripts.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from msgspec import Struct

WIDTH, LABEL, RIGHT, BAR, GAP, TOP = 760, 210, 110, 22, 12, 56
COLORS = ("#4063d8", "#cb3c33", "#389826", "#9558b2", "#c27c0e", "#17808a")
INK, FAINT, PAPER = "#1f2328", "#d0d7de", "#ffffff"
FAMILY = "system-ui, sans-serif"


class Bar(Struct, frozen=True):
    """One contestant: median and range; `value` None prints `note` instead of a bar (failed, not run)."""

    label: str
    value: float | None
    low: float = 0.0
    high: float = 0.0
    note: str = ""


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """A horizontal bar chart, in the order given."""
    high = max([max(row.high, row.value or 0.0) for row in rows] + [1e-9])
    plot = WIDTH - LABEL - RIGHT
    height = TOP + len(rows) * (BAR + GAP) + 8
    parts = [text(16, 24, title, size=16, bold=True), text(16, 43, unit, size=12)]
    for index, row in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        parts.append(text(LABEL - 8, y + BAR - 6, row.label, anchor="end"))
        if row.value is None:
            parts.append(text(LABEL + 4, y + BAR - 6, row.note))
            continue
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{row.value / high * plot:.1f}" height="{BAR}" fill="{COLORS[0]}"/>')
        middle, left, right = y + BAR / 2, LABEL + row.low / high * plot, LABEL + row.high / high * plot
        if row.high > row.low:
            parts.append(f'<path d="M{left:.1f} {middle}H{right:.1f}" stroke="{INK}" stroke-width="2"/>')
        end = max(right, LABEL + row.value / high * plot)
        parts.append(text(end + 6, y + BAR - 6, f"{number(row.value)} {row.note}".rstrip()))
    return svg(height, parts)


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]], *, log_y: bool = False) -> str:
    """A line chart of several series of (x, y). With `log_y` every y must be above zero."""
    from math import log10

    def scaled(value: float) -> float:
        return log10(value) if log_y else value

    left, top, plot_w, plot_h = 80, TOP, WIDTH - 80 - 180, 260
    xs = [x for points in series.values() for x, _ in points] or [0.0]
    ys = [y for points in series.values() for _, y in points] or [1.0]
    x0, x1 = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    y0 = scaled(min(ys)) if log_y else 0.0
    y1 = scaled(max(ys)) if scaled(max(ys)) > y0 else y0 + 1
    parts = [text(16, 24, title, size=16, bold=True), text(16, 43, f"{y_label} over {x_label}", size=12)]
    for step in range(5):
        share = step / 4
        y, value = top + plot_h * (1 - share), y0 + share * (y1 - y0)
        parts.append(f'<path d="M{left} {y:.1f}H{left + plot_w}" stroke="{FAINT}"/>')
        parts.append(text(left - 6, y + 4, number(10**value if log_y else value), anchor="end"))
        parts.append(text(left + plot_w * share, top + plot_h + 18, number(x0 + share * (x1 - x0)), anchor="middle"))
    for index, (name, points) in enumerate(series.items()):
        color = COLORS[index % len(COLORS)]
        places = [(left + (x - x0) / (x1 - x0) * plot_w, top + plot_h * (1 - (scaled(y) - y0) / (y1 - y0))) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places)
        parts.append(f'<rect x="{left + plot_w + 16}" y="{top + index * 20}" width="12" height="12" fill="{color}"/>')
        parts.append(text(left + plot_w + 34, top + index * 20 + 11, name))
    return svg(top + plot_h + 32, parts)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)])


def number(value: float) -> str:
    """A figure as people read it: 66 100, 14.2, 0.045."""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def text(x: float, y: float, said: str, *, anchor: str = "start", size: int = 13, bold: bool = False) -> str:
    """A line of text at its baseline."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight}>{escape(said)}</text>'


def svg(height: float, parts: Sequence[str], *, width: int = WIDTH) -> str:
    """The whole picture."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="{FAMILY}" fill="{INK}">'
    return "\n".join([head, f'<rect width="100%" height="100%" fill="{PAPER}"/>', *parts, "</svg>", ""])
