# SPDX-License-Identifier: BSD-3-Clause
"""Sequences of calls by chance, right ones and wrong ones, and a small model of what there must be after each; while a
host does verified I/O. POLLUX_SEED=number repeats a run; POLLUX_CALLS=number makes it longer, as `make soak` does."""
import json
import os
import random

import pytest

from host import Bystander, Controller
from rpc import INTERNAL, INVALID_PARAMS, Server, free_port, prepare, request
from spec import Sc
from nvmetcp import CommandError
from target import sanitized
from test_rpc_config import address, seed

STABLE = "nqn.2001-01.example:stable"
NQNS = [f"nqn.2001-01.example:{name}" for name in ("a", "b", "c")]
HOSTS = [f"nqn.2001-01.example:host{n}" for n in range(3)]
NAMES = ["d0", "d1", "d2", "d3", "d4", "d5"]
STATES = ["optimized", "non_optimized", "inaccessible"]
MAX_NAMESPACES = 4
CALLS = int(os.environ.get("POLLUX_CALLS") or (150 if sanitized() else 500))


class Subsystem:
    """What the model knows of one."""

    def __init__(self, any_host):
        self.any_host, self.hosts, self.namespaces, self.listeners = any_host, [], {}, {}

    def seen(self):
        return {"any": self.any_host, "hosts": sorted(self.hosts), "namespaces": self.namespaces,
                "listeners": self.listeners}


class Model:
    """What there is, and what becomes of a call: each method returns the code that it must be answered by, or 0."""

    def __init__(self):
        self.disks, self.subsystems, self.referrals = {}, {}, set()

    def seen(self):
        return {"disks": self.disks, "referrals": self.referrals,
                "subsystems": {nqn: subsystem.seen() for nqn, subsystem in self.subsystems.items()}}

    # -- disks: name -> (method's noun, blocks, name of the one below)

    def above(self, name):
        return next((other for other, disk in self.disks.items() if disk[2] == name), None)

    def used(self, name):
        return any(name in s.namespaces.values() for s in self.subsystems.values())

    def bdev_null_create(self, name, num_blocks, block_size):
        return self._create("null", name, num_blocks, block_size)

    def bdev_malloc_create(self, name, num_blocks, block_size):
        return self._create("malloc", name, num_blocks, block_size)

    def _create(self, kind, name, num_blocks, block_size):
        if not num_blocks or block_size != 512:
            return -22
        if name in self.disks:
            return -17
        self.disks[name] = (kind, num_blocks, None)
        return 0

    def bdev_delay_create(self, name, base_bdev_name, **_):
        if base_bdev_name not in self.disks:
            return -19
        if name in self.disks:
            return -17
        if self.above(base_bdev_name) or self.used(base_bdev_name):
            return -16
        self.disks[name] = ("delay", None, base_bdev_name)
        return 0

    def bdev_null_resize(self, name, new_size):
        if self.disks.get(name, [None])[0] != "null":
            return -19
        self.disks[name] = ("null", new_size * 2048, None)
        return 0

    def bdev_null_delete(self, name):
        return self._delete("null", name)

    def bdev_malloc_delete(self, name):
        return self._delete("malloc", name)

    def bdev_delay_delete(self, name):
        return self._delete("delay", name)

    def _delete(self, kind, name):
        if self.disks.get(name, [None])[0] != kind:
            return -19
        while name:  # and what stands on it
            above = self.above(name)
            del self.disks[name]
            for subsystem in self.subsystems.values():
                subsystem.namespaces = {i: disk for i, disk in subsystem.namespaces.items() if disk != name}
            name = above
        return 0

    # -- subsystems

    def nvmf_create_subsystem(self, nqn, allow_any_host, max_namespaces):
        if nqn in self.subsystems or not nqn.startswith("nqn.") or max_namespaces != MAX_NAMESPACES:
            return INVALID_PARAMS if max_namespaces > 1024 else INTERNAL
        self.subsystems[nqn] = Subsystem(allow_any_host)
        return 0

    def nvmf_delete_subsystem(self, nqn):
        return 0 if self.subsystems.pop(nqn, None) else INVALID_PARAMS

    def nvmf_subsystem_add_ns(self, nqn, namespace):
        subsystem, disk, nsid = self.subsystems.get(nqn), namespace["bdev_name"], namespace.get("nsid", 0)
        free = [i for i in range(1, MAX_NAMESPACES + 1) if subsystem and i not in subsystem.namespaces]
        if not free or (nsid and nsid not in free) or disk not in self.disks or self.above(disk) \
                or disk in subsystem.namespaces.values():
            return INVALID_PARAMS
        subsystem.namespaces[nsid or free[0]] = disk
        return 0

    def nvmf_subsystem_remove_ns(self, nqn, nsid):
        subsystem = self.subsystems.get(nqn)
        return 0 if subsystem and subsystem.namespaces.pop(nsid, None) else INVALID_PARAMS

    def nvmf_subsystem_add_host(self, nqn, host):
        subsystem = self.subsystems.get(nqn)
        if not subsystem or host in subsystem.hosts or not host.startswith("nqn."):
            return INTERNAL if subsystem else INVALID_PARAMS
        subsystem.hosts.append(host)
        return 0

    def nvmf_subsystem_remove_host(self, nqn, host):
        subsystem = self.subsystems.get(nqn)
        if not subsystem or host not in subsystem.hosts:
            return INTERNAL if subsystem else INVALID_PARAMS
        subsystem.hosts.remove(host)
        return 0

    def nvmf_subsystem_allow_any_host(self, nqn, allow_any_host):
        if nqn not in self.subsystems:
            return INVALID_PARAMS
        self.subsystems[nqn].any_host = allow_any_host
        return 0

    # -- listeners and referrals: by port

    def nvmf_subsystem_add_listener(self, nqn, listen_address, ana_state):
        subsystem, port = self.subsystems.get(nqn), listen_address["trsvcid"]
        if not subsystem or port in subsystem.listeners:
            return INVALID_PARAMS
        subsystem.listeners[port] = ana_state
        return 0

    def nvmf_subsystem_remove_listener(self, nqn, listen_address):
        subsystem = self.subsystems.get(nqn)
        return 0 if subsystem and subsystem.listeners.pop(listen_address["trsvcid"], None) else INVALID_PARAMS

    def nvmf_subsystem_listener_set_ana_state(self, nqn, listen_address, ana_state):
        subsystem, port = self.subsystems.get(nqn), listen_address["trsvcid"]
        if not subsystem or port not in subsystem.listeners:
            return INVALID_PARAMS
        subsystem.listeners[port] = ana_state
        return 0

    def nvmf_discovery_add_referral(self, address):  # pylint: disable=redefined-outer-name
        if address["trsvcid"] in self.referrals:
            return INVALID_PARAMS
        self.referrals.add(address["trsvcid"])
        return 0

    def nvmf_discovery_remove_referral(self, address):  # pylint: disable=redefined-outer-name
        if address["trsvcid"] not in self.referrals:
            return INVALID_PARAMS
        self.referrals.remove(address["trsvcid"])
        return 0


def choose(chance, ports):
    """A call: (method, parameters). About a third cannot be done, for what there is or for what is asked."""
    name, nqn, host = chance.choice(NAMES), chance.choice([*NQNS, "nqn.2001-01.example:never"]), chance.choice(HOSTS)
    where = address(chance.choice(ports))
    size = chance.choice([8, 2048, 65536, 0]) if chance.random() < 0.3 else 2048
    latency = dict.fromkeys(("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"), 1)
    delete = {"name": name}
    return chance.choice([
        ("bdev_null_create", {"name": name, "num_blocks": size, "block_size": chance.choice([512, 512, 512, 100])}),
        ("bdev_malloc_create", {"name": name, "num_blocks": size, "block_size": 512}),
        ("bdev_delay_create", {"name": name, "base_bdev_name": chance.choice(NAMES)} | latency),
        ("bdev_null_resize", {"name": name, "new_size": chance.randrange(1, 100)}),
        ("bdev_null_delete", delete), ("bdev_malloc_delete", delete), ("bdev_delay_delete", delete),
        ("nvmf_create_subsystem", {"nqn": chance.choice([*NQNS, "no-nqn"]), "allow_any_host": chance.random() < 0.5,
                                   "max_namespaces": chance.choice([MAX_NAMESPACES] * 5 + [1025])}),
        *[("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {"bdev_name": name} | more}) for more in
          ({}, {}, {"nsid": chance.randrange(1, MAX_NAMESPACES + 3)})],
        ("nvmf_delete_subsystem", {"nqn": nqn}) if chance.random() < 0.5 else
        ("nvmf_subsystem_allow_any_host", {"nqn": nqn, "allow_any_host": chance.random() < 0.5}),
        ("nvmf_subsystem_remove_ns", {"nqn": nqn, "nsid": chance.randrange(1, MAX_NAMESPACES + 2)}),
        ("nvmf_subsystem_add_host", {"nqn": nqn, "host": chance.choice([host, "junk"])}),
        ("nvmf_subsystem_remove_host", {"nqn": nqn, "host": host}),
        *[("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": where, "ana_state": state})
          for state in STATES[:2]],
        ("nvmf_subsystem_remove_listener", {"nqn": nqn, "listen_address": where}),
        ("nvmf_subsystem_listener_set_ana_state", {"nqn": nqn, "listen_address": where,
                                                   "ana_state": chance.choice(STATES)}),
        ("nvmf_discovery_add_referral", {"address": where}), ("nvmf_discovery_remove_referral", {"address": where}),
    ])


SETTINGS = ("_options", "_transport", "_impl", "_config", "_subsystems", "_crdt", "_hotplug")


def in_dump(dump):
    """A dump as the model has it."""
    model = Model()
    calls = [(call["method"], call.get("params", {})) for group in dump["subsystems"] for call in group["config"]]
    for method, p in calls:
        kind = {"bdev_null_create": "null", "bdev_malloc_create": "malloc", "bdev_delay_create": "delay"}.get(method)
        subsystem = model.subsystems.get(p.get("nqn"))
        if kind:
            model.disks[p["name"]] = (kind, p.get("num_blocks"), p.get("base_bdev_name"))
        elif method == "nvmf_create_subsystem":
            model.subsystems[p["nqn"]] = Subsystem(p["allow_any_host"])
        elif method == "nvmf_subsystem_add_host":
            subsystem.hosts.append(p["host"])
        elif method == "nvmf_subsystem_add_ns":
            subsystem.namespaces[p["namespace"]["nsid"]] = p["namespace"]["bdev_name"]
        elif method == "nvmf_subsystem_add_listener":
            subsystem.listeners[p["listen_address"]["trsvcid"]] = p.get("ana_state", "optimized")
        elif method == "nvmf_discovery_add_referral":
            model.referrals.add(p["address"]["trsvcid"])
        else:
            assert method.endswith(SETTINGS), method
    del model.subsystems[STABLE]
    del model.disks["Malloc0"]
    return model.seen()


def look_as_host(model, chance):
    """A host that connects somewhere finds what the model says."""
    nqn, host = chance.choice(list(model.subsystems) or [NQNS[0]]), chance.choice(HOSTS)
    subsystem = model.subsystems.get(nqn)
    if not subsystem or not subsystem.listeners:
        return
    where = ("127.0.0.1", int(chance.choice(list(subsystem.listeners))))
    if not subsystem.any_host and host not in subsystem.hosts:
        with pytest.raises(CommandError) as refused:
            Controller(where, nqn, hostnqn=host)
        assert refused.value.status == Sc.CONNECT_HOST
        return
    with Controller(where, nqn, hostnqn=host) as found:
        assert found.namespaces() == sorted(subsystem.namespaces)
        for nsid, name in subsystem.namespaces.items():
            while model.disks[name][2]:
                name = model.disks[name][2]
            assert found.namespace(nsid).nsze == model.disks[name][1]


def make_call(client, method, params, chance):
    """As a call of its own, or in a batch with others that change nothing."""
    if chance.random() < 0.7:
        return client.answer(method, params)
    others = [request("pollux_save", id="other"), request("bdev_get_bdevs"), request(method, params, id="mine")]
    chance.shuffle(others)
    answers = client.exchange("[" + ",".join(others) + "]")
    assert sorted(a["id"] for a in answers) == ["mine", "other"]
    return next(a for a in answers if a["id"] == "mine")


def test_a_disk_that_another_one_stands_on_is_no_namespace():
    with Server() as server, server.client() as client:
        client.call("bdev_null_create", name="base", num_blocks=8, block_size=512)
        client.call("bdev_delay_create", name="top", base_bdev_name="base", avg_read_latency=1, p99_read_latency=1,
                    avg_write_latency=1, p99_write_latency=1)
        client.call("nvmf_create_subsystem", nqn=NQNS[0])
        before = client.dump()
        code, message = client.refused("nvmf_subsystem_add_ns", nqn=NQNS[0], namespace={"bdev_name": "base"})
        assert code == INVALID_PARAMS and "exclusively" in message and client.dump() == before
        assert client.call("nvmf_subsystem_add_ns", nqn=NQNS[0], namespace={"bdev_name": "top"}) == 1


def test_calls_by_chance_do_what_the_model_says():
    chance = random.Random(seed())
    model, ports, done = Model(), [free_port() for _ in range(3)], 0
    with Server() as server, server.client() as first, server.client() as second:
        where = prepare(first, STABLE)
        bystander = Bystander(where, STABLE)
        for number in range(CALLS):
            method, params = choose(chance, ports)
            answer = make_call(chance.choice([first, second]), method, params, chance)
            expected = getattr(model, method)(**params)
            said = f"call {number}: {method} {json.dumps(params)}: {answer}, and not {expected}"
            assert answer.get("error", {}).get("code", 0) == expected, said
            assert in_dump(first.dump()) == model.seen(), said
            done += not expected
            if number % 10 == 0:
                look_as_host(model, chance)
                bystander.check()
        bystander.close()
        assert CALLS / 10 < done < CALLS
        saved = first.dump()
        (server.folder / "config").write_text(json.dumps(saved))
        server.stop()
        server.options += ["-c", str(server.folder / "config")]
        server.start()
        with server.client() as client:
            assert client.dump() == saved
            look_as_host(model, chance)
