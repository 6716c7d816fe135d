# The commands of everyday work. `make` alone lists them.
# Each works on a fresh checkout; a binary that it builds stays in target/ and can be used.

# Rust may have been installed in this shell's lifetime, before its path knew.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Queries are checked against .sqlx/, whatever database the environment names.
export SQLX_OFFLINE := true
unexport DATABASE_URL

.DEFAULT_GOAL := help
.PHONY: help demo test check fmt clippy doc deny advisories sqlx check-sqlx check-scripts bench bench-control bench-record bench-peers bench-fleet chaos flake soak

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

# A debug build: who tries this for the first time waits for the compiler, and the time of the crawl is Chrome's.
demo: ## Install what is missing, build, and crawl the built-in shop; leaves nothing running
	@deploy/local/setup demo
	cargo run --locked --package crawlify-cli --bin crawlify -- demo --keep

test: ## Install what the tests need, and run them all
	@deploy/local/setup test
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo "cargo nextest run --workspace --locked"; cargo nextest run --workspace --locked; \
	else \
		echo "cargo test --workspace --locked"; cargo test --workspace --locked; \
	fi

check: fmt clippy doc check-scripts ## Everything that looks at the code without running it

fmt:
	cargo fmt --all -- --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Where shellcheck is not installed, the shell's own parser must do.
SCRIPTS := deploy/local/setup deploy/local/with-postgres deploy/local/sqlx-data deploy/local/deny .ci/run
check-scripts:
	@for script in $(SCRIPTS); do bash -n $$script || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); fi

deny: ## Judge the crates that are built in: their licences, their sources, what is banned
	deploy/local/deny

advisories: ## Look for known vulnerabilities in them; needs github.com, and fails where that cannot be reached
	deploy/local/deny advisories

sqlx: ## Write .sqlx/ anew, after a query or a migration has changed
	deploy/local/sqlx-data

check-sqlx: ## Say whether .sqlx/ is as the queries and migrations want it
	deploy/local/sqlx-data --check

# `make bench WRITE=docs/BENCHMARKS.md` also puts the report between the marks of that document.
# Cargo builds a package's programs together with its benchmarks; `cargo run` would build them a second time, as it
# leaves out what only benchmarks need.
BUILT := $(or $(CARGO_TARGET_DIR),target)
CRITERION := $(or $(CRITERION_HOME),$(BUILT)/criterion)
bench: ## Measure the parts of a crawl, and whole crawls of the built-in shop, on this machine
	@deploy/local/setup demo
	cargo bench --locked --package crawlify-tests --bench parts
	$(BUILT)/release/bench-crawl --render full,static --bare --rounds 2 \
		--parts $(CRITERION) $(if $(WRITE),--write $(WRITE))
	@echo "criterion's own report: $(CRITERION)/report/index.html"

# In the release profile: a debug build would measure its own encoding.
bench-record: ## Measure the recorder against bare COPY, on a private Postgres
	@deploy/local/setup demo
	cargo run --locked --release --package crawlify-tests --bin bench-record

# PAGES=100000 for another number of pages.
bench-control: ## Measure the cancellation of an execution with 1,000,000 pages that wait
	@deploy/local/setup demo
	cargo run --locked --release --package crawlify-tests --bin bench-control -- $(PAGES)

# PART= is one of throughput, dispatch, age, politeness, fairness, cancel, redelivery; without it all of them, which takes long.
bench-fleet: ## Measure the control plane with pages that no browser executes
	@deploy/local/setup test
	cargo build --locked --release --package crawlify-tests --bin bench-fleet
	@failed=; for part in $(or $(PART),throughput politeness fairness cancel redelivery dispatch age); do \
		echo "== $$part"; $(BUILT)/release/bench-fleet $$part || failed="$$failed $$part"; done; \
	test -z "$$failed" || { echo "missed:$$failed"; exit 1; }

# MINUTES=10, SEED= for the order of an earlier storm, SITE=folder with WORKFLOW=file for another site than the shop. A debug
# build, as the time of a crawl is Chrome's.
chaos: ## Crawl while processes, browsers and servers are killed, and compare with a calm crawl
	@deploy/local/setup test
	cargo build --locked --package crawlify-tests --bin chaos --bin crawlify-under-test
	@$(BUILT)/debug/chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
		$(if $(SITE),--site $(SITE) --workflow $(WORKFLOW))

# TIMES=20, TESTS= an expression of nextest's. What depends on time, and on what else the machine does, shows only so.
flake: ## Run the tests that depend on time again and again, and count how often they fail
	@deploy/local/setup test
	cargo nextest run --locked --package crawlify-tests --no-fail-fast --stress-count $(or $(TIMES),20) \
		--filterset "$(or $(TESTS),test(/^(storm|cluster::network|cluster::disks|crashes::frozen)/))"

# WAVES=6, PAGES=200 of each, REST=15 seconds after each before it is looked. A debug build leaks what a release would, and
# the time of a crawl is Chrome's.
soak: ## Crawl wave after wave with one process, and fail when something in it grows
	@deploy/local/setup demo
	cargo build --locked --package crawlify-tests --bin bench-soak --bin crawlify-under-test
	@$(BUILT)/debug/bench-soak $(if $(WAVES),--waves $(WAVES)) $(if $(PAGES),--pages $(PAGES)) $(if $(REST),--rest $(REST))

# ROUNDS=, TABS=, PAGES=, HTTP_PAGES=, SITE= with WORKFLOW=, ONLY=, and WRITE=docs/BENCHMARKS.md to keep the results;
# BINARY= measures a program that is built already. The peers come from npm and PyPI, no browser is downloaded.
bench-peers: ## Measure us and other crawlers on the same site, in alternation
	@deploy/local/setup demo
ifndef BINARY
	cargo build --locked --release --package crawlify-cli --bin crawlify
endif
	@BINARY="$${BINARY:-$${CARGO_TARGET_DIR:-target}/release/crawlify}" python3 tests/peers/run.py
