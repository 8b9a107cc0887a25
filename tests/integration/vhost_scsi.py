# SPDX-License-Identifier: BSD-3-Clause
"""A vhost-user front-end of a SCSI host, written from virtio 1.2 (5.6), SAM-5, SPC-5 and SBC-4.

    with ScsiFrontend(path) as front:
        front.start(queues=1)
        assert front.command(cdb_read10(0, 8), into=4096).data == ...
"""
import struct
from typing import NamedTuple

import vhost
from vhost import WRITE, Frontend

F_HOTPLUG, F_CHANGE = 1 << 1, 1 << 2
CONTROL, EVENTS, REQUESTS = 0, 1, 2
HEADER, RESPONSE = 51, 108

(RESP_OK, OVERRUN, ABORTED, BAD_TARGET, RESET) = range(5)
FAILURE, FUNCTION_SUCCEEDED, FUNCTION_REJECTED, INCORRECT_LUN = 9, 10, 11, 12
(ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, LUN_RESET, QUERY_TASK, QUERY_TASK_SET) = range(8)
NO_EVENT, TRANSPORT_RESET, ASYNC_NOTIFY, PARAM_CHANGE = range(4)
MISSED = 0x80000000
RESCAN, REMOVED = 1, 2

GOOD, CHECK_CONDITION, CONFLICT = 0, 2, 0x18
NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR, ILLEGAL, ATTENTION, PROTECT, MISCOMPARE = 2, 3, 4, 5, 6, 7, 14


def lun_of(target, lun, flat=True):
    return bytes([1, target, (0x40 if flat else 0) | lun >> 8, lun & 0xff, 0, 0, 0, 0])


class Answer(NamedTuple):
    response: int
    status: int
    residual: int
    sense: bytes
    data: bytes
    length: int  # of what was written, of all

    @property
    def good(self):
        return self.response == RESP_OK and self.status == GOOD

    @property
    def code(self):
        """(key, asc and ascq) of fixed sense."""
        assert self.response == RESP_OK and self.status == CHECK_CONDITION, self
        assert self.sense[0] == 0x70 and len(self.sense) == 18
        return self.sense[2], self.sense[12] << 8 | self.sense[13]

    @property
    def field(self):
        """The byte of the CDB that is wrong."""
        assert self.sense[15] == 0xc0, self.sense
        return struct.unpack(">H", self.sense[16:18])[0]


def rw6(op, lba, blocks):
    return struct.pack(">IBB", op << 24 | lba, blocks, 0)


def rw10(op, lba, blocks, flags=0):
    return struct.pack(">BBIBHB", op, flags, lba, 0, blocks, 0)


def rw12(op, lba, blocks, flags=0):
    return struct.pack(">BBIIBB", op, flags, lba, blocks, 0, 0)


def rw16(op, lba, blocks, flags=0):
    return struct.pack(">BBQIBB", op, flags, lba, blocks, 0, 0)


def rw32(action, lba, blocks):
    return struct.pack(">B6xBHBxQ8xI", 0x7f, 0x18, action, 0, lba, blocks)


def unmap_list(*ranges):
    data = b"".join(struct.pack(">QII", lba, blocks, 0) for lba, blocks in ranges)
    return struct.pack(">HHI", len(data) + 6, len(data), 0) + data


def unmap(size):
    return struct.pack(">BB4xBHB", 0x42, 0, 0, size, 0)


def inquiry(page=None, size=255):
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, size, 0)


class ScsiFrontend(Frontend):
    FEATURES = vhost.F_VERSION_1 | vhost.F_PROTOCOL | vhost.F_INDIRECT | F_HOTPLUG | F_CHANGE

    tags = 0

    def start(self, queues=1, size=64):
        return super().start(queues + REQUESTS, size)

    def parts_of(self, cdb, target=0, lun=0, out=b"", into=0, tag=None, address=None):
        """Makes a command's memory; returns its parts, and where the response and the data will be."""
        ScsiFrontend.tags += 1
        tag = ScsiFrontend.tags if tag is None else tag
        head = self.memory.take(HEADER)
        self.memory.put(head, struct.pack("<8sQBBB32s", address or lun_of(target, lun), tag, 0, 0, 0, bytes(cdb)))
        parts = [(head, HEADER, 0)]
        if out:
            data = self.memory.take(len(out))
            self.memory.put(data, out)
            parts.append((data, len(out), 0))
        response = self.memory.take(RESPONSE)
        self.memory.put(response, b"\xff" * RESPONSE)
        parts.append((response, RESPONSE, WRITE))
        data = self.memory.take(into) if into else 0
        if into:
            parts.append((data, into, WRITE))
        return parts, response, data

    def answer_at(self, response, data, into, length):
        sense_len, residual, _, status, answer = struct.unpack("<IIHBB", self.memory.get(response, 12))
        sense = self.memory.get(response + 12, sense_len)
        return Answer(answer, status, residual, sense, self.memory.get(data, into) if into else b"", length)

    def command(self, cdb, target=0, lun=0, out=b"", into=0, queue=0, address=None, indirect=False):
        mark = self.memory.next
        parts, response, data = self.parts_of(cdb, target, lun, out, into, address=address)
        ident = self.submit([self.indirect(parts)] if indirect else parts, REQUESTS + queue)
        got, length = self.queues[REQUESTS + queue].wait()
        assert got == ident
        result = self.answer_at(response, data, into, length)
        self.memory.next = mark
        return result

    def begin(self, cdb, queue=0, **where):
        """A command that is waited for later: (its id, where its response will be)."""
        parts, response, data = self.parts_of(cdb, **where)
        return self.submit(parts, REQUESTS + queue), response

    def begin_function(self, function, target=0, lun=0, tag=0, address=None):
        head, response = self.memory.take(24), self.memory.take(1)
        self.memory.put(response, b"\xff")
        self.memory.put(head, struct.pack("<II8sQ", 0, function, address or lun_of(target, lun), tag))
        return self.submit([(head, 24, 0), (response, 1, WRITE)], CONTROL), response

    def function(self, function, **where):
        ident, response = self.begin_function(function, **where)
        assert self.queues[CONTROL].wait() == (ident, 1)
        return self.memory.get(response, 1)[0]

    def post_event(self, size=16):
        at = self.memory.take(max(size, 16))
        self.submit([(at, size, WRITE)], EVENTS)
        return at

    def event(self, at):
        """The event in the next buffer, which is to be this one: (event, target, lun, reason)."""
        assert self.queues[EVENTS].wait()[1] == 16
        event, address, reason = struct.unpack("<I8sI", self.memory.get(at, 16))
        assert address[0] in (0, 1) and address[2] == 0, "as REPORT LUNS has it, which Linux wants"
        return event, address[1], address[3], reason
