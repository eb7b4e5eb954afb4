# The stock parts, images and virtual machines that tests and demo use are kept here.
export PEREGRINE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/peregrine

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/peregrine-dev/peregrine/internal/version.Version=$(VERSION)
PREFIX  ?= /usr/local
BINARIES := peregrine containerd-baoverlay-grpc \
	containerd-shim-flashcube-v1 flashcube-shim flashcube-init flashcubed \
	falcon falcond plasmad plasmactl plasma-sidecar
LINT    := $(PEREGRINE_CACHE)/lint
GO      ?= go

# What the tests and the demo need of Debian; the bundle itself needs xfsprogs.
PACKAGES := xfsprogs debootstrap util-linux iproute2 chromium python3 nodejs
# What makes BPF objects of C, and strips them, and Go of protocols. What they make is part of the
# repository.
GENERATE := clang-14 llvm-14 libbpf-dev protobuf-compiler

.PHONY: help deps generators stock build demo test test-vm suite bench soak fuzz lint generate install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

deps:
	@contrib/deps.sh $(PACKAGES)

generators:
	@contrib/deps.sh $(GENERATE)

stock: deps
	@integration/tools/build.sh $(PEREGRINE_CACHE)

# No C in the binaries: they run in containers too.
build: export CGO_ENABLED = 0
build: ## build every binary into bin/, those of the tests too
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./,$(wildcard cmd/* */cmd/*))

demo: build stock ## show what the bundle does, beside the stock parts, on a private containerd
	bin/peregrine demo

# Those that compare what the whole kernel holds before and after run one at a time, after the rest;
# those that only calculate need no race detector.
KERNEL := '/(integration|netplugin|shim|snapshotter|plasma/driver|plasma/setup)(/|$$)'
PURE   := '/plasma/(apps|baseline|epl|world)(/|$$)'

test: build stock ## run every test but the virtual machine's, as root
	$(GO) test -p 2 -count 1 $$($(GO) list ./... | grep -E $(PURE))
	$(GO) test -race -p 2 -count 1 -timeout 20m $$($(GO) list ./... | grep -vE -e $(KERNEL) -e $(PURE))
	$(GO) test -race -p 1 -count 1 -timeout 20m $$($(GO) list ./... | grep -E $(KERNEL))

test-vm: build stock ## run the smoke tests in small virtual machines: older kernel, pure cgroup v2, four cores
	@contrib/deps.sh qemu-system-x86 e2fsprogs
	@integration/vm/fetch.sh $(PEREGRINE_CACHE)
	$(GO) test -tags vm -count 1 -timeout 30m -run TestVM -v ./integration/vm/

bench: build stock ## measure ours against stock, alternately
	bin/peregrine bench all

suite: build stock ## containerd's own client tests, with FlashCube as the runtime
	$(GO) test -tags suite -count 1 -timeout 40m -run '^TestSuite$$' -v ./integration/suite/

soak: build stock ## the long forms of the crash tests
	PEREGRINE_SOAK=1 $(GO) test -count 1 -timeout 2h -run '^(TestKill|TestShimKill|TestShimSoak)$$' -v ./integration/
	PEREGRINE_SOAK=1 $(GO) test -count 1 -timeout 1h -run '^(TestChaos|TestRelocate|TestNode|TestEtcd)$$' -v ./integration/plasma/

fuzz: ## run each fuzz target for a minute
	@contrib/fuzz.sh 60s

lint: stock generators ## gofumpt, vet, staticcheck, and whether generated files are current
	@out=$$($(LINT)/gofumpt -l .) && [ -z "$$out" ] || { echo "not gofumpt-clean: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags vm ./integration/vm/
	$(GO) vet -tags suite ./integration/suite/
	$(LINT)/staticcheck ./...
	GO=$(GO) contrib/generated.sh

generate: generators ## make the generated files again: BPF objects, code of protocols
	$(GO) generate ./...

install: build ## install the bundle on this host
	install -D -t $(DESTDIR)$(PREFIX)/bin $(addprefix bin/,$(BINARIES))
	$(if $(DESTDIR),,$(PREFIX)/bin/peregrine install)

uninstall: ## take the bundle off this host
	$(PREFIX)/bin/peregrine uninstall
	rm -f $(addprefix $(PREFIX)/bin/,$(BINARIES))

clean: ## remove what was built here; the cache stays
	rm -rf bin
