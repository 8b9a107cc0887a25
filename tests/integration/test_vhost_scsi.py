# SPDX-License-Identifier: BSD-3-Clause
"""SCSI hosts over vhost-user: commands, as correct guests send them; units that come and go; task management."""
import os
import select
import struct

import pytest
import vhost_scsi as scsi
from rpc import Server
from target import wait_until
from vhost import F_PACKED, GET_QUEUE_NUM, MIB, SET_FEATURES, WRITE
from vhost_scsi import ILLEGAL, REQUESTS, ScsiFrontend, inquiry, rw6, rw10, rw12, rw16, rw32, unmap, unmap_list

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
DISKS = {(0, 0): ("m", 512, False), (0, 5): ("big", 4096, False), (3, 200): ("m", 512, True),
         (255, 255): ("n", 512, False)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    cores = sorted(os.sched_getaffinity(0))[:2]
    sockets = tmp_path_factory.mktemp("scsi")
    with Server("ram:1M", "ram:16M", options=["--vhost", sockets, "-m", ",".join(map(str, cores))]) as running:
        running.sockets = sockets
        with running.client() as client:
            client.call("bdev_malloc_create", name="m", num_blocks=32768, block_size=512)
            client.call("bdev_malloc_create", name="big", num_blocks=4096, block_size=4096)
            client.call("bdev_null_create", name="n", num_blocks=1 << 33, block_size=512)
            client.call("bdev_malloc_create", name="slow0", num_blocks=32768, block_size=512)
            client.call("bdev_delay_create", name="slow", base_bdev_name="slow0", avg_read_latency=0,
                        p99_read_latency=0, avg_write_latency=60_000_000, p99_write_latency=60_000_000)
            client.call("vhost_create_scsi_controller", ctrlr="s", num_queues=4, packed_ring=True)
            for (target, lun), (disk, _, ro) in DISKS.items():
                assert client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=target,
                                   bdev_name=disk, lun=lun, readonly=ro) == target
            client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=7, bdev_name="slow")
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


@pytest.fixture
def connect(server):
    made = []

    def make(name="s", **options):
        made.append(ScsiFrontend(server.sockets / name, **options))
        return made[-1]

    yield make
    for front in made:
        front.close()
    with server.client() as asking:
        assert wait_until(lambda: all(not c["connections"] and not c["draining"]
                               for c in asking.call("vhost_get_controllers")))


@pytest.fixture
def front(connect):
    return connect().start()


# -- what the host is -----------------------------------------------------------------------------------------------

def test_configuration(connect):
    front = connect()
    front.share()
    config = struct.unpack("<7IHHI", front.config(0, 36))
    assert config == (4, 126, 65535, 128, 16, 96, 32, 0, 255, 255)
    assert front.ask_u64(GET_QUEUE_NUM) == 6
    assert front.set_config(20, struct.pack("<I", 18)) != 0, "the size of sense is not to be changed"


@KINDS
@pytest.mark.parametrize("write,read", [
    (rw6(0x0a, 5, 8), rw6(0x08, 5, 8)), (rw10(0x2a, 5, 8), rw10(0x28, 5, 8, 0x10)),
    (rw12(0xaa, 5, 8), rw12(0xa8, 5, 8)), (rw16(0x8a, 5, 8, 8), rw16(0x88, 5, 8)), (rw32(11, 5, 8), rw32(9, 5, 8))])
def test_data_comes_back(connect, packed, write, read):
    front = connect(packed=packed).start(queues=2)
    data = os.urandom(4096)
    assert front.command(write, out=data).good
    answer = front.command(read, into=4096, queue=1)
    assert answer.good and (answer.data, answer.residual, answer.length) == (data, 0, 108 + 4096)
    assert front.command(read, into=4096, indirect=True).data == data


def test_units_are_apart(front):
    for n, ((target, lun), (disk, block, ro)) in enumerate(DISKS.items()):
        capacity = front.command(struct.pack(">BB8xIxx", 0x9e, 0x10, 32), target, lun, into=32)
        assert struct.unpack(">QI", capacity.data[:12])[1] == block
        if disk != "n" and not ro:
            assert front.command(rw10(0x2a, 9, 1), target, lun, out=bytes([n]) * block).good
    assert front.command(rw10(0x28, 9, 1), 0, 0, into=512).data == bytes([0]) * 512
    assert front.command(rw10(0x28, 9, 1), 0, 5, into=4096).data == bytes([1]) * 4096
    assert front.command(rw10(0x28, 9, 1), into=512, address=scsi.lun_of(0, 0, flat=False)).good


def test_a_write_protected_unit(front):
    for cdb, out in ((rw10(0x2a, 0, 1), bytes(512)), (unmap(24), unmap_list((0, 1))), (rw10(0x41, 0, 1), bytes(512)),
                     (struct.pack(">BBQ3xBBB", 0x89, 0, 0, 1, 0, 0), bytes(1024))):
        assert front.command(cdb, 3, 200, out=out).code == (scsi.PROTECT, 0x2700)
    assert front.command(rw10(0x28, 0, 1), 3, 200, into=512).good
    mode = front.command(bytes([0x1a, 0, 0x3f, 0, 255, 0]), 3, 200, into=255)
    assert mode.data[2] == 0x90


def test_where_there_is_nothing(front):
    assert front.command(bytes(6), 9, 0).response == scsi.BAD_TARGET
    assert front.command(bytes(6), address=bytes([2, 0, 0x40, 0, 0, 0, 0, 0])).response == scsi.BAD_TARGET
    assert front.command(bytes(6), address=bytes([1, 0, 0x40, 0, 0, 1, 0, 0])).response == scsi.BAD_TARGET
    assert front.command(bytes(6), address=bytes([1, 0, 0xc1, 1, 0, 0, 0, 0])).response == scsi.BAD_TARGET
    assert front.command(bytes(6), 0, 1).code == (ILLEGAL, 0x2500)
    assert front.command(bytes(6), 0, 0x3fff).code == (ILLEGAL, 0x2500)
    assert front.command(inquiry(), 0, 1, into=255).data[0] == 0x7f
    sense = front.command(bytes([3, 0, 0, 0, 18, 0]), 0, 1, into=18)
    assert sense.good and (sense.data[2], sense.data[12]) == (ILLEGAL, 0x25)
    luns = front.command(struct.pack(">BB4xIxx", 0xa0, 0, 64), 0, 1, into=64)
    assert luns.data[:24] == struct.pack(">IIQQ", 16, 0, 0, 5 << 48) and luns.residual == 40


# -- what units say -------------------------------------------------------------------------------------------------

def test_inquiry(front):
    standard = front.command(inquiry(), into=255)
    assert standard.data[:5] == bytes([0, 0, 6, 0x12, 91]) and standard.data[8:16] == b"Pollux  "
    assert standard.residual == 255 - 96 and standard.length == 108 + 96
    assert front.command(inquiry(size=36), into=36).residual == 0
    assert front.command(inquiry(0), into=255).data[3:10] == bytes([6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2])
    serial = [front.command(inquiry(0x80), 0, lun, into=255).data[4:40] for lun in (0, 5)]
    assert serial[0] != serial[1] and serial[0].count(b"-") == 4
    assert front.command(inquiry(0x80), 3, 200, into=255).data[4:40] == serial[0], "the same disk"
    names = front.command(inquiry(0x83), into=255).data
    assert names[3] == 12 + 12 + 36 and names[4:8] == bytes([1, 3, 0, 8]) and names[8] >> 4 == 3
    assert names[28:64] == serial[0]
    limits = front.command(inquiry(0xb0), into=255).data
    assert limits[3] == 60 and limits[4:6] == bytes([1, 255]) and struct.unpack(">II", limits[20:28]) == (1 << 22, 256)
    assert front.command(inquiry(0xb1), into=255).data[:6] == bytes([0, 0xb1, 0, 60, 0, 1])
    assert front.command(inquiry(0xb2), into=255).data[5] & 0xe0 == 0xe0
    wrong = front.command(inquiry(0x99), into=255)
    assert wrong.code == (ILLEGAL, 0x2400) and wrong.field == 2


def test_capacity(front):
    ten = front.command(bytes([0x25]) + bytes(9), into=8)
    assert struct.unpack(">II", ten.data) == (32767, 512)
    assert struct.unpack(">II", front.command(bytes([0x25]) + bytes(9), 255, 255, into=8).data) == (0xffffffff, 512)
    sixteen = front.command(struct.pack(">BB8xIxx", 0x9e, 0x10, 32), 255, 255, into=32)
    assert struct.unpack(">QI", sixteen.data[:12]) == ((1 << 33) - 1, 512)


def test_mode_pages(front):
    six = front.command(bytes([0x1a, 0, 0x3f, 0, 255, 0]), into=255).data
    assert six[0] == 4 + 8 + 20 + 12 - 1 and six[3] == 8 and struct.unpack(">II", six[4:12]) == (32768, 512)
    assert six[12:14] == bytes([8, 18]) and six[32:34] == bytes([10, 10])
    ten = front.command(struct.pack(">BBBBxxxHB", 0x5a, 0x10, 8, 0, 255, 0), 255, 255, into=255).data
    assert ten[4] == 1 and struct.unpack(">Q4xI", ten[8:24]) == (1 << 33, 512) and ten[24] == 8
    assert front.command(bytes([0x1a, 8, 0x3f, 0xff, 255, 0]), into=255).data[3] == 0
    assert front.command(bytes([0x1a, 0, 0xc8, 0, 255, 0]), into=255).code == (ILLEGAL, 0x3900)
    assert front.command(bytes([0x1a, 0, 0x02, 0, 255, 0]), into=255).field == 2


def test_supported_operation_codes(front):
    all_of = front.command(struct.pack(">BBBBHIxx", 0xa3, 0x0c, 0, 0, 0, 4096), into=4096).data
    length, = struct.unpack(">I", all_of[:4])
    known = {all_of[n] for n in range(4, 4 + length, 8)}
    assert {0, 0x12, 0x28, 0x7f, 0x42, 0x89, 0x93} <= known and length % 8 == 0
    one = front.command(struct.pack(">BBBBHIxx", 0xa3, 0x0c, 1, 0x28, 0, 512), into=512).data
    assert one[:14] == bytes([0, 3, 0, 10, 0x28, 0x18, 255, 255, 255, 255, 0x1f, 255, 255, 0])
    assert front.command(struct.pack(">BBBBHIxx", 0xa3, 0x0c, 1, 0x16, 0, 512), into=512).data[1] == 1
    assert front.command(struct.pack(">BBBBHIxx", 0xa3, 0x0c, 1, 0x9e, 0, 512), into=512).field == 2


def test_commands_without_data(front):
    for cdb in (bytes(6), bytes([0x1e, 0, 0, 0, 1, 0]), bytes([0x1b, 0, 0, 0, 1, 0]), bytes([0x1b, 0, 0, 0, 0, 0]),
                bytes([0x1d, 4, 0, 0, 0, 0]), rw10(0x35, 0, 0), rw16(0x91, 0, 8), rw10(0x2f, 0, 8), rw10(0x28, 0, 0)):
        answer = front.command(cdb)
        assert answer.good and answer.length == 108, cdb
    sense = front.command(bytes([3, 1, 0, 0, 252, 0]), into=252)
    assert sense.data[:8] == bytes([0x72, 0, 0, 0, 0, 0, 0, 0]) and sense.residual == 244


# -- what changes blocks --------------------------------------------------------------------------------------------

def test_unmap(front):
    front.command(rw10(0x2a, 100, 64), out=b"u" * 32768)
    answer = front.command(unmap(8 + 48), out=unmap_list((100, 8), (5, 0), (110, 10)))
    assert answer.good
    got = front.command(rw10(0x28, 100, 64), into=32768).data
    assert got == bytes(4096) + b"u" * 1024 + bytes(5120) + b"u" * (32768 - 4096 - 1024 - 5120)
    assert front.command(unmap(0)).good
    assert front.command(unmap(7), out=bytes(7)).code == (ILLEGAL, 0x1a00)
    assert front.command(unmap(8 + 32), out=unmap_list((0, 1), (32768, 1))).code == (ILLEGAL, 0x2100)
    assert front.command(unmap(24), out=bytes(8)).response == scsi.OVERRUN
    assert front.command(unmap(8 + 16 * 257), out=unmap_list(*[(0, 1)] * 257)).code == (ILLEGAL, 0x2600)
    assert front.command(unmap(8 + 16 * 256), out=unmap_list(*[(900 + n, 1) for n in range(256)])).good
    assert front.command(rw10(0x28, 104, 1), into=512).data == bytes(512)


@pytest.mark.parametrize("lun,block", [(0, 512), (5, 4096)])
def test_write_same(front, lun, block):
    pattern = os.urandom(block)
    front.command(rw10(0x2a, 0, 8), lun=lun, out=b"k" * 8 * block)
    assert front.command(rw10(0x41, 1, 700), lun=lun, out=pattern).good
    assert front.command(rw10(0x28, 0, 1), lun=lun, into=block).data == b"k" * block
    for at in (1, 2, 133, 134, 135, 136, 700):
        assert front.command(rw10(0x28, at, 1), lun=lun, into=block).data == pattern, at
    assert front.command(rw10(0x28, 701, 1), lun=lun, into=block).data != pattern
    assert front.command(rw16(0x93, 2, 3, 8), lun=lun, out=bytes(block)).good
    assert front.command(rw16(0x93, 7, 1, 9), lun=lun).good
    for at, zero in ((1, False), (2, True), (4, True), (5, False), (7, True)):
        assert (front.command(rw10(0x28, at, 1), lun=lun, into=block).data == bytes(block)) == zero
    assert front.command(rw16(0x93, 2, 0), lun=lun, out=pattern).field == 10
    assert front.command(rw16(0x93, 2, 1), lun=lun, out=pattern[:-1]).response == scsi.OVERRUN
    assert front.command(rw10(0x41, 0xffffffff, 2), lun=lun, out=pattern).code == (ILLEGAL, 0x2100)


def test_write_same_of_a_block_in_pieces(front):
    """As many as leave no entry for a second copy."""
    pattern = os.urandom(512)
    parts, response, _ = front.parts_of(rw10(0x41, 20, 5), out=pattern)
    head, (at, _, _), tail = parts
    for n in (1, 50, 126):
        cuts = [(at + i, 1, 0) for i in range(n - 1)] + [(at + n - 1, 512 - n + 1, 0)]
        front.command(rw10(0x2a, 20, 5), out=bytes(2560))
        front.submit([front.indirect([head, *cuts, tail])], REQUESTS)
        front.queues[REQUESTS].wait()
        assert front.answer_at(response, 0, 0, 108).good
        assert front.command(rw10(0x28, 20, 5), into=2560).data == pattern * 5


def test_compare_and_write(front):
    def caw(lba, blocks, data):
        return front.command(struct.pack(">BBQ3xBBB", 0x89, 0, lba, blocks, 0, 0), out=data)

    old, new = os.urandom(1024), os.urandom(1024)
    front.command(rw10(0x2a, 300, 2), out=old)
    assert caw(300, 2, new + old).code == (scsi.MISCOMPARE, 0x1d00)
    assert caw(300, 2, old + new).good
    assert front.command(rw10(0x28, 300, 2), into=1024).data == new
    assert caw(300, 2, old).response == scsi.OVERRUN
    assert caw(300, 0, b"").good
    assert front.command(rw10(0x2f, 300, 2, 2), out=new).good
    assert front.command(rw10(0x2f, 300, 2, 2), out=old).code == (scsi.MISCOMPARE, 0x1d00)


# -- commands that are wrong ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("cdb,field", [
    (rw10(0x28, 0, 1, 0x20), 1), (rw10(0x28, 0, 1)[:9] + b"\x04", 9), (bytes([0, 1]), 1),
    (rw32(9, 0, 1)[:7] + b"\x10" + rw32(9, 0, 1)[8:], 7),
    (rw32(10, 0, 1), 8), (bytes([0x9e, 0x1f]), 1), (bytes([0xa3, 0x0d]), 1), (rw32(9, 0, 1)[:20] + b"\1", 20),
    (bytes([0x12, 0, 1, 0, 36, 0]), 2), (bytes([0x1b, 0, 0, 0, 2, 0]), 4), (rw10(0x42, 0, 8, 1), 1)])
def test_fields_that_are_not_known(front, cdb, field):
    answer = front.command(cdb, into=512)
    assert answer.code == (ILLEGAL, 0x2400) and answer.field == field


@pytest.mark.parametrize("opcode", [0x04, 0x15, 0x55, 0x16, 0xff, 0x9f])
def test_commands_that_there_are_not(front, opcode):
    assert front.command(bytes([opcode]), into=64).code == (ILLEGAL, 0x2000)


@pytest.mark.parametrize("cdb", [
    rw6(0x08, 32767, 2), rw10(0x28, 32768, 1), rw10(0x28, 32769, 0), rw16(0x88, 1 << 63, 1),
    rw16(0x88, (1 << 64) - 1, 1), rw10(0x2f, 32767, 2), rw10(0x35, 32768, 1)])
def test_blocks_beyond_the_end(front, cdb):
    assert front.command(cdb, into=4096).code == (ILLEGAL, 0x2100)


def test_data_that_is_short_or_long(front):
    assert front.command(rw10(0x28, 0, 9), into=4096).response == scsi.OVERRUN
    assert front.command(rw10(0x2a, 0, 9), out=bytes(4096)).response == scsi.OVERRUN
    assert front.command(rw16(0x88, 0, 32768), into=512).response == scsi.OVERRUN
    front.command(rw10(0x2a, 40, 8), out=b"0" * 4096)
    longer = front.command(rw10(0x2a, 40, 2), out=b"L" * 4096)
    assert longer.good and longer.residual == 3072
    got = front.command(rw10(0x28, 40, 4), into=4096)
    assert got.data == b"L" * 1024 + b"0" * 1024 + bytes(2048) and got.residual == 2048 and got.length == 108 + 2048
    assert front.command(inquiry(), into=20).response == scsi.OVERRUN
    assert front.command(rw6(0x08, 0, 0), into=131072).residual == 0, "none is 256 blocks"


def test_descriptors_mean_nothing(front):
    """Headers, responses and data in pieces, that do not end where descriptors do (virtio 1.2, 2.7.4.2)."""
    data = os.urandom(1024)
    front.command(rw10(0x2a, 60, 2), out=data)
    head = front.memory.take(51)
    front.memory.put(head, struct.pack("<8sQBBB32s", scsi.lun_of(0, 0), 1, 0, 0, 0, rw10(0x28, 60, 2)))
    into = front.memory.take(2048)
    for cuts in ((1, 1131), (50, 58, 1024), (107, 1025), (108, 1024), (109, 1023), (1132,), (7, 200, 925)):
        front.memory.put(into, b"\xff" * 2048)
        parts, at = [(head, 9, 0), (head + 9, 42, 0)], into
        for size in cuts:
            parts.append((at, size, WRITE))
            at += size
        front.submit(parts, REQUESTS)
        assert front.queues[REQUESTS].wait()[1] == 1132
        assert front.answer_at(into, into + 108, 1024, 1132).data == data, cuts
        assert front.answer_at(into, 0, 0, 0).good and front.memory.get(into + 1132, 8) == b"\xff" * 8
    block = front.memory.take(51 + 512)
    front.memory.put(block, struct.pack("<8sQBBB32s", scsi.lun_of(0, 0), 1, 0, 0, 0, rw10(0x2a, 60, 1)) + b"w" * 512)
    front.submit([(block, 500, 0), (block + 500, 63, 0), (into, 108, WRITE)], REQUESTS)
    front.queues[REQUESTS].wait()
    assert front.command(rw10(0x28, 60, 1), into=512).data == b"w" * 512


def test_requests_that_are_none(connect, client):
    front = connect().start(queues=2)
    parts, response, _ = front.parts_of(bytes(6))
    front.submit([(parts[0][0], 50, 0), parts[1]], REQUESTS)
    assert front.queues[REQUESTS].wait()[1] == 108
    assert front.answer_at(response, 0, 0, 0).response == scsi.FAILURE
    front.submit([parts[0], (response, 107, WRITE)], REQUESTS)
    assert front.queues[REQUESTS].failed()
    assert front.command(bytes(6), queue=1).good
    for queue, parts in ((scsi.CONTROL, [(response, 3, 0), (response, 1, WRITE)]),
                         (scsi.EVENTS, [(response, 15, WRITE)])):
        front = connect().start()
        front.submit(parts, queue)
        if queue == scsi.EVENTS:  # of which one is taken when there is something to say
            client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=8, bdev_name="m")
            client.call("vhost_scsi_controller_remove_target", ctrlr="s", scsi_target_num=8)
        assert front.queues[queue].failed()


# -- task management ------------------------------------------------------------------------------------------------

def write_slow(front, lba, tag, queue=0):
    return front.begin(rw10(0x2a, lba, 1), queue, target=7, out=b"s" * 512, tag=tag)


@KINDS
def test_a_task_is_aborted_and_no_other(connect, packed):
    front = connect(packed=packed).start(queues=3)
    one, first = write_slow(front, 0, 11)
    two, second = write_slow(front, 1, 12, queue=1)
    assert wait_until(lambda: front.function(scsi.QUERY_TASK, target=7, tag=12) == scsi.FUNCTION_SUCCEEDED)
    assert front.function(scsi.QUERY_TASK, target=7, tag=13) == scsi.RESP_OK
    assert front.function(scsi.ABORT_TASK, target=7, tag=12) == scsi.RESP_OK
    assert front.queues[REQUESTS + 1].ring.take_used()[0] == two, "published before the function's answer"
    assert front.answer_at(second, 0, 0, 0).response == scsi.ABORTED
    assert front.queues[REQUESTS].ring.take_used() is None
    assert front.function(scsi.QUERY_TASK, target=7, tag=11) == scsi.FUNCTION_SUCCEEDED
    assert front.function(scsi.ABORT_TASK_SET, target=7) == scsi.RESP_OK
    assert front.queues[REQUESTS].ring.take_used()[0] == one
    assert front.answer_at(first, 0, 0, 0).response == scsi.ABORTED


def test_a_reset_ends_all_and_is_told(connect):
    front, other = connect().start(queues=3), connect().start()
    begun = [write_slow(front, n, 20 + n, queue=n) for n in range(3)] + [write_slow(other, 9, 20)]
    assert wait_until(lambda: all(front.function(scsi.QUERY_TASK, target=7, tag=20 + n) == scsi.FUNCTION_SUCCEEDED
                           for n in range(3)) and other.function(scsi.QUERY_TASK_SET, target=7))
    assert front.function(scsi.NEXUS_RESET, target=0) == scsi.RESP_OK, "of another target"
    assert all(front.queues[REQUESTS + n].ring.take_used() is None for n in range(3))
    assert front.function(scsi.LUN_RESET, target=7) == scsi.RESP_OK
    for n in range(3):
        assert front.queues[REQUESTS + n].ring.take_used()[0] == begun[n][0]
        assert front.answer_at(begun[n][1], 0, 0, 0).response == scsi.RESET
    other.queues[REQUESTS].wait()
    assert other.answer_at(begun[3][1], 0, 0, 0).response == scsi.RESET
    for each in (front, other):
        assert each.command(inquiry(), 7, into=255).good, "which is answered whatever there is to be told"
        assert each.command(bytes(6), 7).code == (scsi.ATTENTION, 0x2903)
        assert each.command(bytes(6), 7).good
        assert each.command(bytes(6), 0).good
    # What is to be told can be asked for, and is told once.
    front.function(scsi.LUN_RESET, target=7)
    assert front.command(bytes([3, 0, 0, 0, 18, 0]), 7, into=18).data[2] == scsi.ATTENTION
    assert front.command(bytes(6), 7).good
    assert other.command(bytes([0xff]), 7).code == (scsi.ATTENTION, 0x2903)


def test_only_the_own_nexus(connect):
    front, other = connect().start(), connect().start()
    mine, _ = write_slow(front, 0, 5)
    write_slow(other, 1, 5)
    for each in (front, other):
        assert wait_until(lambda each=each: each.function(scsi.QUERY_TASK, target=7, tag=5) == scsi.FUNCTION_SUCCEEDED)
    assert front.function(scsi.NEXUS_RESET, target=7) == scsi.RESP_OK
    assert front.queues[REQUESTS].ring.take_used()[0] == mine
    assert other.function(scsi.QUERY_TASK, target=7, tag=5) == scsi.FUNCTION_SUCCEEDED
    assert other.function(scsi.CLEAR_TASK_SET, target=7) == scsi.RESP_OK


def test_functions_that_find_nothing(front):
    assert front.function(scsi.ABORT_TASK, tag=99) == scsi.RESP_OK
    assert front.function(scsi.LUN_RESET, target=9) == scsi.BAD_TARGET
    assert front.function(scsi.LUN_RESET, address=bytes(8)) == scsi.BAD_TARGET
    assert front.function(scsi.LUN_RESET, lun=1) == scsi.INCORRECT_LUN
    assert front.function(scsi.CLEAR_ACA) == scsi.FUNCTION_REJECTED
    assert front.function(77) == scsi.FUNCTION_REJECTED
    head, answer = front.memory.take(16), front.memory.take(5)
    front.memory.put(head, struct.pack("<I8sI", 1, scsi.lun_of(0, 0), 4))
    front.submit([(head, 16, 0), (answer, 5, WRITE)], scsi.CONTROL)
    assert front.queues[scsi.CONTROL].wait()[1] == 5 and front.memory.get(answer, 5) == bytes(5)


def test_many_functions_at_once(connect):
    front = connect().start(size=64)
    front.command(bytes(6), 7)
    begun = [front.begin_function(scsi.LUN_RESET, target=7) for _ in range(30)]
    for _ in begun:
        front.queues[scsi.CONTROL].wait()
    assert {front.memory.get(at, 1)[0] for _, at in begun} == {scsi.RESP_OK}


def test_a_front_end_leaves_in_mid_function(connect):
    """With requests of its own that have not ended; another's reset ends them, and the next one is served."""
    front, other = connect().start(), connect().start()
    write_slow(front, 0, 1)
    assert wait_until(lambda: front.function(scsi.QUERY_TASK, target=7, tag=1) == scsi.FUNCTION_SUCCEEDED)
    for _ in range(3):
        front.begin_function(scsi.ABORT_TASK, target=7, tag=2)
    front.close()
    assert other.function(scsi.LUN_RESET, target=7) == scsi.RESP_OK
    again = connect().start()
    assert again.command(bytes(6)).good


# -- units that come and go -----------------------------------------------------------------------------------------

@pytest.fixture
def hot(server, client, connect):
    client.call("bdev_malloc_create", name="h", num_blocks=2048, block_size=512)
    client.call("vhost_create_scsi_controller", ctrlr="hot")
    client.call("vhost_scsi_controller_add_target", ctrlr="hot", scsi_target_num=0, bdev_name="m")
    yield connect
    client.call("vhost_delete_controller", ctrlr="hot")
    if any(d["name"] == "h" for d in client.call("bdev_get_bdevs")):
        client.call("bdev_malloc_delete", name="h")


def add(client, target, disk="h", **more):
    return client.call("vhost_scsi_controller_add_target", ctrlr="hot", scsi_target_num=target, bdev_name=disk, **more)


def remove(client, target, **more):
    return client.call("vhost_scsi_controller_remove_target", ctrlr="hot", scsi_target_num=target, **more)


def units(client):
    """(target, LUN) of those there are."""
    scsi_host, = client.call("vhost_get_controllers", name="hot")
    return [(t["id"], u["id"]) for t in scsi_host["backend_specific"]["scsi"] for u in t["luns"]]


@KINDS
def test_guests_are_told_of_units(hot, client, packed):
    client.call("vhost_delete_controller", ctrlr="hot")
    client.call("vhost_create_scsi_controller", ctrlr="hot", packed_ring=packed)
    add(client, 0, "m")
    front = hot("hot", packed=packed).start()
    places = [front.post_event() for _ in range(3)]
    assert add(client, -1) == 1
    assert front.event(places[0]) == (scsi.TRANSPORT_RESET, 1, 0, scsi.RESCAN)
    assert front.command(rw10(0x28, 0, 1), 1, into=512).good
    assert add(client, 0, lun=9) == 0
    assert front.event(places[1]) == (scsi.TRANSPORT_RESET, 0, 9, scsi.RESCAN)
    assert front.command(bytes(6), 0, 0).code == (scsi.ATTENTION, 0x3f0e)
    assert front.command(bytes(6), 0, 0).good and front.command(bytes(6), 0, 9).good
    assert remove(client, 1) is True
    assert front.event(places[2]) == (scsi.TRANSPORT_RESET, 1, 0, scsi.REMOVED)
    assert front.command(bytes(6), 1).response == scsi.BAD_TARGET
    assert front.command(bytes(6), 0, 9).good
    assert remove(client, 0, lun=9) is True
    assert front.command(bytes(6), 0, 9).code == (ILLEGAL, 0x2500)


def test_events_wait_for_buffers_and_some_are_missed(hot, client):
    front = hot("hot").start()
    for _ in range(10):
        add(client, 1)
        remove(client, 1)
    places = [front.post_event() for _ in range(20)]
    got = [front.event(at) for at in places[:16]]
    assert got[0][0] & ~scsi.MISSED == scsi.TRANSPORT_RESET and [e[3] for e in got] == [1, 2] * 8
    assert sum(bool(e[0] & scsi.MISSED) for e in got) == 1
    assert front.command(bytes(6)).good and front.queues[scsi.EVENTS].ring.take_used() is None
    add(client, 1)
    assert front.event(places[16])[0] == scsi.TRANSPORT_RESET
    assert front.stop_ring(scsi.EVENTS) == 17, "buffers that were not used stay with the guest"


def test_who_does_not_want_events_gets_none(hot, client):
    front = hot("hot", features=ScsiFrontend.FEATURES & ~scsi.F_HOTPLUG).start()
    front.post_event()
    add(client, 1)
    assert front.command(bytes(6), 1).good
    assert front.queues[scsi.EVENTS].ring.take_used() is None


def test_a_disk_that_grows(hot, client):
    front = hot("hot").start()
    place = front.post_event()
    client.call("bdev_null_create", name="grows", num_blocks=2048, block_size=512)
    add(client, 4, "grows")
    front.event(place)
    place = front.post_event()
    client.call("bdev_null_resize", name="grows", new_size=4)
    assert front.event(place) == (scsi.PARAM_CHANGE, 4, 0, 0x092a)
    assert front.command(bytes(6), 4).code == (scsi.ATTENTION, 0x2a09)
    ten = front.command(bytes([0x25]) + bytes(9), 4, into=8)
    assert struct.unpack(">II", ten.data) == (4 * MIB // 512 - 1, 512)
    remove(client, 4)
    client.call("bdev_null_delete", name="grows")


def test_a_unit_is_removed_with_requests_in_flight(hot, client, server):
    """It is not there any more for what comes, and not gone before what is under way has ended."""
    front = hot("hot").start()
    add(client, 3, "m", lun=1)
    add(client, 3, "slow")
    begun = front.begin(rw10(0x2a, 0, 1), target=3, out=bytes(512), tag=1)
    assert wait_until(lambda: front.function(scsi.QUERY_TASK, target=3, tag=1) == scsi.FUNCTION_SUCCEEDED)
    with server.client() as removing:
        removing.send("vhost_scsi_controller_remove_target", {"ctrlr": "hot", "scsi_target_num": 3, "lun": 0})
        places = [front.post_event() for _ in range(3)]
        assert [front.event(at)[3] for at in places] == [scsi.RESCAN, scsi.RESCAN, scsi.REMOVED]
        assert front.queues[REQUESTS].ring.take_used() is None, "it has not ended"
        assert front.command(bytes(6), 3, 0).code == (ILLEGAL, 0x2500)
        assert [u["id"] for t in client.call("vhost_get_controllers", name="hot")[0]["backend_specific"]["scsi"]
                for u in t["luns"]] == [0, 1]
        assert not select.select([removing.socket], [], [], 0)[0]
        assert front.function(scsi.NEXUS_RESET, target=3) == scsi.RESP_OK
        assert front.queues[REQUESTS].ring.take_used()[0] == begun[0]
        assert removing.receive()["result"] is True


def test_a_unit_that_waits_for_its_disk_delays_no_other_change(hot, client, server):
    """Nor does it stand in the way of another unit; and the disk is not deleted under it."""
    front = hot("hot").start()
    client.call("bdev_malloc_create", name="hung0", num_blocks=2048, block_size=512)
    client.call("bdev_delay_create", name="hung", base_bdev_name="hung0", avg_read_latency=0, p99_read_latency=0,
                avg_write_latency=60_000_000, p99_write_latency=60_000_000)
    add(client, 1)
    add(client, 1, "hung", lun=7)
    front.begin(rw10(0x2a, 0, 1), target=1, lun=7, out=bytes(512), tag=1)
    assert wait_until(lambda: front.function(scsi.QUERY_TASK, target=1, lun=7, tag=1) == scsi.FUNCTION_SUCCEEDED)
    with server.client() as removing:
        removing.send("vhost_scsi_controller_remove_target", {"ctrlr": "hot", "scsi_target_num": 1})
        assert wait_until(lambda: units(client) == [(0, 0)])
        assert add(client, -1, "n", lun=7) == 2, "as that of target 1 has not gone"
        assert add(client, -1, "n", lun=3) == 1
        assert client.refused("vhost_scsi_controller_add_target", ctrlr="hot", scsi_target_num=1, bdev_name="n",
                              lun=7)[0] == -17
        for method, disk in (("bdev_delay_delete", "hung"), ("bdev_malloc_delete", "hung0")):
            code, message = client.refused(method, name=disk)
            assert code == -16 and "hung is used by" in message and "hot, target 1, LUN 7" in message
        assert not select.select([removing.socket], [], [], 0)[0]
        assert front.function(scsi.NEXUS_RESET, target=1) == scsi.RESP_OK
        assert removing.receive()["result"] is True
        assert units(client) == [(0, 0), (1, 3), (2, 7)]
    client.call("bdev_malloc_delete", name="hung0")


def test_a_host_is_deleted_with_functions_under_way(hot, client):
    front = hot("hot").start()
    for _ in range(3):
        front.begin_function(scsi.LUN_RESET)
    assert client.call("vhost_delete_controller", ctrlr="hot") is True
    assert front.ended()
    client.call("vhost_create_scsi_controller", ctrlr="hot")


# -- calls ----------------------------------------------------------------------------------------------------------

def test_what_there_is(client):
    device = next(c for c in client.call("vhost_get_controllers") if c["ctrlr"] == "s")
    targets = device["backend_specific"]["scsi"]
    assert [(t["id"], t["target_name"]) for t in targets] == [(n, f"Target {n}") for n in (0, 3, 7, 255)]
    assert targets[0]["luns"] == [{"id": 0, "bdev_name": "m", "readonly": False},
                                  {"id": 5, "bdev_name": "big", "readonly": False}]


def test_what_cannot_be_called(client, hot):
    def refused(**p):
        return client.refused("vhost_scsi_controller_add_target", **({"ctrlr": "hot", "scsi_target_num": 1,
                                                                      "bdev_name": "m"} | p))

    assert refused(bdev_name="none")[0] == -19
    assert refused(ctrlr="none")[0] == -19
    assert refused(scsi_target_num=0)[0] == -17
    for number in (256, -2):
        assert refused(scsi_target_num=number)[0] == -22
    gone = client.refused("vhost_scsi_controller_remove_target", ctrlr="hot", scsi_target_num=1)
    assert gone[0] == -19
    assert client.refused("vhost_create_scsi_controller", ctrlr="hot")[0] == -17
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="m")
    assert refused(ctrlr="b")[0] == -22
    client.call("vhost_delete_controller", ctrlr="b")


def test_a_dump_makes_it_again(client, hot):
    add(client, -1, lun=4, readonly=True)
    client.call("vhost_controller_set_coalescing", ctrlr="hot", delay_base_us=5, iops_threshold=10)
    calls = [c for c in client.dump()["subsystems"] if c["subsystem"] == "vhost_scsi"][0]["config"]
    mine = [c for c in calls if c["params"]["ctrlr"] == "hot"]
    assert [c["method"] for c in mine] == ["vhost_create_scsi_controller", "vhost_controller_set_coalescing",
                                           "vhost_scsi_controller_add_target", "vhost_scsi_controller_add_target"]
    assert mine[3]["params"]["scsi_target_num"] == 1 and mine[3]["params"]["lun"] == 4
    assert mine[3]["params"]["readonly"] is True
    [before] = client.call("vhost_get_controllers", name="hot")
    client.call("vhost_delete_controller", ctrlr="hot")
    for c in mine:
        client.call_with(c["method"], c["params"])
    [after] = client.call("vhost_get_controllers", name="hot")
    assert after | {"state_ms": before["state_ms"]} == before


def test_what_was_in_flight_is_done_by_the_next_process(tmp_path):
    """Requests, with the region that both processes have; the one that comes after has the units again."""
    config = tmp_path / "config.json"
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(MIB)
    options = ["--vhost", tmp_path]
    with Server(options=options) as first, first.client() as client:
        client.call("bdev_aio_create", name="a", filename=str(image), block_size=512)
        client.call("bdev_delay_create", name="d", base_bdev_name="a", avg_read_latency=0, p99_read_latency=0,
                    avg_write_latency=60_000_000, p99_write_latency=60_000_000)
        client.call("vhost_create_scsi_controller", ctrlr="s")
        client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=0, bdev_name="d")
        front = ScsiFrontend(tmp_path / "s")
        front.get_inflight(3, 64)
        front.set_inflight()
        front.start()
        _, response = front.begin(rw10(0x2a, 3, 1), out=b"F" * 512, tag=1)
        assert wait_until(lambda: front.function(scsi.QUERY_TASK, tag=1) == scsi.FUNCTION_SUCCEEDED)
        first.kill()
    with Server(options=options) as second, second.client() as client:
        client.call("bdev_aio_create", name="a", filename=str(image), block_size=512)
        client.call("vhost_create_scsi_controller", ctrlr="s")
        client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=0, bdev_name="a")
        front.reconnect()
        front.queues[REQUESTS].wait()
        assert front.answer_at(response, 0, 0, 0).good
        assert front.command(rw10(0x28, 3, 1), into=512).data == b"F" * 512
        front.close()


def test_a_region_of_another_kind_of_ring_is_not_used(connect):
    """QEMU keeps what it got while firmware had split rings, when the driver that follows has packed ones."""
    front = connect(packed=True, features=ScsiFrontend.FEATURES)
    front.u64(SET_FEATURES, front.features & ~F_PACKED)
    front.get_inflight(6, 128)
    front.set_inflight()
    front.u64(SET_FEATURES, front.features)
    front.start(queues=4, size=128)
    assert front.command(rw10(0x28, 0, 1), into=512, queue=3).good
    size, _, _, _, fd = front.inflight
    assert os.pread(fd, size, 0) == bytes(size)
