# SPDX-License-Identifier: BSD-3-Clause
"""A vhost-user-blk back-end of its own process, against which the virtio client is tested: written from vhost-user.rst
and virtio 1.2 (2.7, 2.8, 5.2), a request at a time, so that it can be ended between any two stores, and told to lie.

    python3 vhost_backend.py SOCKET IMAGE JSON

JSON are the members of Options. What it does is appended to IMAGE.journal, a line a request that was executed.
"""

import dataclasses
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys

F_RO, F_BLK_SIZE, F_FLUSH, F_CONFIG_WCE, F_MQ, F_DISCARD, F_WRITE_ZEROES = 5, 6, 9, 11, 12, 13, 14
F_SIZE_MAX, F_SEG_MAX, F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1, F_PACKED = 1, 2, 28, 29, 30, 32, 34
P_MQ, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT, P_MEM_SLOTS = 0, 3, 5, 9, 12, 15
T_IN, T_OUT, T_FLUSH, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
GET_CONFIG, GET_INFLIGHT, SET_INFLIGHT = 24, 31, 32
REPLIED = {1, 15, 17, 24, 31, 36}
SECTOR = 512


@dataclasses.dataclass
class Options:
    queues: int = 4
    without: tuple = ()  # features that are not offered
    without_protocol: tuple = ()
    block: int = 512
    size_max: int = 0  # 0: not offered
    seg_max: int = 0
    die: str = ""  # "fetched", "done", "used" or "published": where it ends itself, without a word,
    die_after: int = 0  # with that request
    hold: int = 0  # requests that are gathered and done in reverse, while there are others
    lie: str = ""
    lies: int = 1 << 30  # how often
    fail_sector: int = -1  # I/O errors there
    unsupported: tuple = ()  # kinds of requests
    slots: int = 8  # regions of memory


class Region:
    def __init__(self, gpa, size, uva, offset, fd):
        self.gpa, self.size, self.uva = gpa, size, uva
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        self.memory = mmap.mmap(fd, size + offset)
        self.offset = offset
        os.close(fd)


class Ring:
    """A split ring; a packed one is below."""

    def __init__(self, backend, index):
        self.backend, self.index = backend, index
        self.num = self.base = self.desc = self.used = self.avail = 0
        self.kick = self.call = None
        self.enabled = self.started = False
        self.inflight = None  # where its record begins
        self.chains = 0

    # -- the record of what is in flight

    def entry(self, head):
        return self.inflight + 16 + 16 * head

    def recover(self):
        """What the last back-end left; returns heads in the order that it took them."""
        record, log = self.backend.record, self.inflight
        used = self.backend.u16(self.used + 2)
        if not struct.unpack_from("<H", record, log + 8)[0]:
            struct.pack_into("<QHHHH", record, log, 0, 1, self.num, 0, used)
        last, logged = struct.unpack_from("<HH", record, log + 12)
        for _ in range((used - logged) & 0xffff):  # published, but not taken off the record
            struct.pack_into("<B", record, self.entry(last), 0)
            last = struct.unpack_from("<H", record, self.entry(last) + 6)[0]
        struct.pack_into("<H", record, log + 14, used)
        found = []
        for head in range(self.num):
            if record[self.entry(head)]:
                found.append((struct.unpack_from("<Q", record, self.entry(head) + 8)[0], head))
        self.counter = max((c for c, _ in found), default=0) + 1
        self.base = (used + len(found)) & 0xffff
        return [head for _, head in sorted(found)]

    def note(self, head):
        if self.inflight is not None:
            struct.pack_into("<BxxxxxHQ", self.backend.record, self.entry(head), 1, 0, self.counter)
            self.counter += 1

    # -- the ring

    def start(self):
        self.started = True
        self.position = self.backend.u16(self.used + 2)
        if self.inflight is None:
            self.base &= 0xffff
            return
        for head in self.recover():
            self.do(head, self.chain(head))

    def fetch(self):
        if self.base == self.backend.u16(self.avail + 2):
            if self.backend.event_idx:
                self.backend.put16(self.used + 4 + 8 * self.num, self.base)
                return None if self.base == self.backend.u16(self.avail + 2) else self.fetch()
            return None
        head = self.backend.u16(self.avail + 4 + 2 * (self.base % self.num))
        self.base = (self.base + 1) & 0xffff
        self.note(head)
        return head

    def chain(self, head):
        return self.backend.chain(self.desc, self.num, head)

    def do(self, head, chain):
        self.backend.point("fetched")
        length = self.backend.execute(chain)
        self.backend.point("done")
        self.give_back(head, length)

    def give_back(self, head, length):
        b = self.backend
        before = self.position
        for id_, length in b.lied(self, head, length):
            if self.inflight is not None:
                last = struct.unpack_from("<H", b.record, self.inflight + 12)[0]
                struct.pack_into("<H", b.record, self.entry(head) + 6, last)
                struct.pack_into("<H", b.record, self.inflight + 12, head)
            b.put(self.used + 4 + 8 * (self.position % self.num), struct.pack("<II", id_, length & 0xffffffff))
            b.point("used")
            self.position = (self.position + 1) & 0xffff
            b.put16(self.used + 2, self.position)
            b.point("published")
            if self.inflight is not None:
                struct.pack_into("<B", b.record, self.entry(head), 0)
                struct.pack_into("<H", b.record, self.inflight + 14, self.position)
        if b.event_idx:
            event = b.u16(self.avail + 4 + 2 * self.num)
            call = (self.position - event - 1) & 0xffff < (self.position - before) & 0xffff
        else:
            call = not b.u16(self.avail) & 1
        if call and self.call is not None:
            os.eventfd_write(self.call, 1)


class PackedRing(Ring):
    def start(self):
        self.started = True
        self.taken, self.take_wrap = self.base & 0x7fff, self.base >> 15 & 1
        self.position, self.wrap = self.base >> 16 & 0x7fff, self.base >> 31

    def fetch(self):
        b, at = self.backend, self.desc + 16 * self.taken
        flags = b.u16(at + 14)
        if bool(flags & AVAIL) != bool(self.take_wrap) or bool(flags & USED) == bool(self.take_wrap):
            return None
        addr, length, id_, flags = struct.unpack("<QIHH", b.get(at, 16))
        assert flags & INDIRECT
        self.taken += 1
        if self.taken == self.num:
            self.taken, self.take_wrap = 0, 1 - self.take_wrap
        self.tables = {**getattr(self, "tables", {}), id_: (addr, length // 16)}
        return id_

    def chain(self, head):
        addr, count = self.tables[head]
        for i in range(count):  # 2.8.19: the order of a table is that of its entries
            a, length, _, flags = struct.unpack("<QIHH", self.backend.get(addr + 16 * i, 16))
            yield a, length, bool(flags & WRITE)

    def give_back(self, head, length):
        b = self.backend
        for id_, length in b.lied(self, head, length):
            at = self.desc + 16 * self.position
            b.put(at + 8, struct.pack("<IH", length & 0xffffffff, id_ & 0xffff))
            b.point("used")
            b.put16(at + 14, AVAIL | USED if self.wrap else 0)
            b.point("published")
            self.position += 1
            if self.position == self.num:
                self.position, self.wrap = 0, 1 - self.wrap
        if b.u16(self.avail + 2) != 1 and self.call is not None:
            os.eventfd_write(self.call, 1)


class Backend:
    def __init__(self, path, image, options):
        self.options, self.path = options, path
        self.file = os.open(image, os.O_RDWR)
        self.journal = open(image + ".journal", "a", buffering=1)
        self.requests = 0
        self.lies = options.lies
        self.record = None
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(f"{path}.new")
        self.listener.listen(4)
        os.rename(f"{path}.new", path)  # who sees it there can connect
        signal.signal(signal.SIGUSR1, lambda *_: self.config_changed())

    # -- what it is

    def features(self):
        bits = {F_BLK_SIZE, F_FLUSH, F_MQ, F_DISCARD, F_WRITE_ZEROES, F_INDIRECT, F_EVENT_IDX, F_PROTOCOL,
                F_VERSION_1, F_PACKED}
        if self.options.size_max:
            bits.add(F_SIZE_MAX)
        if self.options.seg_max:
            bits.add(F_SEG_MAX)
        return sum(1 << b for b in bits - set(self.options.without))

    def protocol(self):
        bits = {P_MQ, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT, P_MEM_SLOTS}
        return sum(1 << b for b in bits - set(self.options.without_protocol))

    def config(self):
        o = self.options
        capacity = 0 if o.lie == "capacity" else os.fstat(self.file).st_size // SECTOR
        block = 1000 if o.lie == "block" else o.block
        return struct.pack("<QII4xI8xBxHIIIIIB3x", capacity, o.size_max, o.seg_max, block, 1, o.queues, 1 << 15, 1, 1,
                           1 << 15, 1, 1)

    # -- memory

    def place(self, gpa, length):
        for r in self.regions:
            if r.gpa <= gpa and gpa + length <= r.gpa + r.size:
                return r.memory, gpa - r.gpa + r.offset
        raise ValueError(f"no memory at {gpa:x}, {length}")

    def get(self, gpa, length):
        memory, at = self.place(gpa, length)
        return memory[at:at + length]

    def put(self, gpa, data):
        memory, at = self.place(gpa, len(data))
        memory[at:at + len(data)] = data

    def u16(self, gpa):
        return struct.unpack("<H", self.get(gpa, 2))[0]

    def put16(self, gpa, value):
        self.put(gpa, struct.pack("<H", value))

    def add_region(self, payload, fds):
        region = Region(*struct.unpack_from("<QQQQ", payload, 8), fds[0])
        if len(self.regions) == self.options.slots:
            return False
        assert not any(r.gpa < region.gpa + region.size and region.gpa < r.gpa + r.size for r in self.regions)
        self.regions.append(region)
        self.journal.write(f"memory {len(self.regions)}\n")
        return True

    def remove_region(self, payload):
        gpa, size = struct.unpack_from("<QQ", payload, 8)
        left = [r for r in self.regions if (r.gpa, r.size) != (gpa, size)]
        assert len(left) == len(self.regions) - 1
        self.regions = left
        self.journal.write(f"memory {len(self.regions)}\n")

    def seen(self, addr):
        """Whether data goes through memory of the disk's, or is where the request has it."""
        where = "bounced" if self.regions[0].gpa <= addr < self.regions[0].gpa + self.regions[0].size else "direct"
        if where != self.where:
            self.journal.write(where + "\n")
        self.where = where

    def of_user(self, uva):
        for r in self.regions:
            if r.uva <= uva < r.uva + r.size:
                return uva - r.uva + r.gpa
        raise ValueError(f"no memory at {uva:x}")

    # -- requests

    def chain(self, table, count, at):
        while True:
            addr, length, flags, following = struct.unpack("<QIHH", self.get(table + 16 * at, 16))
            if flags & INDIRECT:
                yield from self.chain(addr, length // 16, 0)
                return
            yield addr, length, bool(flags & WRITE)
            if not flags & NEXT:
                return
            at = following
            assert at < count

    def execute(self, chain):
        chain = list(chain)
        header, status = chain[0], chain[-1]
        assert header[1] == 16 and status[1] == 1 and status[2], chain
        kind, _, sector = struct.unpack("<IIQ", self.get(header[0], 16))
        data = chain[1:-1]
        o = self.options
        assert not o.size_max or all(length <= o.size_max for _, length, _ in data), data
        assert not o.seg_max or len(data) <= o.seg_max, data
        result = self.execute_kind(kind, sector, data)
        if o.lie == "status":
            result = 77
        if o.lie != "no-status":
            self.put(status[0], bytes([result]))
        return 1 + sum(length for _, length, writable in data if writable)

    def execute_kind(self, kind, sector, data):
        o = self.options
        total = sum(length for _, length, _ in data)
        if kind in o.unsupported or kind not in (T_IN, T_OUT, T_FLUSH, T_DISCARD, T_WRITE_ZEROES):
            self.journal.write(f"unsupported {kind}\n")
            return S_UNSUPP
        needed = {T_FLUSH: F_FLUSH, T_DISCARD: F_DISCARD, T_WRITE_ZEROES: F_WRITE_ZEROES}.get(kind, F_VERSION_1)
        assert self.accepted >> needed & 1, kind
        if sector <= o.fail_sector < sector + total // SECTOR:
            return S_IOERR
        at = sector * SECTOR
        if kind in (T_IN, T_OUT):
            assert total % o.block == 0 and at % o.block == 0
            for addr, length, writable in data:
                self.seen(addr)
                assert writable == (kind == T_IN)
                if kind == T_IN:
                    self.put(addr, os.pread(self.file, length, at))
                else:
                    os.pwrite(self.file, self.get(addr, length), at)
                at += length
        elif kind in (T_DISCARD, T_WRITE_ZEROES):
            sector, count, flags = struct.unpack("<QII", self.get(data[0][0], 16))
            total = count * SECTOR
            assert count <= 1 << 15
            os.pwrite(self.file, bytes(total), sector * SECTOR)
            self.journal.write(f"{kind} {sector} {total} flags {flags}\n")
            return S_OK
        self.journal.write(f"{kind} {sector} {total}\n")
        return S_OK

    def point(self, where):
        """A place where it may end."""
        if where == "fetched":
            self.requests += 1
        if self.options.die == where and self.requests == self.options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def lied(self, ring, head, length):
        """What is given back for a request: itself, once."""
        lie = self.options.lie
        if self.lies <= 0 or lie not in ("id", "twice", "jump", "length", "never"):
            return [(head, length)]
        self.lies -= 1
        if lie == "id":
            return [(0xfffffff0 if not isinstance(ring, PackedRing) else 0xfff0, length)]
        if lie == "twice":
            return [(head, length), (head, length)]
        if lie == "length":
            return [(head, 0xffffffff)]
        if lie == "jump":
            ring.position = (ring.position + 100) & 0xffff
        return [] if lie == "never" else [(head, length)]

    def serve_rings(self):
        busy = True
        while busy:
            busy = False
            for ring in self.rings.values():
                if not ring.enabled or not ring.started:
                    continue
                held = []
                while len(held) <= self.options.hold and (head := ring.fetch()) is not None:
                    held.append((head, list(ring.chain(head))))
                for head, chain in reversed(held):
                    busy = True
                    ring.do(head, chain)

    # -- messages

    def reply(self, request, payload, fds=()):
        flags = 5
        if self.options.lie == "version":
            flags = 6
        if self.options.lie == "request":
            request += 1
        size = 1 << 20 if self.options.lie == "size" else len(payload)
        socket.send_fds(self.connection, [struct.pack("<III", request, flags, size) + payload], list(fds))

    def receive(self, count):
        data, fds = b"", []
        while len(data) < count:
            part, got, _, _ = socket.recv_fds(self.connection, count - len(data), 16)
            fds += got
            if not part:
                raise EOFError
            data += part
        return data, fds

    def handle(self):
        head, fds = self.receive(12)
        request, flags, size = struct.unpack("<III", head)
        payload, more = self.receive(size) if size else (b"", [])
        fds += more
        good = self.act(request, payload, fds)
        if flags & 8 and request not in REPLIED:
            self.reply(request, struct.pack("<Q", self.options.lie == "refuse" or good is False))

    def ring(self, index):
        if index not in self.rings:
            self.rings[index] = (PackedRing if self.accepted >> F_PACKED & 1 else Ring)(self, index)
        return self.rings[index]

    def act(self, request, payload, fds):
        u64 = struct.unpack("<Q", payload)[0] if len(payload) == 8 else 0
        index, num = struct.unpack("<II", payload) if len(payload) == 8 else (0, 0)
        if request == 1:
            self.reply(request, struct.pack("<Q", self.features()))
        elif request == 2:
            assert not u64 & ~self.features(), hex(u64)
            self.accepted, self.event_idx = u64, bool(u64 >> F_EVENT_IDX & 1)
        elif request == 5:
            count = struct.unpack_from("<I", payload)[0]
            assert count == len(fds)
            self.regions = [Region(*struct.unpack_from("<QQQQ", payload, 8 + 32 * i), fd)
                            for i, fd in enumerate(fds)]
        elif request == 8:
            self.ring(index).num = num
        elif request == 9:
            index, _, desc, used, avail, _ = struct.unpack("<IIQQQQ", payload)
            ring = self.ring(index)
            ring.desc, ring.used, ring.avail = map(self.of_user, (desc, used, avail))
            assert not desc % 16 and not avail % 2 and not used % 4
        elif request == 10:
            self.ring(index).base = num
        elif request == 12:
            ring = self.ring(u64 & 0xff)
            ring.kick = fds[0]
            if self.record is not None:
                ring.inflight = (u64 & 0xff) * self.record_size
            ring.start()
        elif request == 13:
            self.ring(u64 & 0xff).call = fds[0]
        elif request == 15:
            self.reply(request, struct.pack("<Q", self.protocol()))
        elif request == 16:
            assert not u64 & ~self.protocol()
        elif request == 17:
            self.reply(request, struct.pack("<Q", self.options.queues))
        elif request == 18:
            self.ring(index).enabled = bool(num)
        elif request == 37:
            return self.add_region(payload, fds)
        elif request == 38:
            self.remove_region(payload)
        elif request == 21:
            self.requests_socket = socket.socket(fileno=fds[0])
        elif request == GET_CONFIG:
            self.get_config(payload)
        elif request == GET_INFLIGHT:
            self.get_inflight(payload)
        elif request == SET_INFLIGHT:
            size, offset, _, num = struct.unpack_from("<QQHH", payload)
            self.record, self.record_size = mmap.mmap(fds[0], size + offset), (16 + 16 * num + 63) // 64 * 64
            os.close(fds[0])
        return True

    def get_config(self, payload):
        offset, size, flags = struct.unpack_from("<III", payload)
        config = self.config()[offset:offset + size]
        if self.options.lie == "config":
            config = config[:8]
        self.reply(GET_CONFIG, struct.pack("<III", offset, len(config), flags) + config)

    def get_inflight(self, payload):
        _, _, queues, num = struct.unpack_from("<QQHH", payload)
        size = (16 + 16 * num + 63) // 64 * 64 * queues
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, size)
        self.reply(GET_INFLIGHT, struct.pack("<QQHH4x", size, 0, queues, num), [fd])
        os.close(fd)

    def config_changed(self):
        if self.requests_socket:
            self.requests_socket.sendall(struct.pack("<III", 2, 1 | 8, 0))
            header = self.requests_socket.recv(12 + 8)
            self.journal.write(f"told of a change: {struct.unpack('<IIIQ', header)[3]}\n")

    # -- life

    def serve(self):
        while True:
            self.connection, _ = self.listener.accept()
            self.rings, self.regions, self.record, self.requests_socket = {}, [], None, None
            self.accepted, self.event_idx, self.where = 0, False, None
            self.journal.write("connected\n")
            try:
                self.serve_connection()
            except (EOFError, ConnectionError, BrokenPipeError):
                self.connection.close()

    def serve_connection(self):
        while True:
            self.serve_rings()
            kicks = [r.kick for r in self.rings.values() if r.kick is not None]
            ready, _, _ = select.select([self.connection, *kicks], [], [])
            for fd in ready:
                if fd is self.connection:
                    self.handle()
                else:
                    os.eventfd_read(fd)


if __name__ == "__main__":
    Backend(sys.argv[1], sys.argv[2], Options(**json.loads(sys.argv[3]))).serve()
