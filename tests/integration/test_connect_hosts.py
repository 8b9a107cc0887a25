# SPDX-License-Identifier: BSD-3-Clause
"""Which host may connect where: discovery controllers, allow lists, subsystems, and listeners."""

import socket
import struct

import pytest

import expect
import sqe
from host import Controller, discovery
from nvmetcp import Queue
from spec import DISCOVERY_NQN, Log, Property, Sc
from structs import DiscoveryLog
from target import Target


def discovery_log(controller):
    """Read as hosts do: the header first, then all of it, then the header again to see that it is still the same."""
    head = DiscoveryLog(controller.get_log(Log.DISCOVERY, 1024, nsid=0))
    log = DiscoveryLog(controller.get_log(Log.DISCOVERY, 1024 * (1 + head.numrec), nsid=0))
    assert log.genctr == head.genctr and log.numrec == head.numrec
    return log


# -- discovery -------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(target):
    with discovery(target.address) as controller:
        yield controller


def test_the_discovery_log_names_the_subsystem(browser, target):
    log = discovery_log(browser)
    assert log.recfmt == 0
    entries = [entry for entry in log.entries if entry.subtype == 2]
    assert [entry.text("subnqn") for entry in entries] == [target.nqn]
    entry = entries[0]
    assert (entry.trtype, entry.adrfam) == (3, 1)  # TCP, IPv4
    assert entry.treq & 3 in (0, 2)  # secure channel: not specified or not required
    assert entry.cntlid == 0xFFFF  # dynamic controllers
    assert 32 <= entry.asqsz <= 1024
    assert entry.sectype == 0
    assert (entry.text("traddr"), entry.text("trsvcid")) == ("127.0.0.1", str(target.port))


def test_a_discovery_entry_for_itself_says_so(browser):
    """Base 5.1.12.3.1: a record of the discovery subsystem itself is of subtype 3."""
    for entry in discovery_log(browser).entries:
        name = entry.text("subnqn")
        assert (entry.subtype == 3) == (name == DISCOVERY_NQN)


def test_subsystems_come_before_discovery_itself(wide_target):
    """Some hosts look at the first entries only."""
    with discovery(wide_target.address) as controller:
        kinds = [entry.subtype for entry in discovery_log(controller).entries]
    assert kinds == sorted(kinds) and kinds.count(3) == kinds.count(2) // 2  # two subsystems


def test_port_ids_tell_ports_apart(browser):
    ids = {}
    for entry in discovery_log(browser).entries:
        address = (entry.text("traddr"), entry.text("trsvcid"))
        assert ids.setdefault(entry.portid, address) == address


def test_the_discovery_log_can_be_read_in_pieces(browser):
    whole = browser.get_log(Log.DISCOVERY, 2048, nsid=0)
    pieces = b"".join(browser.get_log(Log.DISCOVERY, 256, offset=offset, nsid=0) for offset in range(0, 2048, 256))
    assert pieces == whole


def test_the_discovery_log_cannot_be_read_from_beyond_its_end(browser):
    size = 1024 * (1 + discovery_log(browser).numrec)
    expect.status(browser.admin.execute(sqe.get_log(Log.DISCOVERY, 1024, offset=size + 4096, nsid=0), read=1024),
                  Sc.INVALID_FIELD)


def test_a_discovery_controller_says_what_it_is(browser):
    identity = browser.identity
    assert identity.cntrltype == 2
    assert identity.text("subnqn") == DISCOVERY_NQN
    assert identity.cntlid == browser.cntlid
    assert identity.lpa & 4  # extended data for Get Log Page: offsets
    assert identity.sgls & 3
    assert identity.nn == 0


def test_a_discovery_controller_has_no_io_queues(browser):
    expect.status(browser.connect_queue(browser.new_queue(), 1), Sc.CONNECT_INVALID, Sc.SEQUENCE, Sc.INVALID_QID)


def test_io_commands_are_unknown_to_a_discovery_controller(browser):
    for entry, read in ((sqe.read(1, 0, 1), 512), (sqe.write_zeroes(1, 0, 1), 0), (sqe.flush(1), 0)):
        expect.status(browser.admin.execute(entry, read=read), Sc.INVALID_OPCODE, Sc.INVALID_FIELD, Sc.SGL_LENGTH,
                      Sc.INVALID_LOG)


def test_namespaces_are_unknown_to_a_discovery_controller(browser):
    expect.status(browser.identify_raw(0, nsid=1), Sc.INVALID_FIELD, Sc.INVALID_NAMESPACE, Sc.INVALID_OPCODE)


@pytest.mark.parametrize("lid", [Log.HEALTH, Log.EFFECTS, Log.ANA, Log.CHANGED_NS])
def test_other_log_pages_are_unknown_to_a_discovery_controller(browser, lid):
    expect.status(browser.admin.execute(sqe.get_log(lid, 512), read=512), Sc.SUCCESS, Sc.INVALID_LOG, Sc.INVALID_FIELD)


def test_keep_alive_works_on_a_discovery_controller(target):
    with discovery(target.address, kato=60_000) as controller:
        controller.admin.must(sqe.keep_alive())


def test_a_discovery_controller_needs_the_enable_too(target):
    with discovery(target.address, enable=False) as controller:
        entry = sqe.get_log(Log.DISCOVERY, 1024, nsid=0)
        expect.status(controller.admin.execute(entry, read=1024), Sc.SEQUENCE)
        controller.enable()
        controller.admin.must(entry, read=1024)


def test_a_discovery_controller_shuts_down(browser):
    browser.shutdown()


def test_the_discovery_log_is_not_to_be_had_from_an_io_controller(controller):
    completion = controller.admin.execute(sqe.get_log(Log.DISCOVERY, 1024, nsid=0), read=1024)
    expect.status(completion, Sc.INVALID_LOG, Sc.INVALID_FIELD)


def test_properties_of_a_discovery_controller(browser):
    assert browser.admin.property_get(Property.CAP, 8) & 0xFFFF >= 31
    assert browser.admin.property_get(Property.VS) >= 0x010300


# -- allow lists -----------------------------------------------------------------------------------------------------

UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:"
GUEST = UUID_NQN + "c304a50b-ad75-4a3c-afb1-d5730a9c7168"
STRANGER = UUID_NQN + "c6cbf80a-62b5-4997-ac14-5eab2d35c02e"


@pytest.fixture(scope="module")
def closed_target():
    with Target("ram:16M", options=("--allow", GUEST, "--allow", "nqn.2014-08.org.nvmexpress:second")) as running:
        yield running


@pytest.mark.parametrize("hostnqn", [GUEST, "nqn.2014-08.org.nvmexpress:second"])
def test_a_listed_host_is_let_in(closed_target, hostnqn):
    with Controller(closed_target.address, closed_target.nqn, hostnqn=hostnqn, io_queues=1) as controller:
        controller.read(1, 0, 1)


@pytest.mark.parametrize("hostnqn", [STRANGER, GUEST[:-1], GUEST + "0", GUEST.upper(), ""])
def test_an_unlisted_host_is_refused(closed_target, hostnqn):
    with Queue(closed_target.address) as queue:
        completion = queue.connect(closed_target.nqn, hostnqn)
        expect.status(completion, Sc.CONNECT_HOST, *([Sc.CONNECT_INVALID] if not hostnqn.startswith("nqn.") else []))


def test_an_unlisted_host_is_refused_on_io_queues_too(closed_target):
    with Controller(closed_target.address, closed_target.nqn, hostnqn=GUEST) as controller:
        completion = controller.connect_queue(controller.new_queue(), 1, hostnqn=STRANGER)
        expect.status(completion, Sc.CONNECT_HOST, Sc.CONNECT_INVALID)


def test_discovery_shows_a_host_only_what_it_may_use(closed_target):
    with discovery(closed_target.address, hostnqn=GUEST) as controller:
        names = [entry.text("subnqn") for entry in discovery_log(controller).entries]
        assert closed_target.nqn in names
    with discovery(closed_target.address, hostnqn=STRANGER) as controller:
        names = [entry.text("subnqn") for entry in discovery_log(controller).entries]
        assert closed_target.nqn not in names


# -- several subsystems and listeners --------------------------------------------------------------------------------

FIRST, SECOND = "nqn.2014-08.org.nvmexpress:first", "nqn.2014-08.org.nvmexpress:second"


def have_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def wide_target():
    listen = ["127.0.0.1:0", "127.0.0.1:0"] + (["[::1]:0"] if have_ipv6() else [])
    with Target("-n", FIRST, "ram:8M", "ram:4M", "-n", SECOND, "ram:2M", listen=listen) as running:
        yield running


def test_both_subsystems_are_printed(wide_target):
    assert wide_target.nqns == [FIRST, SECOND]


@pytest.mark.parametrize("nqn,sizes", [(FIRST, [8, 4]), (SECOND, [2])])
def test_each_subsystem_has_its_own_namespaces(wide_target, nqn, sizes):
    with Controller(wide_target.address, nqn) as controller:
        assert controller.identity.text("subnqn") == nqn
        assert controller.namespaces() == list(range(1, len(sizes) + 1))
        assert [controller.namespace(nsid).nsze * 512 >> 20 for nsid in controller.namespaces()] == sizes


def test_subsystems_do_not_share_data(wide_target):
    with Controller(wide_target.address, FIRST, io_queues=1) as first, \
            Controller(wide_target.address, SECOND, io_queues=1) as second:
        first.write(1, 0, b"first..." * 64)
        second.write(1, 0, b"second.." * 64)
        assert first.read(1, 0, 1) == b"first..." * 64


def test_every_listener_serves_every_subsystem(wide_target):
    for address in wide_target.addresses:
        for nqn in wide_target.nqns:
            with Controller(address, nqn, io_queues=1) as controller:
                controller.read(1, 0, 1)


def test_discovery_on_every_listener_names_every_subsystem(wide_target):
    for address in wide_target.addresses:
        with discovery(address) as controller:
            names = {entry.text("subnqn") for entry in discovery_log(controller).entries}
            assert {FIRST, SECOND} <= names


def test_discovery_leads_to_working_addresses(wide_target):
    with discovery(wide_target.address) as controller:
        entries = [entry for entry in discovery_log(controller).entries if entry.subtype == 2]
    assert entries
    for entry in entries:
        assert entry.adrfam == (2 if ":" in entry.text("traddr") else 1)
        address = (entry.text("traddr"), int(entry.text("trsvcid")))
        with Controller(address, entry.text("subnqn")):
            pass


@pytest.mark.skipif(not have_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_serves_io(wide_target):
    address = next(address for address in wide_target.addresses if ":" in address[0])
    with Controller(address, FIRST, io_queues=1) as controller:
        data = struct.pack("<Q", 6) * 4096
        controller.write(1, 0, data)
        assert controller.read(1, 0, 64) == data
