# SPDX-License-Identifier: BSD-3-Clause
"""The machine that the tests run in, in the place of a guest of theirs: where POLLUX_GUEST=here says so, as
scripts/test-arm does in its guests. There Pollux and the kernel are of one machine.

Tests load modules, mount, and empty /tmp: so it has to be a guest, and root's."""
import itertools
import os
import pathlib
import signal
import subprocess
import tempfile

from guest import CONSOLE_TAIL, LIMIT, GuestError, Shell

MARK = pathlib.Path("/run/job")  # what guest-init.sh makes


class HereJob:
    """A command that runs here, as guest.Job."""

    def __init__(self, here, number, command):
        self.here, self.number, self.command = here, number, command
        self.status = self.output = None
        self._file = tempfile.TemporaryFile()
        self._process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=self._file,
                                         stderr=subprocess.STDOUT, start_new_session=True)

    def done(self):
        if self.status is None and self._process.poll() is not None:
            self._end()
        return self.status is not None

    def _end(self):
        code = self._process.returncode
        self.status = 128 - code if code < 0 else code  # as a shell has it
        self._file.seek(0)
        self.output = self._file.read().decode(errors="replace")
        self._file.close()

    def wait(self, timeout=LIMIT):
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.here.error(f"no end after {timeout} s: {self.command}") from None
        self.done()
        return self.status, self.output

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def kill(self):
        if not self.done():
            os.killpg(self._process.pid, signal.SIGKILL)


class Here(Shell):
    """What tests do with a guest whose devices they do not change."""

    def __init__(self, forward=()):
        self.forward = list(forward)
        self._numbers = itertools.count(1)

    def __enter__(self):
        if os.geteuid() or not MARK.is_dir():
            raise GuestError("POLLUX_GUEST=here is for the guests of scripts/test-arm: tests empty /tmp")
        return self

    def __exit__(self, *_):
        pass

    def spawn(self, command):
        return HereJob(self, next(self._numbers), command)

    def console_tail(self, lines=CONSOLE_TAIL):
        text = self.dmesg(self._marked or None).splitlines()
        return "\n--- the kernel's log ---\n" + "\n".join(text[-lines:]) + "\n"

    def error(self, message):
        return GuestError(message + self.console_tail())
