# SPDX-License-Identifier: BSD-3-Clause
"""A disk that hangs, a gateway's whose upstream does not answer, takes nothing down with it."""

import expect
import sqe
from controller import NQN, Port, Subsystem
from host import Controller
from spec import Admin, Io, Sc
from target import Target

HEALTHY, HUNG = 1, 2
BLOCKS = 8
WRITES = 120  # of 4 KiB, in their capsules
HOSTS = 17  # so many were enough to take all memory of a reactor, when each left what it had in flight behind


def hung_port():
    port = Port(Subsystem(blocks=1 << 14))
    port.on_io = lambda connection, command: command.opcode == Io.WRITE
    port.on_admin = lambda connection, command: command.opcode == Admin.ABORT
    return port


def write_and_vanish(target):
    host = Controller(target.address, target.nqn, io_queues=1, io_sqsize=127)
    for n in range(WRITES):
        host.io.submit(sqe.write(HUNG, n * BLOCKS, BLOCKS), out=bytes(4096))
    for queue in (host.admin, host.io):
        queue.socket.close()


def use(host):
    """Writes and reads of the healthy disk, more than a queue holds at once."""
    for n in range(256):
        expect.status(host.io.execute(sqe.write(HEALTHY, n * BLOCKS, BLOCKS), out=bytes([n]) * 4096), Sc.SUCCESS)
        completion = host.io.execute(sqe.read(HEALTHY, n * BLOCKS, BLOCKS), read=4096)
        assert completion.data == bytes([n]) * 4096


ALARM = "pollux: error: a disk does not answer; what it has not written is lost"


def stop(target):
    """The disk may have answered at the end, or is named; but not by what ends it after 5 s, come what may."""
    try:
        target.stop()
    except Exception as error:  # pylint: disable=broad-except
        named = any("error: " in line and NQN in line for line in str(error).splitlines())
        assert "ended with 1" in str(error) and (named or ALARM in str(error)), str(error)


def test_hosts_that_write_to_a_hung_disk_and_vanish_leave_a_healthy_one_alone():
    with hung_port() as port:
        target = Target("ram:16M", port.url + "?timeout=60").start()
        try:
            for _ in range(HOSTS):
                write_and_vanish(target)
            with Controller(target.address, target.nqn, io_queues=1) as host:
                use(host)
                for _ in range(HOSTS):  # and while they go on doing so
                    write_and_vanish(target)
                use(host)
        finally:
            stop(target)


def test_a_controller_is_reset_while_its_disk_hangs():
    with hung_port() as port:
        target = Target("ram:16M", port.url + "?timeout=60").start()
        try:
            with Controller(target.address, target.nqn, io_queues=1) as host:
                host.io.submit(sqe.write(HUNG, 0, BLOCKS), out=bytes(4096))
                host.disable()  # until CSTS.RDY is clear
        finally:
            stop(target)
