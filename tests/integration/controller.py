# SPDX-License-Identifier: BSD-3-Clause
"""A small controller to try our host against: well-behaved, until a test tells it otherwise.

    with Port(Subsystem()) as port:
        port.on_io = lambda connection, command: ...   # return True when it was dealt with
"""

import io
import socket
import struct
import threading
import time
from types import SimpleNamespace

import pdu
from pdu import Layout
from spec import DISCOVERY_NQN, FABRICS, Admin, Fabrics, Io, Type
from target import free_port

BLOCK = 512
NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-00000000c0de"
OPTIMIZED, NON_OPTIMIZED, INACCESSIBLE, LOSS, CHANGE = 1, 2, 3, 4, 15
DNR = 0x4000
HELD = object()


class Subsystem:
    """One namespace, and what its controllers say of themselves."""

    def __init__(self, blocks=4096, content=None, **identity):
        self.disk = bytearray(content if content is not None else blocks * BLOCK)
        self.identity = {
            "mdts": 5, "ioccsz": (64 + 8192) // 16, "oncs": 1 << 0 | 1 << 2 | 1 << 3, "fuses": 0, "acwu": 0, "vwc": 1,
            "acl": 3, "cmic": 1 << 3, "nanagrpid": 1, "anagrpid": 1, "lpa": 1 << 2,
            "oaes": 1 << 8 | 1 << 11 | 1 << 31, "ctratt": 0, "lbaf": 9 << 16, "dmrsl": 0, "dmsl": 0, "nsattr": 0,
            "uuid": bytes(range(16)), "nguid": bytes(16), **identity}
        self.refuses = {}  # opcode of an NVM command -> status
        self.records = []  # of the discovery log: (subtype, traddr, trsvcid, subnqn)
        self.genctr = 1

    def controller(self, discovery):
        data, say = bytearray(4096), self.identity
        data[4:24], data[24:64] = b"FAKE".ljust(20), b"Fake controller".ljust(40)
        data[76], data[77], data[111] = say["cmic"], say["mdts"], 2 if discovery else 1
        struct.pack_into("<III", data, 88, 0, say["oaes"], say["ctratt"])
        data[258], data[261] = say["acl"], say["lpa"]
        struct.pack_into("<I", data, 348, say["nanagrpid"])
        data[512:514] = b"\x66\x44"
        struct.pack_into("<I", data, 516, 1)
        struct.pack_into("<HHBB", data, 520, say["oncs"], say["fuses"], 0, say["vwc"])
        struct.pack_into("<H", data, 532, say["acwu"])
        struct.pack_into("<I", data, 1792, say["ioccsz"])
        return bytes(data)

    def ana_log(self, state):
        """Of all groups, without namespaces; those that have none are inaccessible."""
        mine, groups = self.identity["anagrpid"], self.identity["nanagrpid"]
        return struct.pack("<QHxxxxxx", 1, groups) + b"".join(
            struct.pack("<IIQB", group, 0, 1, state if group == mine else INACCESSIBLE).ljust(32, b"\0")
            for group in range(1, groups + 1))

    def namespace(self):
        data = bytearray(4096)
        size = len(self.disk) // BLOCK
        struct.pack_into("<QQQ", data, 0, size, size, size)
        data[33] = 1 | 1 << 3
        struct.pack_into("<I", data, 92, self.identity["anagrpid"])
        data[99] = self.identity["nsattr"]
        data[104:120] = self.identity["nguid"]
        struct.pack_into("<I", data, 128, self.identity["lbaf"])
        return bytes(data)

    def discovery_log(self):
        entries = b""
        for subtype, traddr, trsvcid, subnqn in self.records:
            entry = bytearray(1024)
            entry[0:4] = bytes([3, 2 if ":" in traddr else 1, subtype, 4])
            entry[32:64], entry[256:512] = trsvcid.encode().ljust(32), subnqn.encode().ljust(256, b"\0")
            entry[512:768] = traddr.encode().ljust(256)
            entries += bytes(entry)
        return struct.pack("<QQH", self.genctr, len(self.records), 0).ljust(1024, b"\0") + entries


class Port:
    """Listens, and serves each connection on a thread of its own."""

    def __init__(self, subsystem, cpda=0, maxh2cdata=131072, piece=1 << 20, r2t=1 << 20, sq_flow=False, digests=3,
                 ana=OPTIMIZED):
        self.subsystem = subsystem
        self.cpda, self.maxh2cdata, self.piece, self.r2t, self.sq_flow = cpda, maxh2cdata, piece, r2t, sq_flow
        self.digests = digests  # those that it agrees to
        self.ana = ana
        self.on_io = self.on_admin = self.on_connect = lambda connection, command: False
        self.on_icreq = None  # what to answer instead of ICResp
        self.on_header = None  # called when a command is here, and the data in its capsule is not yet
        self.seen, self.terms, self.connections = [], [], []
        self.commands = []  # (qid, opcode) of all that came
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            made = Connection(self, connection)
            self.connections.append(made)
            threading.Thread(target=made.run, daemon=True).start()

    @property
    def url(self):
        return f"nvme+tcp://127.0.0.1:{self.address[1]}/{NQN}"

    def small_buffers(self):
        """From now on no more than some 100 KiB are on their way on a connection: its window and segments are small."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)

    def drop(self):
        """Cuts all connections."""
        for connection in self.connections:
            connection.close()
        self.connections = []

    def close(self):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.drop()

    def reopen(self):
        self._listener = socket.create_server(self.address)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def count(self, opcode, io=True):
        return sum(1 for qid, seen in self.commands if seen == opcode and bool(qid) == io)

    def event(self, dw0):
        """Completes whatever Asynchronous Event Requests wait."""
        for connection in self.connections:
            while connection.aers:
                connection.respond(connection.aers.pop(), value=dw0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Command:
    def __init__(self, received):
        self.sqe, self.cid, self.data = received.sqe, received.cid, received.data
        self.opcode, self.flags = self.sqe[0], self.sqe[1]
        self.nsid, = struct.unpack_from("<I", self.sqe, 4)
        self.sgl_length, = struct.unpack_from("<I", self.sqe, 32)
        self.cdw = dict(zip(range(10, 16), struct.unpack_from("<6I", self.sqe, 40)))
        self.slba, self.blocks = struct.unpack_from("<Q", self.sqe, 40)[0], (self.cdw[12] & 0xFFFF) + 1


class Connection:
    def __init__(self, port, connection):
        self.port, self.socket, self.qid = port, connection, None
        self.subsystem = port.subsystem
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = connection.makefile("rb")
        self.layout, self.cpda = Layout(), 0
        self.discovery, self.csts, self.no_flow = False, 0, True
        self.head = self.size = 0
        self.aers = []
        self.fused = None
        self.kato = None
        self.lock = threading.Lock()

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def send(self, data):
        with self.lock:
            self.socket.sendall(data)

    def _read(self, count):
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def receive(self):
        first = self._read(8)
        if first[0] == Type.H2C_TERM:
            rest = self._read(struct.unpack_from("<I", first, 4)[0] - 8)
            self.port.terms.append(struct.unpack_from("<HI", rest))
            raise EOFError
        if first[0] == Type.CMD and self.port.on_header:
            first += self._read(64)
            self.port.on_header(self, Command(SimpleNamespace(sqe=first[8:], cid=first[10] | first[11] << 8, data=b"")))
        read = io.BytesIO(first)
        received = pdu.read_pdu(lambda count: read.read(count) or self._read(count), self.layout, self.cpda)
        self.port.seen.append((received.type, received.flags))
        return received

    def run(self):
        try:
            request = self.receive()
            if self.port.on_icreq is not None:
                self.send(self.port.on_icreq)
                self.receive()
                return
            digests = request.dgst & self.port.digests
            self.send(pdu.icresp(self.port.cpda, digests, self.port.maxh2cdata))
            self.layout = Layout(bool(digests & 1), bool(digests & 2), request.hpda)
            self.cpda = self.port.cpda
            while True:
                self.handle(Command(self.receive()))
        except (EOFError, OSError, ValueError):
            pass
        finally:
            self.file.close()
            self.socket.close()

    # -- answers

    def respond(self, cid, status=0, value=0):
        self.head = (self.head + 1) % (self.size + 1) if self.size else 0
        sqhd = 0xFFFF if self.no_flow else self.head
        self.send(pdu.response(struct.pack("<QHHHH", value, sqhd, self.qid or 0, cid, status << 1), self.layout))

    def send_data(self, command, data):
        piece = self.port.piece
        for offset in range(0, len(data), piece):
            part = data[offset:offset + piece]
            last = offset + len(part) == len(data)
            self.send(pdu.c2h_data(command.cid, offset, part, last, last and self.no_flow and self.qid is not None,
                                   self.layout))
        if not (self.no_flow and self.qid is not None):
            self.respond(command.cid)

    def collect(self, command, length):
        """The data of a command: in its capsule, or asked for."""
        if command.data:
            return command.data
        data, tag = b"", 7
        while len(data) < length:
            tag += 1
            end = min(length, len(data) + self.port.r2t)
            self.send(pdu.r2t(command.cid, tag, len(data), end - len(data), self.layout))
            while len(data) < end:
                part = self.receive()
                if part.type == Type.CMD:
                    self.later.append(Command(part))
                    continue
                assert part.type == Type.H2C_DATA
                assert (part.cccid, part.ttag, part.datao) == (command.cid, tag, len(data))
                assert len(part.data) == part.datal <= self.port.maxh2cdata
                data += part.data
                assert part.last == (len(data) == end)
        return data

    def handle(self, command):
        self.later = [command]
        while self.later:
            self._handle(self.later.pop(0))

    def _handle(self, command):
        self.port.commands.append((self.qid or 0, command.opcode))
        if command.opcode == FABRICS:
            self._fabrics(command)
        elif self.qid:
            if not self.port.on_io(self, command):
                self._io(command)
        elif not self.port.on_admin(self, command):
            self._admin(command)

    def _fabrics(self, command):
        kind = command.sqe[4]
        if kind == Fabrics.CONNECT:
            if self.port.on_connect(self, command):
                return
            _, qid, self.size, cattr = struct.unpack_from("<HHHB", command.sqe, 40)
            self.kato, = struct.unpack_from("<I", command.sqe, 48)
            data = self.collect(command, 1024)
            self.subnqn = data[256:512].rstrip(b"\0").decode()
            if self.subnqn not in (NQN, DISCOVERY_NQN):
                self.respond(command.cid, 0x182 | DNR, 256 | 1 << 16)
                return
            self.discovery = self.subnqn == DISCOVERY_NQN
            self.no_flow = bool(cattr & 4) and not self.port.sq_flow
            self.respond(command.cid, value=1)
            self.qid = qid
        elif kind == Fabrics.PROPERTY_SET:
            self.csts = struct.unpack_from("<Q", command.sqe, 48)[0] & 1
            self.respond(command.cid)
        else:
            offset, = struct.unpack_from("<I", command.sqe, 44)
            values = {0: 127 | 1 << 16 | 10 << 24 | 1 << 37, 8: 0x20100, 0x1C: self.csts}
            self.respond(command.cid, value=values.get(offset, 0))

    def _admin(self, command):
        if command.opcode == Admin.IDENTIFY:
            self._identify(command)
        elif command.opcode == Admin.GET_LOG:
            self._log(command)
        elif command.opcode == Admin.AER:
            self.aers.append(command.cid)
        elif command.opcode == Admin.SET_FEATURES and command.cdw[10] & 0xFF == 7:
            self.respond(command.cid, value=command.cdw[11])
        else:
            self.respond(command.cid)

    def _identify(self, command):
        cns, say = command.cdw[10] & 0xFF, self.subsystem
        pages = {
            0: say.namespace, 1: lambda: say.controller(self.discovery),
            2: lambda: struct.pack("<I", 1 if command.nsid < 1 else 0).ljust(4096, b"\0"),
            3: lambda: (bytes([3, 16, 0, 0]) + say.identity["uuid"] + bytes([4, 1, 0, 0, 0])).ljust(4096, b"\0"),
            6: lambda: struct.pack("<4xIQ", say.identity["dmrsl"], say.identity["dmsl"]).ljust(4096, b"\0")}
        if cns in pages:
            self.send_data(command, pages[cns]())
        else:
            self.respond(command.cid, 2 | DNR)

    def _log(self, command):
        lid = command.cdw[10] & 0xFF
        length = ((command.cdw[10] >> 16 | command.cdw[11] << 16 & 0xFFFFFFFF) + 1) * 4
        offset = command.cdw[12]
        page = b""
        if lid == 0x0C:
            page = self.subsystem.ana_log(self.port.ana)
        elif lid == 0x70:
            page = self.subsystem.discovery_log()
        self.send_data(command, page[offset:offset + length].ljust(length, b"\0"))

    def _io(self, command):
        disk, start = self.subsystem.disk, command.slba * BLOCK
        length = command.blocks * BLOCK
        if self.port.ana in (INACCESSIBLE, LOSS, CHANGE):
            if command.opcode in (Io.WRITE, Io.COMPARE):
                self.collect(command, length)
            self.respond(command.cid, {INACCESSIBLE: 0x302, LOSS: 0x301, CHANGE: 0x303}[self.port.ana])
        elif command.opcode in (Io.FLUSH,):
            self.respond(command.cid)
        elif command.opcode == Io.DSM:
            self.collect(command, command.sgl_length)
            self.respond(command.cid)
        elif start + length > len(disk):
            self.respond(command.cid, 0x80 | DNR)
        elif command.opcode in self.subsystem.refuses:
            self.respond(command.cid, self.subsystem.refuses[command.opcode])
        elif command.opcode == Io.READ:
            self.send_data(command, bytes(disk[start:start + length]))
        elif command.opcode == Io.WRITE_ZEROES:
            disk[start:start + length] = bytes(length)
            self.respond(command.cid)
        elif command.opcode == Io.COMPARE:
            self._compare(command, start, self.collect(command, length))
        elif command.opcode == Io.WRITE:
            self._write(command, start, self.collect(command, length))
        else:
            self.respond(command.cid, 1 | DNR)

    def _compare(self, command, start, data):
        equal = self.subsystem.disk[start:start + len(data)] == data
        if command.flags & 3:
            self.fused = (command, equal)
        else:
            self.respond(command.cid, 0 if equal else 0x285 | DNR)

    def _write(self, command, start, data):
        if command.flags & 3 == 2:
            first, equal = self.fused
            self.respond(first.cid, 0 if equal else 0x285 | DNR)
            if not equal:
                self.respond(command.cid, 0x09 | DNR)
                return
        self.subsystem.disk[start:start + len(data)] = data
        self.respond(command.cid)


def wait_for(condition, limit=10):
    end = time.monotonic() + limit
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
