# SPDX-License-Identifier: BSD-3-Clause
"""The systemd units, as `make install` installs them, under a real systemd."""
import os
import re
import sys

import conftest
import guest
import pytest
from target import wait_until

sys.path.append(str(conftest.HERE.parent / "integration"))

from host import Controller  # noqa: E402

NQN = "nqn.2026-01.example:service"
OPEN = f"--listen 0.0.0.0:4420 --allow-any-host --poll sleep --nqn {NQN}"
LOG = "journalctl -o cat _TRANSPORT=stdout _SYSTEMD_INVOCATION_ID=$(systemctl show --value -p InvocationID {})"

CLEAR = """
systemctl stop 'pollux*'
systemctl reset-failed
rm -rf /etc/pollux /var/lib/pollux /var/lib/private/pollux /srv/disks
cd /etc/systemd/system
rm -rf pollux* *.wants/pollux*
systemctl daemon-reload
"""


class Unit:
    """One of the units. What it serves is in /etc/pollux."""

    def __init__(self, machine, name="pollux"):
        self.machine, self.sh, self.name = machine, machine.sh, name
        self.conf = f"/etc/pollux/{name.partition('@')[2] or name}.conf"

    def configure(self, disks, options=OPEN):
        self.sh(f"mkdir -p /etc/pollux && cat >{self.conf} <<'.'\nPOLLUX_DISKS={disks}\nPOLLUX_OPTIONS={options}\n.")

    def drop_in(self, text):
        """As `systemctl edit` makes one."""
        where = f"/etc/systemd/system/{self.name}.service.d"
        self.sh(f"mkdir -p {where} && cat >{where}/override.conf <<'.' && systemctl daemon-reload\n{text}\n.")

    def start(self):
        self.sh(f"systemctl start {self.name}")

    def show(self):
        """Its properties."""
        return dict(line.split("=", 1) for line in self.sh(f"systemctl show {self.name}").splitlines())

    def log(self):
        """What the last process of the service wrote."""
        return self.sh(f"journalctl --sync; {LOG.format(self.name)}")

    def wait_serving(self, restarts=0):
        """Waits for it to listen, after so many restarts. Its process."""
        self.sh(f"""
            until [ $(systemctl show --value -p NRestarts {self.name}) -ge {restarts} ] &&
                    {LOG.format(self.name)} | grep -q 'listening on'; do
                systemctl is-failed {self.name} && exit 1
                sleep 0.2
            done""")
        return int(self.show()["MainPID"])

    def wait_failed(self):
        """Waits for it to fail for good. What it wrote."""
        self.sh(f"""
            until systemctl is-failed -q {self.name}; do
                [ $(systemctl show --value -p NRestarts {self.name}) = 0 ] || {{ echo it was started again; exit 1; }}
                sleep 0.2
            done""")
        assert self.show()["ExecMainStatus"] == "2"
        return self.log()


@pytest.fixture
def unit(installed):
    """pollux.service, and others by name; none is left of what a test does with them."""
    yield lambda name="pollux": Unit(installed, name)
    installed.run(CLEAR)


@pytest.fixture
def service(unit):
    """pollux.service, with a disk that has not been served yet."""
    made = unit()
    made.sh("mkdir -p /var/lib/pollux && truncate -s 16M /var/lib/pollux/disk.img")
    made.configure("disk.img")
    return made


@pytest.fixture
def connect(installed):
    return lambda nqn=NQN: Controller(("127.0.0.1", installed.forward[0][0]), nqn, io_queues=1)


@pytest.mark.parametrize("name", ["pollux", "pollux@first"])
def test_units_are_valid_and_exposed_little(unit, name):
    one = unit(name)
    said = one.sh(f"systemd-analyze verify --man=no {name}.service 2>&1")
    assert "pollux" not in said, said
    report = one.sh(f"systemd-analyze security --no-pager {name}.service")
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+) ", report)
    assert float(level[1]) < 2, report


def test_start_and_stop(service, connect):
    """It serves what is in the service's own folder, as a user without rights; stopped, it has ended well."""
    service.configure("disk.img", f"{OPEN} -v")
    service.sh("systemctl enable --now pollux")
    pid = service.wait_serving()
    assert "no io_uring" not in service.log()
    status = dict(line.split(":", 1) for line in service.sh(f"cat /proc/{pid}/status").splitlines())
    assert "0" not in status["Uid"].split() and int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    data = os.urandom(64 << 10)
    with connect() as host:
        host.write(1, 8, data)
        service.sh("systemctl stop pollux")
    state = service.show()
    assert (state["Result"], state["ExecMainStatus"]) == ("success", "0"), service.log()
    service.sh("cmp -n 4096 /var/lib/pollux/disk.img /dev/zero")
    service.start()
    service.wait_serving()
    with connect() as host:
        assert host.read(1, 8, 128) == data


@pytest.mark.parametrize("disks, options, said", [
    ("disk.img", f"{OPEN} --nonsense", "--nonsense"),
    ("disk.img ram:1X", OPEN, "ram:1X"),
    ("nowhere.img", OPEN, "nowhere.img"),
], ids=["option", "size", "file"])
def test_what_is_wrong_is_not_tried_again(service, disks, options, said):
    service.configure(disks, options)
    service.start()
    [line] = service.wait_failed().splitlines()
    assert said in line


def test_killed_it_starts_again(service, connect):
    service.start()
    before = service.wait_serving()
    data = os.urandom(64 << 10)
    with connect() as host:
        host.write(1, 8, data)
        service.sh(f"kill -9 {before}")
        assert service.wait_serving(restarts=1) != before
    with connect() as host:
        assert host.read(1, 8, 128) == data


def test_what_may_get_right_is_tried_for_ever(service, connect):
    """An address that is taken. By default systemd gives up after five starts in 10 s, here it would after one."""
    service.drop_in("[Unit]\nStartLimitBurst=1\n[Service]\nRestartSec=100ms")
    squatter = service.machine.spawn("exec pollux serve --listen 0.0.0.0:4420 --allow-any-host --poll sleep ram:1M")
    service.machine.wait_until("pollux discover 127.0.0.1:4420", during=[squatter])
    service.start()
    service.sh("""
        until [ $(systemctl show --value -p NRestarts pollux) -gt 3 ]; do
            systemctl is-failed pollux && exit 1
            sleep 0.2
        done""")
    squatter.kill()
    service.wait_serving()
    with connect() as host:
        assert host.namespaces() == [1]


def test_reload_looks_at_sizes(service, connect):
    """It goes on as it is, and so do its hosts, who see the size that the disk has now."""
    service.start()
    pid = service.wait_serving()
    with connect() as host:
        for mib in (32, 8):
            service.sh(f"truncate -s {mib}M /var/lib/pollux/disk.img && systemctl reload pollux")
            assert wait_until(lambda blocks=mib << 11: host.namespace(1).nsze == blocks, guest.LIMIT)
            assert host.read(1, (mib << 11) - 8, 8) == bytes(4096)
    assert service.show()["MainPID"] == str(pid)


def test_a_reload_that_comes_too_early_does_no_harm(service, connect):
    """Before the program waits for signals."""
    service.drop_in(f"""[Service]
ExecStart=
ExecStart=sh -c '[ -e early ] || {{ touch early; kill -HUP $$$$; }}; exec pollux serve {OPEN} disk.img'""")
    service.start()
    service.wait_serving(restarts=1)
    with connect() as host:
        assert host.namespaces() == [1]


def test_several_at_a_time(service, unit):
    """Each has a configuration and a folder of its own; what happens to one is nothing to the others."""
    service.sh("mkdir /var/lib/pollux/first && truncate -s 16M /var/lib/pollux/first/disk.img")
    units = [service, unit("pollux@first"), unit("pollux@second")]  # the last one's folder is not there yet
    ports = range(4420, 4423)
    for one, port, disk in zip(units, ports, ("disk.img", "disk.img", "ram:16M")):
        one.configure(disk, f"--listen 127.0.0.1:{port} --poll sleep --nqn {NQN}-{port}")
        one.start()
    pids = [one.wait_serving() for one in units]
    service.sh(f"kill -9 {pids[1]}")
    pids[1] = units[1].wait_serving(restarts=1)
    assert [int(one.show()["MainPID"]) for one in units] == pids
    for port in ports:
        found = service.sh(f"pollux discover 127.0.0.1:{port}")
        assert f"{NQN}-{port}" in found, found
    service.sh("systemctl stop pollux@first")
    assert [one.show()["ActiveState"] for one in units] == ["active", "inactive", "active"]


def test_files_elsewhere_need_a_drop_in(service, connect):
    """As the guide says: another folder is read-only for the service until a drop-in says otherwise."""
    service.sh("""
        echo storage:x:1000: >>/etc/group
        mkdir -p /srv/disks && truncate -s 16M /srv/disks/disk.img
        chgrp -R storage /srv/disks && chmod 770 /srv/disks && chmod 660 /srv/disks/disk.img""")
    service.configure("/srv/disks/disk.img")
    service.drop_in("[Service]\nSupplementaryGroups=storage")
    service.start()
    assert "Read-only file system" in service.wait_failed()
    service.drop_in("[Service]\nReadWritePaths=/srv/disks\nSupplementaryGroups=storage")
    service.start()
    service.wait_serving()
    with connect() as host:
        host.write(1, 0, os.urandom(512))


def test_sockets_of_virtual_machines_for_a_group(service):
    """The drop-in of docs/vm.md. The service has no privilege for it: the group is one that it is in."""
    drop_in = (conftest.HERE.parent.parent / "docs/vm.md").read_text().partition("[Service]\n")[2].partition("```")[0]
    assert "SupplementaryGroups=kvm" in drop_in
    service.sh("getent group kvm || echo kvm:x:1001: >>/etc/group")
    service.configure("disk.img", f"{OPEN} --vhost /run/pollux --socket-group kvm")
    service.drop_in(f"[Service]\n{drop_in}")
    for _ in range(2):
        service.start()
        service.wait_serving()
        assert service.sh("stat -c '%G %a %F' /run/pollux/disk.img").strip() == "kvm 660 socket"
        service.sh("systemctl stop pollux")
    service.drop_in(f"[Service]\n{drop_in}SupplementaryGroups=\n")
    service.start()
    assert "--socket-group kvm: Operation not permitted" in service.wait_failed()


def test_block_device(service, connect):
    service.sh("chgrp disk /dev/vda && chmod 660 /dev/vda")  # as udev does
    service.configure("/dev/vda")
    service.start()
    service.wait_serving()
    data = os.urandom(512)
    with connect() as host:
        host.write(1, 0, data)
        assert host.read(1, 0, 1) == data


def test_namespace_of_the_kernel(service, connect):
    """By passthrough, for which the service needs no capability."""
    service.sh("""
        modprobe nvme
        until [ -c /dev/ng0n1 ] && [ -b /dev/nvme0n1 ]; do sleep 0.1; done
        chgrp disk /dev/ng0n1 /dev/nvme0n1 && chmod 660 /dev/ng0n1 /dev/nvme0n1""")  # as udev does on request
    service.configure("/dev/ng0n1")
    service.start()
    service.wait_serving()
    data = os.urandom(4096)
    with connect() as host:
        host.write(1, 8, data)
        assert host.read(1, 8, 8) == data
        assert service.machine.run("mkfs.ext4 -q /dev/nvme0n1")[0] != 0, "the block device is not kept from others"
    service.sh("systemctl stop pollux")
    service.sh("dd if=/dev/nvme0n1 of=/tmp/block bs=4096 skip=1 count=1 iflag=direct status=none")
    assert bytes.fromhex(service.sh("od -An -v -tx1 /tmp/block")) == data


def test_without_a_configuration_it_is_left_out(unit):
    service = unit()
    service.start()
    state = service.show()
    assert (state["ActiveState"], state["ConditionResult"]) == ("inactive", "no")
