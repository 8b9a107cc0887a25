# SPDX-License-Identifier: BSD-3-Clause
"""
An SSD that is pulled out by QEMU's monitor, again and again, of one process that drives it and goes on: under a
verified load, and while it is being taken up. SOAK_PULLS says how often (10), POLLUX_SEED repeats the moments.

QEMU is asked how it stands, as far as it knows: each command in the guest takes as long as a removal.
"""
import json
import os
import random
import time

import pytest
from calls import SOCKET
from guest import LIMIT
from test_pcie import IOMMU, MIB, NQN, PLAIN, PLUGGED, PORT, Ssds, boot, plain_device

PULLS = int(os.environ.get("SOAK_PULLS") or 10)
SEED = int(os.environ.get("POLLUX_SEED") or time.time())
# A device whose successor is there may not have left the file yet.
SSD = {"driver": "nvme", "drive": "plugged", "serial": "PLUGGED", "bus": "rootport", "share-rw": True}
AT = f"/sys/bus/pci/devices/{PLUGGED}"
# The kernel's driver takes what is plugged in, whatever drivers_autoprobe says, and gives it back again.
BINDER = f"""while sleep 0.2; do
    if [ {AT}/driver -ef /sys/bus/pci/drivers/nvme ]; then
        echo {PLUGGED} >{AT}/driver/unbind
    elif [ -e {AT} ] && [ ! -e {AT}/driver ]; then
        echo vfio-pci >{AT}/driver_override && echo {PLUGGED} >/sys/bus/pci/drivers_probe
    fi
done 2>/dev/null"""
MOVED = 20  # reads, and as many writes: then it is driven again
SETTLED = 3  # pulls after which nothing grows any more
GROWTH_KIB = 1024  # of memory of its own, over all others


def devices(work):
    path = work / "plugged"
    with open(path, "wb") as file:
        file.truncate(4 * MIB)  # so small that what is read has been written
    return (*IOMMU, *plain_device(work), "-blockdev", f"file,node-name=plugged,filename={path},cache.no-flush=on",
            "-device", "pcie-root-port,id=rootport,slot=1,chassis=1,addr=12",
            "-device", json.dumps(SSD | {"id": "ssd0"}))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with boot(tmp_path_factory, devices) as guest:
        guest.sh("modprobe nvme; modprobe vfio-pci; modprobe vfio_iommu_type1")
        guest.wait_until(" && ".join(f"[ -e /sys/bus/pci/devices/{a}/driver ]" for a in (PLAIN, PLUGGED)))
        yield guest


class Slot:
    """Where it is pulled out of. Each that comes has a name of its own, by which it is not taken for the last one."""

    def __init__(self, machine, jobs):
        self.machine, self.qmp, self.jobs, self.number = machine, machine.qmp, jobs, 0

    @property
    def id(self):
        return f"ssd{self.number}"

    def _until(self, true, what):
        deadline = time.monotonic() + LIMIT
        while not true():
            for job in self.jobs:
                if job.done():
                    raise self.machine.error(f"ended with {job.status}: {job.command}\n{job.output}")
            if time.monotonic() > deadline:
                said = self.machine.run(f"tail -20 /tmp/serve.err; ls -l {AT}/driver")[1]
                raise self.machine.error(f"not so after {LIMIT} s: {self.id} {what}\n{said}")
            time.sleep(0.01)

    def _is_in(self):
        return any(each["name"] == self.id for each in self.qmp("qom-list", path="/machine/peripheral"))

    def _is_found(self):
        """The guest has given it an address. What QEMU asks for by ACPI is a slot, and not a device: asked earlier, the
        guest may let go of the one after it too, of which QEMU then tells nobody."""
        return any(inner["qdev_id"] == self.id and inner["regions"][0].get("address", -1) > 0
                   for bus in self.qmp("query-pci") for outer in bus["devices"] if "pci_bridge" in outer
                   for inner in outer["pci_bridge"].get("devices", []))

    def _has_moved(self):
        return any(each.get("qdev") == self.id and each["stats"]["rd_operations"] >= MOVED and
                   each["stats"]["wr_operations"] >= MOVED for each in self.qmp("query-blockstats"))

    def pull(self):
        self.qmp("device_del", id=self.id)
        self._until(lambda: not self._is_in(), "is out")

    def plug(self):
        self.number += 1
        self.qmp("device_add", id=self.id, **SSD)
        self._until(self._is_found, "is found")

    def wait_for_load(self):
        """Nobody but the load writes."""
        self._until(self._has_moved, "is read and written")


def held(machine, job):
    """What a process has: descriptors, threads, mappings, memory that devices reach, and memory of its own."""
    said = machine.sh(f"""cd /proc/$(cat /run/job/{job.number}.pid); set -- fd/*; echo $#; grep -c . maps
        sed -n 's/^\\(Threads\\|VmLck\\|RssAnon\\):[^0-9]*\\([0-9]*\\).*/\\1 \\2/p' status""").split()
    status = dict(zip(said[2::2], map(int, said[3::2])))
    own = status.pop("RssAnon")
    return {"descriptors": int(said[0]), "mappings": int(said[1])} | status, own


def verified_load(machine, nsid, rate):
    return machine.spawn(f"exec pollux perf --poll sleep --verify --json /tmp/load{nsid} -w randrw -q 8 --rate {rate} "
                         f"-t 100000 'nvme+tcp://127.0.0.1:{PORT}/{NQN}?nsid={nsid}'")


def verdict(machine, load, nsid):
    load.interrupt()
    load.wait()
    return json.loads(machine.sh(f"cat /tmp/load{nsid}"))


def test_pulled_out_at_any_moment(machine):
    """The load meets errors while it is away and reads what it has written when it is back; another disk's does not
    notice; and the process has in the end what it had after the first few."""
    chance = random.Random(SEED)
    print(f"POLLUX_SEED={SEED} SOAK_PULLS={PULLS}", flush=True)
    ssds = Ssds(machine)
    for addr in PLAIN, PLUGGED:
        ssds.bind(addr)
    serve = ssds.serve(f"-r {SOCKET} --nqn {NQN} 'pcie://{PLUGGED}/1?reconnect_deadline=1' pcie://{PLAIN}/1")
    pulled, other = verified_load(machine, 1, 100), verified_load(machine, 2, 5)
    slot = Slot(machine, [serve, pulled, other, machine.spawn(BINDER)])
    slot.wait_for_load()
    early = 0
    for n in range(PULLS):
        if n == SETTLED:
            slot.wait_for_load()
            before, own = held(machine, serve)
        if chance.random() < 0.25:
            early += 1
            time.sleep(chance.random() * 0.8)
        else:
            slot.wait_for_load()
            time.sleep(chance.random() / 10)
        slot.pull()
        time.sleep(1.5 if n % 8 == 4 else 0)  # longer than reconnect_deadline
        slot.plug()
        if n % 50 == 49:
            print(f"{n + 1} pulls, {early} of them early", flush=True)
    slot.wait_for_load()
    after, own_after = held(machine, serve)
    result, untouched = verdict(machine, pulled, 1), verdict(machine, other, 2)
    said = machine.sh("cat /tmp/serve.err")
    print(f"{early} of them early, {said.count('connected again')} connections, {result['errors']} errors, "
          f"{result['verify']}, {before} {own} KiB, {after} {own_after} KiB")
    assert after == before
    assert own_after <= own + GROWTH_KIB
    assert result["verify"]["wrong"] == 0 and result["verify"]["right"] >= PULLS * MOVED / 4 and result["errors"] > 0
    assert untouched["verify"]["wrong"] == untouched["errors"] == 0 and untouched["verify"]["right"] > 0
    assert said.count("it is given up: it is being removed, or has failed for good") >= PULLS - early
    machine.run("killall -9 pollux")
