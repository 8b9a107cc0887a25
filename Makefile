# SPDX-License-Identifier: BSD-3-Clause
#
# A thin front for Meson and Ninja. Each target installs the Debian packages that it needs when they are missing.
#
#   make            build/pollux and the library
#   make run        build, and serve a 1 GiB RAM disk at 127.0.0.1:4420; Ctrl-C ends it (ARGS='serve ...' for another)
#   make check      the fast tests: unit tests, tidy, and what is installed
#   make test       every test; STAGES='...' names some of them (scripts/test --help)
#   make test-arm   the integration suite, and Linux as host and target, inside aarch64 virtual machines
#   make bench      the figures that README.md quotes
#   make soak       what takes hours: the simulator and the fuzzers from seeds that nobody has tried
#   make fuzz       the fuzz targets for FUZZ_SECONDS in all (default 600)
#   make arm64      the aarch64 build and its unit tests under qemu-user
#   make install    into DESTDIR, under PREFIX (default /usr/local)
#   make clean      removes everything that was built or downloaded

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 600
ARGS ?= serve ram:1G -l 127.0.0.1:4420

all: build/build.ninja
	@ninja -C build --quiet

build/build.ninja: | deps
	@mkdir -p build
	@meson setup build -Dtests=false -Dprefix=$(PREFIX) >build/setup.log 2>&1 || { cat build/setup.log; exit 1; }

deps:
	@scripts/deps build

run: all
	@scripts/foreground build/pollux $(ARGS)

check:
	@scripts/test fast

test:
	@scripts/test $(STAGES)

fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test fuzz

soak:
	@scripts/test soak

arm64:
	@scripts/test arm64

test-arm:
	@scripts/test arm

bench: all
	@scripts/deps bench
	@meson configure build -Dtests=true # what counts the core's instructions is among them
	@bench/run

install: all
	@meson configure build -Dprefix=$(PREFIX)
	@meson install -C build

clean:
	@rm -rf build build-asan build-tsan build-fuzz build-arm64 build-arm64-sysroot build-results

.PHONY: all deps run check test test-arm soak fuzz arm64 bench install clean
