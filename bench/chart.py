# SPDX-License-Identifier: BSD-3-Clause
"""Charts, drawn as those of `pollux compare` are: JSON in a page that needs nothing from elsewhere, by its scripts.

src/compare/report/ has the page and its scripts; report.js says what a chart is."""
import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "src/compare/report"
SCRIPTS = ("uPlot.iife.min.js", "report.js")
STYLES = ("uPlot.min.css", "report.css")
COLOURS = (3, 5, 0, 2)  # of report.css
BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
PICTURE_LIMIT = 120  # seconds
WIDTH = 1280


ROWS = 9  # of a chart: their names need the room


def bars(name, title, note, series, rows, unit="", reference=None):
    """Charts of bars: one, or as many as the rows need.

    series: names, one a colour. rows: (label, [bar or None, one a series], goal or None), where a bar is
    (value, low, high). reference: a value that gets a dashed line through all rows."""
    charts = -(-len(rows) // ROWS)
    if charts > 1:
        each = -(-len(rows) // charts)
        return [chart for i in range(charts) for chart in
                bars(f"{name}-{i + 1}", f"{title}, {i + 1} of {charts}", note, series, rows[i * each:(i + 1) * each],
                     unit, reference)]

    def column(which, k):
        return [row[k] and row[k][which] for _, row, _ in rows]

    return [{"id": name, "title": title, "note": note, "kind": "bars", "wide": True, "labels": True,
             "x": {"label": "", "values": [label for label, _, _ in rows]}, "y": {"label": unit},
             "series": [{"name": what, "colour": COLOURS[k % len(COLOURS)], "mid": column(0, k), "low": column(1, k),
                         "high": column(2, k)} for k, what in enumerate(series)],
             "goals": [goal for _, _, goal in rows], "reference": reference}]


def _asset(name):
    vendored = REPORT / "uplot" / name
    return (vendored if vendored.exists() else REPORT / name).read_text(encoding="utf-8")


def _hashes(names):
    digests = (hashlib.sha256(_asset(name).encode()).digest() for name in names)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _tables(charts):
    """What the charts show, for who has no scripts."""
    for each in charts:
        head = "".join(f"<th>{html.escape(one['name'])}</th>" for one in each["series"])
        yield f'<h3>{html.escape(each["title"])}</h3>\n<div class="scroll"><table>'
        yield f"<thead><tr><th></th>{head}</tr></thead><tbody>"
        for i, label in enumerate(each["x"]["values"]):
            cells = ("\u2013" if one["mid"][i] is None else
                     f'{one["mid"][i]:,.4g}<br><small>{one["low"][i]:,.4g} \u2013 {one["high"][i]:,.4g}</small>'
                     for one in each["series"])
            yield f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        yield "</tbody></table></div>"


def page(charts, title, subtitle):
    """The page, as text."""
    body = "\n".join([
        f'<header><h1>{html.escape(title)}</h1>\n<p class="sub">{html.escape(subtitle)}</p></header>',
        '<p class="needs-script sub">The charts need scripts; all that they show is in the tables.</p>',
        '<div class="charts"></div>', "<h2>All figures</h2>", *_tables(charts)])
    text = json.dumps(charts).replace("<", "\\u003c")
    parts = {"style-hashes": _hashes(STYLES), "script-hashes": _hashes(SCRIPTS), "title": html.escape(title),
             "body": body, "charts": text, "foot": "Made by bench/run. Charts by uPlot."}
    return re.sub(r"{{(.*?)}}", lambda place: parts.get(place[1]) or _asset(place[1]), _asset("page.html"))


def picture(path, to, height):
    """A picture of the page's top, where there is a browser. @return whether there is"""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        return False
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                           f"--window-size={WIDTH},{height}", f"--screenshot={to}", Path(path).resolve().as_uri()],
                          capture_output=True, timeout=PICTURE_LIMIT, check=False)
    return done.returncode == 0 and Path(to).exists()
