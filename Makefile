# `make demo` and `make check` do everything on a fresh Debian 12 machine, as root. The rest are their steps.
SHELL := /bin/bash
CONFIG ?= release
BUILD := .build/$(CONFIG)
CLANG ?= $(firstword $(wildcard /opt/swift/usr/bin/clang) $(shell command -v clang-16) clang)
DESTDIR ?=
PROGRAMS := mobilityd mobilityctl mobility-generator mobility-arrive
BPF := $(patsubst Sources/CPrograms/bpf/%.bpf.c,Sources/CPrograms/%.bpf.o,$(wildcard Sources/CPrograms/bpf/*.bpf.c))

.PHONY: all setup bpf build install deb demo measure faults check model test lint format clean
all: build

setup:
	packaging/check-platform
	packaging/install-dependencies

bpf: $(BPF)
Sources/CPrograms/%.bpf.o: Sources/CPrograms/bpf/%.bpf.c $(wildcard Sources/CPrograms/bpf/*.h)
	$(CLANG) --target=bpf -mcpu=v3 -idirafter /usr/include/$(shell uname -m)-linux-gnu -O2 -g -Wall -Werror -c $< -o $@

# The runtime is linked in: a node needs no Swift, and hosts of a lab start programs in a tree of their own.
build: bpf
	swift build -c $(CONFIG) --static-swift-stdlib

install:
	install -D -m 755 $(BUILD)/mobilityd $(DESTDIR)/usr/sbin/mobilityd
	install -D -m 755 $(BUILD)/mobilityctl $(DESTDIR)/usr/bin/mobilityctl
	install -D -m 755 $(BUILD)/mobility-generator $(DESTDIR)/usr/lib/systemd/system-generators/mobility-generator
	install -D -m 755 $(BUILD)/mobility-arrive $(DESTDIR)/usr/lib/mobilityd/mobility-arrive
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system units/*.service
	install -D -m 644 dbus/org.mobilityd1.conf $(DESTDIR)/usr/share/dbus-1/system.d/org.mobilityd1.conf
	install -D -m 644 dbus/org.mobilityd1.service $(DESTDIR)/usr/share/dbus-1/system-services/org.mobilityd1.service
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/interfaces dbus/org.mobilityd1.*.xml
	install -D -m 644 dbus/org.mobilityd1.policy $(DESTDIR)/usr/share/polkit-1/actions/org.mobilityd1.policy
	install -d -m 755 $(DESTDIR)/etc/mobilityd/nodes

deb: setup build
	packaging/build-deb $(BUILD)

demo: setup build
	$(BUILD)/demo

# What clients see of moves; writes docs/measurements.md and docs/measurements.json.
measure: setup build
	$(BUILD)/measure --write

# Every fault at every point of the protocol; docs/testing.md. Writes docs/faults.md and docs/measurements.json.
faults: setup build
	$(BUILD)/faults --write --jobs 2

check: setup lint model build test

# The commit protocol, verified with spin; docs/testing.md.
model:
	docs/model/check

test:
	packaging/run-tests

lint:
	packaging/lint

format:
	swift format --in-place --recursive --parallel Sources Tests Package.swift

clean:
	rm -rf .build $(BPF)
