# SPDX-License-Identifier: BSD-3-Clause
"""Which cores `--cores auto` takes, of machines that were written down."""
import json
import subprocess

import pytest

from machines import CPU, Machine
from target import binary


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Machine(tmp_path_factory.mktemp(name), name)
        return made[name]
    return get


def run(machine, n):
    return subprocess.run([binary(), "tune", "--root", str(machine.root), "--json", "-m", f"auto:{n}" if n else "auto",
                           "core.smt"], capture_output=True, text=True, timeout=60, check=False)


def place(machine, n):
    done = run(machine, n)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout)["cores"])


def cores(*ranges):
    return {core for first, last in ranges for core in range(first, last + 1)}


def allowed(text):
    return {"proc/self/status": f"Name:\tpollux\nCpus_allowed_list:\t{text}"}


# xeon: two packages of 16 cores, whose second threads are 32 and up; the NIC and an SSD are at the second.
# altra: nodes of 20; the NIC at the first, an SSD at the third.
# kunpeng: nodes of 32, in clusters of 4; the NIC at the second.
@pytest.mark.parametrize("name, n, wanted", [
    ("xeon", 8, cores((16, 23))), ("xeon", 16, cores((16, 31))), ("xeon", 20, cores((16, 31), (0, 3))),
    ("xeon", 32, cores((0, 31))), ("xeon", 34, cores((0, 31), (48, 49))), ("xeon", 0, cores((0, 31))),
    ("altra", 3, cores((0, 2))), ("altra", 24, cores((0, 19), (40, 43))), ("altra", 0, cores((0, 79))),
    ("kunpeng", 4, cores((32, 35))), ("kunpeng", 6, cores((32, 37))), ("kunpeng", 40, cores((32, 63), (0, 7))),
    ("vm", 0, {0}), ("vm", 2, {0, 1}),
])
def test_cores_are_near_what_is_served_and_second_threads_last(machines, name, n, wanted):
    assert place(machines(name), n) == wanted


def test_a_cluster_that_is_not_all_ours_comes_after_those_that_are(machines):
    with machines("kunpeng").changed(allowed("34-42")) as machine:
        assert place(machine, 4) == cores((36, 39))
        assert place(machine, 6) == cores((34, 39))
        assert place(machine, 0) == cores((34, 42))


def test_only_cores_of_the_cpuset_are_taken(machines):
    with machines("xeon").changed(allowed("3,35,40-41")) as machine:
        assert place(machine, 3) == {3, 40, 41}
        assert place(machine, 4) == {3, 35, 40, 41}
        done = run(machine, 5)
        assert done.returncode == 2 and "5 cores are more than the 4 that this process may run on" in done.stderr


def test_cores_that_are_offline_are_not_taken(machines):
    """They stay in the cpuset, and so do those that could be plugged in; their topology goes."""
    online = {f"{CPU}/online": "0-17,20", f"{CPU}/cpu1[89]/topology": None, f"{CPU}/cpu19/cache": None}
    with machines("xeon").changed({**online, **allowed("0-255")}) as machine:
        assert place(machine, 4) == {16, 17, 20, 0}
        assert place(machine, 0) == cores((0, 17), (20, 20))
        done = run(machine, 20)
        assert done.returncode == 2 and "20 cores are more than the 19 that this process may run on" in done.stderr
    with machines("xeon").changed({**online, **allowed("18-19")}) as machine:
        done = run(machine, 0)
        assert done.returncode == 2 and done.stderr == (
            "pollux: --cores auto: none of the cores that this process may run on is online\n")


def test_where_what_is_online_is_not_told_the_cpuset_counts(machines):
    with machines("kunpeng").changed({f"{CPU}/online": None, **allowed("34-37")}) as machine:
        assert place(machine, 0) == cores((34, 37))


def test_a_cpuset_in_many_pieces_is_taken_whole(machines):
    with machines("altra").changed(allowed(",".join(str(core) for core in range(0, 1024, 2)))) as machine:
        assert place(machine, 0) == set(range(0, 80, 2))


def test_cores_beyond_those_that_are_known_of_are_left_out(machines):
    with machines("vm").changed({f"{CPU}/online": "0-4000", **allowed("1,1024,4000")}) as machine:
        assert place(machine, 0) == {1}


def test_without_a_topology_cores_are_taken_in_turn(machines):
    with machines("kunpeng").changed({f"{CPU}/cpu0/topology/*": None}) as machine:
        assert len(place(machine, 5)) == 5
