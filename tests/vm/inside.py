# SPDX-License-Identifier: BSD-3-Clause
"""In a guest of scripts/test-arm: runs files of tests, each in a process of its own that has pytest already.

Python and pytest take longer to start there than most files take. So this one has them, and a child of it runs what
is written to /run/ask: a file and options of pytest's. The child's output is in /run/output, and its exit status is
what /run/answer then says."""
import gc
import os
import signal
import sys
import unittest.mock  # noqa: F401  # what pytest and the tests import sooner or later
import xml.etree.ElementTree  # noqa: F401

import _pytest.junitxml  # noqa: F401
import pytest

HUNG = 1200  # seconds of the guest's that a file may take


def run(words):
    """In the child, which ends with pytest's exit status."""
    output = os.open("/run/output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    signal.alarm(HUNG)
    sys.exit(pytest.main(words))


def main():
    for name in ("/run/ask", "/run/answer"):
        os.mkfifo(name)
    gc.freeze()
    while True:
        with open("/run/ask", encoding="utf-8") as ask:
            words = ask.read().split()
        child = os.fork()
        if not child:
            run(words)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            os.killpg(child, signal.SIGKILL)
        with open("/run/answer", "w", encoding="utf-8") as answer:
            answer.write(f"{status}\n")


if __name__ == "__main__":
    main()
