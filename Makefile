# `make demo` and `make check` do everything on a fresh Debian 12 machine, as root. The rest are their steps.
SHELL := /bin/bash
CONFIG ?= release
BUILD := .build/$(CONFIG)
CLANG ?= $(firstword $(wildcard /opt/swift/usr/bin/clang) clang)
PROGRAMS := mobilityd mobilityctl mobility-generator mobility-arrive
BPF := $(patsubst Sources/CPrograms/bpf/%.bpf.c,Sources/CPrograms/%.bpf.o,$(wildcard Sources/CPrograms/bpf/*.bpf.c))

.PHONY: all bpf build
all: build

bpf: $(BPF)
Sources/CPrograms/%.bpf.o: Sources/CPrograms/bpf/%.bpf.c $(wildcard Sources/CPrograms/bpf/*.h)
	$(CLANG) --target=bpf -mcpu=v3 -idirafter /usr/include/$(shell uname -m)-linux-gnu -O2 -g -Wall -Werror -c $< -o $@

build: bpf
	swift build -c $(CONFIG)
