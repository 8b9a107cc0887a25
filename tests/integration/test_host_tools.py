# SPDX-License-Identifier: BSD-3-Clause
"""`pollux identify`, `pollux discover` and `pollux cp`."""

import contextlib
import json
import os
import pty
import subprocess
import threading

import pytest

from controller import BLOCK, DNR, Port, Subsystem, wait_for
from spec import DISCOVERY_NQN, Admin, Io
from target import Target, binary
from test_host import MIB, must, pattern, pollux


def url_of(target, nqn=None):
    return f"nvme+tcp://127.0.0.1:{target.port}/{nqn or target.nqn}"


# -- identify ---------------------------------------------------------------------------------------------------------


def test_identify_prints_the_terms_of_nvme_cli():
    with Target("ram:16M", "ram:8M?block=4096", options=["--serial", "ABC123"]) as target:
        lines = must("identify", url_of(target)).stdout.splitlines()
    assert lines[0] == "NVME Identify Controller:"
    assert "sn        : ABC123" in lines and "ver       : 0x20100" in lines and f"subnqn    : {target.nqn}" in lines
    assert "NVME Identify Namespace 1:" in lines and "NVME Identify Namespace 2:" in lines
    assert "nsze    : 0x8000" in lines and "nsze    : 0x800" in lines
    assert "lbaf  0 : ms:0   lbads:12 rp:0 (in use)" in lines


def test_identify_as_json():
    with Target("ram:16M", "ram:8M?block=4096") as target:
        told = json.loads(must("identify", "--json", url_of(target)).stdout)
        one = json.loads(must("identify", "--json", url_of(target) + "?nsid=2").stdout)
    assert told["controller"]["subnqn"] == target.nqn and told["controller"]["mdts"] == 8
    assert [ns["nsid"] for ns in told["namespaces"]] == [1, 2]
    assert told["namespaces"][0]["nsze"] == 32768 and told["namespaces"][1]["lbafs"][0]["ds"] == 12
    assert len(told["namespaces"][0]["uuid"]) == 36
    assert one["namespaces"] == told["namespaces"][1:]


def test_identify_survives_a_controller_that_talks_nonsense():
    with Port(Subsystem()) as port:
        port.on_admin = lambda connection, command: command.opcode == 6 and (
            connection.send_data(command, os.urandom(4096)) or True)
        result = pollux("identify", port.url)
        assert result.returncode in (0, 1) and "Sanitizer" not in result.stderr


@pytest.mark.parametrize("status,words", [
    (0x005, "Commands Aborted due to Power Loss Notification"), (0x016, "SGL Offset Invalid"),
    (0x019, "Keep Alive Timer Expired"), (0x02A, "Invalid Placement Handle List"), (0x084, "Format In Progress"),
    (0x105, "Asynchronous Event Request Limit Exceeded"), (0x13B, "Controller Data Queue Full"),
    (0x182, "Attempted Write to Read Only Range"), (0x191, "Authentication Required"),
    (0x288, "End-to-End Storage Tag Check Error"), (0x370, "Host Pathing Error"), (0x1C7, "Vendor Specific"),
    (0x734, "Vendor Specific"), (0x017, "unknown status"), (0x4FF, "Vendor Specific"), (0x5BF, "unknown status"),
], ids=lambda value: f"{value:03x}" if isinstance(value, int) else "")
def test_a_status_is_told_in_the_words_of_the_specification(status, words):
    with Port(Subsystem()) as port:
        port.on_admin = lambda connection, command: command.opcode == 6 and (
            connection.respond(command.cid, status | DNR) or True)
        assert f"{words} ({status:03x})" in pollux("identify", port.url).stderr


# -- discover ---------------------------------------------------------------------------------------------------------


def test_discover_prints_the_terms_of_nvme_cli():
    with Target("ram:1M") as target:
        lines = must("discover", f"127.0.0.1:{target.port}").stdout.splitlines()
    assert lines[0].startswith("Discovery Log Number of Records 2, Generation counter ")
    for line in ("=====Discovery Log Entry 1======", "trtype:  tcp", "adrfam:  ipv4", "subtype: nvme subsystem",
                 f"trsvcid: {target.port}", f"subnqn:  {target.nqn}", "traddr:  127.0.0.1", "sectype: none"):
        assert line in lines


def test_discover_as_json():
    one, two = "nqn.2014-08.org.nvmexpress:one", "nqn.2014-08.org.nvmexpress:two"
    with Target("-n", one, "ram:1M", "-n", two, "ram:2M") as target:
        told = json.loads(must("discover", "--json", f"127.0.0.1:{target.port}").stdout)
    assert {record["subnqn"] for record in told["records"]} == {DISCOVERY_NQN, *target.nqns}
    assert all(record["trtype"] == "tcp" and record["trsvcid"] == str(target.port) for record in told["records"])


def referral(port):
    return (1, "127.0.0.1", str(port.address[1]), DISCOVERY_NQN)


def test_referrals_are_followed_each_once():
    with Port(Subsystem()) as one, Port(Subsystem()) as two, Port(Subsystem()) as gone:
        gone.close()
        one.subsystem.records = [(2, "127.0.0.1", "1", "nqn.a"), referral(two), referral(one), referral(gone)]
        two.subsystem.records = [(2, "127.0.0.1", "2", "nqn.b"), referral(one), referral(two)]
        result = must("discover", "--json", f"127.0.0.1:{one.address[1]}")
        told = json.loads(result.stdout)
    assert [[r["subnqn"] for r in log["records"] if r["subtype"] == "nvme subsystem"]
            for log in told["logs"]] == [["nqn.a"], ["nqn.b"]]
    assert "refused" in result.stderr  # the one that is gone


def test_a_controller_is_asked_once_by_whatever_name():
    with Port(Subsystem()) as one:
        one.subsystem.records = [(1, "localhost", str(one.address[1]), DISCOVERY_NQN)]
        told = json.loads(must("discover", "--json", f"localhost:{one.address[1]}").stdout)
        assert [log["address"] for log in told["logs"]] == [f"127.0.0.1:{one.address[1]}"]


@pytest.mark.parametrize("arguments",
                         [("--version",), ("help",), ("perf", "-t", "0.1", "ram:1M"), ("discover",), ("identify",)],
                         ids=lambda arguments: arguments[0])
def test_output_that_cannot_be_written_is_an_error(arguments):
    with Target("ram:1M") as target:
        where = {"discover": [f"127.0.0.1:{target.port}"], "identify": [url_of(target)]}
        with open("/dev/full", "wb") as full:
            result = subprocess.run([binary(), *arguments, *where.get(arguments[0], [])], stdout=full,
                                    stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "could not be written" in result.stderr


def test_what_is_wrong_with_a_disk_is_an_error_of_usage(tmp_path):
    image = tmp_path / "a.img"
    image.write_bytes(bytes(MIB))
    gone, other = tmp_path / "gone.img", tmp_path / "b.img"
    with Target("ram:1M") as target, Target(image):
        unknown = url_of(target).replace(target.nqn, "nqn.2014-08.org.example:none")
        for arguments in (("cp", gone, other), ("perf", gone), ("perf", image), ("cp", image, image),
                          ("identify", unknown),
                          ("perf", unknown), ("cp", unknown, other), ("perf", "--json", gone / "x", "ram:1M")):
            assert pollux(*arguments).returncode == 2, arguments
    assert not other.exists()


HOSTILE = {"traddr": b"1.2.3.4\x1b[2J\r\x9b", "trsvcid": b"1\x07\x1b]0;", "subnqn": b"nqn.\xff\xfe\x00"}


def discovered(port, *options):
    """Bytes: what stands there is what is looked at."""
    return subprocess.run([binary(), "discover", *options, f"127.0.0.1:{port.address[1]}"], capture_output=True,
                          timeout=60, check=False, stdin=subprocess.DEVNULL)


def hostile(port, subtype=2):
    """Has a discovery controller say what no terminal should get to see."""
    port.subsystem.records = [(subtype, "A" * 40, "S" * 20, "N" * 60)]
    log = port.subsystem.discovery_log()
    for mark, field in ((b"A" * 40, "traddr"), (b"S" * 20, "trsvcid"), (b"N" * 60, "subnqn")):
        log = log.replace(mark, HOSTILE[field].ljust(len(mark), b"\0" if field == "subnqn" else b" "))
    port.subsystem.discovery_log = lambda: log


def test_what_a_controller_says_does_not_steer_the_terminal():
    with Port(Subsystem()) as port:
        hostile(port)
        result = discovered(port)
    assert result.returncode == 0, result.stderr
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in result.stdout)
    lines = result.stdout.decode().splitlines()
    assert "traddr:  1.2.3.4?[2J??" in lines and "trsvcid: 1??]0;" in lines and "subnqn:  nqn.??" in lines


def test_what_a_controller_says_is_valid_json():
    with Port(Subsystem()) as port:
        hostile(port)
        result = discovered(port, "--json")
        assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in result.stdout)
        record, = json.loads(result.stdout)["records"]
        assert record["subnqn"] == "nqn.??" and record["trsvcid"] == "1\x07\x1b]0;"
        assert record["traddr"] == "1.2.3.4?[2J??"
        port.subsystem.records = [(2, "127.0.0.1", "1", "nqn.é\u009b")]
        del port.subsystem.discovery_log
        result = discovered(port, "--json")
        assert result.stdout.isascii() and json.loads(result.stdout)["records"][0]["subnqn"] == "nqn.é\u009b"


def test_a_referral_does_not_steer_the_terminal_through_the_words_about_it():
    with Port(Subsystem()) as port:
        hostile(port, 1)
        result = discovered(port)
    assert result.returncode == 0 and b"a port is a number" in result.stderr
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in result.stderr)


def test_a_log_that_changes_while_it_is_read_is_read_again():
    with Port(Subsystem()) as port:
        port.subsystem.records = [(2, "127.0.0.1", "1", "nqn.a")] * 100
        reads = []

        def change(connection, command):
            if command.opcode == 2 and not reads.append(command.cdw[12]) and len(reads) == 2:
                port.subsystem.genctr, port.subsystem.records = 2, [(2, "127.0.0.1", "1", "nqn.b")] * 3
            return False

        port.on_admin = change
        told = json.loads(must("discover", "--json", f"127.0.0.1:{port.address[1]}").stdout)
    assert told["genctr"] == 2 and [r["subnqn"] for r in told["records"]] == ["nqn.b"] * 3


def test_a_log_without_an_end_is_not_believed():
    with Port(Subsystem()) as port:
        port.subsystem.discovery_log = lambda: bytes(8) + b"\xff" * 8 + bytes(1008)
        result = pollux("discover", f"127.0.0.1:{port.address[1]}")
        assert result.returncode == 1 and "not believed" in result.stderr


@contextlib.contextmanager
def watching(port):
    """A `discover --watch` of the port. Gives a function that waits for the next log that it prints."""
    process = subprocess.Popen([binary(), "discover", "--watch", "--json", f"127.0.0.1:{port.address[1]}"],
                               stdout=subprocess.PIPE, text=True)
    end = threading.Timer(60, process.kill)
    end.start()
    try:
        yield lambda: json.loads(process.stdout.readline())
    finally:
        end.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def test_watching_prints_changes():
    with Port(Subsystem()) as port:
        port.subsystem.records = [(2, "127.0.0.1", "1", "nqn.a")]
        with watching(port) as next_log:
            assert next_log()["records"][0]["subnqn"] == "nqn.a"
            assert wait_for(lambda: any(connection.aers for connection in port.connections))
            port.subsystem.genctr, port.subsystem.records = 2, [(2, "127.0.0.1", "1", "nqn.b")]
            port.event(2 | 0xF0 << 8 | 0x70 << 16)
            assert next_log()["records"][0]["subnqn"] == "nqn.b"


def test_watching_a_controller_that_refuses_to_tell_of_changes_is_an_error():
    with Port(Subsystem()) as port:
        port.on_admin = lambda connection, command: (
            command.opcode == Admin.AER and not connection.respond(command.cid, 0x01 | DNR))
        result = pollux("discover", "--watch", f"127.0.0.1:{port.address[1]}")
    assert result.returncode == 1 and "Discovery Log" in result.stdout
    assert "refuses to tell of events: Invalid Command Opcode (001)" in result.stderr


def test_of_what_a_changed_log_refers_to_only_the_new_is_asked():
    with Port(Subsystem()) as port, Port(Subsystem()) as one, Port(Subsystem()) as two:
        refer = [(1, "127.0.0.1", str(other.address[1]), DISCOVERY_NQN) for other in (one, two)]
        port.subsystem.records = refer[:1]
        with watching(port) as next_log:
            assert len(next_log()["logs"]) == 2
            assert wait_for(lambda: any(connection.aers for connection in port.connections))
            port.subsystem.genctr, port.subsystem.records = 2, refer
            port.event(2 | 0xF0 << 8 | 0x70 << 16)
            told = next_log()
        addresses = [log["address"] for log in told["logs"]]
        assert addresses == [f"127.0.0.1:{other.address[1]}" for other in (port, two)]
        assert len(one.connections) == len(two.connections) == 1


def test_numbers_that_json_integers_have_no_room_for_are_text():
    with Port(Subsystem()) as port:
        port.subsystem.namespace = lambda: bytes([0xFF] * 24 + [0] * 4072)
        told, = json.loads(must("identify", "--json", port.url).stdout)["namespaces"]
        assert told["nsze"] == str((1 << 64) - 1) and told["nlbaf"] == 0
        port.subsystem.genctr = 1 << 63
        assert json.loads(must("discover", "--json", f"127.0.0.1:{port.address[1]}").stdout)["genctr"] == str(1 << 63)


def test_a_change_is_not_forgotten_over_another_event():
    """Both come while a log is being read."""
    changed, other = 2 | 0xF0 << 8 | 0x70 << 16, 2 | 0x01 << 8 | 0x03 << 16
    with Port(Subsystem()) as port:
        held = []

        def armed():
            return wait_for(lambda: any(connection.aers for connection in port.connections))

        with watching(port) as next_log:
            next_log()
            assert armed()
            port.on_admin = lambda connection, command: (
                command.opcode == 2 and not held and not held.append((connection, command)))
            port.event(changed)
            assert wait_for(lambda: held)
            for event in (changed, other):
                assert armed()
                port.event(event)
            assert armed()  # both have been seen
            held[0][0]._log(held[0][1])
            next_log()
            next_log()


def test_a_change_is_not_forgotten_over_an_event_that_waits():
    """All come while the host reads what the first one calls for."""
    pending = [2 | 0xF0 << 8 | 0x70 << 16, 2 | 0x01 << 8 | 0x03 << 16]
    with Port(Subsystem()) as port:
        held = []

        def next_event():
            if pending and any(connection.aers for connection in port.connections):
                port.event(pending.pop(0))
            return not pending

        with watching(port) as next_log:
            next_log()
            assert wait_for(lambda: any(connection.aers for connection in port.connections))
            port.on_admin = lambda connection, command: (
                command.opcode == 2 and command.cdw[10] & 0xFF == 4 and not held.append((connection, command)))
            port.event(2 | 0x04 << 16)  # namespaces have changed
            assert wait_for(lambda: held)
            wait_for(next_event, 1)  # a host that takes one at a time does not take them yet
            held[0][0]._log(held[0][1])
            assert wait_for(next_event)
            next_log()


# -- cp ---------------------------------------------------------------------------------------------------------------


def sparse(path, size=32 * MIB):
    """Data at both ends and in the middle, holes between."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at in (0, size // 2 + 4096, size - MIB):
            file.seek(at)
            file.write(pattern(MIB))
    return path


def test_a_copy_is_the_same_and_as_sparse(tmp_path):
    source, copy = sparse(tmp_path / "source.img"), tmp_path / "copy.img"
    result = must("cp", "--verify", source, copy)
    assert copy.read_bytes() == source.read_bytes()
    assert os.stat(copy).st_blocks * 512 <= 4 * MIB
    assert "verified" in result.stdout


def test_zeroes_replace_what_was_there(tmp_path):
    source, copy = sparse(tmp_path / "source.img"), tmp_path / "copy.img"
    copy.write_bytes(b"\xaa" * (32 * MIB))
    must("cp", source, copy)
    assert copy.read_bytes() == source.read_bytes()
    assert os.stat(copy).st_blocks * 512 <= 8 * MIB


def test_zeroes_are_not_sent(tmp_path):
    source = sparse(tmp_path / "source.img", 8 * MIB)
    sent = []
    with Port(Subsystem(8 * MIB // BLOCK)) as port:
        port.on_io = lambda connection, command: command.opcode == Io.WRITE and sent.append(command.blocks * BLOCK)
        must("cp", source, port.url)
        assert bytes(port.subsystem.disk) == source.read_bytes() and sum(sent) < 4 * MIB


@pytest.mark.parametrize("blocks", ["?block=512", "?block=4096", "?block=65536"])
@pytest.mark.parametrize("chunk", ["64K", "1M"])
def test_block_sizes_may_differ(tmp_path, blocks, chunk):
    source, back = sparse(tmp_path / "source.img", 4 * MIB), tmp_path / "back.img"
    with Target("ram:8M" + blocks) as target:
        must("cp", "--verify", "--chunk", chunk, "--depth", "3", source, url_of(target))
        must("cp", url_of(target), back)
    assert back.read_bytes()[:4 * MIB] == source.read_bytes()


def test_what_does_not_fit_is_refused(tmp_path):
    source, small = sparse(tmp_path / "source.img"), tmp_path / "small.img"
    small.write_bytes(bytes(MIB))
    assert pollux("cp", source, small).returncode == 2
    assert pollux("cp", source, source).returncode != 0
    assert pollux("cp", tmp_path / "nothing.img", small).returncode != 0
    assert small.read_bytes() == bytes(MIB)


def test_a_difference_is_found(tmp_path):
    """The controller forgets what is written to one block."""
    source = tmp_path / "source.img"
    source.write_bytes(pattern(MIB))
    with Port(Subsystem(MIB // BLOCK)) as port:
        write = port.subsystem.disk

        def corrupt(connection, command):
            if command.opcode in (Io.READ, Io.COMPARE):
                write[700 * BLOCK] ^= 1
            return False

        port.on_io = corrupt
        result = pollux("cp", "--verify", "--depth", "1", source, port.url)
        assert result.returncode == 1 and "differs" in result.stderr


def test_an_error_names_the_place(tmp_path):
    source = tmp_path / "source.img"
    source.write_bytes(pattern(4 * MIB))
    with Port(Subsystem(4 * MIB // BLOCK)) as port:

        def refuse(connection, command):
            if command.opcode != Io.WRITE or command.slba < 2 * MIB // BLOCK:
                return False
            connection.collect(command, command.blocks * BLOCK)
            connection.respond(command.cid, 0x280)
            return True

        port.on_io = refuse
        result = pollux("cp", "--depth", "1", source, port.url)
        assert result.returncode == 1
        assert f"writing failed at byte {2 * MIB}" in result.stderr and "280" in result.stderr


def test_an_error_names_the_disk(tmp_path):
    source, copy = tmp_path / "source.img", tmp_path / "copy.img"
    source.write_bytes(pattern(MIB))
    for opcode, words, names in ((Io.READ, "reading failed at byte 0", 0), (Io.WRITE, "writing failed at byte 0", 1),
                                 (Io.FLUSH, f"flushing failed at byte {MIB}", 1)):
        with Port(Subsystem(MIB // BLOCK)) as port:

            def refuse(connection, command, opcode=opcode):
                if command.opcode != opcode:
                    return False
                if opcode == Io.WRITE:
                    connection.collect(command, command.blocks * BLOCK)
                connection.respond(command.cid, 0x280)
                return True

            port.on_io = refuse
            disks = (source, port.url) if names else (port.url, copy)
            result = pollux("cp", "--depth", "1", *disks)
            assert result.returncode == 1 and result.stderr.startswith(f"pollux: {port.url}: {words}: "), result.stderr


@pytest.mark.parametrize("form", ["{}", "file:{}", "file:{}?block=4096"])
def test_a_destination_that_is_no_file_yet_becomes_one_by_any_name(tmp_path, form):
    source, copy = sparse(tmp_path / "source.img"), tmp_path / "a b%41.img"
    must("cp", "--verify", source, form.format(str(copy).replace("%", "%25") if ":" in form else copy))
    assert copy.read_bytes() == source.read_bytes()
    assert os.stat(copy).st_blocks * 512 <= 4 * MIB


def test_progress_is_shown_on_a_terminal(tmp_path):
    source = tmp_path / "source.img"
    source.write_bytes(pattern(2 * MIB))
    with Port(Subsystem(2 * MIB // BLOCK)) as port:
        port.on_io = lambda connection, command: threading.Event().wait(0.2) and False
        ours, theirs = pty.openpty()
        process = subprocess.Popen([binary(), "cp", "--depth", "1", str(source), port.url], stderr=theirs,
                                   stdout=subprocess.PIPE)
        os.close(theirs)
        process.communicate(timeout=60)
        shown = b""
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:
            pass
        os.close(ours)
    assert process.returncode == 0 and b"left" in shown and b"/s" in shown and b"#" in shown


def test_a_pipe_gets_no_progress(tmp_path):
    source = sparse(tmp_path / "source.img", 4 * MIB)
    result = must("cp", source, tmp_path / "copy.img")
    assert result.stderr == "" and len(result.stdout.splitlines()) == 1
    assert must("cp", "--quiet", source, tmp_path / "copy2.img").stdout == ""


@pytest.mark.parametrize("words", [[], ["one"], ["a", "b", "c"], ["--depth", "0", "a", "b"],
                                   ["--chunk", "100K", "a", "b"], ["--what", "a", "b"], ["--depth"]], ids=str)
def test_wrong_usage_is_told_in_one_line(words):
    result = pollux("cp", *words)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_help():
    for command in ("cp", "identify", "discover"):
        assert command in must("help", command).stdout and must(command, "--help").stdout == must("help",
                                                                                                  command).stdout
