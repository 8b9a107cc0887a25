# SPDX-License-Identifier: BSD-3-Clause
"""The command line of `pollux serve`: what it takes, what it refuses and how, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

import expect
import sqe
from disks import MIB
from host import Controller, discovery, new_hostnqn
from nvmetcp import Closed, Connection, Terminated
from spec import Sc
from target import Target, binary, sanitized, wait_until

REFUSED = 2  # exit status for a wrong option or disk
LIMIT = 30


def run(*arguments):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL)


def refused(*arguments):
    """Runs `pollux serve` with something wrong; returns the one line that says what."""
    result = run("serve", "-l", "127.0.0.1:0", *arguments)
    assert result.returncode == REFUSED, f"exit status {result.returncode}\n{result.stdout}{result.stderr}"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("pollux")
    return lines[0]


def works(target, nqn=None):
    """A host can write and read."""
    with Controller(target.address, nqn or target.nqn, io_queues=1) as controller:
        block = controller.namespace(1).block
        data = os.urandom(8 * block)
        controller.write(1, 0, data, block)
        assert controller.read(1, 0, 8, block) == data


# -- the command -----------------------------------------------------------------------------------------------------


def test_version_is_told():
    result = run("--version")
    assert result.returncode == 0 and re.search(r"\d+\.\d+", result.stdout) and result.stderr == ""


@pytest.mark.parametrize("words", [["help"], ["help", "serve"], ["--help"], ["serve", "--help"]])
def test_help_is_told_on_stdout(words):
    result = run(*words)
    assert result.returncode == 0 and "serve" in result.stdout and result.stderr == ""


def test_an_unknown_command_is_refused():
    result = run("sevre")
    assert result.returncode == REFUSED and "sevre" in result.stderr and len(result.stderr.splitlines()) == 1


# -- what it refuses -------------------------------------------------------------------------------------------------


def test_no_disk_is_refused():
    refused()


@pytest.mark.parametrize("arguments,word", [
    (["--no-such-option", "ram:1M"], "no-such-option"),
    (["--poll", "sometimes", "ram:1M"], "sometimes"),
    (["--max-io-size", "much", "ram:1M"], "much"),
    (["--max-io-size", "1000", "ram:1M"], "1000"),
    (["--max-io-size", "0", "ram:1M"], "0"),
    (["--queue-depth", "0", "ram:1M"], "0"),
    (["--queue-depth", "1025", "ram:1M"], "1025"),
    (["--queue-depth", "many", "ram:1M"], "many"),
    (["--in-capsule", "-1", "ram:1M"], "-1"),
    (["--peer-timeout", "never", "ram:1M"], "never"),
    (["--peer-timeout", "0", "ram:1M"], "0"),
    (["--cores", "x", "ram:1M"], "x"),
    (["--cores", "4-2", "ram:1M"], "4-2"),
    (["-m", "4095", "ram:1M"], "4095"),
    (["-n", "not-an-nqn", "ram:1M"], "not-an-nqn"),
    (["-n", "nqn.2014-08.org.nvmexpress:" + "x" * 223, "ram:1M"], "223"),
    (["-n", "nqn.2014-08.org.nvmexpress.discovery", "ram:1M"], "discovery"),
    (["--allow", "somebody", "ram:1M"], "somebody"),
    (["-l", "127.0.0.1:99999", "ram:1M"], "99999"),
    (["-l", "127.0.0.1:http-ish", "ram:1M"], "http-ish"),
    (["-l", "[::1:4420", "ram:1M"], "::1"),
    (["-l", "300.1.1.1:0", "ram:1M"], "300.1.1.1"),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None)
def test_a_wrong_option_is_refused_with_one_line_that_names_it(arguments, word):
    assert word in refused(*arguments)


@pytest.mark.parametrize("disk,word", [
    ("no-such-file.img", "no-such-file.img"), ("/no/such/dir/disk.img", "/no/such/dir/disk.img"), ("ram:", "ram:"),
    ("ram:0", "0"), ("ram:12Q", "12Q"), ("ram:-1M", "-1M"), ("ram:1M?block=1000", "1000"), ("ram:1M?block=0", "block"),
    ("ram:1M?blok=512", "blok"), ("file:///etc/hostname?ro=maybe", "maybe"), ("ram:1000", "1000"), ("tape:1G", "tape"),
    ("file:///no/such/file", "/no/such/file"), ("ram:1M?uuid=xyz", "xyz"), ("/tmp", "/tmp"), ("/dev/null", "/dev/null"),
])
def test_a_wrong_disk_is_refused_with_one_line_that_names_it(disk, word):
    assert word in refused(disk)


def test_a_second_wrong_disk_is_refused_too():
    assert "no-such-file" in refused("ram:1M", "no-such-file")


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.img"
    path.touch()
    assert "empty.img" in refused(path)


def test_a_file_that_is_not_a_multiple_of_the_block_is_refused_or_cut(tmp_path):
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(MIB + 100))
    result = subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", str(path)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    try:
        assert result.wait(LIMIT) == REFUSED
        assert len(result.stderr.read().splitlines()) == 1
    except subprocess.TimeoutExpired:
        result.terminate()
        assert result.wait(LIMIT) == 0
    finally:
        result.stdout.close()
        result.stderr.close()


def test_the_same_nqn_twice_is_refused():
    nqn = "nqn.2014-08.org.nvmexpress:twice"
    refused("-n", nqn, "ram:1M", "-n", nqn, "ram:2M")


def test_a_subsystem_without_disks_is_refused():
    refused("-n", "nqn.2014-08.org.nvmexpress:one", "ram:1M", "-n", "nqn.2014-08.org.nvmexpress:two")


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "-l", f"127.0.0.1:{port}", "ram:1M")
    assert result.returncode != 0 and str(port) in result.stderr


def test_any_host_is_let_in_on_loopback_only():
    for address in ("0.0.0.0:0", "[::]:0"):
        result = run("serve", "-l", address, "ram:1M")
        assert result.returncode == REFUSED
        assert "--allow" in result.stderr and len(result.stderr.splitlines()) == 1


def test_one_open_listener_among_loopback_ones_is_refused():
    result = run("serve", "-l", "127.0.0.1:0", "-l", "0.0.0.0:0", "ram:1M")
    assert result.returncode == REFUSED and "--allow" in result.stderr


def test_allow_any_host_opens_other_addresses():
    with Target("ram:1M", listen="0.0.0.0:0", options=["--allow-any-host"]) as target:
        with Controller(("127.0.0.1", target.port), target.nqn, io_queues=1) as controller:
            controller.read(1, 0, 1)


def test_allow_opens_other_addresses_to_those_named():
    hostnqn = new_hostnqn()
    with Target("ram:1M", listen="0.0.0.0:0", options=["--allow", hostnqn]) as target:
        with Controller(("127.0.0.1", target.port), target.nqn, hostnqn=hostnqn):
            pass


def test_a_refusal_creates_no_file(tmp_path):
    path = tmp_path / "new.img"
    refused(path)
    assert not path.exists()


# -- what it takes ---------------------------------------------------------------------------------------------------


def test_it_prints_where_it_listens_and_how_to_connect():
    with Target("ram:1M") as target:
        assert f"listening on 127.0.0.1:{target.port}" in target.stdout
        assert f"  nvme connect -t tcp -a 127.0.0.1 -s {target.port} -n {target.nqn}" in target.stdout.splitlines()
        assert target.nqn.startswith("nqn.")


def test_the_nqn_is_the_one_given():
    nqn = "nqn.2014-08.org.nvmexpress:mine"
    with Target("ram:1M", options=["-n", nqn]) as target:
        assert target.nqn == nqn
        works(target)


def test_the_default_nqn_is_the_same_every_time():
    with Target("ram:1M") as one, Target("ram:1M") as two:
        assert one.nqn == two.nqn


def test_disks_are_numbered_in_their_order():
    with Target("ram:1M", "ram:2M?block=4096", "null:3M") as target:
        with Controller(target.address, target.nqn) as controller:
            sizes = [controller.namespace(nsid).nsze * controller.namespace(nsid).block for nsid in (1, 2, 3)]
            assert sizes == [MIB, 2 * MIB, 3 * MIB]


@pytest.mark.parametrize("size,expected", [("4K", 4096), ("1M", MIB), ("1m", MIB), ("1G", 1 << 30), ("524288", 524288)])
def test_sizes_take_their_units(size, expected):
    with Target(f"null:{size}") as target, Controller(target.address, target.nqn) as controller:
        assert controller.namespace(1).nsze * 512 == expected


@pytest.mark.parametrize("mode", ["busy", "sleep", "adaptive"])
def test_every_way_of_polling_works(mode):
    with Target("ram:4M", options=["--poll", mode]) as target:
        works(target)
        time.sleep(0.3)  # asleep, if it sleeps
        works(target)


@pytest.mark.parametrize("size,mdts", [("4K", 0), ("64K", 4), ("128K", 5), ("1M", 8), ("512K", 7)])
def test_max_io_size_is_told_and_kept(size, mdts):
    with Target("ram:8M", options=["--max-io-size", size]) as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            assert controller.identity.max_transfer == 4096 << mdts if mdts else True
            blocks = (4096 << mdts) // 512
            data = os.urandom(blocks * 512)
            controller.write(1, 0, data)
            assert controller.read(1, 0, blocks) == data
            assert controller.io.execute(sqe.read(1, 0, blocks + 1), read=blocks * 512 + 512).status == Sc.INVALID_FIELD


def test_smaller_transfers_make_no_smaller_pool_of_buffers():
    if sanitized():
        pytest.skip("a sanitizer has pools of its own, when it likes")

    def mapped(*options):
        with Target("null:8M", options=("--cores", 1, *options)) as target:
            return target.data_bytes()

    assert abs(mapped("--max-io-size", "256K") - mapped()) < 4 * MIB
    assert mapped("--max-io-size", "2M") - mapped() > 12 * MIB  # 32 MiB


@pytest.mark.parametrize("depth", [2, 16, 128, 1024])
def test_queue_depth_is_told_and_kept(depth):
    with Target("ram:8M", options=["--queue-depth", depth]) as target:
        with Controller(target.address, target.nqn) as controller:
            assert controller.admin.property_get(0, 8) & 0xFFFF == depth - 1
            queue = controller.add_queue(1, sqsize=depth - 1)
            commands = queue.submit_all([(sqe.read(1, 0, 1), {"read": 512})] * (depth - 1))
            assert all(completion.status == Sc.SUCCESS for completion in queue.wait_all(commands))


@pytest.mark.parametrize("size,limit", [("512", 512), ("4K", 4096), ("8K", 8192), ("16K", 16384)])
def test_in_capsule_size_is_told_and_kept(size, limit):
    with Target("ram:8M", options=["--in-capsule", size]) as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            assert controller.identity.in_capsule == limit
            for blocks in (8, 16, 32):
                data = os.urandom(blocks * 512)
                controller.io.must(sqe.write(1, 0, blocks), out=data, in_capsule=blocks * 512 <= limit)
                assert controller.read(1, 0, blocks) == data


def test_long_options_are_the_short_ones():
    result = subprocess.run([binary(), "serve", "--listen", "127.0.0.1:0", "--nqn", "bad", "ram:1M"],
                            capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == REFUSED and "bad" in result.stderr


def test_quiet_says_no_more_than_errors_on_stderr():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    process = subprocess.Popen([binary(), "serve", "-q", "-l", f"127.0.0.1:{address[1]}", "ram:1M"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: socket.socket().connect_ex(address) == 0)
        with discovery(address):
            pass
    finally:
        process.terminate()
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and err == ""
    assert out == "" or "listening on" in out


def test_a_violation_is_logged_once_with_the_address_of_the_peer():
    with Target("ram:1M") as target:
        with Connection(target.address) as connection:
            peer = connection.socket.getsockname()
            connection.send(bytes([0x55]) + bytes(200))
            connection.wait_closed()
        works(target)
    assert sum(f"{peer[0]}:{peer[1]}" in line for line in target.stderr.splitlines()) == 1


# -- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_status_0_when_told(sign):
    with Target("ram:1M") as target:
        target.stop(sign)


@pytest.mark.parametrize("poll", ["busy", "sleep", "adaptive"])
def test_it_ends_with_hosts_connected(poll):
    with Target("ram:4M", options=["--poll", poll]) as target:
        controllers = [Controller(target.address, target.nqn, io_queues=2) for _ in range(5)]
        controllers[0].admin.submit(sqe.aer())
        bare = [Connection(target.address) for _ in range(5)]
        target.stop()
        for controller in controllers:
            controller.io.wait_closed()
            controller.close()
        for connection in bare:
            connection.close()


def test_it_ends_with_transfers_in_the_middle():
    with Target("ram:4M") as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            queue = controller.io
            queue.answer_r2ts = False
            write = queue.submit(sqe.write(1, 0, 64), out=bytes(32768))
            queue.wait_r2t(write)
            queue.send(bytes([4, 0, 72, 0]))  # half of the next header
            target.stop()


def test_what_comes_after_it_was_told_to_end_is_not_begun():
    """What was begun is finished and answered; then the connection ends."""
    with Target("ram:4M") as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            queue = controller.io
            queue.answer_r2ts = False
            write = queue.submit(sqe.write(1, 0, 64), out=bytes(32768), in_capsule=False)
            request = queue.wait_r2t(write)
            idle = Connection(target.address)
            target.process.send_signal(signal.SIGTERM)
            idle.wait_closed()  # it has been told
            late = queue.submit(sqe.write(1, 0, 8), out=b"\x01" * 4096, in_capsule=True)
            queue.answer(write, request)
            expect.status(queue.wait(write), Sc.SUCCESS)
            with pytest.raises((Closed, ConnectionError)):
                queue.wait(late)
            target.stop()


def test_it_ends_under_load_and_finishes_what_it_began(tmp_path):
    """Whatever a host was told was written is in the file."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8 * MIB))
    done = []
    with Target(path) as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            queue = controller.io
            try:
                for index in range(5000):
                    command = queue.submit(sqe.write(1, index % 1024 * 8, 8), out=struct_block(index))
                    if index == 200:
                        target.process.send_signal(signal.SIGTERM)
                    queue.wait(command)
                    done.append(index)
            except (Closed, Terminated):
                pass
            target.stop()
    assert len(done) >= 200
    content = path.read_bytes()
    for index in done[-1000:]:
        assert content[index % 1024 * 4096:][:4096] == struct_block(index)


def struct_block(index):
    return index.to_bytes(8, "little") * 512


def test_a_signal_during_start_is_obeyed():
    for delay in (0, 0.001, 0.005, 0.02):
        process = subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", "ram:1M"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.terminate()
        assert process.wait(LIMIT) in (0, -signal.SIGTERM)


def test_two_signals_end_it_as_well():
    with Target("ram:1M") as target:
        target.process.send_signal(signal.SIGINT)
        target.process.send_signal(signal.SIGTERM) if target.process.poll() is None else None
        status = target.process.wait(LIMIT)
        assert status in (0, -signal.SIGTERM)
        target.kill()


def test_it_can_start_again_on_the_same_port_at_once():
    with Target("ram:1M") as target:
        port = target.port
        for kill in (False, True):
            with Controller(target.address, target.nqn, io_queues=1) as controller:
                controller.read(1, 0, 1)
                target.restart(kill=kill)
            assert target.port == port
            works(target)


def test_it_runs_when_stdout_is_closed_early():
    process = subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", "ram:1M"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()
    process.stdout.close()
    assert line
    time.sleep(0.2)
    process.terminate()
    assert process.wait(LIMIT) == 0
