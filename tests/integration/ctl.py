# SPDX-License-Identifier: BSD-3-Clause
"""A server that is controlled by calls, and `pollux ctl` for it; and a server that only looks like one."""

import json
import os
import signal
import socket
import subprocess
import threading

from target import REPORT_LIMIT, RUNNING, SANITIZER, START_LIMIT, binary, wait_until


class Server:
    """One `pollux serve -r SOCKET`. Leaving the block stops it, and looks how it was."""

    def __init__(self, folder, *words, socket="pollux.sock"):
        """It runs in the folder, so that names of files are short."""
        self.folder = folder
        self.socket = str(folder / socket)
        self.words = [str(word) for word in words]
        self.process = None

    def __enter__(self):
        self.out = open(self.folder / "serve.out", "w+", encoding="utf-8")
        self.err = open(self.folder / "serve.err", "w+", encoding="utf-8")
        self.process = subprocess.Popen([binary(), "serve", "-r", self.socket, *self.words], cwd=self.folder,
                                        stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err)
        RUNNING.add(self.process)
        ready = wait_until(lambda: self.process.poll() is not None or "controlled at" in self.stdout, START_LIMIT)
        assert ready and self.process.poll() is None, self.stdout + self.stderr
        return self

    def __exit__(self, kind, value, trace):
        status = self.process.poll()
        if status is None:
            self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(REPORT_LIMIT)
        RUNNING.discard(self.process)
        text = self.stderr
        self.out.close()
        self.err.close()
        if kind is None:
            assert status == 0 and not SANITIZER.search(text), text

    @property
    def stdout(self):
        return (self.folder / "serve.out").read_text(encoding="utf-8")

    @property
    def stderr(self):
        return (self.folder / "serve.err").read_text(encoding="utf-8", errors="replace")

    def ctl(self, *words, **more):
        return ctl(*words, socket=self.socket, cwd=self.folder, **more)

    def call(self, *words):
        """The result of a method, or what a verb has as JSON."""
        return json.loads(self.ctl("--json", *words).out)


class Result:
    def __init__(self, done):
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr
        assert not SANITIZER.search(self.err), self.err


def ctl(*words, socket=None, cwd=None, status=0, stdin=""):
    """Runs `pollux ctl`, which must end with this status; one that fails says why in one line."""
    env = {name: value for name, value in os.environ.items() if name != "POLLUX_SOCKET"}
    if socket:
        env["POLLUX_SOCKET"] = str(socket)
    result = Result(subprocess.run([binary(), "ctl", *map(str, words)], cwd=cwd, env=env, input=stdin, text=True,
                                   capture_output=True, check=False, timeout=REPORT_LIMIT))
    assert result.status == status, f"{words}: {result.status}: {result.out}{result.err}"
    if status:
        assert result.err.startswith("pollux: ") and result.err.count("\n") == 1, result.err
    return result


class Pretender:
    """A control server with answers of our own: answer(request) is bytes to be sent, or None to hang up."""

    def __init__(self, path, answer):
        self.path, self.answer = str(path), answer
        self.requests = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection):
        text = b""
        while data := connection.recv(65536):
            text += data
            try:
                request = json.loads(text)
            except ValueError:
                continue
            text = b""
            self.requests.append(request)
            answer = self.answer(request)
            if answer is None:
                return
            connection.sendall(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def results(table):
    """Answers by method; what is a list of results is given out one after the other, when it is a tuple."""
    left = {method: list(value) if isinstance(value, tuple) else None for method, value in table.items()}

    def answer(request):
        method = request["method"]
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if method not in table:
            reply["error"] = {"code": -32601, "message": f"Method not found: {method}"}
        else:
            reply["result"] = left[method].pop(0) if left[method] else table[method]
        return (json.dumps(reply) + "\n").encode()
    return answer
