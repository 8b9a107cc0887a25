# SPDX-License-Identifier: BSD-3-Clause
"""docs/control.md begins with a session: its commands are run here, and print what stands there.

    POLLUX=build/pollux python3 tests/integration/test_control_doc.py

writes what they print into the page."""

import pathlib
import re
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pytest  # noqa: E402

from ctl import Server, ctl  # noqa: E402
from host import Controller  # noqa: E402

PAGE = HERE.parent.parent / "docs" / "control.md"
SOCKET, PORT = "/var/tmp/pollux.sock", "4420"
BLOCK = re.compile(r"^```\n(.*?)^```$", re.M | re.S)
# What verbs are made of that came later than they.
NEEDS = {"connections": "nvmf_subsystem_get_controllers", "stats": "bdev_get_iostat"}


def session():
    """The part of the page that is one."""
    text = PAGE.read_text(encoding="utf-8")
    return text[:text.index("\n## Calls")]


def commands(block):
    """[(prompt, command, what it prints)]"""
    found = []
    for line in block.splitlines():
        if line[:2] in ("$ ", "# "):
            found.append([line[0], line[2:], ""])
        else:
            found[-1][2] += line + "\n"
    return found


class Session:
    """Runs commands: '$' on the machine of the server, '#' on a host, which is a client of our own here."""

    def __init__(self, folder):
        self.folder = folder
        self.server = self.host = None
        self.port = PORT
        self.missing = []

    def run(self, prompt, command):
        """What it prints; None when what it needs is not built in."""
        words = command.split()
        if prompt == "#":
            return self.on_host(words)
        if words[0] == "truncate":
            (self.folder / words[-1]).touch()
            with open(self.folder / words[-1], "r+b") as file:
                file.truncate(int(words[2][:-1]) << 30)
            return ""
        if words[:2] == ["pollux", "serve"]:
            self.server = Server(self.folder)
            self.server.__enter__()
            return self.server.stdout.replace(self.server.socket, SOCKET)
        assert words[:2] == ["pollux", "ctl"], command
        return self.ctl(words[2:])

    def ctl(self, words):
        needed = NEEDS.get(words[0], words[0])
        if needed not in self.names():
            self.missing.append(needed)
            return None
        if "--listen" in words:
            words[-1] += ":0"  # as that of the page may be taken
        out = self.server.ctl(*words).out
        if "--listen" in words:
            self.port = out.split()[7]
        return out.replace(self.server.socket, SOCKET).replace(f":{self.port}", f":{PORT}").replace(
            f"-s {self.port}", f"-s {PORT}")

    def names(self):
        return ctl("help", "--names").out.split()

    def on_host(self, words):
        assert words[:2] == ["nvme", "connect"] and words[-2] == "--hostnqn", words
        self.host = Controller((words[words.index("-a") + 1], int(self.port)), words[words.index("-n") + 1],
                               hostnqn=words[-1], io_queues=4)
        return ""

    def close(self):
        if self.host:
            self.host.close()
        if self.server:
            self.server.__exit__(None, None, None)


def masked(text):
    """Without what is another one each time."""
    text = re.sub(r"process \d+", "process N", text)
    text = re.sub(r"Pollux v\S+", "Pollux v", text)
    text = re.sub(r"^( *\d+) +(any|\d+) +\d+ %$", r"\1 CORE BUSY", text, flags=re.M)
    text = re.sub(r"(127\.0\.0\.1):(?!4420\b)\d+", r"\1:PORT", text)
    text = re.sub(r"(:PORT +\d+ +\d+ +)\d+: \d+ by [a-z]+", r"\1CORES", text)
    text = re.sub(r"^(disk\.img)( +[\d.]+( \w+)?){4}.*$", r"\1 STATS", text, flags=re.M)
    return re.sub(r"[ ]+", " ", text)


def test_the_session_of_the_page_prints_what_the_page_says(tmp_path):
    running = Session(tmp_path)
    try:
        steps = [step for block in BLOCK.findall(session()) for step in commands(block)]
        assert len(steps) > 10
        for prompt, command, printed in steps:
            out = running.run(prompt, command)
            assert out is None or masked(out) == masked(printed), command
    finally:
        running.close()
    if running.missing:
        pytest.skip(f"not built in: {', '.join(running.missing)}")


def test_what_the_page_says_of_exit_status_and_messages():
    """Its examples of errors, which need no server."""
    text = PAGE.read_text(encoding="utf-8")
    for command, printed in re.findall(r"^\$ pollux ctl (.*)\n(pollux: .*)$", text[text.index("\n## Calls"):], re.M):
        assert ctl(*command.split(), socket="/nowhere", status=2).err == printed + "\n"


def write():
    with tempfile.TemporaryDirectory() as folder:
        running = Session(pathlib.Path(folder))

        def again(match):
            text = ""
            for prompt, command, printed in commands(match[1]):
                out = running.run(prompt, command)
                text += f"{prompt} {command}\n{printed if out is None else out}"
            return f"```\n{text}```"
        page = PAGE.read_text(encoding="utf-8")
        part = session()
        PAGE.write_text(BLOCK.sub(again, part) + page[len(part):], encoding="utf-8")
        running.close()


if __name__ == "__main__":
    write()
