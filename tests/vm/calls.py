# SPDX-License-Identifier: BSD-3-Clause
"""Calls to a `pollux serve` in the guest."""
import base64
import json
import struct

SOCKET = "/tmp/pollux.sock"


class Calls:
    """A server that begins empty, until the test ends it."""

    def __init__(self, machine):
        self.sh = machine.sh
        self.job = machine.spawn(f"exec pollux serve -r {SOCKET} >/tmp/serve.out 2>/tmp/serve.err")
        machine.wait_until(f"pollux ctl -s {SOCKET} rpc_get_methods", during=[self.job])

    def call(self, method, **params):
        words = " ".join(f"{name}={value}" for name, value in params.items())
        output = self.sh(f"pollux ctl -s {SOCKET} {method} {words}")
        return json.loads(output) if output[:1] in "[{" else output

    def send(self, name, kind, opcode, nsid=0, cdw10=0, cdw12=0, length=0, data=None):
        """A command of our own: (status, data)."""
        sqe = struct.pack("<BBHI32xIIIIII", opcode, 0, 0, nsid, cdw10, 0, cdw12, 0, 0, 0)
        more = {"data_direction": "c2h", "data_len": length}
        if data is not None:
            more = {"data_direction": "h2c", "data": base64.urlsafe_b64encode(data).decode()}
        answer = self.call("bdev_nvme_send_cmd", name=name, cmd_type=kind,
                           cmdbuf=base64.urlsafe_b64encode(sqe).decode(), **more)
        status = struct.unpack("<14xH", base64.urlsafe_b64decode(answer["cpl"]))[0] >> 1 & 0x7ff
        return status, base64.urlsafe_b64decode(answer.get("data", ""))
