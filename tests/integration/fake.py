# SPDX-License-Identifier: BSD-3-Clause
"""A controller in a few lines of Python, against which the test client itself is tested. It knows a RAM disk, reads and
writes, and believes all it is told."""

import socket
import struct
import threading

import pdu

from pdu import Layout
from spec import FABRICS, Admin, Fabrics, Io, Type

NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-00000000fa4e"
BLOCK = 512


class FakeTarget:
    """Serves until closed; one thread a connection."""

    def __init__(self, blocks=4096, cpda=0, piece=4096):
        self.disk = bytearray(blocks * BLOCK)
        self.cpda, self.piece = cpda, piece
        self.seen = []  # (type, flags) of the PDUs that came
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=FakeConnection(self, connection).run, daemon=True).start()

    def close(self):
        self._listener.close()


class FakeConnection:
    def __init__(self, target, connection):
        self.target, self.socket = target, connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = connection.makefile("rb")
        self.layout = Layout()
        self.cpda = 0
        self.flow_control = True
        self.is_io = False
        self.head = self.size = self.csts = 0

    def _read(self, count):
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def _receive(self):
        received = pdu.read_pdu(self._read, self.layout, self.cpda)
        self.target.seen.append((received.type, received.flags))
        return received

    def run(self):
        try:
            self._initialize()
            while True:
                received = self._receive()
                if received.type != Type.CMD:
                    self.socket.sendall(pdu.encode(
                        Type.C2H_TERM, struct.pack("<HI", 2, 0) + bytes(10), plen=24 + len(received.header))
                        + received.header)
                    return
                self._command(received)
        except (EOFError, OSError, ValueError):
            pass
        finally:
            self.file.close()
            self.socket.close()

    def _initialize(self):
        request = self._receive()
        self.socket.sendall(pdu.icresp(self.target.cpda, request.dgst, 8192))
        self.layout = Layout(bool(request.dgst & 1), bool(request.dgst & 2), request.hpda)
        self.cpda = self.target.cpda

    def _respond(self, cid, status=0, value=0):
        self.head = (self.head + 1) % (self.size + 1) if self.size else 0
        sqhd = self.head if self.flow_control else 0xFFFF
        self.socket.sendall(pdu.response(struct.pack("<QHHHH", value, sqhd, 0, cid, status << 1), self.layout))

    def _command(self, received):
        entry = received.sqe
        if entry[0] == FABRICS:
            self._fabrics(received, entry)
        elif entry[0] == Admin.IDENTIFY and not self.is_io:
            data = bytearray(4096)
            struct.pack_into("<I", data, 1792, (8192 + 64) // 16)
            self._send_data(received.cid, bytes(data))
        elif entry[0] in (Io.READ, Io.WRITE):
            self._io(received, entry)
        else:
            self._respond(received.cid, value=0x007F007F)

    def _fabrics(self, received, entry):
        kind = entry[4]
        if kind == Fabrics.CONNECT:
            _, qid, self.size, cattr = struct.unpack_from("<HHHB", entry, 40)
            data = received.data or self._collect(received.cid, struct.unpack_from("<I", entry, 32)[0])
            if data[256:256 + len(NQN)] != NQN.encode():
                return self._respond(received.cid, 0x182, 256 | 1 << 16)
            self.is_io, self.flow_control = qid > 0, not cattr & 4
            return self._respond(received.cid, value=1)
        if kind == Fabrics.PROPERTY_SET:
            self.csts = struct.unpack_from("<Q", entry, 48)[0] & 1
            return self._respond(received.cid)
        return self._respond(received.cid, value=self.csts)

    def _io(self, received, entry):
        slba, count = struct.unpack_from("<QH", entry, 40)
        start, length = slba * BLOCK, (count + 1) * BLOCK
        if start + length > len(self.target.disk):
            self._respond(received.cid, 0x80)
        elif entry[0] == Io.READ:
            self._send_data(received.cid, bytes(self.target.disk[start:start + length]))
        else:
            data = received.data or self._collect(received.cid, length)
            self.target.disk[start:start + length] = data
            self._respond(received.cid)

    def _send_data(self, cid, data):
        for offset in range(0, len(data), self.target.piece):
            part = data[offset:offset + self.target.piece]
            last = offset + len(part) == len(data)
            success = last and not self.flow_control
            self.socket.sendall(pdu.c2h_data(cid, offset, part, last, success, self.layout))
        if self.flow_control:
            self._respond(cid)

    def _collect(self, cid, length):
        data = b""
        while len(data) < length:
            asked = min(length - len(data), 16384)
            end = len(data) + asked
            self.socket.sendall(pdu.r2t(cid, 7, len(data), asked, self.layout))
            while len(data) < end:
                part = self._receive()
                assert part.type == Type.H2C_DATA and part.ttag == 7 and part.datao == len(data)
                data += part.data
                assert part.last == (len(data) == end)
        return data
