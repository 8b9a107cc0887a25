# SPDX-License-Identifier: BSD-3-Clause
"""A client of the control server, and a server to be controlled.

    with Server() as server, server.client() as client:
        client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)

Client knows bytes as well as calls: it sends what no correct client would, and can leave answers unread.
"""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

import target
from target import RUNNING, START_LIMIT, Target, TargetError, free_port

ANSWER_LIMIT = 60  # seconds; for hung runs only
DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"

# Codes of errors (JSON-RPC 2.0, 5.1), and those that the dialect has besides
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
WRONG_STATE = -1


class RpcError(Exception):
    """A call was answered by an error."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Closed(AssertionError):
    """The server has closed the connection, or sends no answer."""


def request(method, params=None, **more):
    """A request, as text. more: id, jsonrpc."""
    body = {"jsonrpc": "2.0", "method": method} | more
    return json.dumps(body if params is None else body | {"params": params})


class Client:
    """A connection to the server's socket."""

    def __init__(self, path, receive_buffer=None):
        self.socket = socket.socket(socket.AF_UNIX)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(str(path))  # waits while too many others do: with a limit of time it would fail
        self.socket.settimeout(ANSWER_LIMIT)
        self.ids = 0
        self._lines = []
        self._rest = []

    def send_raw(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def send(self, method, params=None, **more):
        """Sends a request without waiting for its answer; returns its id."""
        self.ids += 1
        self.send_raw(request(method, params, **({"id": self.ids} | more)))
        return self.ids

    def receive(self):
        """The next answer: one value a line."""
        while not self._lines:
            data = self.socket.recv(1 << 16)
            if not data:
                raise Closed("closed without an answer")
            *lines, rest = data.split(b"\n")
            if lines:
                self._lines = [b"".join([*self._rest, lines[0]]), *lines[1:]]
                self._rest = []
            self._rest.append(rest)
        return json.loads(self._lines.pop(0))

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def at_end(self):
        """Nothing more comes, and the connection is closed."""
        assert not self._lines and not b"".join(self._rest), "there are answers yet"
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def exchange(self, raw):
        """Sends bytes; returns the next answer."""
        self.send_raw(raw)
        return self.receive()

    def answer(self, method, params=None, **more):
        """A call; returns its whole answer, an error as well."""
        wanted = self.send(method, params, **more)
        answer = self.receive()
        assert answer["jsonrpc"] == "2.0" and answer["id"] == wanted, answer
        return answer

    def call_with(self, method, params=None):
        """A call; returns its result, or raises RpcError."""
        answer = self.answer(method, params)
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def call(self, method, **params):
        return self.call_with(method, params)

    def refused(self, method, **params):
        """A call that must fail: returns (code, message)."""
        try:
            result = self.call_with(method, params)
        except RpcError as error:
            return error.code, error.message
        raise AssertionError(f"{method} {params} was not refused, but answered {result}")

    def dump(self):
        """The whole configuration."""
        return self.call("pollux_save")

    def groups(self):
        """The same, as clients make it themselves (SPDK's save_config)."""
        return {"subsystems": [{"subsystem": group["subsystem"],
                                "config": self.call("framework_get_config", name=group["subsystem"])}
                               for group in self.call("framework_get_subsystems")]}

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Server(Target):
    """`pollux serve` on a control socket of its own, in a folder that goes with it."""

    def __init__(self, *disks, options=(), **more):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-rpc-"))  # short: a socket's path has 107 bytes
        self.path = self.folder / "control"
        super().__init__(*disks, listen=(), options=("-r", self.path, *options), **more)

    def _wait_ready(self):
        with self._change:
            ready = self._change.wait_for(
                lambda: self.process.poll() is not None or f"controlled at {self.path}" in self.stdout, START_LIMIT)
        if self.process.poll() is not None:
            self.out.join(target.REPORT_LIMIT)
            self.err.join(target.REPORT_LIMIT)
            raise TargetError(f"{self.command()} ended with {self.process.returncode}:\n{self.stderr}")
        if not ready:
            self._end(signal.SIGKILL, START_LIMIT)
            raise TargetError(f"{self.command()} does not say where it is controlled:\n{self.stderr}")

    def client(self, **options):
        return Client(self.path, **options)

    def __exit__(self, *what):
        try:
            super().__exit__(*what)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def refused_start(*words, prefix=()):
    """Runs `pollux serve`, which must refuse to start: returns its exit status and what it says."""
    process = subprocess.Popen([*map(str, prefix), target.binary(), "serve", *map(str, words)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace")
    RUNNING.add(process)
    try:
        out, err = process.communicate(timeout=START_LIMIT + target.REPORT_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise TargetError(f"{words}: it does not refuse to start:\n{process.communicate()}") from None
    finally:
        RUNNING.discard(process)
    assert not out, f"{words}: {out}"
    assert not target.SANITIZER.search(err), err
    return process.returncode, err


def listen(client, nqn, host="127.0.0.1", **more):
    """Has a subsystem listen at a free port, and returns that."""
    port = free_port()
    client.call("nvmf_subsystem_add_listener", nqn=nqn, **more,
                listen_address={"trtype": "TCP", "adrfam": "IPv6" if ":" in host else "IPv4", "traddr": host,
                                "trsvcid": str(port)})
    return port


def prepare(client, nqn, blocks=16384):
    """A subsystem that every host may use, with a RAM disk; returns its address."""
    if not client.call("nvmf_get_transports"):
        client.call("nvmf_create_transport", trtype="TCP")
    disk = client.call("bdev_malloc_create", num_blocks=blocks, block_size=512)
    client.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
    client.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": disk})
    return "127.0.0.1", listen(client, nqn)


def describe(client):
    """The methods, by name."""
    return {method["name"]: method for method in client.call("pollux_describe_methods")}
