# SPDX-License-Identifier: BSD-3-Clause
"""Runs tests/target_control.c, the library's target in a program that takes commands: for tests that change a target
while hosts look at it.

    with Control() as control:
        control("open", "first", "ram:64M")
        control("subsystem", NQN, "any-host")
        control("add-ns", NQN, "first")
        port = control("listen", "127.0.0.1:0")
        control("start")
        ...
        control("remove-ns", NQN, 1)
        control("apply")

The commands are in the table of target_control.c. The program is beside the one under test, in a build with tests.
"""
import json
import pathlib
import subprocess

import target
from target import REPORT_LIMIT, RUNNING, SANITIZER, Stream, TargetError, wait_until

ANSWER_LIMIT = 60  # seconds; for hung runs only


class Refused(Exception):
    """A command was answered by an error."""


class Control:
    """The program, running from __enter__ to __exit__; it has to end well."""

    def __init__(self, reactors=1, apart=False):
        self.words = [str(pathlib.Path(target.binary()).parent / "tests/target_control"), str(reactors)]
        self.words += ["apart"] if apart else []
        self.process = self.out = self.err = self.line = None
        self.answered = 0
        self.killed = False

    def __call__(self, *words):
        """Runs a command. What it answers, a number or what is going on, or None; Refused is raised with what it says
        is wrong."""
        self.begin(*words)
        return self.end()

    def begin(self, *words):
        """Begins a command, whose answer end() waits for."""
        self.line = " ".join(map(str, words))
        self.process.stdin.write(self.line + "\n")
        self.process.stdin.flush()

    def end(self):
        wait_until(lambda: len(self.out.lines) > self.answered or self.process.poll() is not None, ANSWER_LIMIT)
        if len(self.out.lines) <= self.answered:
            raise TargetError(f"no answer to {self.line!r}, exit status {self.process.poll()}\n{self.stderr}")
        verdict, _, rest = self.out.lines[self.answered].partition(" ")
        self.answered += 1
        if verdict == "error":
            raise Refused(f"{self.line}: {rest}")
        return json.loads(rest) if rest else None

    def ended(self):
        """Whether what was begun has an answer."""
        return len(self.out.lines) > self.answered

    def change(self, *words):
        """Runs a command and makes known to hosts what it changed."""
        number = self(*words)
        self("apply")
        return number

    def kill(self):
        """As a crash does, or a machine that loses its power."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    @property
    def stderr(self):
        return self.err.text

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, errors="replace", bufsize=1)
        RUNNING.add(self.process)
        self.out = Stream(self.process.stdout, lambda: None)
        self.err = Stream(self.process.stderr, lambda: None)
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            status = self.process.wait(REPORT_LIMIT)
        except subprocess.TimeoutExpired:
            status = "no end"
            self.process.kill()
            self.process.wait()
        RUNNING.discard(self.process)
        self.out.join(REPORT_LIMIT)
        self.err.join(REPORT_LIMIT)
        status = 0 if self.killed else status
        if (status or SANITIZER.search(self.stderr)) and value is None:
            raise TargetError(f"{self.words}: exit status {status}\n{self.stderr}")
