# SPDX-License-Identifier: BSD-3-Clause
"""A Linux virtual machine to run commands in: a real kernel as NVMe/TCP host (or target) for the tests.

    with Guest(image_dir, work_dir) as guest:
        status, output = guest.run("nvme list")
        writer = guest.spawn("dd if=/dev/zero of=/dev/nvme0n1")
        ...
        status, output = writer.wait(timeout=30)

The guest reaches this machine's loopback as 10.0.2.2. It runs on QEMU's software CPU: it is some ten times slower than
this machine, and times taken in it say nothing about the target.
"""
import base64
import io
import itertools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

INSIDE = os.environ.get("POLLUX_GUEST") == "here"  # the tests themselves are in a guest: see here.py
HOST_ADDRESS = "127.0.0.1" if INSIDE else "10.0.2.2"  # this machine's 127.0.0.1, as seen in the guest
LIMIT = 300  # seconds that anything in it may take: for what hangs, on a machine that others use too
CONSOLE_TAIL = 60  # lines of the kernel's log that go with an error

# One QEMU thread for all virtual CPUs: they take turns, which costs no speed and gives an I/O queue for each of them.
# tcg and not kvm: where KVM is nested without the hardware's help, guests hang on it. The tests need no speed.
QEMU_OPTIONS = ["-accel", "tcg,thread=single", "-m", "1G", "-nodefaults", "-no-reboot", "-display", "none"]
QEMU = ["qemu-system-x86_64", "-cpu", "max", *QEMU_OPTIONS]
# By the name of the image's directory: QEMU, and the kernel's options. x86's kernel tests its timer, and the test fails
# where a software CPU waits for a real one. Pointers that are signed cost a software CPU of Arm most of its time.
ARM64 = ["qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth=off", *QEMU_OPTIONS]
ARM64_OPTIONS = "console=ttyAMA0"
ARCHES = {"x86_64": (QEMU, "console=ttyS0 no_timer_check"),
          "aarch64": (ARM64, ARM64_OPTIONS), "aarch64-16k": (ARM64, ARM64_OPTIONS)}
BOOTED = b"0 0 0\n"  # the reply of job 0
KERNEL_OPTIONS = "quiet panic=-1 mitigations=off nokaslr"
BOOT_TRIES = 100, LIMIT  # seconds for each: now and then a software CPU stands still before the kernel says a word


class GuestError(Exception):
    """The machine did not do as it should: it did not boot, died, or a command took too long."""


class CommandFailed(AssertionError):
    """A command that had to succeed did not."""


class Job:
    """A command that runs in the guest."""

    def __init__(self, guest, number, command):
        self.guest, self.number, self.command = guest, number, command
        self.status = self.output = None

    def done(self):
        self.guest._receive(0)
        return self.status is not None

    def wait(self, timeout=LIMIT):
        """(exit status, output) of the command. If it takes longer than that, it is killed and GuestError raised."""
        deadline = time.monotonic() + timeout
        while self.status is None:
            left = deadline - time.monotonic()
            if left <= 0:
                blocked = self.guest._blocked_tasks()
                self.kill()
                raise self.guest.error(f"no end after {timeout} s: {self.command}\n{blocked}")
            self.guest._receive(left)
        return self.status, self.output

    def interrupt(self):
        """Send it SIGINT: the command itself, where the script is `exec COMMAND`."""
        self.guest.sh(f"kill -INT $(cat /run/job/{self.number}.pid)")

    def kill(self):
        """Kill the command and its children. One that waits in the kernel stays there."""
        if self.status is None:
            self.guest._send(f"kill {self.number}")


class Qemu(NamedTuple):
    """A QEMU, and our ends of what the guest's agent and QEMU's monitor speak on."""

    process: subprocess.Popen
    channel: socket.socket
    monitor: io.TextIOBase

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self.monitor.close()


class Shell:
    """Commands in a machine, by what starts one, spawn(), and its errors, error()."""

    _marked = ""

    def run(self, command, timeout=LIMIT):
        """Run a shell command: (exit status, output with standard error)."""
        return self.spawn(command).wait(timeout)

    def sh(self, command, timeout=LIMIT):
        """Output of a shell command that has to succeed."""
        status, output = self.run(command, timeout)
        if status:
            raise CommandFailed(f"exit status {status} in the guest: {command}\n{output}{self.console_tail()}")
        return output

    def wait_until(self, command, timeout=LIMIT, during=()):
        """Wait for a shell command to succeed; its output. No use in waiting longer than the jobs `during` it run."""
        deadline = time.monotonic() + timeout
        while True:
            status, output = self.run(command, timeout)
            if status == 0:
                return output
            for job in during:
                if job.done():
                    raise self.error(f"ended with {job.status} early: {job.command}\n{job.output}")
            if time.monotonic() > deadline:
                raise self.error(f"not true after {timeout} s: {command}\n{output}")
            time.sleep(0.1)

    def mark(self, text):
        """Put a line into the kernel's log, for dmesg(since=text). Errors show what came after the last one."""
        self._marked = text
        self.sh(f"echo '{text}' >/dev/kmsg")

    def dmesg(self, since=None):
        """The kernel's log, from the last line with the text `since` on."""
        log = self.sh("dmesg")
        return log[max(log.rfind(since), 0):] if since else log


class Guest(Shell):
    """The machine, running from __enter__ to __exit__ and never longer."""

    def __init__(self, image, work, cpus=4, forward=(), devices=(), archives=(), options="", boot_tries=BOOT_TRIES,
                 emulator=None):
        """image: what scripts/vm-image printed; work: directory for the logs; forward: (port here, port in the guest)
        pairs, for a target that runs in the guest; devices: further arguments for QEMU; archives: added to the
        initramfs, in this order; options: further ones of the kernel's command line; boot_tries: seconds that booting
        may take, at each try; emulator: the QEMU, if it is not the one that is found."""
        self.image, self.work, self.cpus = Path(image), Path(work), cpus
        self.forward, self.devices, self.archives, self.options = forward, devices, archives, options
        self.boot_tries, self.emulator = boot_tries, emulator
        self.console = self.work / "console.log"
        self.qemu = self._next = None
        self._received = bytearray()
        self._jobs = {0: Job(self, 0, "boot")}
        self._numbers = itertools.count(1)

    def __enter__(self):
        try:
            self._boot()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    def _initramfs(self):
        """The kernel takes several archives one behind the other, QEMU only one file."""
        if not self.archives:
            return self.image / "initramfs"
        whole = self.work / "initramfs"
        with open(whole, "wb") as file:
            for part in (self.image / "initramfs", *self.archives):
                with open(part, "rb") as archive:
                    shutil.copyfileobj(archive, file)
        return whole

    def _start(self, devices, *more):
        """Start QEMU."""
        channel, agent = socket.socketpair()
        ours, monitor = socket.socketpair()
        with ours:
            ours.settimeout(LIMIT)
            answers = ours.makefile("rw", encoding="ascii")
        (program, *words), options = ARCHES[self.image.name]
        network = "user,id=net" + "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in self.forward)
        command = [
            # Should we be killed ourselves, the kernel takes QEMU along.
            "setpriv", "--pdeathsig", "KILL", self.emulator or program, *words, "-smp", str(self.cpus),
            "-kernel", str(self.image / "vmlinuz"), "-initrd", str(self._initramfs()),
            "-append", f"{options} {KERNEL_OPTIONS} {self.options}",
            "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
            "-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
            "-chardev", f"socket,id=agent,fd={agent.fileno()}", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=pollux.agent",
            "-chardev", f"socket,id=monitor,fd={monitor.fileno()}", "-mon", "chardev=monitor,mode=control",
            *devices, *more,
        ]
        with agent, monitor, open(self.work / "qemu.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       pass_fds=[agent.fileno(), monitor.fileno()])
        return Qemu(process, channel, answers)

    def _boot(self):
        boot = self._jobs[0]
        for limit in self.boot_tries:
            self.qemu = self._start(self.devices)
            started = time.monotonic()
            while boot.status is None and (left := started + limit - time.monotonic()) > 0:
                self._receive(left)
            if boot.status is not None:
                break
            print(f"{self.work}: the guest has not booted in {limit} s", file=sys.stderr)
            self.qemu.kill()
        else:
            raise self.error("the guest does not boot")
        self.boot_seconds = time.monotonic() - started
        self.qmp("qmp_capabilities")

    def reset(self):
        """Reset the machine, as its button does: it boots anew, and what ran in it is gone."""
        self.qmp("set-action", reboot="reset")
        self.qmp("system_reset")
        self._received.clear()
        while not self._received.endswith(BOOTED):
            if not select.select([self.qemu.channel], [], [], LIMIT)[0]:
                raise self.error("it does not boot again")
            self._received += self.qemu.channel.recv(1 << 16)
        self._received.clear()
        self._jobs.clear()

    def begin_migration(self, devices, **parameters):
        """Start another QEMU, with these devices, and begin to move there. parameters: of migrate-set-parameters."""
        self._next = self._start(devices, "-incoming", "defer")
        self.qmp("qmp_capabilities", to=self._next)
        place = f"unix:{self.work}/migration"
        self.qmp("migrate-incoming", to=self._next, uri=place)
        self.qmp("migrate-set-parameters", **parameters)
        self.qmp("migrate", uri=place)

    def migration(self):
        """How it goes, as query-migrate has it."""
        return self.qmp("query-migrate")

    def _wait_migration(self, wanted):
        deadline = time.monotonic() + LIMIT
        while (now := self.migration())["status"] != wanted:
            if now["status"] not in ("active", "device", "cancelling") or time.monotonic() > deadline:
                raise self.error(f"the migration does not end: {now}")
            time.sleep(0.05)

    def cancel_migration(self):
        """The guest stays where it is."""
        self.qmp("migrate_cancel")
        self._wait_migration("cancelled")
        self._next.kill()
        self._next = None

    def end_migration(self, **parameters):
        """Let it come to its end: from then on the guest is the one in the other QEMU, and jobs are those that run
        there. What is said to the guest meanwhile is lost."""
        self.qmp("migrate-set-parameters", **parameters)
        self._wait_migration("completed")
        self._receive(0)
        self.qemu.kill()
        self.qemu, self._next = self._next, None

    def spawn(self, command):
        """Start a shell command; the Job returned says how it goes."""
        job = Job(self, next(self._numbers), command)
        self._jobs[job.number] = job
        self._send(f"run {job.number} {base64.b64encode(command.encode()).decode()}")
        return job

    def console_tail(self, lines=CONSOLE_TAIL):
        """The last of what the kernel wrote on its console: works for a dead guest, too."""
        if not self.console.exists():
            return ""
        text = self.console.read_text(errors="replace")
        text = text[max(text.rfind(self._marked), 0):].splitlines()
        return "\n--- guest's kernel log ---\n" + "\n".join(text[-lines:]) + "\n"

    def error(self, message):
        qemu_log = self.work / "qemu.log"
        said = qemu_log.read_text(errors="replace") if qemu_log.exists() else ""
        return GuestError(message + self.console_tail() + (f"--- qemu ---\n{said}" if said else ""))

    def qmp(self, command, to=None, exact=None, **arguments):
        """Ask QEMU itself, in the QEMU Machine Protocol: what it returns. An underscore stands for a dash, except in
        the names of `exact`, further arguments."""
        monitor = (to or self.qemu).monitor
        named = {name.replace("_", "-"): value for name, value in arguments.items()} | (exact or {})
        monitor.write(json.dumps({"execute": command, "arguments": named}) + "\n")
        monitor.flush()
        while True:
            answer = json.loads(monitor.readline())
            if "error" in answer:
                raise self.error(f"{command}: {answer['error']['desc']}")
            if "return" in answer:  # what has neither is an event, or the greeting
                return answer["return"]

    def poweroff(self, timeout=20):
        """Let the guest end by itself."""
        self.qemu.channel.shutdown(socket.SHUT_WR)
        try:
            self.qemu.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.error(f"no power-off within {timeout} s") from None

    def kill(self):
        for qemu in (self.qemu, self._next):
            if qemu:
                qemu.kill()

    def _blocked_tasks(self):
        """Have the kernel log what it waits in, for an error message that will show the log."""
        job = self.spawn("echo w >/proc/sysrq-trigger; ps -o pid,stat,args | grep -v '\\['")
        deadline = time.monotonic() + 5
        while job.status is None and time.monotonic() < deadline:
            self._receive(1)
        return job.output or "(the guest does not answer)"

    def _send(self, line):
        try:
            self.qemu.channel.sendall(line.encode() + b"\n")
        except OSError as error:
            raise self.error(f"the guest is gone: {error}") from None

    def _receive(self, timeout):
        """Take in what the agent sends, for at most that long, and complete the jobs that it tells about."""
        if not select.select([self.qemu.channel], [], [], timeout)[0]:
            return
        data = self.qemu.channel.recv(1 << 16)
        if not data:
            status = self.qemu.process.wait(10)
            raise self.error(f"the guest is gone, QEMU's exit status is {status}")
        self._received += data
        while (end := self._received.find(b"\n")) >= 0:
            number, status, size = map(int, self._received[:end].split())
            if len(self._received) < end + 1 + size:
                break
            job = self._jobs.pop(number)
            job.output = self._received[end + 1:end + 1 + size].decode(errors="replace")
            job.status = status
            del self._received[:end + 1 + size]


def main():
    """Boot a guest, run each argument as a command in it, and show what comes of it."""
    import tempfile
    image = subprocess.run([Path(__file__).resolve().parents[2] / "scripts/vm-image"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout.strip()
    with tempfile.TemporaryDirectory() as work, Guest(image, work) as guest:
        print(f"booted in {guest.boot_seconds:.1f} s", file=sys.stderr)
        for command in sys.argv[1:]:
            status, output = guest.run(command, timeout=600)
            print(f"$ {command}\n{output}[{status}]", flush=True)
        guest.poweroff()


if __name__ == "__main__":
    main()
