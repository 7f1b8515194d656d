# netroot: targets for a Debian 12 machine, as root. `make demo` and `make test` need nothing done before them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := /usr/local/go/bin:$(PATH)

STORE   ?= /var/lib/netroot
RECIPE  ?= debian-12
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: all build demo test e2e e2e-long hostile bench lint deps clean

all: build

deps:
	@.ci/deps

# Without cgo a root that stays root can give up its capabilities on all threads, and the program runs on any Linux.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o netroot ./cmd/netroot

demo: deps build
	./netroot build --store $(STORE) $(RECIPE)
	./netroot verify --store $(STORE) $(RECIPE)

lint: deps
	@test -z "$$(gofmt -l .)" || { echo 'not gofmt-ed:'; gofmt -l .; exit 1; }
	go vet -tags e2e ./...
	go tool staticcheck -tags e2e ./...

# A program with the race detector sleeps for a second when it ends, and the tests start and end hundreds. Somebody else's decoder, which
# shares nothing with another goroutine, takes half of the time of some packages when every byte it touches is recorded.
test: deps
	GORACE=atexit_sleep_ms=10 go test -race -timeout 20m -gcflags=github.com/xi2/xz=-race=false ./...

e2e: deps build
	NETROOT=$(CURDIR)/netroot go test -p 1 -parallel 2 -count 1 -tags e2e -timeout 80m -v -run '^TestE2E' ./...

# What takes too long for every change: a Debian that is installed onto a disk.
e2e-long: deps build
	NETROOT=$(CURDIR)/netroot NETROOT_E2E_LONG=1 go test -count 1 -tags e2e -timeout 100m -v -run '^TestE2EDebianIsInstalled$$' ./boot

# What make test does with some ten thousand malformed packets, with a million to each port.
hostile: deps
	go test -count 1 -timeout 60m -v -run '^TestMalformed' ./boot/proxydhcp ./boot/tftp -args -malformed 2000000
	go test -count 1 -timeout 60m -v -run '^TestMalformed' ./boot/nfs ./boot/httpd -args -malformed 1000000

bench: deps build
	go test -p 1 -tags e2e -run '^$$' -bench . -benchtime 1x -timeout 90m ./builder ./cmd/netroot ./boot ./boot/proxydhcp ./boot/tftp ./boot/storm

clean:
	rm -f netroot
