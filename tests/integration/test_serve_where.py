# SPDX-License-Identifier: BSD-3-Clause
"""Where `pollux serve` runs: on several cores and on one, without io_uring, locked memory, or privileges."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

import expect
import sqe
from disks import MIB
from host import Controller
from rpc import Server
from spec import ALL_NAMESPACES, FUSE_FIRST, FUSE_SECOND, Sc
from target import Target, binary, wait_until

SECCOMP = pathlib.Path(__file__).resolve().parent / "seccomp.py"
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        file.truncate(32 * MIB)
    return path


def exercise(target, nsid=1, first=0):
    """All that reaches the disk, on two queues."""
    with Controller(target.address, target.nqn, io_queues=2) as controller:
        for queue in controller.queues:
            data = os.urandom(MIB)
            controller.write(nsid, first, data, queue=queue)
            controller.flush(nsid, queue=queue)
            assert controller.read(nsid, first, 2048, queue=queue) == data
            queue.must(sqe.write_zeroes(nsid, first, 16))
            queue.must(sqe.dsm(nsid, 1), out=sqe.dsm_range(first + 16, 16))
            queue.must(sqe.compare(nsid, first, 8), out=bytes(4096))
            assert controller.read(nsid, first + 32, 8, queue=queue) == data[32 * 512:40 * 512]
        batch = [(sqe.write(nsid, first + index * 8, 8), {"out": bytes([index + 1]) * 4096}) for index in range(30)]
        for completion in controller.io.wait_all(controller.io.submit_all(batch)):
            expect.status(completion, Sc.SUCCESS)
        for index in range(30):
            assert controller.read(nsid, first + index * 8, 8) == bytes([index + 1]) * 4096


# -- cores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poll", ["adaptive", "sleep", "busy"])
def test_two_reactors_serve_queues_on_both(image, poll):
    if len(CORES) < 2:
        pytest.skip("one core")
    with Target("ram:32M", image, options=["-m", f"{CORES[0]},{CORES[1]}", "--poll", poll]) as target:
        failures = []

        def work(number):
            try:
                exercise(target, 1 + number % 2, number * 8192)
            except BaseException as error:  # pylint: disable=broad-except
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert len(busy_threads(target)) >= 2


def busy_threads(target):
    """Threads that have used CPU time, or are allowed on one core only: the reactors."""
    result = []
    for task in pathlib.Path(f"/proc/{target.pid}/task").iterdir():
        if len(os.sched_getaffinity(int(task.name))) == 1:
            result.append(task.name)
    return result


def test_many_controllers_over_two_reactors_come_and_go():
    if len(CORES) < 2:
        pytest.skip("one core")
    with Target("ram:32M", options=["-m", f"{CORES[0]},{CORES[1]}"]) as target:
        for _ in range(20):
            controllers = [Controller(target.address, target.nqn, io_queues=4) for _ in range(3)]
            for controller in controllers:
                for queue in controller.queues:
                    queue.must(sqe.write(1, 0, 64), out=bytes(32768))
            controllers[0].shutdown()
            controllers[1].io.reset()
            for controller in controllers:
                controller.close()


@pytest.mark.parametrize("cores", ["0", "0x1", "1", "0-0"])
def test_cores_are_a_list_or_a_mask(cores):
    core = int(cores, 16).bit_length() - 1 if cores.startswith("0x") else int(cores.split("-")[0])
    if core not in CORES:
        pytest.skip(f"no core {core}")
    with Target("ram:4M", options=["-m", cores]) as target:
        assert os.sched_getaffinity(target.pid) == {core} or str(core) in str(busy_cores(target))
        exercise_small(target)


def busy_cores(target):
    return {frozenset(os.sched_getaffinity(int(task.name)))
            for task in pathlib.Path(f"/proc/{target.pid}/task").iterdir()}


def exercise_small(target):
    with Controller(target.address, target.nqn, io_queues=1) as controller:
        data = os.urandom(MIB)
        controller.write(1, 0, data)
        assert controller.read(1, 0, 2048) == data


def controlling(target):
    """The thread that answers on the control socket."""
    thread, = [int(task.name) for task in pathlib.Path(f"/proc/{target.pid}/task").iterdir()
               if (task / "comm").read_text() == "pollux-control\n"]
    return thread


@pytest.mark.parametrize("core", CORES[:2])
def test_what_controls_it_keeps_off_the_reactors_cores(core):
    if len(CORES) < 2:
        pytest.skip("one core")
    with Server("ram:4M", options=["-m", core]) as target, target.client() as client:
        assert client.call("spdk_get_version")
        assert os.sched_getaffinity(controlling(target)) == set(CORES) - {core}
        assert os.sched_getaffinity(target.pid) == {core}  # of the reactor


def test_what_controls_it_is_anywhere_where_all_cores_are_reactors():
    with Server("ram:4M", options=["-m", ",".join(map(str, CORES))]) as target, target.client() as client:
        assert client.call("spdk_get_version")
        assert os.sched_getaffinity(controlling(target)) == set(CORES)


def test_a_core_outside_the_cpuset_is_refused():
    taskset = shutil.which("taskset")
    if not taskset or len(CORES) < 2:
        pytest.skip("needs taskset and two cores")
    result = subprocess.run([taskset, "-c", str(CORES[0]), binary(), "serve", "-l", "127.0.0.1:0", "-m", str(CORES[1]),
                             "ram:1M"],
                            capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("core", CORES[-2:])
@pytest.mark.parametrize("poll", ["adaptive", "sleep", "busy"])
def test_it_runs_on_the_one_core_it_is_given(image, core, poll):
    if not shutil.which("taskset"):
        pytest.skip("needs taskset")
    with Target(image, prefix=["taskset", "-c", core], options=["--poll", poll]) as target:
        exercise(target)
        assert all(os.sched_getaffinity(int(task.name)) == {core}
                   for task in pathlib.Path(f"/proc/{target.pid}/task").iterdir())


# -- what the kernel forbids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("poll", ["adaptive", "sleep", "busy"])
def test_it_runs_where_io_uring_is_forbidden(image, error, poll):
    with Target(image, prefix=[sys.executable, str(SECCOMP), error], options=["--poll", poll]) as target:
        exercise(target)


def test_what_is_to_be_safe_fails_when_it_cannot_be_made_safe(image):
    """Flush and FUA reach the kernel: each fails when that does, and nothing else."""
    with Target(image, prefix=[sys.executable, str(SECCOMP), "EPERM", "sync"]) as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            for in_capsule in (True, False):
                for fua in (False, True):
                    write = controller.io.execute(sqe.write(1, 0, 1, fua=fua), out=bytes(512), in_capsule=in_capsule)
                    expect.status(write, Sc.WRITE_FAULT if fua else Sc.SUCCESS)
                    zeroes = controller.io.execute(sqe.write_zeroes(1, 8, 8, fua=fua))
                    expect.status(zeroes, Sc.WRITE_FAULT if fua else Sc.SUCCESS)
                    _, write = controller.io.wait_all(controller.io.submit_all([
                        (sqe.compare(1, 0, 1, fuse=FUSE_FIRST), {"out": bytes(512)}),
                        (sqe.write(1, 0, 1, fuse=FUSE_SECOND, fua=fua), {"out": bytes(512)})]))
                    expect.status(write, Sc.WRITE_FAULT if fua else Sc.SUCCESS)
            for nsid in (1, ALL_NAMESPACES):
                expect.status(controller.io.execute(sqe.flush(nsid)), Sc.WRITE_FAULT)
        target.kill()  # at the end it would flush, and say that it cannot


def test_it_serves_several_files_where_io_uring_is_forbidden(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.img")
        with open(paths[-1], "wb") as file:
            file.truncate(8 * MIB)
    with Target(*paths, prefix=[sys.executable, str(SECCOMP), "EPERM"]) as target:
        for nsid in (1, 2, 3):
            exercise(target, nsid)


def test_it_runs_without_locked_memory(image):
    if not shutil.which("prlimit"):
        pytest.skip("needs prlimit")
    with Target("ram:8M", image, prefix=["prlimit", "--memlock=0:0"]) as target:
        exercise(target, 2)


def test_it_runs_with_few_descriptors_and_says_no_politely(image):
    """When there are no more, new hosts wait or are closed; those that are there go on."""
    if not shutil.which("prlimit"):
        pytest.skip("needs prlimit")
    with Target("ram:8M", image, prefix=["prlimit", "--nofile=40:40"]) as target:
        with Controller(target.address, target.nqn, io_queues=1) as controller:
            others = []
            for _ in range(40):
                try:
                    others.append(Controller(target.address, target.nqn, enable=False, timeout=2))
                except Exception:  # pylint: disable=broad-except
                    break
            for _ in range(10):
                controller.read(1, 0, 64)
            for other in others:
                other.close()
        assert wait_until(lambda: target.descriptors() < 25)
        exercise(target, 2)


def unprivileged():
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or not setpriv:
        pytest.skip("needs root and setpriv")
    words = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    if subprocess.run([*words, "test", "-x", binary()], check=False).returncode:
        pytest.skip("nobody may not run the binary where it is")
    return words


def test_it_runs_without_privileges():
    """No root and no capability is needed for RAM disks and files of one's own."""
    with Target("ram:8M", prefix=unprivileged()) as target:
        exercise(target)


def test_it_runs_without_privileges_and_locked_memory():
    with Target("ram:8M", prefix=[*unprivileged(), "prlimit", "--memlock=0:0"]) as target:
        exercise(target)


def test_a_file_of_somebody_else_is_refused(image):
    image.chmod(0o600)
    image.parent.chmod(0o755)
    result = subprocess.run([*unprivileged(), binary(), "serve", "-l", "127.0.0.1:0", str(image)], capture_output=True,
                            text=True, timeout=30, check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "disk.img" in result.stderr


def test_no_huge_pages_are_needed():
    """Nothing of the process is on huge pages of the pool, and it runs (there may be none on this machine anyway)."""
    with Target("ram:8M") as target:
        exercise(target)
