# SPDX-License-Identifier: BSD-3-Clause
"""The report of `pollux compare`, looked at in a browser. $POLLUX_PICTURES names a folder for what it looks like."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from browser import Browser
from made_up import LOADS, results

from target import binary

LIMIT = 60
HTML_LIMIT = 400 << 10
WIDTHS = (1280, 700, 390)

# Per canvas: how much of it is drawn upon, and whether that touches its edge, where what goes on is cut off.
DRAWN = """
return [...document.querySelectorAll("figure canvas")].map((canvas) => {
  const w = canvas.width, h = canvas.height, data = canvas.getContext("2d").getImageData(0, 0, w, h).data;
  let ink = 0, edge = 0;
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++)
      if (data[4 * (y * w + x) + 3] > 40) { ink++; edge += x === 0 || y === 0 || x === w - 1 || y === h - 1; }
  return {id: canvas.closest("figure").id, ink: ink / w / h, edge};
});"""
COLOURS = """return [...document.querySelectorAll("figure")].map((f) => {
  const canvas = f.querySelector("canvas"), seen = new Set();
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] === 255) seen.add(data[i] + "," + data[i + 1] + "," + data[i + 2]);
  return [...f.querySelectorAll(".legend span")].map((s) => {
    const probe = document.createElement("i");
    probe.style.color = getComputedStyle(s).getPropertyValue("--c");
    f.append(probe);
    const colour = getComputedStyle(probe).color.match(/\\d+/g).join(",");
    probe.remove();
    return seen.has(colour);
  });
});"""
SCROLLED = "return [...document.querySelectorAll('figure .scroll')].filter((d) => d.scrollWidth > d.clientWidth).length"
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser():
    if not shutil.which("chromedriver"):
        pytest.skip("chromedriver is not there (Debian: chromium-driver)")
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "results.json").write_text(json.dumps(results()))
    done = subprocess.run([binary(), "compare", "--from", folder / "results.json", "--html", folder / "report.html"],
                          capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


def picture(browser, name):
    if os.environ.get("POLLUX_PICTURES"):
        browser.screenshot(Path(os.environ["POLLUX_PICTURES"]) / f"{name}.png")


def test_it_is_small_and_asks_for_nothing(browser, page):
    browser.resize(WIDTHS[0])
    browser.requests()
    browser.open(page)
    assert page.stat().st_size <= HTML_LIMIT
    assert browser.requests() == [page.as_uri()]
    assert browser.console() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_drawn_and_nothing_is_cut_off(browser, page, dark, width):
    browser.dark(dark)
    browser.resize(width)
    browser.open(page)
    charts = json.loads(browser.ask('return document.getElementById("charts").textContent'))
    drawn = browser.ask(DRAWN)
    assert [each["id"] for each in drawn] == [f"chart-{chart['id']}" for chart in charts] and len(charts) == 8
    assert all(each["ink"] > 0.01 for each in drawn), drawn
    assert not any(each["edge"] for each in drawn), drawn
    assert browser.ask(WIDER) <= 0
    picture(browser, f"report-{'dark' if dark else 'light'}-{width}")


def test_what_a_legend_names_is_in_its_chart(browser, page):
    browser.dark(False)
    browser.resize(WIDTHS[0])
    browser.open(page)
    found = browser.ask(COLOURS)
    assert len(found) == 8 and all(all(each) and each for each in found), found


def test_without_scripts_the_tables_are_there(browser, page):
    browser.scripts(False)
    try:
        browser.open(page)
        text = browser.text()
    finally:
        browser.scripts(True)
    body = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "<canvas" not in body and "These need scripts" in body
    assert all(f"<h3>{load}</h3>" in body for load, _ in LOADS)
    assert body.count("<tr><td>") >= 4 * len(LOADS)
    assert "a reason with &lt;b&gt;marks&lt;/b&gt; &amp; such" in body


def test_on_paper_it_is_light(browser, page):
    browser.dark(True)
    browser.resize(WIDTHS[0])
    browser.open(page)
    browser.devtools("Emulation.setEmulatedMedia", media="print",
                     features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.ask('return getComputedStyle(document.body).backgroundColor') == "rgb(255, 255, 255)"
    browser.devtools("Emulation.setEmulatedMedia", media="", features=[])
    paper = browser.devtools("Page.printToPDF", printBackground=True)["data"]
    assert len(paper) > 20000


def test_charts_of_the_benchmark_are_drawn_the_same_way(browser, tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
    import chart  # noqa: PLC0415

    rows = [(f"{size} KiB random read, QD128, of a disk with a rather long name", [(9e5 / size, 8e5 / size, 1e6 / size),
                                                                                   None], 5e5 / size)
            for size in range(1, 12)]
    made = chart.bars("made-up", "Made up", "For a test.", ["Pollux", "nothing"], rows, "IOPS", 1e5)
    assert len(made) == 2  # as many as its rows need
    (tmp_path / "page.html").write_text(chart.page(made, "A title", "below it"))
    browser.resize(WIDTHS[0])
    browser.console()
    browser.open(tmp_path / "page.html")
    drawn = browser.ask(DRAWN)
    assert len(drawn) == 2 and all(each["ink"] > 0.01 and not each["edge"] for each in drawn), drawn
    assert browser.ask(SCROLLED) == 0
    assert browser.console() == []
