# SPDX-License-Identifier: MIT
# shunt: LVS direct routing in one program. "make demo" shows it, "make test" tests it.

GO   ?= go
BIN  := bin/shunt
CLANG_PACKAGE := clang-22

# Root for what makes network namespaces and loads BPF programs.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

export CGO_ENABLED = 0

.PHONY: all
all: $(BIN)

.PHONY: $(BIN)
$(BIN):
	$(GO) build -trimpath -o $@ ./cmd/shunt

.PHONY: demo
demo: $(BIN) ## the reference cluster in network namespaces, with proof and a drill
	$(SUDO) $(BIN) demo

.PHONY: test
test: peers lint ## all tests; they need root and Debian's nginx, curl and so on
	$(SUDO) env "PATH=$$PATH" CGO_ENABLED=0 $(GO) test -p 1 -timeout 20m ./...
	$(SUDO) env "PATH=$$PATH" CGO_ENABLED=0 $(GO) test -tags otherlayout -run 'TakeOver|ReplayKernel|Persistence|Template|BothFamilies|Carry$$|Counters|Group|Fragments' ./internal/dataplane

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

.PHONY: generate
generate: clang ## compile bpf/ and internal/bench/bpf/ again, with the pinned compiler
	$(GO) generate ./...

.PHONY: generated
generated: generate ## fail if what is committed is not what generate makes
	git diff --exit-code -- internal/dataplane internal/bench

# What "make bench" is told: "make bench BENCH=-quick" prints and writes nothing.
BENCH ?= -write docs/performance.md

.PHONY: bench
bench: $(BIN) ## what a packet and a change cost, into docs/performance.md
	@scripts/install nginx:nginx-light ip:iproute2 nft:nftables conntrack:conntrack wrk:wrk iperf3:iperf3
	$(GO) build -trimpath -o bin/bench ./internal/bench
	$(SUDO) bin/bench $(BENCH)

.PHONY: fuzz
fuzz: ## every fuzz test for a while
	scripts/fuzz 20s

.PHONY: peers
peers:
	@scripts/install nginx:nginx-light curl:curl ip:iproute2 arping:iputils-arping tcpdump:tcpdump nft:nftables wrk:wrk socat:socat \
		postgres:postgresql mariadbd:mariadb-server-core redis-check-rdb:redis-tools dnsmasq:dnsmasq-base aiosmtpd:python3-aiosmtpd keepalived:keepalived

.PHONY: clang
clang:
	@scripts/install $(CLANG_PACKAGE):$(CLANG_PACKAGE) llvm-strip-22:llvm-22

.PHONY: install
install: $(BIN) ## into DESTDIR, with ipvsadm's names and the systemd units
	install -D -m 0755 $(BIN) $(DESTDIR)/usr/bin/shunt
	install -d $(DESTDIR)/usr/sbin
	for name in ipvsadm ipvsadm-save ipvsadm-restore; do ln -sf ../bin/shunt $(DESTDIR)/usr/sbin/$$name || exit 1; done
	install -D -m 0644 -t $(DESTDIR)/lib/systemd/system packaging/systemd/*.service

.PHONY: clean
clean:
	rm -rf bin

.PHONY: help
help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
