# What people and CI do with this repository. `make help` lists it; every target may be repeated and asks nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export DROVER_HOME ?= /var/lib/drover
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= /etc/systemd/system

# The crates are built once, with the same features for all of them.
CARGO_FLAGS := --release --locked --workspace
RELEASE := target/release
DENY_VERSION := 0.20.2
DENY_ROOT := $(DROVER_HOME)/tools/cargo-deny-$(DENY_VERSION)
DENY := $(DENY_ROOT)/bin/cargo-deny
FUZZ_VERSION := 0.13.1
FUZZ_ROOT := $(DROVER_HOME)/tools/cargo-fuzz-$(FUZZ_VERSION)
FUZZ := $(FUZZ_ROOT)/bin/cargo-fuzz
SHARE := $(DESTDIR)$(PREFIX)/share
# Where the benchmarks' rows and pictures are kept, and how often each case is run.
BENCH_OUT ?= docs/benchmarks
BENCH_REPEAT ?= 5
BENCH := $(RELEASE)/drover-bench
# In how many labs at a time the faults are brought in.
FAULTS_JOBS ?= 3
# In how many the zoo is.
ZOO_JOBS ?= 2

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 14

.PHONY: build
build: ## Build the programs into target/release
	cargo build $(CARGO_FLAGS) --bins

.PHONY: demo
demo: images build ## Move a redis server under load six times, and print a table
	@$(RELEASE)/drover-check demo --drover $(RELEASE)/drover

.PHONY: build-tests
build-tests:
	cargo build $(CARGO_FLAGS) --all-targets

# The documentation's examples come first: the line that counts is the last one.
.PHONY: test
test: images build-tests ## Run all tests, those in the lab among them (needs root)
	cargo test $(CARGO_FLAGS) --doc --quiet
	@if command -v cargo-nextest >/dev/null; then set -x; cargo nextest run $(CARGO_FLAGS); \
	else set -x; cargo test $(CARGO_FLAGS) --all-targets -- --test-threads=2; fi

# All but the tests of whole containers in labs (binary `lab`).
.PHONY: test-fast
test-fast: images build-tests ## Run the tests that need no lab with agents (needs root)
	cargo test $(CARGO_FLAGS) --doc --quiet
	@if command -v cargo-nextest >/dev/null; then set -x; cargo nextest run $(CARGO_FLAGS) -E 'not binary(lab)'; \
	else set -x; cargo test $(CARGO_FLAGS) --lib --bins -- --test-threads=2; fi

.PHONY: fuzz
fuzz: $(FUZZ) ## Fuzz one parser of what strangers say: make fuzz TARGET=page_stream (DROVER_FUZZ_SECONDS; needs root, g++)
	@test -n "$(TARGET)" || { $(FUZZ) fuzz list; echo 'say which: make fuzz TARGET=...' >&2; exit 2; }
	PATH=$(FUZZ_ROOT)/bin:$$PATH scripts/fuzz.sh $${DROVER_FUZZ_SECONDS:-600} $(TARGET)

.PHONY: fuzz-all
fuzz-all: $(FUZZ) ## Fuzz all of them, ten minutes each (DROVER_FUZZ_SECONDS), and render docs/fuzzing.md (hours)
	PATH=$(FUZZ_ROOT)/bin:$$PATH scripts/fuzz.sh $${DROVER_FUZZ_SECONDS:-600}

# The seeds are made by the code that sends such things.
.PHONY: fuzz-seeds
fuzz-seeds: ## Make the seeds of the fuzz targets anew (needs root)
	DROVER_BLESS=1 cargo test $(CARGO_FLAGS) --test replay

.PHONY: cargo-fuzz
cargo-fuzz: $(FUZZ)

$(FUZZ):
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --root $(FUZZ_ROOT) cargo-fuzz@$(FUZZ_VERSION)

# Each break is a build of two crates and up to 60,000 seeds.
.PHONY: mutants
mutants: ## Break the protocol's source text line by line, and want the simulation to find each break (minutes)
	@scripts/mutants.sh

.PHONY: soak
soak: images build ## Move a container that checks its memory hundreds of times (a quarter of an hour; DROVER_SOAK_MOVES on each link)
	cargo test $(CARGO_FLAGS) --test lab -- --ignored --nocapture hundreds_of_moves over_and_over

# Not a part of `test`: it downloads a kernel and QEMU. The programs are those of memory and sys, in this order.
.PHONY: test-vm
test-vm: lab-base build-tests ## Run the tests that need another kernel, soft-dirty bits and NFS, in a virtual machine (needs root; the network the first time)
	@scripts/test-vm.sh $$(cargo test $(CARGO_FLAGS) --lib --no-run 2>&1 | \
	sed -nE 's,.*Executable .*\((.*/drover_(disk|memory|sys)-[0-9a-f]+)\),\1,p' | sort)

.PHONY: bench-tracking
bench-tracking: images ## Measure what it costs a redis server to be followed (needs root)
	cargo build $(CARGO_FLAGS) --examples
	@scripts/bench-tracking.sh $(RELEASE)/examples/tracking

.PHONY: bench-synthesis
bench-synthesis: lab-base build ## Measure what overlays of images save (needs root; the network the first time)
	@scripts/bench-synthesis.sh $(RELEASE)/drover

.PHONY: faults
faults: images build ## Bring every fault into every phase of a move, and render docs/faults.md (half an hour)
	$(BENCH) faults --image $(DROVER_HOME)/cache/images/toolbox --base $(DROVER_HOME)/base --jobs $(FAULTS_JOBS) --document docs/faults.md

.PHONY: zoo-images
zoo-images: images ## Make the images of the zoo and of its clients (needs root; the network the first time)
	@scripts/zoo-images.sh

.PHONY: zoo
zoo: zoo-images build ## Move what people run to and fro under load, and render docs/zoo.md (most of an hour)
	$(BENCH) zoo --images $(DROVER_HOME)/cache/images --base $(DROVER_HOME)/base --jobs $(ZOO_JOBS) --rows docs/zoo/rows.jsonl --document docs/zoo.md

.PHONY: zoo-report
zoo-report: build ## Render docs/zoo.md from the rows that there are
	$(BENCH) zoo --render --rows docs/zoo/rows.jsonl --document docs/zoo.md

.PHONY: compat
compat: images build-tests ## Move containers between this release and an older one: make compat OLD=REVISION (needs root)
	@test -n "$(OLD)" || { echo 'say which: make compat OLD=REVISION' >&2; exit 2; }
	scripts/compat.sh $(OLD)

.PHONY: bench-many
bench-many: images build ## Drain a node with 50 containers at several limits, and render docs/many.md (minutes)
	$(BENCH) many --image $(DROVER_HOME)/cache/images/toolbox --base $(DROVER_HOME)/base --document docs/many.md

.PHONY: lint
lint: ## Check the format, and let clippy warn of nothing
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

# Advisories are left out: deny.toml says why.
.PHONY: deny
deny: $(DENY) ## Check licences, sources and floors of all dependencies
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources

.PHONY: cargo-deny
cargo-deny: $(DENY)

# Optimising it would take longer than it ever runs.
$(DENY):
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --root $(DENY_ROOT) cargo-deny@$(DENY_VERSION)

.PHONY: lab-base
lab-base: ## Install what a lab stands on (needs root; the network the first time)
	@scripts/install-base.sh

.PHONY: images
images: lab-base ## Make the images that demo and tests run (needs root; the network the first time)
	@scripts/images.sh

.PHONY: peers
peers: lab-base ## Install what benchmarks compare with (needs root; the network the first time)
	@scripts/install-peers.sh

.PHONY: bench-image
bench-image: lab-base ## Make the image with the database that benchmarks move (needs root; the network the first time)
	@scripts/bench-image.sh

.PHONY: bench-programs
bench-programs: build
	cargo build $(CARGO_FLAGS) --examples

.PHONY: bench
bench: images bench-image peers bench-programs ## Measure Drover beside runc, Podman and rsync, and render docs/benchmarks.md (minutes)
	$(BENCH) run --only core,idle,disk --repeat $(BENCH_REPEAT) --out $(BENCH_OUT)
	$(BENCH) report --out $(BENCH_OUT) --document docs/benchmarks.md

.PHONY: bench-all
bench-all: images bench-image peers bench-programs ## Measure the whole matrix, and render docs/benchmarks.md (hours)
	$(BENCH) run --only core,idle,peers,dirty,rounds,alpha,compression,disk --repeat $(BENCH_REPEAT) --out $(BENCH_OUT)
	$(BENCH) report --out $(BENCH_OUT) --document docs/benchmarks.md

.PHONY: bench-report
bench-report: build ## Render docs/benchmarks.md from the rows that there are
	$(BENCH) report --out $(BENCH_OUT) --document docs/benchmarks.md

.PHONY: docs
docs: ## Write anew what is generated in docs/
	DROVER_BLESS=1 cargo test $(CARGO_FLAGS) --test openapi

.PHONY: install
install: build ## Install program, unit, manual pages and completions (PREFIX, DESTDIR)
	install -D $(RELEASE)/drover $(DESTDIR)$(PREFIX)/bin/drover
	install -D -m 644 contrib/agent.example.toml $(DESTDIR)$(SYSCONFDIR)/drover/agent.example.toml
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|/usr/bin/drover|$(PREFIX)/bin/drover|' contrib/drover-agent.service >$(DESTDIR)$(UNITDIR)/drover-agent.service
	$(RELEASE)/drover man $(SHARE)/man/man1
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(RELEASE)/drover completions bash >$(SHARE)/bash-completion/completions/drover
	$(RELEASE)/drover completions zsh >$(SHARE)/zsh/site-functions/_drover
	$(RELEASE)/drover completions fish >$(SHARE)/fish/vendor_completions.d/drover.fish

.PHONY: clean-lab
clean-lab: ## Remove all labs and all that was downloaded for them (PURGE=1: the Debian packages, too)
	@PURGE=$(PURGE) scripts/clean-lab.sh
