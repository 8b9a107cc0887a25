# SPDX-License-Identifier: BSD-3-Clause
"""SSDs for tests: `pollux-model` is the command with models in place of VFIO (tests/unit/pcie_program.c).

    with Machine(f"{A},ns=2") as machine:
        with Server(env=machine.env) as server, server.client() as client:
            machine.tell(A, "remove")
"""
import os
import pathlib
import re
import shutil
import socket
import tempfile

import target

A, B = "0000:01:00.0", "0000:02:00.0"
BLOCK, BLOCKS = 512, 131072
GET_LOG_PAGE = 2
LATE = 2  # a kind of fault: pcie_model.h

COMPLAINTS = re.compile(r"^pollux-model: .*$", re.M)


def model():
    """The program, beside the one under test."""
    return pathlib.Path(target.binary()).resolve().parent / "tests" / "unit" / "pollux-model"


class Machine:
    """Which controllers there are. Of the programs with `env`, the one that was started last is told things; `alone` is
    for others, with controllers of their own."""

    def __init__(self, *models):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-pcie-"))  # short: a socket's path has 107 bytes
        self.alone = {"PCIE_MODELS": ";".join(models)}
        self.env = self.alone | {"PCIE_MODELS_CONTROL": str(self.folder / "control")}
        self.line = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self):
        """The program has ended."""
        if self.line:
            self.line.close()
        self.line = None

    def tell(self, *words):
        """Does something to a controller; returns the number that answers it."""
        if not self.line:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.env["PCIE_MODELS_CONTROL"])
            self.line = connection.makefile("rw")
            connection.close()  # the file has it
        self.line.write(" ".join(map(str, words)) + "\n")
        self.line.flush()
        return int(self.line.readline())

    def whole_env(self):
        """For a program that runs alone."""
        return os.environ | self.alone


def assert_content(stderr):
    """The controllers were closed, and have nothing to complain of."""
    assert not COMPLAINTS.findall(stderr), stderr
