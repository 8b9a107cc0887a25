# SPDX-License-Identifier: BSD-3-Clause
"""What `meson install` puts where it is told to: the libraries export plx_ symbols and no others, and programs link
against either. $BUILD names another build folder than build/."""
import os
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("BUILD", REPO / "build"))

PROGRAM = r"""
#include <pollux/pollux.h>
#include <stdio.h>
#include <string.h>

static int failed(int line, const char *text)
{
    printf("line %d: %s\n", line, text);
    return 1;
}

static void stop(struct plx_msg *msg)
{
    plx_reactor_stop(*(struct plx_reactor **)(msg + 1));
}

int main(void)
{
    struct { struct plx_msg msg; struct plx_reactor *r; } last = {{.fn = stop}, NULL};
    struct plx_error err;
    struct plx_bdev *bdev;
    struct plx_bdev_channel *ch;
    if (plx_bdev_open("ram:1M", &bdev, &err))
        return failed(__LINE__, err.text);
    if (plx_reactor_create(&last.r, NULL) || plx_bdev_channel_get(bdev, last.r, &ch))
        return failed(__LINE__, "no channel");
    plx_reactor_send(last.r, &last.msg);
    plx_reactor_run(last.r);
    plx_bdev_channel_put(ch);
    plx_reactor_destroy(last.r);
    plx_bdev_close(bdev);
    printf("all is well with %s\n", plx_version());
    return 0;
}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that everything was installed into."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env={**os.environ, "DESTDIR": str(root)})
    return root


def only(root, pattern):
    found = [path for path in root.rglob(pattern) if not path.is_symlink()]
    assert len(found) == 1, found
    return found[0]


def exported(path):
    """The names of what a library defines for others."""
    table = "--dyn-syms" if ".so" in path.name else "--syms"
    read = subprocess.run(["readelf", "-W", table, path], check=True, capture_output=True, text=True).stdout
    symbol = re.compile(r"^ *\d+: [0-9a-f]+ +\S+ +\S+ +(?:GLOBAL|WEAK|UNIQUE) +\S+ +(?!UND)\S+ +([^\s@]+)", re.M)
    return set(symbol.findall(read))


def declared(root):
    """The names of the functions in the headers."""
    text = "".join(path.read_text(encoding="utf-8") for path in root.rglob("include/pollux/*.h"))
    return set(re.findall(r"^PLX_API\b[^(;]*?\b(\w+)\(", text, re.M))


@pytest.mark.parametrize("library", ["libpollux.a", "libpollux.so.*"])
def test_symbols_are_those_of_the_headers_and_no_others(installed, library):
    names = exported(only(installed, library))
    assert "plx_version" in names
    assert sorted(name for name in names if not name.startswith("plx_")) == []
    assert names == declared(installed)


@pytest.mark.parametrize("static", [True, False], ids=["static", "shared"])
def test_a_program_links_against_the_library_and_works(installed, tmp_path, static):
    library = only(installed, "libpollux.a").parent
    (tmp_path / "program.c").write_text(PROGRAM, encoding="utf-8")
    pkg_config = ["pkg-config", "--cflags", "--libs", *(["--static"] if static else []), "pollux"]
    flags = subprocess.run(pkg_config, check=True, capture_output=True, text=True, env={
        **os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(installed)})
    words = [("-l:libpollux.a" if static and word == "-lpollux" else word) for word in flags.stdout.split()]
    subprocess.run(["cc", "-Wall", "-Werror", "-o", "program", "program.c", *words], cwd=tmp_path, check=True)
    needed = subprocess.run(["readelf", "-d", tmp_path / "program"], check=True, capture_output=True, text=True).stdout
    assert ("libpollux" in needed) == (not static)
    result = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False, timeout=60,
                            env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all is well" in result.stdout


def test_every_library_that_is_built_against_is_installed_by_make():
    text = (REPO / "meson.build").read_text()
    libraries = set(re.findall(r"dependency\('([^']+)'\)", text)) - {"threads"}
    assert len(libraries) >= 6
    listed = subprocess.run([REPO / "scripts/deps", "--list", "build"], check=True, capture_output=True, text=True)
    for library in libraries:
        folder = subprocess.run(["pkg-config", "--variable=pcfiledir", library], check=True, capture_output=True,
                                text=True).stdout.strip()
        file = f"*{folder.removeprefix('/usr')}/{library}.pc"
        found = subprocess.run(["dpkg-query", "-S", file], capture_output=True, text=True).stdout
        assert found.split(":")[0] in listed.stdout.split(), f"{library}: {found}"
