# SPDX-License-Identifier: BSD-3-Clause
"""A plain, explicit NVMe/TCP host for tests.

Connection: bytes and PDUs over one socket; sends anything, checks all that comes back.
Queue: a connection with commands on it; transfers data as the controller asks for it.
Both check what the target sends against the transport specification; any violation raises ProtocolError.
"""

import collections
import socket
import struct

import pdu
import sqe as entries
from pdu import Layout, ProtocolError, encode
from spec import DISCOVERY_NQN, DYNAMIC, FABRICS, Sc, Type, status_name
from target import wait_until

TIMEOUT = 30  # seconds that any single answer may take; only hung targets take that long
CONNECT_SIZE = 1024
IN_CAPSULE_ADMIN = 8192  # TCP 3.3.1: always supported for admin and Fabrics commands


class Closed(Exception):
    """The target closed the connection."""


class Terminated(Exception):
    """The target sent C2HTermReq."""

    def __init__(self, term):
        super().__init__(f"C2HTermReq FES {term.fes} FEI {term.fei:#x}")
        self.fes, self.fei, self.data = term.fes, term.fei, term.data


class CommandError(Exception):
    """A command that a test took for granted failed."""

    def __init__(self, completion):
        super().__init__(f"status {status_name(completion.status)}")
        self.status = completion.status


class Connection:
    """One TCP connection to the target."""

    def __init__(self, address, timeout=TIMEOUT, receive_buffer=None, source=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(tuple(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = Layout()  # how we lay out what we send
        self.hpda = 0
        self.maxr2t = 0
        self.maxh2cdata = 4096
        self._input = bytearray()

    # -- bytes ------------------------------------------------------------------------------------------------------

    def send(self, *parts):
        try:
            self.socket.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the target says of it is still to be read, or recv tells

    def receive(self, count):
        """Exactly count bytes."""
        while len(self._input) < count:
            try:
                chunk = self.socket.recv(max(65536, count - len(self._input)))
            except (ConnectionResetError, BrokenPipeError):
                raise Closed("reset") from None
            if not chunk:
                raise Closed("end of stream" + (" in mid-PDU" if self._input else ""))
            self._input += chunk
        data = bytes(self._input[:count])
        del self._input[:count]
        return data

    def pending(self, seconds=0.0):
        """True if there is something to receive, waiting up to so many seconds for it."""
        if self._input:
            return True
        limit = self.socket.gettimeout()
        self.socket.settimeout(max(seconds, 0.001))
        try:
            chunk = self.socket.recv(65536)
        except TimeoutError:
            return False
        except (ConnectionResetError, BrokenPipeError):
            return True
        finally:
            self.socket.settimeout(limit)
        self._input += chunk
        return True

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST, as a host that died and came back does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def finish(self):
        """Sends FIN; receiving goes on."""
        self.socket.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- PDUs -------------------------------------------------------------------------------------------------------

    def receive_pdu(self):
        """The next PDU, checked. A terminate request raises Terminated."""
        received = pdu.read_pdu(self.receive, self.sent, self.hpda)
        if received.type == Type.C2H_TERM:
            raise Terminated(received)
        if received.type & 1 == 0:
            raise ProtocolError(f"{received} from a controller")
        return received

    def initialize(self, hdgst=False, ddgst=False, hpda=0, maxr2t=0):
        """ICReq and ICResp; from here on PDUs carry the digests that both sides agreed on."""
        self.send(pdu.icreq(hpda, hdgst, ddgst, maxr2t))
        answer = self.receive_pdu()
        if answer.type != Type.ICRESP:
            raise ProtocolError(f"{answer} as answer to ICReq")
        if answer.dgst & ~((1 if hdgst else 0) | (2 if ddgst else 0)):
            raise ProtocolError("a digest that was not asked for (TCP 3.3.1.1)")
        self.sent = Layout(bool(answer.dgst & 1), bool(answer.dgst & 2), answer.cpda)
        self.hpda, self.maxr2t, self.maxh2cdata = hpda, maxr2t, answer.maxh2cdata
        return answer

    def wait_closed(self, timeout=TIMEOUT):
        """Waits for the end of the stream. Returns the terminate request that came before it, or None; any other PDU
        that was still under way is passed over."""
        self.socket.settimeout(timeout)
        term = None
        try:
            while True:
                try:
                    self.receive_pdu()
                except Terminated as error:
                    term = error
        except Closed:
            return term
        except TimeoutError:
            raise AssertionError(f"not closed within {timeout} s (terminate request: {term})") from None


class Completion:
    """A completion queue entry, and the data that came with it."""

    def __init__(self, cqe, data=b""):
        self.dw0, self.dw1, self.sqhd, self.sqid, self.cid, field = struct.unpack("<IIHHHH", cqe)
        self.status = field >> 1 & 0x7FF  # SCT and SC
        self.more = bool(field & 0x4000)
        self.dnr = bool(field & 0x8000)
        self.phase = field & 1
        self.value = self.dw0 | self.dw1 << 32
        self.data = data
        self.success_flag = False  # synthesized from C2HData's SUCCESS flag

    def __repr__(self):
        return f"<completion cid {self.cid} status {status_name(self.status)} dw0 {self.dw0:#x} sqhd {self.sqhd}>"


class Command:
    """A command in flight."""

    def __init__(self, entry, out, read_length, exact=True):
        self.entry, self.out = entry, out
        self.read_length, self.exact = read_length, exact  # exact: success means that this many bytes came
        self.cid = struct.unpack_from("<H", entry, entries.CID_OFFSET)[0]
        self.data = bytearray()  # received
        self.data_complete = False
        self.r2ts = []  # not answered yet
        self.requested = 0  # bytes that R2Ts have asked for
        self.completion = None


class Queue(Connection):
    """A queue pair on its connection."""

    def __init__(self, address, hdgst=False, ddgst=False, hpda=0, maxr2t=0, **socket_options):
        super().__init__(address, **socket_options)
        self.commands = {}
        self.order = collections.deque()  # completions as they came, for tests that look at it
        self.answer_r2ts = True
        self.piece = None  # bytes a H2CData PDU at most, if less than the target permits
        self.in_capsule = IN_CAPSULE_ADMIN
        self.sqsize = 0
        self.flow_control = True
        self.qid = 0
        self.tail = self.head = 0
        self._next_cid = 0
        self.icresp = self.initialize(hdgst, ddgst, hpda, maxr2t)

    # -- commands ---------------------------------------------------------------------------------------------------

    def connect(self, subnqn=DISCOVERY_NQN, hostnqn="", hostid=bytes(16), cntlid=DYNAMIC, qid=0, sqsize=31,
                flow_control=True, kato=120_000, **more):
        """Connect; returns the completion, whatever it says. sqsize is 0's based."""
        cattr = more.pop("cattr", 0 if flow_control else 1 << 2)
        entry = entries.connect(qid, sqsize, cattr, kato if qid == 0 else 0, **more)
        data = entries.connect_data(subnqn, hostnqn, hostid, cntlid)
        completion = self.execute(entry, out=data)
        if completion.status == Sc.SUCCESS:
            self.qid, self.sqsize = qid, sqsize
            self.flow_control = not (cattr & 1 << 2 and completion.sqhd == 0xFFFF)
            if not cattr & 1 << 2 and completion.sqhd == 0xFFFF:
                raise ProtocolError("SQHD FFFFh though flow control was not to be disabled (Base 6.3)")
            self.tail = self.head = completion.sqhd if self.flow_control else 0
        return completion

    def free_cid(self):
        while self._next_cid in self.commands:
            self._next_cid = (self._next_cid + 1) % 0xFFFF
        cid, self._next_cid = self._next_cid, (self._next_cid + 1) % 0xFFFF
        return cid

    def prepare(self, entry, out=b"", read=0, in_capsule=None, cid=None, length=None, raw_sgl=False, exact=True):
        """Fills in CID and data pointer and notes the command as in flight; returns (command, in-capsule data).

        length: of the SGL, if not that of the data. raw_sgl: leave the SGL of the entry as it is."""
        entry = entries.with_cid(entry, self.free_cid() if cid is None else cid)
        capsule = b""
        if in_capsule is None:
            limit = IN_CAPSULE_ADMIN if entry[0] == FABRICS else self.in_capsule
            in_capsule = bool(out) and len(out) <= limit
        if raw_sgl:
            capsule = out if in_capsule else b""
        elif out and in_capsule:
            entry = entries.with_sgl(entry, entries.in_capsule_sgl(len(out) if length is None else length))
            capsule = out
        elif out or read or length:
            entry = entries.with_sgl(entry, entries.transport_sgl((len(out) or read) if length is None else length))
        current = Command(entry, out, read, exact)
        self.commands[current.cid] = current
        return current, capsule

    def submit(self, entry, out=b"", read=0, **more):
        """Sends a command. out: data for the controller; read: bytes expected from it; more: see prepare.
        Returns the command."""
        current, capsule = self.prepare(entry, out, read, **more)
        self.send(pdu.command(bytes(current.entry), capsule, self.sent))
        if self.sqsize:
            self.tail = (self.tail + 1) % (self.sqsize + 1)
        return current

    def submit_all(self, batch):
        """Sends several commands with one call: batch holds (entry, options of submit). Returns the commands."""
        prepared = [self.prepare(entry, **options) for entry, options in batch]
        self.send(*(pdu.command(bytes(current.entry), capsule, self.sent) for current, capsule in prepared))
        if self.sqsize:
            self.tail = (self.tail + len(batch)) % (self.sqsize + 1)
        return [current for current, _ in prepared]

    def wait(self, current):
        """Receives until this command has completed; returns its completion."""
        while current.completion is None:
            self.step()
        return current.completion

    def wait_all(self, commands):
        return [self.wait(current) for current in commands]

    def wait_r2t(self, current):
        """Receives until the controller asks for data of this command (needs answer_r2ts off)."""
        while not current.r2ts:
            if current.completion:
                raise CommandError(current.completion)
            self.step()
        return current.r2ts.pop(0)

    def execute(self, entry, out=b"", read=0, **more):
        return self.wait(self.submit(entry, out, read, **more))

    def must(self, entry, out=b"", read=0, **more):
        """Executes a command that has to succeed."""
        completion = self.execute(entry, out, read, **more)
        if completion.status != Sc.SUCCESS:
            raise CommandError(completion)
        return completion

    # -- what comes back --------------------------------------------------------------------------------------------

    def step(self):
        """Receives one PDU and does what a host has to do about it."""
        received = self.receive_pdu()
        {Type.RESP: self._response, Type.C2H_DATA: self._data, Type.R2T: self._r2t}.get(
            received.type, self._unexpected)(received)
        return received

    def _unexpected(self, received):
        raise ProtocolError(f"unexpected {received}")

    def _find(self, cid, what):
        if cid not in self.commands:
            raise ProtocolError(f"{what} for command {cid}, which is not in flight")
        return self.commands[cid]

    def _complete(self, current, completion):
        completion.data = bytes(current.data)
        current.completion = completion
        del self.commands[current.cid]
        self.order.append(completion)

    def _response(self, received):
        completion = Completion(received.cqe)
        current = self._find(completion.cid, "CapsuleResp")
        if self.flow_control and self.sqsize:
            if completion.sqhd > self.sqsize:
                raise ProtocolError(f"SQHD {completion.sqhd} of a queue of {self.sqsize + 1}")
            self.head = completion.sqhd
        if completion.status == Sc.SUCCESS:
            if current.exact and len(current.data) != current.read_length:
                raise ProtocolError(f"success after {len(current.data)} of {current.read_length} bytes")
        self._complete(current, completion)

    def _data(self, received):
        current = self._find(received.cccid, "C2HData")
        if current.data_complete:
            raise ProtocolError("C2HData after the last one (TCP 3.3.2.1)")
        if received.datao != len(current.data):
            raise ProtocolError(f"C2HData at {received.datao}, expected at {len(current.data)}")
        current.data += received.data
        if len(current.data) > current.read_length:
            raise ProtocolError(f"C2HData to {len(current.data)}, beyond the buffer of {current.read_length}")
        current.data_complete = received.last
        if received.success:
            if self.flow_control:
                raise ProtocolError("SUCCESS though SQHD is in use (TCP 3.3.2.1)")
            if current.exact and len(current.data) != current.read_length:
                raise ProtocolError(f"SUCCESS after {len(current.data)} of {current.read_length} bytes")
            completion = Completion(struct.pack("<IIHHHH", 0, 0, 0, 0, current.cid, 0))
            completion.success_flag = True
            self._complete(current, completion)

    def _r2t(self, received):
        current = self._find(received.cccid, "R2T")
        if received.r2to != current.requested:
            raise ProtocolError(f"R2T at {received.r2to}, expected at {current.requested} (TCP 3.3.2.2)")
        current.requested += received.r2tl
        if current.requested > len(current.out):
            raise ProtocolError(f"R2T to {current.requested} of {len(current.out)} bytes")
        if len(current.r2ts) > self.maxr2t:
            raise ProtocolError("more R2Ts than MAXR2T (TCP 3.3.2.2)")
        current.r2ts.append(received)
        if self.answer_r2ts:
            self.answer(current, current.r2ts.pop(0))

    def answer(self, current, request, piece=None):
        """Sends the data that an R2T asks for, in H2CData PDUs of at most `piece` bytes."""
        self.send(*self.data_pdus(current, request, piece))

    def data_pdus(self, current, request, piece=None):
        piece = min(piece or self.piece or self.maxh2cdata, self.maxh2cdata)
        end = request.r2to + request.r2tl
        result = []
        for offset in range(request.r2to, end, piece):
            data = bytes(current.out[offset:min(offset + piece, end)])
            result.append(pdu.h2c_data(current.cid, request.ttag, offset, data, offset + piece >= end, self.sent))
        return result

    # -- shorthands -------------------------------------------------------------------------------------------------

    def property_get(self, offset, size=4):
        return self.must(entries.property_get(offset, size)).value

    def property_set(self, offset, value, size=4):
        return self.must(entries.property_set(offset, value, size))

    def wait_property(self, offset, mask, value, limit=TIMEOUT):
        """Waits until (property & mask) == value."""
        current = None

        def reached():
            nonlocal current
            current = self.property_get(offset)
            return current & mask == value

        assert wait_until(reached, limit, 0.01), f"property {offset:#x} stays {current:#x}"
        return current


__all__ = ["Closed", "Command", "CommandError", "Completion", "Connection", "Queue", "Terminated", "ProtocolError",
           "encode", "TIMEOUT"]
