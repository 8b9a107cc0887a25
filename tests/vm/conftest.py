# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the tests against a real Linux kernel: one guest for the whole run, looked over after each test."""
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # guest.py here, target.py above

import target as pollux  # noqa: E402
from control import Control  # noqa: E402
from controlled import Controlled  # noqa: E402
from guest import HOST_ADDRESS, INSIDE, LIMIT, Guest  # noqa: E402
from hardware import NO_SIGPIPE, Machine, shared  # noqa: E402
from here import Here  # noqa: E402

SOCKET = re.compile(r"^vhost-user at (\S+):.*\n", re.M)
IMAGE_MISSING_TOOLS = 77  # scripts/vm-image: this machine lacks a program

# What the kernel must not have to say in a test where nothing is wrong.
TROUBLE = re.compile(
    r"BUG|WARNING|Oops|Call Trace|INFO: task|EXT4-fs warning|blk_print|[Ee]rror|[Ii]nvalid|[Ff]ailed|[Dd]igest"
    r"|unexpected|timeout|timed out|reset|corrupt|[Dd]uplicate|bogus|ignor|unsupported|identifiers changed")
# ENOTCONN: a connection that had ended when the target came to look at it, as some do under load.
HARMLESS = re.compile(r"nvmet_tcp: failed to allocate queue, error -107")


def require_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


def free_ports(count):
    return [pollux.free_port() for _ in range(count)]


def vm_image(*options):
    """The directory of the image that scripts/vm-image makes."""
    if not os.access(pollux.binary(), os.X_OK):
        pytest.skip(f"nothing to test: {pollux.binary()} is not there (build it, or set POLLUX)")
    image = subprocess.run([HERE.parent.parent / "scripts/vm-image", *options], capture_output=True, text=True)
    if image.returncode == IMAGE_MISSING_TOOLS:
        pytest.skip(image.stderr.strip())
    assert image.returncode == 0, image.stderr
    return Path(image.stdout.strip())


def program(work, name):
    """An archive with a program of tests/unit that tests run in the guest."""
    built = Path(pollux.binary()).resolve().parent / "tests/unit" / name
    if not built.exists():
        pytest.skip(f"nothing to run in the guest: {built} is not there (meson configure -Dtests=true)")
    root = work / f"root-{name}"
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy2(built, root / "usr/bin")
    archive = work / f"archive-{name}"
    with open(archive, "wb") as file:
        subprocess.run(["cpio", "-o", "-H", "newc", "-R", "+0:+0", "--quiet"], input=f"usr/bin/{name}\n".encode(),
                       stdout=file, cwd=root, check=True)
    return archive


def kernel(work, forward=()):
    """A machine whose kernel is the host, or the target: a guest, or the one that the tests are in. forward: as a
    guest's."""
    if INSIDE:
        return Here([(there, there) for _, there in forward])
    return Guest(vm_image(), work, forward=forward)


@pytest.fixture(scope="session")
def guest(tmp_path_factory):
    """The machine whose kernel is the host."""
    with kernel(tmp_path_factory.mktemp("guest")) as machine:
        yield machine


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A machine with systemd in which pollux is installed. It has a virtual disk, /dev/vda, and an NVMe device; its
    port 4420 is the first of `forward` here."""
    build = Path(pollux.binary()).resolve().parent
    if not (build / "build.ninja").exists():
        pytest.skip(f"nothing to install: {pollux.binary()} is not in a build directory")
    work = tmp_path_factory.mktemp("installed")
    image = vm_image("--systemd", "--install", build, work / "archive")
    devices = []
    for name, device in (("disk", "virtio-blk-pci"), ("namespace", "nvme,serial=pollux")):
        with open(work / name, "wb") as disk:
            disk.truncate(64 << 20)
        devices += ["-drive", f"if=none,id={name},format=raw,file={work}/{name}", "-device", f"{device},drive={name}"]
    # systemd comes last: its packages bring what they need in the versions that fit.
    with Guest(image, work, cpus=1, forward=[(free_ports(1)[0], 4420)], devices=devices,
               archives=(work / "archive", image / "systemd"),
               options="rdinit=/lib/systemd/systemd systemd.show_status=0 audit=0") as machine:
        yield machine


@pytest.fixture(scope="session")
def sharing(tmp_path_factory):
    """A machine whose memory others can have requests and data in."""
    with Guest(vm_image(), tmp_path_factory.mktemp("sharing"), devices=shared()) as machine:
        yield machine


class Host:
    """The guest's kernel in its role of NVMe/TCP host."""

    def __init__(self, guest, name):
        self.guest, self.sh, self.run = guest, guest.sh, guest.run
        self.expected = []
        self._mark = f"test {name}"
        guest.mark(self._mark)

    def expect(self, pattern):
        """Lines of the kernel's log with this pattern are no trouble in this test."""
        self.expected.append(re.compile(pattern))

    def log(self):
        """What the kernel logged in this test."""
        return self.guest.dmesg(self._mark).partition("\n")[2]

    def address(self, target):
        return f"-t tcp -a {HOST_ADDRESS} -s {target.port}"

    def connect(self, target, options="", namespaces=1):
        """Connect to the target's (first) subsystem. The block devices' paths, in the order of the namespaces' ids.

        The kernel looks at several namespaces at once, and so the number in a device's name need not be the id."""
        if "--keep-alive-tmo" not in options:
            options += f" --keep-alive-tmo={LIMIT}"  # this machine may stand still
        self.sh(f"nvme connect {self.address(target)} -n {target.nqn} {options}")
        # In /dev there is one device a namespace, even where the kernel has one more for each path to it (nvme0c0n1).
        lines = self.guest.wait_until(f"""
            for device in /dev/nvme*n*; do
                in_sysfs=/sys/block/${{device##*/}}
                [ "$(cat $in_sysfs/device/subsysnqn)" = {target.nqn} ] && echo $(cat $in_sysfs/nsid) $device
            done 2>/dev/null | sort -n >/tmp/found
            cat /tmp/found
            [ $(wc -l </tmp/found) = {namespaces} ]""").splitlines()
        return [line.split()[1] for line in lines]

    def wait_namespaces(self, nqn, *nsids):
        """Waits until the subsystem has just these. {identifier: block device}"""
        found = self.guest.wait_until(f"""
            for each in /sys/block/nvme*n*; do
                [ "$(cat $each/device/subsysnqn)" = {nqn} ] && [ -b /dev/${{each##*/}} ] &&
                    echo $(cat $each/nsid) ${{each##*/}}
            done 2>/dev/null | sort -n >/tmp/found
            cat /tmp/found
            [ "$(cut -d' ' -f1 /tmp/found | xargs)" = "{' '.join(map(str, nsids))}" ]""")
        return {int(nsid): f"/dev/{name}" for nsid, name in map(str.split, found.splitlines())}

    def wait_controllers(self, **states):
        """Waits until there are just these controllers, in these states."""
        lines = "".join(f"{name} {state}\n" for name, state in states.items())
        self.guest.wait_until(f"""
            for each in /sys/class/nvme/nvme*; do
                [ -e $each/state ] && echo ${{each##*/}} $(cat $each/state)
            done >/tmp/found
            cat /tmp/found
            [ "$(cat /tmp/found)" = "{lines.strip()}" ]""")

    def wait_progress(self, device, kib, during, before="", after=""):
        """Waits until the disk has moved that much more, unless the load ends by itself. before, after: what is to be
        done then. What that prints."""
        job = self.guest.spawn(f"""
            {before}
            moved() {{ read -r _ _ in _ _ _ out _ </sys/block/{os.path.basename(device)}/stat; moved=$((in + out)); }}
            moved; end=$((moved + {2 * kib}))
            while [ $moved -lt $end ]; do sleep 0.05; moved; done
            {after}""")
        deadline = time.monotonic() + LIMIT
        while not job.done() and not during.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not job.done():
            job.kill()
            what = f"ended with {during.status} early:\n{during.output}" if during.done() else "makes no progress"
            raise self.guest.error(f"{during.command} {what}")
        return job.output

    def disconnect(self):
        self.sh("nvme disconnect-all")

    def trouble(self):
        return [line for line in self.log().splitlines()
                if TROUBLE.search(line) and not any(pattern.search(line) for pattern in (HARMLESS, *self.expected))]


class VerifiedLoad:
    """fio on a block device of the host: writes all of it, reads and compares what it has just written, and begins
    anew, until the block is left: then it must have found nothing wrong."""

    FIO = "fio --name=verified --ioengine=libaio --iodepth=16 --direct=1 --rw=randwrite --bsrange=4k-64k" \
          " --loops=1000000" \
          " --verify=crc32c --verify_fatal=1 --verify_backlog=32 --randrepeat=0"
    INTERRUPTED = 128  # fio's exit status when all was well until SIGINT

    def __init__(self, host, device, options="--size=16M"):
        self.host, self.device = host, device
        self.job = host.guest.spawn(f"{NO_SIGPIPE}exec {self.FIO} --filename={device} {options}")

    def goes_on(self, kib=4096):
        """Waits until that much more has been written and read; more than is in flight, by default."""
        self.host.wait_progress(self.device, kib, self.job)

    def __enter__(self):
        self.goes_on()
        return self

    def __exit__(self, kind, value, trace):
        if value is not None:
            self.job.kill()
            return
        self.goes_on()
        self.job.interrupt()
        status, output = self.job.wait()
        assert status == self.INTERRUPTED, f"exit status {status}\n{output}"


FAILED = pytest.StashKey()


@pytest.fixture
def serve():
    """serve(disk, ..., options=...): a running target, stopped and checked when the test is over."""
    targets = []

    def start(*disks, **kwargs):
        targets.append(pollux.Target(*disks, **kwargs))
        return targets[-1].__enter__()

    start.targets = targets
    yield start
    for target in reversed(targets):  # the later ones may have disks of the first
        target.__exit__(None, None, None)


@pytest.fixture
def control():
    """control(reactors): a running program that is told what to serve; it has ended well when the test is over."""
    with contextlib.ExitStack() as stack:
        made = []

        def start(reactors=2):
            made.append(stack.enter_context(Control(reactors)))
            return made[-1]

        start.made = made
        yield start


@pytest.fixture
def controlled(serve):
    """controlled(nqn): a running target that serves nothing yet and waits for calls, and keeps what they make of it."""
    def start(nqn):
        serve.targets.append(Controlled(nqn))
        return serve.targets[-1].__enter__()

    return start


@pytest.fixture
def host(guest, request, serve, control):  # pylint: disable=unused-argument  # the host goes before its targets do
    """The host, with nothing connected. After the test its kernel's log has to be free of complaints."""
    machine = Host(guest, request.node.name)
    yield machine
    guest.run("umount /mnt 2>/dev/null; nvme disconnect-all; rm -rf /tmp/*")
    if FAILED not in request.node.stash and machine.trouble():
        pytest.fail(f"the kernel complained:\n{machine.log()}", pytrace=False)


@pytest.fixture
def machine(host):
    hardware = Machine(host)
    yield hardware
    host.run("umount /mnt 2>/dev/null")
    hardware.unplug_all()


@pytest.fixture
def work():
    """A directory for disks; in memory, as the last flush of a busy machine's disk may take too long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def served(serve, work):
    """served(disk, ...): a target that has them on both networks, with `sockets`."""
    def start(*disks, options=()):
        target = serve(*disks, options=("--vhost", tempfile.mkdtemp(dir=work), *options))
        assert pollux.wait_until(lambda: len(SOCKET.findall(target.stdout)) == len(disks)), target.stdout
        target.sockets = SOCKET.findall(target.stdout)
        return target
    return start


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows what the kernel and the targets had to say."""
    report = (yield).get_result()
    if not report.failed:
        return
    item.stash[FAILED] = True
    fixtures = getattr(item, "funcargs", {})
    if "host" in fixtures and "guest's kernel log" not in report.longreprtext:
        report.sections.append(("guest's kernel log", fixtures["host"].guest.console_tail()))
    for target in fixtures["serve"].targets if "serve" in fixtures else ():
        report.sections.append((f"target {' '.join(target.disks)}", f"{target.stdout}\n{target.stderr}"))
    for each in fixtures["control"].made if "control" in fixtures else ():
        report.sections.append((" ".join(each.words), each.stderr))
