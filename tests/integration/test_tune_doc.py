# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/tuning.md is what `pollux tune` says. To write it: POLLUX=build/pollux python3 this-file"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from machines import MACHINES, Machine  # noqa: E402
from target import binary  # noqa: E402

DOC = HERE.parent.parent / "docs/tuning.md"
BEGIN, END = ("<!-- checks: begin. Written by tests/integration/test_tune_doc.py; nothing else goes between these two "
              "lines. -->\n", "<!-- checks: end -->")


def findings(folder):
    """{check: of all machines the finding that says most of its figure}"""
    best = {}
    for name in MACHINES:
        machine = Machine(Path(folder) / name, name)
        out = subprocess.run([binary(), "tune", "--json", "--root", machine.root, "-m", "0"], capture_output=True,
                             check=True, timeout=60).stdout
        for f in json.loads(out)["findings"]:
            known = best.setdefault(f["check"], f)
            if known["gain"]["origin"] == "unknown" != f["gain"]["origin"]:
                best[f["check"]] = f
    return best


def figure(gain):
    source = gain["source"]
    if gain["origin"] == "measured":
        return f"measured: {source}"
    if gain["origin"] == "published":
        own = "of this machine" in source or "this machine's" in source
        return f"published: {source}" if own else f"published: {gain['text']} ({source})"
    return f"unknown; {source}" if source else "unknown"


def table(folder):
    rows = ["| check | what and why | costs | figure |", "|---|---|---|---|"]
    rows += [f"| `{check}` | {f['title'][0].upper()}{f['title'][1:]}. {f['why']} | {f['cost']} | {figure(f['gain'])} |"
             for check, f in findings(folder).items()]
    return "\n".join(rows) + "\n"


def test_the_table_is_what_the_command_says(tmp_path):
    text = DOC.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) + len(BEGIN):text.index(END)] == table(tmp_path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        old = DOC.read_text(encoding="utf-8")
        DOC.write_text(old[:old.index(BEGIN) + len(BEGIN)] + table(made) + old[old.index(END):], encoding="utf-8")
