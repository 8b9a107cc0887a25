# SPDX-License-Identifier: BSD-3-Clause
"""`pollux serve -r SOCKET --state FILE`, of which one subsystem is looked at, for tests that kill it and go on."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "integration"))

import rpc  # noqa: E402


def address(port):
    """Where a listener is, as calls have it."""
    return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}


class Controlled(rpc.Server):
    """It begins empty, and started again as it was."""

    def __init__(self, nqn):
        """nqn: of the subsystem that is made first."""
        super().__init__()
        self.options += ["--state", str(self.folder / "state")]
        self._nqn = nqn
        self._client = None

    def call(self, method, **params):
        """Calls a method. Its result."""
        self._client = self._client or self.client()
        return self._client.call(method, **params)

    def add_listener(self, nqn, **more):
        """Has a subsystem be reached at a free port, which is returned."""
        return rpc.listen(self, nqn, **more)

    @property
    def nqns(self):
        return [self._nqn]

    @property
    def ports(self):
        """Where it is reached."""
        return [int(each["address"]["trsvcid"])
                for each in self.call("nvmf_subsystem_get_listeners", nqn=self._nqn)] if self.process else []

    def _end(self, sign, limit):
        if self._client:
            self._client.close()
        self._client = None
        return super()._end(sign, limit)
