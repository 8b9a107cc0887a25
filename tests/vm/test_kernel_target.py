# SPDX-License-Identifier: BSD-3-Clause
"""The Linux kernel's own target, nvmet, in the guest, and our host against it: from discovery to lost paths."""
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time

import conftest
import pytest
import target as pollux
from guest import INSIDE, LIMIT

KIB, MIB = 1 << 10, 1 << 20
NQN = "nqn.2026-01.example:kernel"
OTHER_NQN = "nqn.2026-01.example:other"
FRIEND = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222"
STRANGER = "nqn.2014-08.org.nvmexpress:uuid:33333333-3333-4333-8333-333333333333"
DIGESTS = {"no-digest": "", "header": "hdgst=1", "data": "ddgst=1", "both": "hdgst=1&ddgst=1"}
FIO = "fio --name=verify --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --randrepeat=0"

GUEST_ADDRESS = "127.0.0.1" if INSIDE else "10.0.2.15"  # the one that we say: nvmet names it in its log
# The network between our host and nvmet, lost and back.
SILENT = f"ip link set {'lo' if INSIDE else 'eth0'} down"
AUDIBLE = "ip link set lo up" if INSIDE else "ip link set eth0 up && ip route add default via 10.0.2.2"
# nvmet's ports 1 and 2 are the guest's 4420 and 4421; this machine reaches them under numbers of its own.
FIRST_PORT = 4419
PREPARE = """
modprobe configfs && mount -t configfs configfs /sys/kernel/config && mount -t tracefs tracefs /sys/kernel/tracing
modprobe nvmet && modprobe nvmet_tcp && modprobe loop && modprobe brd rd_nr=1 rd_size=24576
modprobe null_blk nr_devices=0 && mkdir -p /run/disks
"""
CLEAR = """
umount /mnt 2>/dev/null
[ -e /sys/class/nvme/nvme0 ] && nvme disconnect-all
cd /sys/kernel/config/nvmet
rm -f ports/*/subsystems/* subsystems/*/allowed_hosts/*
for enable in ports/*/referrals/*/enable subsystems/*/namespaces/*/enable; do
    [ -e $enable ] && echo 0 >$enable && rmdir ${enable%/*}
done
for each in ports/* subsystems/* hosts/* ../nullb/nullb*; do
    [ -d $each ] && rmdir $each
done
for each in /sys/block/loop*/loop; do
    [ -d $each ] && each=${each%/loop} && losetup -d /dev/${each##*/}
done
rm -f /run/disks/*
true
"""

# How nvmet logs an I/O command: "... nvmet_req_init: nvmet1: disk=..., qid=1, cmdid=..., cmd=(nvme_cmd_write ..."
TRACE = "echo >/sys/kernel/tracing/trace; echo 1 >/sys/kernel/tracing/events/nvmet/nvmet_req_init/enable"
TRACED = r"""
echo 0 >/sys/kernel/tracing/events/nvmet/nvmet_req_init/enable
sed -n 's/.*: nvmet\([0-9]*\): .*qid=[1-9][0-9]*,.*cmd=(nvme_cmd_\([a-z_]*\).*/\1 \2/p' /sys/kernel/tracing/trace |
    sort | uniq -c
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """The machine whose kernel is the target."""
    forward = [(here, FIRST_PORT + port) for port, here in enumerate(conftest.free_ports(2), start=1)]
    with conftest.kernel(tmp_path_factory.mktemp("guest"), forward) as machine:
        machine.sh(PREPARE)
        yield machine


class Nvmet:
    """The guest's kernel in its role of NVMe/TCP target, set up through configfs."""

    def __init__(self, host):
        self.host, self.guest, self.sh = host, host.guest, host.sh
        self.wait_progress = host.wait_progress
        self.here = [None, *(here for here, _ in host.guest.forward)]  # by port, from 1 on
        self._loops = 0

    def config(self, script):
        return self.sh(f"set -e; cd /sys/kernel/config/nvmet\n{script}")

    # -- disks --

    def loop(self, mib=64):
        """A loop device on a file in memory: it keeps count of what it does, and gives back what is discarded."""
        number, self._loops = self._loops, self._loops + 1
        device = f"/dev/loop{number}"
        self.sh(f"truncate -s {mib}M /run/disks/loop{number} && losetup {device} /run/disks/loop{number}")
        return device

    def null(self, mib=64, block=4096):
        """A null_blk device, which remembers what is written to it."""
        self.sh(f"""set -e; mkdir /sys/kernel/config/nullb/nullb0; cd /sys/kernel/config/nullb/nullb0
            echo {mib} >size; echo {block} >blocksize; echo 1 >memory_backed; echo 1 >discard; echo 1 >power""")
        return "/dev/nullb0"

    def ext4(self, mib=64):
        """A file on a brd device, of a file system that can do all that files can."""
        self.sh("mkfs.ext4 -q -O ^has_journal /dev/ram0 && mount -t ext4 /dev/ram0 /mnt")
        self.sh(f"truncate -s {mib}M /mnt/file")
        return "/mnt/file"

    def tmpfs(self, mib=64):
        """A file of one that cannot: nvmet offers Write Zeroes, and then refuses it as an opcode that it has not."""
        self.sh(f"truncate -s {mib}M /run/disks/file")
        return "/run/disks/file"

    def wait_standstill(self, device):
        name = os.path.basename(device)
        self.guest.wait_until(f"""
            cd /sys/block/{name}; before=$(cat stat); sleep 0.5
            [ "$(cat inflight)" = "$(printf '%8u %8u' 0 0)" ] && [ "$(cat stat)" = "$before" ]""", LIMIT)

    def digest(self, disk, mib=16):
        """sha256 of what the disk begins with, as the target has it."""
        flag = "iflag=direct" if disk.startswith("/dev/") else ""
        return self.sh(f"dd if={disk} bs=1M count={mib} {flag} status=none | sha256sum", LIMIT).split()[0]

    # -- subsystems and ports --

    def add(self, nqn, *disks, allow=None, **attributes):
        """A subsystem with namespaces 1, 2, ...; allow: the only host that may connect, instead of any."""
        lines = [f"mkdir subsystems/{nqn}; cd subsystems/{nqn}; echo {int(allow is None)} >attr_allow_any_host"]
        lines += [f"echo {value} >attr_{name}" for name, value in attributes.items()]
        for nsid, disk in enumerate(disks, start=1):
            lines += [f"mkdir namespaces/{nsid}; echo {disk} >namespaces/{nsid}/device_path",
                      f"echo 1 >namespaces/{nsid}/enable"]
        if allow:
            lines += [f"mkdir ../../hosts/{allow}; ln -s $PWD/../../hosts/{allow} allowed_hosts/"]
        self.config("\n".join(lines))

    def listen(self, *nqns, port=1, **params):
        lines = [f"mkdir ports/{port}; cd ports/{port}",
                 "echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 0.0.0.0 >addr_traddr",
                 f"echo {FIRST_PORT + port} >addr_trsvcid"]
        lines += [f"echo {value} >param_{name}" for name, value in params.items()]
        lines += [f"ln -s /sys/kernel/config/nvmet/subsystems/{nqn} subsystems/" for nqn in nqns]
        self.config("\n".join(lines))

    def link(self, nqn=NQN, port=1):
        self.config(f"ln -s /sys/kernel/config/nvmet/subsystems/{nqn} ports/{port}/subsystems/")

    def unlink(self, nqn=NQN, port=1):
        """Ends all that is connected to it; the port does not listen any more when this was its last subsystem."""
        self.config(f"rm ports/{port}/subsystems/{nqn}")

    def ana(self, *states):
        """States of ANA group 1 at port 1, 2, ..., in that order."""
        self.config("\n".join(f"echo {state} >ports/{port}/ana_groups/1/ana_state"
                              for port, state in enumerate(states, start=1)))

    # -- what our host sees --

    def address(self, *ports):
        return ",".join(f"127.0.0.1:{self.here[port]}" for port in ports or (1,))

    def url(self, *params, ports=(1,), nqn=NQN, limits="kato=60&timeout=120&connect_timeout=60"):
        """limits: so large by default that a machine with little time for the guest does not decide a test."""
        return f"nvme+tcp://{self.address(*ports)}/{nqn}?{'&'.join(filter(None, (*params, limits)))}"

    # -- what commands come --

    @contextlib.contextmanager
    def commands(self):
        """Counts the I/O commands that come, by kind."""
        seen = collections.Counter()
        self.sh(TRACE)
        try:
            yield seen
        finally:
            for line in self.sh(TRACED).splitlines():
                count, _, kind = line.split()
                seen[kind] += int(count)

    def wait_served(self, device, load, right):
        """Waits until a good part of the load comes to the right controllers alone. Their numbers."""
        deadline = time.monotonic() + LIMIT
        while True:
            seen = {line.split()[1] for line in self.wait_progress(device, MUCH, load, TRACE, TRACED).splitlines()}
            if right(seen):
                return seen
            if time.monotonic() > deadline:
                raise self.guest.error(f"served by controllers {sorted(seen)}")


@pytest.fixture
def nvmet(host):
    """The target, with nothing set up."""
    host.expect(r"nvmet: (creating|adding)|nvmet_tcp: enabling|null_blk: disk")
    target = Nvmet(host)
    yield target
    host.run(CLEAR, LIMIT)


@pytest.fixture
def disk(nvmet):
    """A loop device in the target, as namespace 1 of NQN at port 1."""
    device = nvmet.loop()
    nvmet.add(NQN, device)
    nvmet.listen(NQN)
    return device


@pytest.fixture
def small_disk(nvmet):
    """The same with a smaller one, in a test in which nvmet has reason to complain."""
    nvmet.host.expect("nvmet")
    device = nvmet.loop(16)
    nvmet.add(NQN, device)
    nvmet.listen(NQN)
    return device


# --- our commands ---

def run(*words):
    """(exit status, standard output, standard error)"""
    done = subprocess.run([pollux.binary(), *map(str, words)], capture_output=True, text=True, timeout=LIMIT)
    assert not pollux.SANITIZER.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


def ours(*words):
    """Standard output of a command that has to succeed."""
    status, out, err = run(*words)
    assert status == 0, f"exit status {status}: pollux {' '.join(map(str, words))}\n{out}{err}"
    return out


# Each core that perf has makes an association of its own.
CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
PERF = ("perf", "--verify", "--poll", "sleep", "--json", "-")  # sleep: the guest needs the CPU more


def check_report(text):
    report = json.loads(text)
    assert report["errors"] == 0 and report["verify"]["wrong"] == 0 and report["verify"]["right"] > 0, text
    return report


def perf(*words):
    return check_report(ours(*PERF, *words))


LOAD = ("-w", "randrw", "-o", "8K", "-q", "8", "-P", "2", "-m", CORES)
MUCH = 4 * 8 * 8  # KiB: more than a load has in flight


class Running:
    """One of our commands while it runs; never for longer than the block."""

    def __init__(self, *words):
        self.command = f"pollux {' '.join(map(str, words))}"
        self.status = self.output = None
        self.process = subprocess.Popen([pollux.binary(), *words], text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)

    def done(self):
        if self.process.poll() is None:
            return False
        self.wait()
        return True

    def wait(self):
        """(standard output, standard error), once it has ended, and ended well."""
        if self.status is None:
            self.output = self.process.communicate(timeout=LIMIT)
            self.status = self.process.returncode
        out, err = self.output
        assert self.status == 0 and not pollux.SANITIZER.search(err), f"exit status {self.status}\n{out}{err}"
        return out, err

    def sockets(self):
        descriptors = f"/proc/{self.process.pid}/fd"
        links = set()
        for name in os.listdir(descriptors):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.add(os.readlink(f"{descriptors}/{name}"))
        return {link for link in links if link.startswith("socket:")}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Load(Running):
    """`pollux perf --verify` that runs until it is told to end."""

    def __init__(self, *words):
        super().__init__(*PERF, "-t", "3600", *LOAD, *words)

    def end(self):
        """Has it read again all that it wrote, and looks at what it found."""
        self.process.send_signal(signal.SIGINT)
        check_report(self.wait()[0])


# --- finding it ---

def records(log):
    keys = ("trtype", "adrfam", "subtype", "treq", "portid", "trsvcid", "subnqn", "traddr", "eflags", "sectype")
    return sorted(tuple(record.get(key) for key in keys) for record in log["records"])


def test_discover(nvmet):
    """What we read in the log is what nvme-cli reads in it; whom the target does not know does not see all."""
    nvmet.add(NQN)
    nvmet.add(OTHER_NQN, allow=FRIEND)
    nvmet.listen(NQN, OTHER_NQN)
    names = {}
    for who in FRIEND, STRANGER:
        mine = json.loads(ours("discover", "--json", "--hostnqn", who, nvmet.address()))
        theirs = json.loads(nvmet.sh(f"nvme discover -t tcp -a {GUEST_ADDRESS} -s {FIRST_PORT + 1} -o json "
                                     f"--hostnqn={who} --hostid={who[-36:]}"))
        assert records(mine) == records(theirs)
        assert mine["genctr"] == theirs["genctr"]
        names[who] = {record["subnqn"] for record in mine["records"]}
    assert {NQN, OTHER_NQN} <= names[FRIEND]
    assert NQN in names[STRANGER] and OTHER_NQN not in names[STRANGER]
    assert NQN in ours("discover", nvmet.address())


def test_referral(nvmet):
    nvmet.add(NQN)
    nvmet.add(OTHER_NQN)
    nvmet.listen(NQN)
    nvmet.listen(OTHER_NQN, port=2)
    nvmet.config(f"""mkdir ports/1/referrals/second; cd ports/1/referrals/second
        echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 127.0.0.1 >addr_traddr; echo 2 >addr_portid
        echo {nvmet.here[2]} >addr_trsvcid; echo 1 >enable""")
    logs = json.loads(ours("discover", "--json", nvmet.address()))["logs"]
    assert [log["address"] for log in logs] == [nvmet.address(1), nvmet.address(2)]
    assert [NQN in str(log) for log in logs] == [True, False]
    assert [OTHER_NQN in str(log) for log in logs] == [False, True]


def test_watch(nvmet):
    nvmet.add(NQN)
    nvmet.add(OTHER_NQN)
    nvmet.listen(NQN)
    with Running("discover", "--watch", "--json", nvmet.address()) as watch:
        printed = pollux.Stream(watch.process.stdout, lambda: None)
        assert pollux.wait_until(lambda: printed.lines, LIMIT), "nothing is printed"
        assert NQN in printed.text and OTHER_NQN not in printed.text
        nvmet.link(OTHER_NQN)
        assert pollux.wait_until(lambda: OTHER_NQN in printed.text, LIMIT), printed.text
        nvmet.unlink(NQN)
        assert pollux.wait_until(lambda: NQN not in printed.lines[-1], LIMIT), printed.text
        assert watch.process.poll() is None


def same_fields(mine, theirs, at_least):
    """What both name is the same. nvme-cli has texts where we have numbers only in places of no interest."""
    both = [name for name, value in theirs.items() if isinstance(value, (int, str)) and name in mine
            and isinstance(mine[name], type(value)) and name not in ("cntlid", "nuse")]
    assert len(both) >= at_least, both
    strip = lambda value: value.strip() if isinstance(value, str) else value
    assert not {name: (mine[name], theirs[name]) for name in both if strip(mine[name]) != strip(theirs[name])}


def test_identify(nvmet):
    """What we say the controller says is what nvme-cli says in the guest, with the kernel as its host."""
    small = nvmet.null(32)
    nvmet.add(NQN, nvmet.loop(64), small, serial="kernel-1", model="A-kernel")
    nvmet.listen(NQN)
    mine = json.loads(ours("identify", "--json", nvmet.url(limits="")))
    nvmet.sh(f"nvme connect -t tcp -a {GUEST_ADDRESS} -s {FIRST_PORT + 1} -n {NQN}")
    same_fields(mine["controller"], json.loads(nvmet.sh("nvme id-ctrl /dev/nvme0 -o json")), 40)
    assert mine["controller"]["sn"] == "kernel-1" and mine["controller"]["mn"] == "A-kernel"
    assert mine["controller"]["subnqn"] == NQN
    assert [namespace["nsid"] for namespace in mine["namespaces"]] == [1, 2]
    for namespace, size in zip(mine["namespaces"], (64, 32)):
        theirs = json.loads(nvmet.sh(f"nvme id-ns /dev/nvme0 -n {namespace['nsid']} -o json"))
        same_fields(namespace, theirs, 20)
        [block] = [1 << one["ds"] for one in namespace["lbafs"] if one["in_use"]]
        assert namespace["nsze"] * block == size * MIB
        uuid = nvmet.sh(f"cat /sys/kernel/config/nvmet/subsystems/{NQN}/namespaces/{namespace['nsid']}/device_uuid")
        assert namespace["uuid"] == uuid.strip()
    text = ours("identify", nvmet.url("nsid=2"))
    assert re.search(r"^sn +: kernel-1$", text, re.M) and "Namespace 2" in text and "Namespace 1" not in text


# --- whom it does not want ---

def refused(*words):
    status, out, err = run(*words)
    assert status in (1, 2), f"exit status {status}\n{out}{err}"
    assert not out and len(err.splitlines()) == 1 and err.startswith("pollux: "), out + err
    return err


COMMANDS = (("identify",), ("perf", "-t", "1"), ("cp", "-q", "null:1M"))


def test_not_allowed(nvmet):
    nvmet.host.expect("nvmet: connect by host .* not allowed")
    nvmet.add(NQN, nvmet.loop(), allow=FRIEND)
    nvmet.listen(NQN)
    for command in COMMANDS:
        err = refused(*command, nvmet.url(f"hostnqn={STRANGER}"))
        assert "not allowed" in err and STRANGER in err, err
    ours("identify", nvmet.url(f"hostnqn={FRIEND}", limits=""))


def test_not_there(nvmet, disk):  # pylint: disable=unused-argument
    nvmet.host.expect("nvmet: connect request for invalid subsystem")
    for command in COMMANDS:
        err = refused(*command, nvmet.url(nqn=OTHER_NQN))
        assert "there is no subsystem" in err and OTHER_NQN in err, err
    assert "no namespace 2" in refused("perf", "-t", "1", nvmet.url("nsid=2"))
    assert "127.0.0.1" in refused("identify", nvmet.url(ports=(2,))), "nobody listens at port 2"
    nvmet.unlink()
    assert "127.0.0.1" in refused("perf", "-t", "1", nvmet.url())


# --- reading and writing ---

TWO_CORES = f"-m {CORES} -P 2"
# Sizes below, at, and above what a page, a capsule, a PDU and a command hold.
WORKLOADS = (
    "-w randrw -o 512 -q 32 --count 500", f"-w rw -o 1536 -q 8 {TWO_CORES} --count 200",
    "-w randrw -o 4K -q 64 --count 400", "-w write -o 13K -q 3 --count 100",
    f"-w randwrite -o 16K -q 16 {TWO_CORES} --count 200", "-w randrw -o 17K -q 16 --count 100",
    f"-w randrw -o 128K -q 16 {TWO_CORES} --count 100", "-w rw -o 1M -q 8 --count 24", "-w write -o 4M -q 2 --count 4",
)


@pytest.mark.parametrize("digests", DIGESTS.values(), ids=DIGESTS)
def test_data(nvmet, disk, digests):  # pylint: disable=unused-argument
    for words in WORKLOADS:
        perf(*words.split(), nvmet.url("queues=2", digests))


SHAPES = {
    # The least with which nvmet takes Connect: all else but the smallest writes is fetched with R2T PDUs.
    "no-inline": ({"inline_data_size": 1024}, {}, "queues=2"),
    "few-and-small": ({"max_queue_size": 16}, {"qid_max": 2}, "queues=8&depth=128"),
    "depth-2": ({}, {}, "depth=2&sqflow=1&hdgst=1&ddgst=1"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_queues(nvmet, shape):
    params, attributes, query = shape
    nvmet.add(NQN, nvmet.loop(), **attributes)
    nvmet.listen(NQN, **params)
    for words in ("-w randrw -o 512 -q 48 --count 300", "-w randrw -o 2K -q 48 --count 300",
                  f"-w randrw -o 64K -q 48 {TWO_CORES} --count 100", "-w randwrite -o 1M -q 12 --count 12"):
        perf(*words.split(), nvmet.url(query))


def test_namespaces(nvmet):
    """Two namespaces of one controller at once, with blocks of different sizes; each keeps what is its own."""
    devices = nvmet.loop(16), nvmet.null(32, block=4096)
    nvmet.add(NQN, *devices)
    nvmet.listen(NQN)
    urls = [nvmet.url(f"nsid={nsid}") for nsid in (1, 2)]
    before = nvmet.digest(devices[0])
    perf("-w", "randrw", "-o", "4K", "--count", "300", urls[1])
    assert nvmet.digest(devices[0]) == before
    report = perf("-w", "randrw", "-o", "64K", "-q", "16", "--count", "100", *urls)
    assert [disk["requests"] for disk in report["disks"]] == [100, 100]
    status, _, err = run("perf", "-o", "512", "-t", "1", urls[1])
    assert status == 2 and "4096" in err, err


# --- copies ---

def sparse_file(path, mib):
    """Data and holes in turn, of sizes that have nothing to do with one another."""
    numbers = random.Random(mib)
    with open(path, "wb") as file:
        while file.tell() < mib * MIB:
            file.write(numbers.randbytes(4 * KIB * numbers.choice((1, 3, 40, 200))))
            file.seek(4 * KIB * numbers.choice((1, 2, 50, 300)), os.SEEK_CUR)
        file.truncate(mib * MIB)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# what the disk is made on -> whether it can give back space
BACKENDS = {"loop": True, "null": False, "ext4": False, "tmpfs": False}


@pytest.mark.parametrize("kind", BACKENDS)  # tmpfs offers Write Zeroes and refuses it
def test_copy(nvmet, tmp_path, kind):
    """A sparse file onto a disk full of other things, and back."""
    disk = getattr(nvmet, kind)(mib=16)
    nvmet.sh(f"dd if=/dev/urandom of={disk} bs=1M count=16 conv=notrunc,fsync status=none")
    nvmet.add(NQN, disk)
    nvmet.listen(NQN)
    source, back = sparse_file(tmp_path / "source", 16), tmp_path / "back"
    with nvmet.commands() as seen:
        ours("cp", "--verify", source, nvmet.url("queues=2&ddgst=1"))
    assert nvmet.digest(disk, 16) == sha256(source)
    assert seen["write"] and seen["read"] and seen["write_zeroes"] and seen["flush"], seen
    if BACKENDS[kind]:
        held = nvmet.sh(f"du -k {disk.replace('/dev/', '/run/disks/')}")
        assert int(held.split()[0]) < 10 * KIB, "zeroes take space"
    ours("cp", "--verify", nvmet.url("queues=2"), back)
    assert sha256(back) == sha256(source)
    assert back.stat().st_blocks * 512 < 12 * MIB, "the copy is not sparse"


# --- when it goes away ---

def associations(nvmet):
    """How many there have been in this test."""
    return nvmet.host.log().count("creating nvm controller")


def test_target_disabled(nvmet, small_disk):
    """The port is closed and opened again in mid-run: everything goes on, and nothing was lost."""
    with Load(nvmet.url("queues=2&hdgst=1&ddgst=1")) as load:
        nvmet.wait_progress(small_disk, MUCH, load)
        for _ in range(2):
            before = associations(nvmet)
            nvmet.unlink()
            nvmet.wait_standstill(small_disk)
            nvmet.link()
            nvmet.wait_progress(small_disk, MUCH, load)
            assert associations(nvmet) > before
        load.end()


def test_target_silent(nvmet, small_disk):
    """The network loses everything for a while, without a word: our host notices, and overcomes it."""
    with Load(nvmet.url("queues=2", limits="kato=1&connect_timeout=2")) as load:
        nvmet.wait_progress(small_disk, MUCH, load)
        before = load.sockets()
        nvmet.sh(SILENT)
        try:
            assert pollux.wait_until(lambda: not before & load.sockets(), LIMIT), "it waits for the lost answers"
            assert not load.done()
        finally:
            nvmet.sh(AUDIBLE)
        nvmet.wait_progress(small_disk, MUCH, load)
        load.end()


def test_copy_goes_on(nvmet, small_disk, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(8 * MIB))
    with Running("cp", "--verify", "--depth", "1", "--chunk", "64K", source, nvmet.url()) as copy:
        nvmet.wait_progress(small_disk, 1, copy)
        nvmet.unlink()
        nvmet.wait_standstill(small_disk)
        assert not copy.done(), "it ended before it was disturbed"
        nvmet.link()
        _, err = copy.wait()
    assert "lost" in err and "connected again" in err, err
    assert nvmet.digest(small_disk, 8) == sha256(source)


# --- several paths ---

@pytest.fixture
def two_ports(nvmet, small_disk):
    """The same at both ports."""
    nvmet.listen(NQN, port=2)
    return small_disk


@pytest.mark.parametrize("policy", ["active-passive", "round-robin"])
def test_ana(nvmet, two_ports, policy):
    """I/O is where it should be, as nvmet sees it: with the controllers of the ports in the better state."""
    cores = CORES.count(",") + 1
    nvmet.ana("optimized", "inaccessible")
    with Load(nvmet.url("queues=2", f"policy={policy}", ports=(1, 2))) as load:
        first = nvmet.wait_served(two_ports, load, lambda seen: len(seen) == cores)
        nvmet.ana("inaccessible", "optimized")
        second = nvmet.wait_served(two_ports, load, lambda seen: len(seen) == cores and not seen & first)
        nvmet.ana("optimized", "non-optimized")
        nvmet.wait_served(two_ports, load, lambda seen: seen <= first)
        nvmet.ana("inaccessible", "non-optimized")
        nvmet.wait_served(two_ports, load, lambda seen: seen <= second)
        nvmet.ana("persistent-loss", "inaccessible")
        nvmet.wait_standstill(two_ports)
        assert not load.done()
        nvmet.ana("change", "optimized")
        nvmet.wait_served(two_ports, load, lambda seen: seen <= second)
        nvmet.ana("optimized", "optimized")
        both = first | second if policy == "round-robin" else first
        nvmet.wait_served(two_ports, load, lambda seen: seen == both)
        before = associations(nvmet)
        load.end()
        assert associations(nvmet) == before == 1 + 2 * cores, "one to look, then those that stayed"


def test_path_lost(nvmet, two_ports):
    """One port after the other is closed, and there is always the other one."""
    with Load(nvmet.url("queues=2&hdgst=1", ports=(1, 2))) as load:
        nvmet.wait_progress(two_ports, MUCH, load)
        for port in (1, 2, 1):
            nvmet.unlink(port=port)
            nvmet.wait_progress(two_ports, MUCH, load)
            nvmet.link(port=port)
            nvmet.wait_progress(two_ports, MUCH, load)
        load.end()


def test_first_path_closed(nvmet, two_ports):
    """Whichever address answers first will do."""
    nvmet.unlink(port=1)
    perf("-w", "randrw", "--count", "200", nvmet.url(ports=(1, 2)))
    nvmet.ana("optimized", "inaccessible")
    nvmet.link(port=1)
    perf("-w", "randrw", "--count", "200", nvmet.url(ports=(2, 1)))


# --- in between ---

def test_gateway(nvmet, disk, serve):
    """The kernel as host of a disk of ours, which is a disk of the kernel's: the same, from both ends."""
    host = nvmet.host
    front = serve(nvmet.url("queues=2&hdgst=1&ddgst=1"), options=("--poll", "sleep"))
    [device] = host.connect(front, "--nr-io-queues=2 --data-digest")
    assert int(host.sh(f"cat /sys/block/{os.path.basename(device)}/size")) * 512 == 64 * MIB
    host.sh(f"{FIO} --filename={device} --rw=randrw --bsrange=512-1M --numjobs=2 --size=3M --offset_increment=4M", 180)
    host.sh(f"dd if=/dev/urandom of={device} bs=1M count=8 seek=8 oflag=direct status=none")
    before = int(host.sh("du -k /run/disks/loop0").split()[0])
    with nvmet.commands() as seen:
        host.sh(f"blkdiscard -o 9M -l 3M {device}; blkdiscard -z -o 13M -l 2M {device}; nvme flush {device}")
    assert seen["dsm"] and seen["write_zeroes"] and seen["flush"], seen
    assert int(host.sh("du -k /run/disks/loop0").split()[0]) <= before - 3 * KIB, "discarded space was not given back"
    for offset, size in (9, 3), (13, 2):
        host.sh(f"cmp -n {size * MIB} -i {offset * MIB}:0 {device} /dev/zero")
    assert nvmet.digest(device) == nvmet.digest(disk)
    host.disconnect()
    front.stop()


def test_gateway_and_lost_target(nvmet, small_disk, serve):
    """The kernel does not notice that what is behind us was away."""
    host = nvmet.host
    front = serve(nvmet.url("queues=2"), options=("--poll", "sleep"))
    [device] = host.connect(front, "--nr-io-queues=2 --keep-alive-tmo=60")
    job = nvmet.guest.spawn(f"{FIO} --filename={device} --rw=randwrite --bsrange=4k-64k --size=8M")
    nvmet.wait_progress(small_disk, KIB, job)
    nvmet.unlink()
    nvmet.wait_standstill(small_disk)
    nvmet.link()
    status, output = job.wait(180)
    assert status == 0, output
    assert nvmet.digest(device, 8) == nvmet.digest(small_disk, 8)
    assert host.log().count("nvme nvme0") == 3, host.log()  # creating, mapped, new ctrl: no word of any trouble
    host.disconnect()
    front.stop()


def test_gateway_stops_without_target(nvmet, small_disk, serve):  # pylint: disable=unused-argument
    """A target that is away does not keep us from ending, nor from saying that it could not be flushed."""
    front = serve(nvmet.url())
    nvmet.unlink()
    assert pollux.wait_until(lambda: "lost" in front.stderr or "cannot connect" in front.stderr)
    status = front._end(signal.SIGTERM, pollux.REPORT_LIMIT)
    assert status == 1 and "has not answered its last flush in time" in front.stderr, f"status {status}\n{front.stderr}"
