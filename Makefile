# Two targets are for everyone: `make demo` and `make test`. Both get what they need on a Debian machine with Rust.

CARGO ?= cargo
# Integration tests wait for processes more than they compute; more threads than cores keep both cores busy.
TEST_THREADS ?= 4
FUZZ_SECONDS ?= 20
# Without a seed, one is drawn and printed.
CHAOS_SECONDS ?= 180
CHAOS_SEED ?=
CHAOS_SERVER ?= valkey
# Without a seed, one is drawn and printed; without a server, both are taken.
DIFFERENTIAL_SECONDS ?= 60
DIFFERENTIAL_SEED ?=
DIFFERENTIAL_SERVER ?=
DIFFERENTIAL_LAYOUT ?=
# Both servers, both numbers of workers and both layouts in turn, unless one is named.
HOSTILE_SECONDS ?= 60
# How long `make fuzz` runs each of its tests, in seconds.
FUZZ_LONG ?= 3600
# Another processor, see deploy/build: make build TARGET=aarch64-unknown-linux-gnu
TARGET ?=
BIN := target/$(if $(TARGET),$(TARGET)/)release/respgate
# Makes the tests use the servers that tests/newer-servers gets.
NEWER := RESPGATE_TEST_VALKEY=$(CURDIR)/target/newer/bin RESPGATE_TEST_REDIS=$(CURDIR)/target/newer/bin

.DEFAULT_GOAL := help
.PHONY: help build demo test test-all test-newer test-deps chart chart-manifests deb package supply sbom reproducible chaos differential differential-docs config-docs hostile hostile-memory fuzz fuzz-hostile lint fmt \
	bench bench-tls bench-fairness fuzz-smoke

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the release binary, target/release/respgate, and its debug symbols, target/release/respgate.debug
	@CARGO="$(CARGO)" deploy/build $(TARGET)

# One build for both programs, without the allocator of the release, which takes a minute to build.
demo: ## a failover and a crash, with clients at work and a verdict; ONCE=1 ends by itself, CLUSTER=1 shows a cluster
	@echo "== building respgate and the demo (about 3 minutes the first time)"
	@$(CARGO) build --locked --profile demo --no-default-features --package respgate --package respgate-demo --bins
	@echo "== servers and Sentinels"
	@tests/install servers
	@RESPGATE=$(CURDIR)/target/demo/respgate exec target/demo/respgate-demo $(if $(CLUSTER),--cluster) $(if $(ONCE),--once)

test: test-deps lint supply ## install what tests need, lint, and run every test
	@echo "== unit and integration tests"
	$(CARGO) test --locked -- --test-threads $(TEST_THREADS)
# With fixed seeds, so that a commit is judged by what it changed. `make differential` and `make hostile` draw new ones.
	@echo "== random sessions, with the server and through respgate"
	@$(MAKE) --no-print-directory differential DIFFERENTIAL_SEED=1
	@echo "== victims beside attackers"
	@$(MAKE) --no-print-directory hostile HOSTILE_SEED=1
	@echo "== deploy/: the chart, manifests and the compose file"
	@$(MAKE) --no-print-directory chart
	@echo "== the Debian package and its service, under systemd"
	@$(MAKE) --no-print-directory package
	@$(MAKE) --no-print-directory fuzz-smoke

# The two installed servers, then the two newer ones: Valkey 8.0 and Redis 7.0, Valkey 9.1 and Redis 8.0 on Debian 12.
test-all: test ## `make test`, the integration tests and drills on newer servers, and `make chaos` on all four
	@$(MAKE) --no-print-directory test-newer
	@for server in valkey redis; do $(MAKE) --no-print-directory chaos CHAOS_SERVER=$$server || exit 1; done
	@for server in valkey redis; do $(NEWER) $(MAKE) --no-print-directory chaos CHAOS_SERVER=$$server || exit 1; done

test-newer: ## the integration tests and drills on the newest Valkey and Redis of Debian's `sid`, which it gets by itself
	@tests/newer-servers
	@tests/install
	@tests/clients/install
	$(NEWER) $(CARGO) test --locked --test it -- --test-threads $(TEST_THREADS)

test-deps:
	@echo "== what tests need"
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		{ echo "rustfmt or clippy is missing. Get both with: rustup component add rustfmt clippy"; exit 1; }
	@tests/install
	@tests/clients/install

chart: ## render the Helm chart, validate it, and run respgate with each rendered configuration and probe
	@tests/install
	@tests/chart/install
	@$(CARGO) build --quiet --locked --bin respgate
	@target/chart/venv/bin/python -m unittest discover --start-directory tests/chart

deb: build ## the Debian package, in target/debian/
	@tests/install package
	@deploy/debian/build $(BIN)

package: ## build the Debian package, install it on a machine with a real systemd, upgrade and remove it; needs root
	@tests/install package
	@$(CARGO) build --quiet --locked --bin respgate
	@tests/package/run target/debug/respgate

chart-manifests: ## write deploy/kubernetes/, from the chart
	@tests/chart/install
	@CHART_WRITE_MANIFESTS=1 target/chart/venv/bin/python -m unittest discover --start-directory tests/chart --pattern test_manifests.py

supply: ## licences, sources, versions and advisories of the crates; the SBOM; the oldest compiler
	@deploy/supply/check

sbom: ## write the SBOM of the release binary, target/respgate.cdx.json, and validate it
	@deploy/supply/install
	@target/supply/venv/bin/python deploy/supply/sbom.py

reproducible: ## build the release of HEAD twice, in two folders, and compare
	@deploy/supply/reproducible

chaos: ## minutes of failovers, crashes, network cuts and churn under a checker, in an order drawn from CHAOS_SEED
	@tests/install $(CHAOS_SERVER)
	@CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) CHAOS_SERVER=$(CHAOS_SERVER) \
		exec $(CARGO) test --locked --quiet --test chaos

differential: ## random sessions, each with the server and through respgate, compared byte for byte
	@tests/install valkey
	@tests/install redis
	@DIFFERENTIAL_SECONDS=$(DIFFERENTIAL_SECONDS) DIFFERENTIAL_SEED=$(DIFFERENTIAL_SEED) \
		DIFFERENTIAL_SERVER=$(DIFFERENTIAL_SERVER) DIFFERENTIAL_LAYOUT=$(DIFFERENTIAL_LAYOUT) \
		$(CARGO) test --locked --quiet --test differential

differential-docs: ## write docs/differences.md, from the differences that the differential test tolerates
	@DIFFERENTIAL_WRITE_DOCS=1 DIFFERENTIAL_SECONDS=0 DIFFERENTIAL_LAYOUT=server $(CARGO) test --locked --quiet --test differential

config-docs: ## write config/full.toml, config/respgate.schema.json, docs/configuration.md and a list in docs/reload.md, from the configuration schema
	@CONFIG_WRITE_DOCS=1 $(CARGO) test --locked --quiet --test config_docs -- is_the_schemas

fuzz: build ## hours of random tests: FUZZ_LONG seconds of each
	@RESPGATE_BIN=$(CURDIR)/$(BIN) $(MAKE) --no-print-directory differential DIFFERENTIAL_SECONDS=$(FUZZ_LONG)
	@$(MAKE) --no-print-directory fuzz-hostile
	@$(MAKE) --no-print-directory fuzz-smoke FUZZ_SECONDS=$(FUZZ_LONG)

hostile: ## victims that know every byte they are owed, beside attackers that damage everything, from HOSTILE_SEED
	@tests/install valkey
	@tests/install redis
	@HOSTILE_SECONDS=$(HOSTILE_SECONDS) HOSTILE_SEED=$(HOSTILE_SEED) HOSTILE_SERVER=$(HOSTILE_SERVER) \
		HOSTILE_WORKERS=$(HOSTILE_WORKERS) HOSTILE_LAYOUT=$(HOSTILE_LAYOUT) HOSTILE_KINDS=$(HOSTILE_KINDS) \
		$(CARGO) test --locked --quiet --test hostile

hostile-memory: build ## known ways to make respgate keep much, and what its process takes
	@RESPGATE_BIN=$(CURDIR)/$(BIN) HOSTILE_SERVER=$(HOSTILE_SERVER) HOSTILE_WORKERS=$(HOSTILE_WORKERS) \
		$(CARGO) test --locked --quiet --test hostile -- memory

fuzz-hostile: hostile-memory ## FUZZ_LONG seconds of `make hostile`, with the release binary
	@RESPGATE_BIN=$(CURDIR)/$(BIN) $(MAKE) --no-print-directory hostile HOSTILE_SECONDS=$(FUZZ_LONG)

lint: ## formatting and clippy, as strictly as `make test`
	@echo "== formatting and lints"
	$(CARGO) fmt --all --check
	@$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null || \
		{ echo "fuzz/Cargo.lock is behind Cargo.toml. Mend it with: cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null"; exit 1; }
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

bench: build ## respgate beside HAProxy and twemproxy
	@tests/install bench
	@benches/run $(BENCH_ARGS)

bench-fairness: build ## a polite client beside a flood of pipelined ones
	@tests/install valkey
	@benches/fairness $(BENCH_ARGS)

bench-tls: build ## respgate beside stunnel, HAProxy and nginx, with TLS
	@tests/install bench
	@benches/tls $(BENCH_ARGS)

fuzz-smoke: ## a short run of every fuzz target
	@if [ -x fuzz/smoke.sh ]; then echo "== fuzz targets"; fuzz/smoke.sh $(FUZZ_SECONDS); fi
