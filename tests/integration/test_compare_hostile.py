# SPDX-License-Identifier: BSD-3-Clause
"""`pollux compare host` against a machine that is broken, or means harm: it ends with one sentence, and no figure is
made of nonsense. And what such a host can do to `pollux compare target`."""
import json
import re
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress

import pytest

from target import Target, binary, wait_until
from test_compare import LIMIT, SHORT, run
from test_compare_two import agent, ask

LOAD = (*SHORT[:-2], "--hosts", "pollux")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EVIL = "\x1b]0;owned\x07\x9b2J"
MACHINE = {"machine": {"cpu": {}}, "cores": 2, "no_kernel": "none here", "pollux": "1", "disk": "null"}
COUNTERS = ("at", "busy", "user", "system", "threads", "softirq", "stolen")
SILENT = object()


class Fake:
    """A machine that answers as it should, but for what is changed: {what is asked for: an answer, bytes, or a function
    of how often it was asked for already}."""

    def __init__(self, target, **changed):
        self.target, self.changed, self.asked = target, changed, {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%u" % self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def right(self, what):
        if what == "machine":
            return MACHINE
        if what == "start":
            return {"port": int(self.target.port), "nqn": self.target.nqn}
        if what == "usage":
            return dict.fromkeys(COUNTERS, 1000 + self.asked.get(what, 0) / 100)
        return {"idle": 0} if what == "idle" else {}

    def answer(self, what):
        count = self.asked[what] = self.asked.get(what, 0) + 1
        answer = self.changed.get(what, self.right(what))
        return answer(count - 1) if callable(answer) else answer

    def serve(self):
        connection, _ = self.listener.accept()
        with suppress(OSError), connection, connection.makefile("rwb") as file:
            for line in file:
                request = json.loads(line)
                answer = self.answer(request.get("do", "hello"))
                if answer is SILENT:
                    continue
                if isinstance(answer, dict):
                    answer = json.dumps({"id": request["id"], **answer}).encode() + b"\n"
                file.write(answer)
                file.flush()


@pytest.fixture(scope="module", name="disk")
def serve_disk():
    with Target("null:64M", options=("--allow-any-host",)) as target:
        yield target


def measure(fake, *words, targets="pollux"):
    done = subprocess.run([binary(), "compare", "host", fake.address, "--key", "0" * 32, *LOAD, "--targets", targets,
                           *words], capture_output=True, text=True, timeout=LIMIT, check=False)
    said = re.sub(r"pollux: \d+ % done.*\n", "", done.stderr)
    assert done.returncode in (0, 1) and not CONTROL.search(said + done.stdout), (said, done.stdout)
    return done.returncode, said, done.stdout


def test_one_that_answers_as_it_should_is_measured(disk):
    status, said, table = measure(Fake(disk))
    assert (status, said) == (0, "") and "not measured" not in table and "failed" not in table


def changed(what, **members):
    """The right answer with other members."""
    return lambda fake: {what: lambda _: {**fake.right(what), **members}}


DEEP = b'{"id":%u,"machine":' + b"[" * 1000 + b"]" * 1000 + b"}\n"
NONSENSE = "the machine of the target says nonsense"


@pytest.mark.parametrize("what, members", [
    ("machine", {"cores": "2"}), ("machine", {"cores": 0}), ("machine", {"cores": -1}), ("machine", {"cores": 2.5}),
    ("machine", {"cores": 10 ** 9}), ("machine", {"machine": 7}), ("machine", {"machine": None}),
    ("machine", {"machine": {"x": "y" * 100_000}}), ("machine", {"machine": {"k" * 1000: 1}}),
    ("machine", {"machine": {f"evil{EVIL}": 1}}), ("machine", {"disk": 3}), ("machine", {"no_kernel": []}),
    ("idle", {"idle": "0"}), ("idle", {"idle": -1}), ("idle", {"idle": 1e300}), ("idle", {"idle": None}),
    ("start", {"port": 0}), ("start", {"port": 65536}), ("start", {"port": -1}), ("start", {"port": "4420"}),
    ("start", {"port": 4420.5}), ("start", {"nqn": "x"}), ("start", {"nqn": 1}), ("start", {"nqn": "nqn." + "a" * 300}),
    ("start", {"nqn": "nqn.2014-08.org,traddr=192.0.2.1"}), ("start", {"nqn": "nqn.2014-08.org?hdgst=1"}),
    ("start", {"nqn": f"nqn.{EVIL}"}),
    ("usage", {"at": "1"}), ("usage", {"at": None}), ("usage", {"busy": True}), ("usage", {"user": -5}),
    ("usage", {"system": 1e300}), ("usage", {"at": 5}), ("usage", {"threads": []}),
], ids=lambda value: str(value)[:40])
def test_what_is_nonsense_ends_it_with_a_sentence(disk, tmp_path, what, members):
    fake = Fake(disk)
    fake.changed = changed(what, **members)(fake)
    status, said, table = measure(fake, "--json", tmp_path / "a.json")
    assert (status, table) == (1, "")
    assert said.startswith(f"pollux: {NONSENSE}") and said.count("\n") == 1 and len(said) < 300, said


@pytest.mark.parametrize("member, step", [("at", 1e6), ("at", -1), ("busy", 1e9), ("user", -100), ("system", 1e8),
                                          ("threads", 1e9), ("stolen", 1e9)])
def test_counters_that_run_as_none_can_are_no_figures(disk, member, step):
    fake = Fake(disk)
    fake.changed = {"usage": lambda n: {**fake.right("usage"), member: 10_000 + n * step}}
    status, said, table = measure(fake)
    assert (status, table) == (1, "") and said.startswith(f"pollux: {NONSENSE}"), said


@pytest.mark.parametrize("answer", [
    b"\n", b"[]\n", b'"x"\n', b"\0\n", b"{}\n", b'{"id":"1"}\n', b'{"id":1e400}\n', b'{"id":99999}\n', b"x" * (1 << 20),
    b"{" * 5000 + b"\n", b'{"id":1,"id":1}\n', b'{"id":1,"error":7}\n', b'{"id":1,"x":"\xff\xfe"}\n',
    b'{"id":1,"x":' + b"[" * 1000 + b"]" * 1000 + b"}\n",
], ids=["empty", "array", "string", "zero", "without number", "number as text", "large number", "another's number",
        "endless", "deep", "twice", "error as number", "no UTF-8", "thousand levels"])
def test_what_is_no_answer_ends_it_with_a_sentence(disk, answer):
    status, said, table = measure(Fake(disk, hello=answer))
    assert (status, table) == (1, "")
    assert said == f"pollux: {NONSENSE}\n"


def test_answers_without_end_are_no_way_to_hold_it(disk):
    """Each with the number of a request that was given up on."""
    def flood(_):
        return b'{"id":0}\n' * 200_000
    fake = Fake(disk, hello=flood)
    status, said, _ = measure(fake)
    assert status == 1 and said == f"pollux: {NONSENSE}\n"


@pytest.mark.parametrize("what", ["hello", "usage"])
def test_silence_ends_it_with_a_sentence(disk, what):
    status, said, table = measure(Fake(disk, **{what: SILENT}))
    assert (status, table) == (1, "")
    assert said == "pollux: the machine of the target does not answer\n"


@pytest.mark.parametrize("what", ["hello", "start", "usage"])
def test_what_it_says_is_wrong_steers_no_terminal_and_is_cut_where_a_character_ends(disk, tmp_path, what):
    text = EVIL + "a" * 186 + "\N{SNOWMAN}" * 200
    status, said, table = measure(Fake(disk, **{what: {"error": text}}), "--json", tmp_path / "a.json")
    assert "]0;owned" in said + table and len(said) < 400
    if what != "start":
        assert status == 1 and not table
    else:
        cell, = json.loads((tmp_path / "a.json").read_text())["cells"]
        assert cell["status"] == "failed" and "]0;owned" in cell["reason"] and not CONTROL.search(cell["reason"])


def test_reasons_and_names_of_another_machine_steer_neither_a_terminal_nor_a_browser(disk, tmp_path):
    fake = Fake(disk)
    evil = EVIL + "\N{SNOWMAN}" * 150 + "<script>"
    fake.changed = changed("machine", no_kernel=evil, disk=evil, machine={"cpu": evil, "<b>": [evil]})(fake)
    status, _, _ = measure(fake, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html", targets="pollux,kernel")
    assert status == 0
    text, page = (tmp_path / "a.json").read_text(), (tmp_path / "a.html").read_text()
    doc = json.loads(text)
    assert {cell["status"] for cell in doc["cells"]} == {"measured", "not measured"} and doc["settings"]["disk"]
    assert not CONTROL.search(page) and "<b>" not in re.sub("<div class=.card.*", "", page)
    assert page.count("<script") == 3


def test_one_that_goes_away_later_ends_it_with_what_was_measured(disk, tmp_path):
    """A cell whose rounds are not all there is of those that were through."""
    def usage(n):
        return b"x\n" if n > 20 else fake.right("usage")
    fake = Fake(disk, usage=usage)
    status, said, table = measure(fake, "--json", tmp_path / "a.json")
    assert status == 1 and said.startswith(f"pollux: {NONSENSE}; what follows is of the rounds that were through\n")
    doc = json.loads((tmp_path / "a.json").read_text())
    cell, = doc["cells"]
    assert not doc["complete"] and 0 < len(cell["rounds"]) < 6
    assert "4 KiB read, QD8" in table


# ---- the target's side ----

@pytest.fixture(name="serving")
def serve(tmp_path):
    with agent(tmp_path / "agent") as running:
        yield running


def test_who_greets_slowly_does_not_hold_others_up(serving):
    """A byte at a time, and never all."""
    stop = threading.Event()

    def dribble(connection):
        while not stop.wait(0.5):
            try:
                connection.sendall(b" ")
            except OSError:
                return
    with serving.connect() as slow:
        thread = threading.Thread(target=dribble, args=(slow,), daemon=True)
        thread.start()
        try:
            with serving.connect() as host, host.makefile("rwb") as file:
                host.settimeout(30)
                assert ask(file, id=1, key=serving.key) == {"id": 1}
        finally:
            stop.set()
            thread.join()


@contextmanager
def admitted(serving):
    with serving.connect() as host, host.makefile("rwb") as file:
        host.settimeout(LIMIT)
        assert ask(file, id=1, key=serving.key) == {"id": 1}
        yield file


@pytest.mark.parametrize("line", [
    b"\n", b"[]\n", b'{"do": 1, "id": ' + b"[" * 1000 + b"]" * 1000 + b"}\n", b'{"do":"usage","x":"' + b"y" * (1 << 20),
    b'{"do":"usage","id":"\xff"}\n'], ids=["empty", "array", "deep", "endless", "no UTF-8"])
def test_a_host_that_sends_what_is_no_request_is_let_go(serving, line):
    with admitted(serving) as file:
        file.write(line)
        file.flush()
        with suppress(ConnectionResetError):  # where it did not read all of it
            assert file.read() == b""
    assert wait_until(lambda: "is gone" in serving.output())
    with admitted(serving) as file:
        assert ask(file, id=2, do="usage")["busy"] > 0


def test_a_disk_whose_name_is_no_text_is_named_all_the_same(tmp_path):
    disk = tmp_path / ("a" * 40 + "\udcff" + "\N{SNOWMAN}" * 20)
    with open(disk, "wb") as file:
        file.truncate(8 << 20)
    with agent(tmp_path / "agent", disk=disk) as running, admitted(running) as file:
        assert ask(file, id=2, do="machine")["disk"].startswith(str(tmp_path))
    run(*SHORT[:-2], "--targets", "pollux", "--hosts", "pollux", "--disk", disk, "--json", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["settings"]["disk"].startswith(str(tmp_path))
