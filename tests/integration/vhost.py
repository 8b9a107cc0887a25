# SPDX-License-Identifier: BSD-3-Clause
"""A vhost-user front-end with virtio rings, written from the specifications: QEMU's docs/interop/vhost-user.rst, and
virtio 1.2. It shares a memfd as the memory of a guest that it is, too.

    with Frontend(path) as front:
        front.start(queues=1)
        assert front.write(0, b"x" * 4096) == 0
        status, data = front.read(0, 4096)
"""
import array
import ctypes
import mmap
import os
import select
import socket
import struct

LIMIT = 20  # seconds; for hung runs only

(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM,
 SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES,
 SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE) = range(1, 19)
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE = 31, 32, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40

REPLY, NEED_REPLY, NO_FD = 4, 8, 1 << 8

(F_SIZE_MAX, F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ, F_DISCARD,
 F_WRITE_ZEROES) = (1 << n for n in (1, 2, 5, 6, 9, 10, 11, 12, 13, 14))
F_LOG_ALL, F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1, F_PACKED = (1 << n for n in (26, 28, 29, 30, 32, 34))
(P_MQ, P_LOG_SHMFD, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT, P_RESET, P_MEM_SLOTS,
 P_STATUS) = (1 << n for n in (0, 1, 3, 5, 9, 12, 13, 15, 16))

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15

GUEST = 0x4000_0000  # where the guest's memory begins, as the guest sees it
USER = 0x7f00_0000_0000  # and as the front-end does
MIB = 1 << 20


class Gone(AssertionError):
    """The back-end has ended the connection."""


class Memory:
    """A file that is shared, and what is handed out of it, piece by piece."""

    def __init__(self, size, guest=GUEST, user=USER):
        self.size, self.guest, self.user = size, guest, user
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.next = 4096

    def take(self, size, align=16):
        """Zeroed memory; returns its guest address."""
        at = (self.next + align - 1) // align * align
        self.next = at + size
        assert self.next <= self.size, "guest memory is used up"
        self.map[at:at + size] = bytes(size)
        return self.guest + at

    def get(self, guest, size):
        at = guest - self.guest
        return self.map[at:at + size]

    def put(self, guest, data):
        at = guest - self.guest
        self.map[at:at + len(data)] = data

    def unpack(self, layout, guest):
        return struct.unpack_from(layout, self.map, guest - self.guest)

    def pack(self, layout, guest, *values):
        struct.pack_into(layout, self.map, guest - self.guest, *values)

    def get16(self, guest):
        """One load: struct moves byte by byte, and what the other side has written half is not to be seen."""
        return ctypes.c_uint16.from_buffer(self.map, guest - self.guest).value

    def put16(self, guest, value):
        """One store, for the same reason."""
        ctypes.c_uint16.from_buffer(self.map, guest - self.guest).value = value

    def to_user(self, guest):
        return guest - self.guest + self.user

    def region(self, offset=0):
        return struct.pack("<4Q", self.guest, self.size, self.user, offset)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class SplitRing:
    """virtio 1.2, 2.7, the driver's side."""

    packed = False

    def __init__(self, memory, size):
        self.memory, self.size = memory, size
        self.desc = memory.take(16 * size)
        self.avail = memory.take(6 + 2 * size)
        self.used = memory.take(6 + 8 * size, 4)
        self.free = list(range(size))
        self.next_avail = self.seen = 0
        self.chains = {}

    def set_desc(self, i, addr, length, flags=0, following=0):
        self.memory.pack("<QIHH", self.desc + 16 * i, addr, length, flags, following)

    def put_chain(self, parts):
        """Writes descriptors (address, length, flags); returns the head."""
        indices = [self.free.pop(0) for _ in parts]
        for n, (i, (addr, length, flags)) in enumerate(zip(indices, parts)):
            last = n == len(parts) - 1
            self.set_desc(i, addr, length, flags | (0 if last else NEXT), 0 if last else indices[n + 1])
        self.chains[indices[0]] = indices
        return indices[0]

    def offer(self, *heads):
        for head in heads:
            self.memory.put16(self.avail + 4 + 2 * (self.next_avail % self.size), head)
            self.next_avail = (self.next_avail + 1) & 0xffff
        self.memory.put16(self.avail + 2, self.next_avail)

    def add(self, parts):
        head = self.put_chain(parts)
        self.offer(head)
        return head

    def used_idx(self):
        return self.memory.get16(self.used + 2)

    def take_used(self):
        """The next one that is through, as (id, length), or None."""
        if self.used_idx() == self.seen:
            return None
        head, length = self.memory.unpack("<II", self.used + 4 + 8 * (self.seen % self.size))
        self.seen = (self.seen + 1) & 0xffff
        self.free = self.chains.pop(head) + self.free
        return head, length

    def start_at(self, index):
        """As if it had been used for long."""
        self.next_avail = self.seen = index
        self.memory.put16(self.avail + 2, index)
        self.memory.put16(self.used + 2, index)

    def base(self):
        return self.next_avail

    def no_interrupts(self, off=True):
        self.memory.put16(self.avail, 1 if off else 0)

    def set_used_event(self, index):
        self.memory.put16(self.avail + 4 + 2 * self.size, index)

    def avail_event(self):
        return self.memory.get16(self.used + 4 + 8 * self.size)

    def wants_kick(self, events, added=1):
        """Whether the device wants to be told of the last that were offered (2.7.10)."""
        if not events:
            return not self.memory.get16(self.used) & 1
        return (self.next_avail - self.avail_event() - 1) & 0xffff < added

    def call_after(self, requests, events):
        """Asks to be called when so many more are through."""
        if events:
            self.set_used_event((self.seen + requests - 1) & 0xffff)
        else:
            self.no_interrupts(False)


class PackedRing:
    """virtio 1.2, 2.8."""

    packed = True

    def __init__(self, memory, size):
        self.memory, self.size = memory, size
        self.desc = memory.take(16 * size)
        self.avail = memory.take(4)  # the driver's event suppression,
        self.used = memory.take(4)  # and the device's
        self.place, self.wrap = 0, 1
        self.seen, self.seen_wrap = 0, 1
        self.ids = list(range(size))
        self.chains = {}

    def set_desc(self, i, addr, length, ident, flags):
        self.memory.pack("<QIHH", self.desc + 16 * i, addr, length, ident, flags)

    def add(self, parts, ident=None):
        ident = self.ids.pop(0) if ident is None else ident
        first = self.place, self._flags(parts[0], len(parts) == 1)
        for n, (addr, length, flags) in enumerate(parts):
            now = self._flags((addr, length, flags), n == len(parts) - 1)
            if n == 0:  # made available last
                now ^= AVAIL | USED
            self.set_desc(self.place, addr, length, ident, now)
            self.place += 1
            if self.place == self.size:
                self.place, self.wrap = 0, self.wrap ^ 1
        self.memory.put16(self.desc + 16 * first[0] + 14, first[1])
        self.chains[ident] = len(parts)
        return ident

    def _flags(self, part, last):
        return part[2] | (0 if last else NEXT) | (AVAIL if self.wrap else USED)

    def take_used(self):
        flags = self.memory.get16(self.desc + 16 * self.seen + 14)  # first: it says that the rest is there
        if not bool(flags & AVAIL) == bool(flags & USED) == bool(self.seen_wrap):
            return None
        _, length, ident, _ = self.memory.unpack("<QIHH", self.desc + 16 * self.seen)
        self.seen += self.chains.pop(ident)
        if self.seen >= self.size:
            self.seen, self.seen_wrap = self.seen - self.size, self.seen_wrap ^ 1
        self.ids.insert(0, ident)
        return ident, length

    def base(self):
        one = self.place | self.wrap << 15
        return one | one << 16

    def no_interrupts(self, off=True):
        self.memory.pack("<HH", self.avail, 0, 1 if off else 0)

    def wants_kick(self, events, added=1):
        """Whether the device wants to be told of the last that were offered (2.8.10)."""
        off_wrap, flags = self.memory.unpack("<HH", self.used)
        if flags != 2 or not events:
            return flags != 1
        event = (off_wrap & 0x7fff) - (self.size if off_wrap >> 15 != self.wrap else 0)
        return (self.place - event - 1) & 0xffff < added

    def call_after(self, requests, events):
        """Asks to be called when so many more are through, each of one entry: first which, and then that."""
        at = self.seen + requests - 1
        wrap = self.seen_wrap ^ (at >= self.size)
        self.memory.put16(self.avail, at % self.size | wrap << 15)
        self.memory.put16(self.avail + 2, 2 if events else 0)


def readable(fd, limit=LIMIT):
    """Waits for that. Not by select(), which knows the first 1,024 descriptors alone."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * limit))


class Queue:
    """A ring and the descriptors that it is told of by."""

    def __init__(self, ring):
        self.ring = ring
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3))

    def notify(self):
        os.eventfd_write(self.kick, 1)

    def called(self):
        try:
            return os.eventfd_read(self.call)
        except BlockingIOError:
            return 0

    def wait(self, limit=LIMIT):
        """The next request that is through; looks without waiting to be told, and then waits."""
        used = self.ring.take_used()
        while used is None:
            ready = readable(self.call, limit)
            self.called()  # before the look: what comes after it tells again
            used = self.ring.take_used()
            if not ready:
                raise AssertionError("no request was done in time" if used is None else "the guest was not told")
        return used

    def failed(self, limit=LIMIT):
        """Waits for the back-end to say that it has given the ring up."""
        return readable(self.err, limit)

    def close(self):
        for fd in (self.kick, self.call, self.err):
            os.close(fd)
        self.kick = self.call = self.err = -1


class Frontend:
    """A connection, and a guest."""

    FEATURES = F_VERSION_1 | F_PROTOCOL | F_INDIRECT | F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_BLK_SIZE | F_MQ
    PROTOCOL = (P_MQ | P_LOG_SHMFD | P_REPLY_ACK | P_BACKEND_REQ | P_CONFIG | P_INFLIGHT | P_RESET | P_MEM_SLOTS
                | P_STATUS)

    def __init__(self, path, memory=None, packed=False, features=None, more=0, handshake=True):
        self.path, self.packed = str(path), packed
        self.memory = memory or Memory(16 * MIB)
        self.features = (self.FEATURES if features is None else features) | (F_PACKED if packed else 0) | more
        self.queues = []
        self.inflight = None
        self.connect()
        if handshake:
            self.handshake()

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()
        for queue in self.queues:
            queue.close()
        self.queues.clear()
        self.memory.close()

    # -- messages ---------------------------------------------------------------------------------------------------

    def send(self, request, body=b"", fds=(), flags=1, size=None):
        header = struct.pack("<III", request, flags, len(body) if size is None else size)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([header], ancillary)
        if body:
            self.socket.sendall(body)

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise Gone("the connection has ended")
            data += part
        return data

    def receive(self, request):
        """An answer: its body, and descriptors."""
        try:
            data, ancillary, _, _ = self.socket.recvmsg(12, socket.CMSG_SPACE(32))
        except ConnectionResetError as error:
            raise Gone("the connection has ended") from error
        if not data:
            raise Gone("the connection has ended")
        data += self._exactly(12 - len(data))
        got, flags, size = struct.unpack("<III", data)
        assert got == request and flags & REPLY, (got, flags)
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw[:len(raw) // 4 * 4])
        return self._exactly(size), list(fds)

    def ask(self, request, body=b"", fds=()):
        self.send(request, body, fds)
        return self.receive(request)

    def ask_u64(self, request):
        return struct.unpack("<Q", self.ask(request)[0])[0]

    def acked(self, request, body=b"", fds=()):
        """A message that is acknowledged: 0, or what was wrong."""
        self.send(request, body, fds, flags=1 | NEED_REPLY)
        return struct.unpack("<Q", self.receive(request)[0])[0]

    def do(self, request, body=b"", fds=()):
        assert self.acked(request, body, fds) == 0, f"message {request} was refused"

    def u64(self, request, value, fds=()):
        self.do(request, struct.pack("<Q", value), fds)

    def ended(self):
        """Whether the back-end has closed the connection; waits for that."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    # -- as front-ends do -------------------------------------------------------------------------------------------

    def handshake(self):
        self.offered = self.ask_u64(GET_FEATURES)
        assert self.offered & F_PROTOCOL
        self.offered_protocol = self.ask_u64(GET_PROTOCOL_FEATURES)
        self.protocol = self.PROTOCOL & self.offered_protocol
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        self.send(SET_OWNER)
        self.features &= self.offered
        self.u64(SET_FEATURES, self.features)

    def share(self, *memories):
        """SET_MEM_TABLE."""
        memories = memories or (self.memory,)
        body = struct.pack("<II", len(memories), 0) + b"".join(m.region() for m in memories)
        self.do(SET_MEM_TABLE, body, [m.fd for m in memories])

    def config(self, offset=0, size=60):
        body, _ = self.ask(GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))
        return body[12:]

    def set_config(self, offset, data, flags=0):
        return self.acked(SET_CONFIG, struct.pack("<III", offset, len(data), flags) + data)

    def setup_ring(self, i, queue, base=None, log=None):
        """Everything about a ring but its kick."""
        ring, to_user = queue.ring, self.memory.to_user
        self.do(SET_VRING_NUM, struct.pack("<II", i, ring.size))
        self.do(SET_VRING_BASE, struct.pack("<II", i, ring.base() if base is None else base))
        self.set_addr(i, queue, log)
        self.u64(SET_VRING_CALL, i, [queue.call])
        self.u64(SET_VRING_ERR, i, [queue.err])

    def set_addr(self, i, queue, log=None):
        ring, to_user = queue.ring, self.memory.to_user
        self.do(SET_VRING_ADDR, struct.pack("<IIQQQQ", i, 1 if log is not None else 0, to_user(ring.desc),
                                            to_user(ring.used), to_user(ring.avail), log or 0))

    def start_ring(self, i, queue, base=None):
        self.setup_ring(i, queue, base)
        self.u64(SET_VRING_KICK, i, [queue.kick])
        self.do(SET_VRING_ENABLE, struct.pack("<II", i, 1))

    def start(self, queues=1, size=64):
        self.share()
        for i in range(queues):
            self.queues.append(Queue((PackedRing if self.packed else SplitRing)(self.memory, size)))
            self.start_ring(i, self.queues[-1])
        return self

    def get_inflight(self, queues=1, size=64):
        body, fds = self.ask(GET_INFLIGHT_FD, struct.pack("<QQHHHH", 0, 0, queues, size, 0, 0))
        self.inflight = struct.unpack("<QQ", body[:16]) + (queues, size, fds[0])
        return self.inflight

    def set_inflight(self):
        size, offset, queues, depth, fd = self.inflight
        self.do(SET_INFLIGHT_FD, struct.pack("<QQHHHH", size, offset, queues, depth, 0, 0), [fd])

    def reconnect(self, base=None):
        """To another process, as QEMU does it: the same memory, rings and region."""
        self.socket.close()
        self.connect()
        self.handshake()
        if self.inflight:
            self.set_inflight()
        self.share()
        for i, queue in enumerate(self.queues):
            self.start_ring(i, queue, base)

    def stop_ring(self, i):
        """GET_VRING_BASE."""
        body, _ = self.ask(GET_VRING_BASE, struct.pack("<II", i, 0))
        index, base = struct.unpack("<II", body)
        assert index == i
        return base

    # -- requests ---------------------------------------------------------------------------------------------------

    def request(self, kind, sector=0, out=b"", into=0, header=None):
        """Makes a request's memory; returns its parts, and where the data and the status will be."""
        head = self.memory.take(16)
        self.memory.put(head, struct.pack("<IIQ", kind, 0, sector) if header is None else header)
        parts = [(head, 16, 0)]
        data = None
        if out:
            data = self.memory.take(len(out))
            self.memory.put(data, out)
            parts.append((data, len(out), 0))
        if into:
            data = self.memory.take(into)
            parts.append((data, into, WRITE))
        status = self.memory.take(1)
        self.memory.put(status, b"\xff")
        parts.append((status, 1, WRITE))
        return parts, data, status

    def submit(self, parts, queue=0):
        q = self.queues[queue]
        ident = q.ring.add(parts)
        q.notify()
        return ident

    def status(self, at):
        return self.memory.get(at, 1)[0]

    def run(self, kind, sector=0, out=b"", into=0, queue=0, indirect=False):
        """A request to its end: (status, data, length of what was written)."""
        mark = self.memory.next
        parts, data, status = self.request(kind, sector, out, into)
        if indirect:
            parts = [self.indirect(parts)]
        ident = self.submit(parts, queue)
        got, length = self.queues[queue].wait()
        assert got == ident
        result = self.status(status), self.memory.get(data, into) if into else b"", length
        if len(self.queues) == 1:  # else another reactor would write there, which ThreadSanitizer takes for a race
            self.memory.next = mark
        return result

    def indirect(self, parts, packed=None):
        packed = self.packed if packed is None else packed
        table = self.memory.take(16 * len(parts))
        for n, (addr, length, flags) in enumerate(parts):
            more = NEXT if n < len(parts) - 1 else 0
            tail = (0, flags) if packed else (flags | more, n + 1 if more else 0)
            self.memory.pack("<QIHH", table + 16 * n, addr, length, *tail)
        return table, 16 * len(parts), INDIRECT

    def write(self, sector, data, queue=0):
        return self.run(OUT, sector, out=data, queue=queue)[0]

    def read(self, sector, size, queue=0):
        return self.run(IN, sector, into=size, queue=queue)[:2]
