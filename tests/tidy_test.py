# SPDX-License-Identifier: BSD-3-Clause
"""Each rule of scripts/tidy finds the fault it is for, and lets its neighbour pass."""
import importlib.machinery
import importlib.util
import shutil
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SPDX = "/* SPDX-License-Identifier: BSD-3-Clause */\n"


def load_tidy():
    loader = importlib.machinery.SourceFileLoader("tidy", str(REPO / "scripts/tidy"))
    loader_spec = importlib.util.spec_from_loader("tidy", loader)
    module = importlib.util.module_from_spec(loader_spec)
    loader.exec_module(module)
    return module


tidy = load_tidy()


@pytest.fixture
def tree(tmp_path):
    """Writes {path: text} and gives what the named rule finds, as (path, line, detail)."""
    def found(rule, files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        findings, _ = tidy.run(tmp_path, [rule])
        return [(f.path, f.line, f.detail) for f in findings]
    return found


def function(name, lines):
    return f"static int {name}(int a,\n    int b)\n{{\n" + "    a += b;\n" * (lines - 4) + "}\n"


def test_a_function_of_71_lines_is_too_long_and_one_of_70_is_not(tree):
    text = function("fits", 70) + "\n" + function("exceeds", 71)
    assert tree("function-length", {"src/base/a.c": text}) == [("src/base/a.c", 72, "exceeds")]


def test_a_function_with_an_attribute_is_named_by_its_own_name(tree):
    text = "__attribute__((format(printf, 1, 2)))\n" + function("exceeds", 80)
    assert tree("function-length", {"src/base/a.c": text}) == [("src/base/a.c", 1, "exceeds")]


def test_static_functions_of_two_files_have_two_names(tree):
    text = "void begin(void)\n{\n}\n"
    files = {"src/a/a.c": f"{function('submit', 9)}\n{function('a_end', 9)}", "src/b/b.c": "\n" + function("submit", 9),
             "src/b/c.c": "__attribute__((cold)) static " + text, "src/b/d.c": text,
             "src/b/e.c": "static int submit(void);\n", "tests/a.c": function("submit", 9)}
    assert tree("same-name", files) == [("src/a/a.c", 1, "submit"), ("src/b/b.c", 2, "submit")]


def test_a_file_of_1001_lines_is_too_long(tree):
    files = {"src/base/long.c": "int a;\n" * 1001, "src/base/fits.c": "int a;\n" * 1000}
    assert tree("file-length", files) == [("src/base/long.c", 1, "")]


@pytest.mark.parametrize("path, head", [
    ("src/base/a.c", ""), ("tests/a.py", ""), ("src/meson.build", ""), ("scripts/a", "#!/bin/sh\n"), ("a.bash", "")])
def test_a_line_of_code_of_121_columns_is_too_long(tree, path, head):
    text = head + "ä" * 120 + "\n" + "x" * 121 + "\n"
    files = {path: text, "docs/a.md": text.removeprefix(head), "a.dict": text.removeprefix(head)}
    assert tree("line-length", files) == [(path, 2 + bool(head), "")]


@pytest.mark.parametrize("name", sorted(tidy.BANNED))
def test_banned_calls_are_found(tree, name):
    assert tree("banned-call", {"src/base/a.c": f"int x;\nvoid *y = {name} (a);\n"}) == [("src/base/a.c", 2, name)]


def test_what_only_looks_like_a_banned_call_is_let_pass(tree):
    text = '// system(x)\n/* rand() */ char *s = "atoi(x)"; my_system(x); ops->connect(x); ops.time(x); int rand;\n'
    assert tree("banned-call", {"src/base/a.c": text}) == []


def test_owned_calls_may_stand_with_their_owner_only(tree):
    text = "void f(void);\nint x = clock_gettime(a, b);\n"
    files = {path: text for path in ("src/reactor/a.c", "src/nvmf/a.c", "tests/unit/a.c", "bench/a.c")}
    assert tree("banned-call", files) == [("src/nvmf/a.c", 2, "clock_gettime")]


@pytest.mark.parametrize("call, owners", [
    ("socket", {"src/net/a.c"}), ("recvmsg", {"src/net/a.c"}), ("send", {"src/net/a.c"}),
    ("epoll_ctl", {"src/net/a.c", "src/reactor/a.c"}),
    ("getaddrinfo", {"src/nvme/where.c", "src/cli/a.c"})])
def test_the_net_has_few_doors(tree, call, owners):
    paths = ("src/cli/a.c", "src/net/a.c", "src/nvme/tcp_a.c", "src/nvme/where.c", "src/nvmf/a.c", "src/nvmf/tcp/a.c",
             "src/reactor/a.c")
    text = f"int a = s->ops->{call}(s);\nint s = {call}(1, 2, 3);\nssize_t (*{call})(int s);\n"
    assert tree("banned-call", {path: text for path in (*paths, "tests/unit/a.c")}) == [
        (path, 2, call) for path in paths if path not in owners]


@pytest.mark.parametrize("lines", [
    ["assert time.monotonic() < 5"], ["end = time.monotonic()", "assert end > 5"],
    ["a = time.time()", "b = now() - a", "assert b < 1"], ["a = []", "a.append(time.time())", "assert a[1] - a[0] < 1"],
    ["self.a = now()", "assert all(x < 1 for x in self.a)"]])
def test_a_python_test_that_asserts_elapsed_time_is_found(tree, lines):
    head = "import time\ndef now():\n    return time.time()\ndef test_a(self):\n"
    text = head + "".join(f"    {line}\n" for line in lines)
    assert tree("elapsed-time", {"tests/a.py": text, "bench/a.py": text}) == [("tests/a.py", 4 + len(lines), "")]


def test_a_python_test_may_have_limits(tree):
    text = ("import time\ndef test_a():\n    end = time.monotonic() + 5\n    while time.monotonic() < end:\n"
            "        time.sleep(1)\n        found = look()\n    assert found\ndef test_b(end):\n    assert end\n")
    assert tree("elapsed-time", {"tests/a.py": text}) == []


@pytest.mark.parametrize("lines", [
    ["assert_true(time(NULL) < 5);"], ["time_t end = time(NULL);", "assert_true(end > 5);"],
    ["struct timespec t;", "clock_gettime(CLOCK_MONOTONIC, &t);", "assert_int_equal(t.tv_sec,\n   5);"],
    ["x->from = now();", "int took = now() - x->from;", "assert_true(took < 5);"]])
def test_a_c_test_that_asserts_elapsed_time_is_found(tree, lines):
    text = "static time_t now(void)\n{\n    time_t t = time(NULL);\n    return t;\n}\n\nstatic void test_a(void)\n{\n"
    text += "".join(f"    {line}\n" for line in lines) + "}\n"
    assert tree("elapsed-time", {"tests/unit/a.c": text}) == [("tests/unit/a.c", 8 + len(lines), "")]


def test_a_c_test_may_look_at_simulated_time(tree):
    text = ("static void test_a(void)\n{\n    uint64_t end = plx_reactor_now(r);\n    time_t last = time(NULL);\n"
            "    assert_true(lifetime(3) < end);\n    while (time(NULL) < last + 3)\n        poll();\n}\n\n"
            "static void test_b(int last)\n{\n    assert_true(last);\n}\n")
    assert tree("elapsed-time", {"tests/unit/a.c": text}) == []


@pytest.mark.parametrize("word", tidy.LEFTOVERS)
def test_leftovers_are_found_in_any_file(tree, word):
    files = {"docs/a.md": f"one\n{word}: two\n", "src/base/a.c": f"/* mkstemp {word * 2} */\n"}
    assert tree("leftover", files) == [("docs/a.md", 2, "")]


HEADERS = {path: "" for path in (
    "src/base/log.h", "src/reactor/reactor.h", "src/bdev/driver.h", "src/bdev/bdev.h", "src/nvmf/nvmf.h",
    "src/nvmf/core.h", "src/nvme/pdu.h", "src/cli/cli.h", "src/tune/advice.h", "src/tune/tune.h",
    "include/pollux/base.h", "include/pollux/bdev.h", "include/pollux/nvmf.h", "include/pollux/nvme_status.h")}


@pytest.mark.parametrize("path, line", [
    ("src/base/a.c", '#include "bdev/driver.h"'),
    ("src/reactor/a.c", "#include <pollux/bdev.h>"),
    ("src/bdev/a.c", '#include "nvmf/core.h"'),
    ("src/bdev/driver/ram.c", '#include "nvme/pdu.h"'),
    ("src/bdev/driver/ram.c", '#include "../../nvmf/core.h"'),
    ("src/nvmf/a.c", '#include "reactor/reactor.h"'),
    ("src/nvmf/a.c", '#include "bdev/bdev.h"'),
    ("src/cli/a.c", '#include "base/log.h"'),
    ("src/cli/a.c", '#include "tune/tune.h"'),
    ("src/nvmf/a.c", '#include "cli/cli.h"'),
    ("src/nvmf/a.c", '#include "tune/advice.h"'),
    ("src/tune/a.c", '#include "nvmf/core.h"'),
    ("src/nvmf/a.c", '#include "no_such_header.h"'),
    ("src/nvmf/a.c", "#include <pollux/no_such_header.h>"),
    ("include/pollux/a.h", '#include "../../src/base/log.h"'),
])
def test_includes_that_are_refused(tree, path, line):
    header = line.split()[1].strip('<>"')
    assert tree("include", {**HEADERS, path: f"\n{line}\n"}) == [(path, 2, header)]


@pytest.mark.parametrize("path, line", [
    ("src/base/a.c", '#include "log.h"'),
    ("src/reactor/a.c", '#include "reactor/reactor.h"'),
    ("src/bdev/a.c", '#include "bdev/driver.h"'),
    ("src/bdev/driver/ram.c", '#include "bdev/driver.h"'),
    ("src/bdev/driver/nvme_admin.c", '#include "nvme/pdu.h"'),
    ("src/bdev/driver/nvme.c", '#include "nvme/pdu.h"'),
    ("src/bdev/a.c", "#include <pollux/nvme_status.h>"),
    ("src/nvmf/tcp/a.c", '#include "nvmf/nvmf.h"'),
    ("src/nvmf/a.c", '#include "nvme/pdu.h"'),
    ("src/cli/a.c", "#include <pollux/nvmf.h>"),
    ("src/cli/a.c", '#include "cli.h"'),
    ("src/cli/a.c", '#include "tune/advice.h"'),
    ("include/pollux/bdev.h", "#include <pollux/base.h>"),
    ("tests/unit/a.c", '#include "nvmf/nvmf.h"'),
    ("src/base/a.c", "#include <sys/uio.h>"),
])
def test_includes_that_are_allowed(tree, path, line):
    assert tree("include", {**HEADERS, path: f"\n{line}\n"}) == []


def test_a_new_room_has_to_be_named(tree):
    assert tree("include", {"src/attic/a.c": ""}) == [("src/attic/a.c", 1, "")]


def test_files_without_an_spdx_line_are_found(tree):
    files = {"src/base/a.c": "int a;\n", "src/base/b.c": SPDX, "docs/a.md": "text\n", "scripts/a": "#!/bin/sh\n"}
    assert tree("spdx", files) == [("scripts/a", 1, ""), ("src/base/a.c", 1, "")]


def test_whitespace_faults_are_found(tree):
    files = {"src/base/a.c": "int a;\n\tint b;\nint c; \nint d;", "Makefile": "a:\n\tb\n"}
    assert tree("whitespace", files) == [("src/base/a.c", 2, ""), ("src/base/a.c", 3, ""), ("src/base/a.c", 4, "")]


def test_headers_must_compile_alone_in_c_and_in_cpp(tree):
    files = {"include/pollux/bdev.h": "size_t f(void);\n",
             "include/pollux/base.h": "#include <stddef.h>\nint *class(size_t);\n",
             "include/pollux/nvmf.h": "#include <stddef.h>\nsize_t g(void);\n"}
    found = [(path, detail) for path, _, detail in tree("header-alone", files)]
    expected = [("include/pollux/base.h", "c++"), ("include/pollux/bdev.h", "c"), ("include/pollux/bdev.h", "c++")]
    assert found == expected


@pytest.mark.skipif(not shutil.which("clang-format-14"), reason="clang-format-14 is not installed")
def test_layout_that_clang_format_would_change_is_found(tree):
    files = {".clang-format": (REPO / ".clang-format").read_text(),
             "src/base/a.c": "int f(void) {\n  return 0; }\n", "src/base/b.c": "int f(void)\n{\n    return 0;\n}\n"}
    assert tree("layout", files) == [("src/base/a.c", 1, "")]


def test_an_exception_lets_pass_exactly_what_it_names(tree):
    files = {"src/base/a.c": "int x = atoi(a);\n", "src/base/b.c": "int x = atoi(a);\n",
             "scripts/tidy.exceptions": "banned-call src/base/a.c atoi # a reason\n"}
    assert tree("banned-call", files) == [("src/base/b.c", 1, "atoi")]


def test_an_exception_that_no_longer_applies_is_found(tree):
    files = {"src/base/a.c": "int x;\n",
             "scripts/tidy.exceptions": "# head\nbanned-call src/base/a.c atoi # a reason\n"}
    assert tree("banned-call", files) == [("scripts/tidy.exceptions", 2, "")]


def test_build_folders_are_not_read(tree):
    assert tree("spdx", {"build/a.c": "", "build-asan/x/a.c": "int a;\n"}) == []
