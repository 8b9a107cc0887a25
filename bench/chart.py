# SPDX-License-Identifier: BSD-3-Clause
"""Bar charts as SVG, written by hand: no library, no script, no font of their own."""

from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, TOP, RIGHT = 960, 330, 16, 12, 64, 90
COLOURS = ["#2f6f9f", "#b9c4cc", "#c9803a", "#7a9a52"]
TEXT = "#22282c"
STYLE = f"text{{font:13px sans-serif;fill:{TEXT}}} .title{{font:bold 16px sans-serif}} .small{{font:11px sans-serif}}"


def _text(x, y, text, anchor="start", style=""):
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _rect(x, y, width, colour):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{BAR}" fill="{colour}"/>'


def _line(x1, y1, x2, y2, colour=TEXT, dash=""):
    more = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.5"{more}/>'


def bars(title, subtitle, series, rows, reference=None):
    """A horizontal bar chart.

    series: names, one a colour. rows: (label, [bar or None, one a series], goal or None), where a bar is
    (value, low, high, text). reference: a value that gets a dashed line through all rows."""
    group = len(series) * BAR + GAP
    height = TOP + len(rows) * group + GAP
    largest = max(reference or 0, *(bar[2] for _, row, _ in rows for bar in row if bar),
                  *(goal for _, _, goal in rows if goal))
    scale = (WIDTH - LABEL - RIGHT) / (largest or 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
           f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
           _text(16, 26, title, style="title"), _text(16, 46, subtitle, style="small")]
    x = LABEL
    for name, colour in zip(series, COLOURS) if len(series) > 1 else ():
        out += [f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>',
                _text(x + 17, 46, name, style="small")]
        x += 40 + 7 * len(name)
    for i, (label, row, goal) in enumerate(rows):
        y = TOP + i * group
        out.append(_text(LABEL - 10, y + len(series) * BAR / 2 + 4, label, "end"))
        for k, bar in enumerate(row):
            if bar is None:
                continue
            value, low, high, text = bar
            top, middle = y + k * BAR, y + k * BAR + BAR / 2
            out.append(_rect(LABEL, top, value * scale, COLOURS[k]))
            if high > low:
                out.append(_line(LABEL + low * scale, middle, LABEL + high * scale, middle))
            out.append(_text(LABEL + max(value, high) * scale + 6, top + BAR - 4, text, style="small"))
        if goal:
            at = LABEL + goal * scale
            out.append(_line(at, y - 3, at, y + len(series) * BAR + 3, "#b03030"))
    if reference:
        at = LABEL + reference * scale
        out.append(_line(at, TOP - 4, at, height - GAP, "#8a949b", "4 3"))
    return "\n".join([*out, "</svg>"]) + "\n"
