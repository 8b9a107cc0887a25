# SPDX-License-Identifier: BSD-3-Clause
"""A host with a controller: admin queue, I/O queues, and the commands that tests use most."""

import os
import struct
import threading
import uuid

import sqe
from nvmetcp import TIMEOUT, CommandError, Queue
from spec import ALL_NAMESPACES, DISCOVERY_NQN, DYNAMIC, Feature, Property, Sc
from structs import IdentifyController, IdentifyNamespace, namespace_list
from target import wait_until

CC_ENABLE = 1 | 6 << 16 | 4 << 20  # EN, IOSQES 64 bytes, IOCQES 16 bytes (Base 3.1.4.5)
CC_ALL_COMMAND_SETS = 6 << 4
CC_SHUTDOWN = 1 << 14
CSTS_READY, CSTS_FATAL, CSTS_SHST, CSTS_SHUT = 1, 2, 3 << 2, 2 << 2


def new_hostnqn():
    return f"nqn.2014-08.org.nvmexpress:uuid:{uuid.uuid4()}"


class Controller:
    """An association with one controller.

    With enable and io_queues it is ready for use: .admin is its admin queue and .io the first I/O queue."""

    def __init__(self, address, subnqn, *, hostnqn=None, hostid=None, kato=120_000, enable=True, io_queues=0, sqsize=31,
                 io_sqsize=31, flow_control=True, **transport):
        self.address, self.subnqn = address, subnqn
        self.hostnqn = hostnqn or new_hostnqn()
        self.hostid = hostid or os.urandom(16)
        self.transport = transport  # options of Queue: digests, alignment, MAXR2T
        self.queues = []
        self._identity = None
        self.admin = Queue(address, **transport)
        try:
            completion = self.admin.connect(subnqn, self.hostnqn, self.hostid, DYNAMIC, 0, sqsize, flow_control, kato)
            if completion.status != Sc.SUCCESS:
                raise CommandError(completion)
            self.cntlid = completion.dw0 & 0xFFFF
            if enable:
                self.enable()
            if io_queues:
                self.request_queues(io_queues)
            for qid in range(1, io_queues + 1):
                self.add_queue(qid, io_sqsize, flow_control)
        except BaseException:
            self.close()
            raise

    # -- life -------------------------------------------------------------------------------------------------------

    def enable(self, cc=CC_ENABLE):
        self.admin.property_set(Property.CC, cc)
        self.admin.wait_property(Property.CSTS, CSTS_READY, CSTS_READY)

    def disable(self):
        self.admin.property_set(Property.CC, CC_ENABLE & ~1)
        self.admin.wait_property(Property.CSTS, CSTS_READY, 0)

    def shutdown(self):
        self.admin.property_set(Property.CC, CC_ENABLE | CC_SHUTDOWN)
        self.admin.wait_property(Property.CSTS, CSTS_SHST, CSTS_SHUT)

    def request_queues(self, count):
        """Number of Queues (Base 5.1.25.1.5); returns how many I/O queues were granted."""
        granted = self.set_feature(Feature.QUEUES, (count - 1) | (count - 1) << 16).dw0
        assert granted & 0xFFFF >= count - 1 and granted >> 16 >= count - 1, f"granted {granted:#x}, asked for {count}"
        return (granted & 0xFFFF) + 1

    def new_queue(self, **transport):
        """Another connection, not yet a queue of this controller."""
        queue = Queue(self.address, **(self.transport | transport))
        self.queues.append(queue)
        return queue

    def connect_queue(self, queue, qid, sqsize=31, flow_control=True, **more):
        """Connect of an I/O queue with this controller's identity; returns the completion."""
        options = {"subnqn": self.subnqn, "hostnqn": self.hostnqn, "hostid": self.hostid, "cntlid": self.cntlid} | more
        return queue.connect(qid=qid, sqsize=sqsize, flow_control=flow_control, **options)

    def add_queue(self, qid, sqsize=31, flow_control=True, **transport):
        """A connected I/O queue."""
        queue = self.new_queue(**transport)
        completion = self.connect_queue(queue, qid, sqsize, flow_control)
        if completion.status != Sc.SUCCESS:
            raise CommandError(completion)
        queue.in_capsule = self.identity.in_capsule
        return queue

    @property
    def io(self):
        return self.queues[0]

    def close(self):
        for queue in (*self.queues, self.admin):
            queue.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- admin commands ---------------------------------------------------------------------------------------------

    def identify_raw(self, cns, **more):
        return self.admin.execute(sqe.identify(cns, **more), read=4096)

    def identify(self, cns, **more):
        return self.admin.must(sqe.identify(cns, **more), read=4096).data

    @property
    def identity(self):
        if self._identity is None:
            self._identity = IdentifyController(self.identify(0x01))
        return self._identity

    def namespace(self, nsid):
        return IdentifyNamespace(self.identify(0x00, nsid=nsid))

    def namespaces(self):
        return namespace_list(self.identify(0x02))

    def get_log(self, lid, length, **more):
        return self.admin.must(sqe.get_log(lid, length, **more), read=length).data

    def set_feature(self, fid, value=0, **more):
        return self.admin.must(sqe.set_features(fid, value, **more))

    def get_feature(self, fid, **more):
        return self.admin.must(sqe.get_features(fid, **more)).dw0

    # -- I/O on the first queue -------------------------------------------------------------------------------------

    def read(self, nsid, slba, blocks, block=512, queue=None):
        return (queue or self.io).must(sqe.read(nsid, slba, blocks), read=blocks * block).data

    def write(self, nsid, slba, data, block=512, queue=None, **more):
        assert len(data) % block == 0
        return (queue or self.io).must(sqe.write(nsid, slba, len(data) // block, **more), out=data)

    def flush(self, nsid=ALL_NAMESPACES, queue=None):
        return (queue or self.io).must(sqe.flush(nsid))


def discovery(address, **more):
    """A discovery controller. Hosts that do not stay use no keep alive there (KATO 0)."""
    return Controller(address, DISCOVERY_NQN, **({"kato": 0} | more))


class Bystander:
    """A healthy host beside the test: writes, reads back and compares in a thread of its own, and must never notice
    what the test does. check() raises if it did."""

    BLOCK = 512

    def __init__(self, address, subnqn, nsid=1, first=0, blocks=256, **options):
        self.controller = Controller(address, subnqn, io_queues=1, **options)
        self.nsid, self.first, self.blocks = nsid, first, blocks
        self.rounds = 0
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._stop.is_set():
                size = (1, 7, 16, 33, 64)[self.rounds % 5]  # in capsule, and through R2T
                slba = self.first + self.rounds * 13 % (self.blocks - size)
                data = struct.pack("<Q", self.rounds + 1) * (self.BLOCK // 8 * size)
                self.controller.write(self.nsid, slba, data)
                if self.controller.read(self.nsid, slba, size) != data:
                    raise AssertionError(f"read something else than was written at LBA {slba}")
                self.rounds += 1
                self._stop.wait(0.002)
        except BaseException as error:  # pylint: disable=broad-except
            self.error = error

    def check(self):
        """It still makes progress, and saw no error."""
        wanted = self.rounds + 2
        wait_until(lambda: self.error or self.rounds >= wanted, TIMEOUT, 0.002)
        if self.error:
            raise AssertionError(f"the bystander was disturbed: {self.error!r}") from self.error
        assert self.rounds >= wanted, "the bystander makes no progress"

    def close(self):
        try:
            self.check()
        finally:
            self._stop.set()
            self._thread.join(30)
            self.controller.close()
