# Every way of running what is here. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test lint e2e e2e-long bench bench-shaped bench-store bench-upload image image-test docs-errors

ARGS ?=
OUT ?= target/image
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
ARCHITECTURE = $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
TARGET = $(shell cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

help: ## This list.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

run: ## Run the cache on 127.0.0.1:5000 with its defaults; ARGS='--config FILE' for others.
	cargo run --release --locked -- serve $(ARGS)

test: ## Every test that needs only cargo. No root, no network but the crates. Minutes.
	@if cargo nextest --version >/dev/null 2>&1; then \
	  set -x; cargo nextest run --locked $(ARGS); \
	else \
	  set -x; cargo test --locked $(ARGS); \
	fi

lint: ## Format, lints as errors, licences and advisories (the last two where cargo-deny is installed).
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	  set -x; cargo deny check; \
	else \
	  echo 'lint: cargo-deny is not installed; licences and advisories are not checked' >&2; \
	fi

e2e: ## The real binary with real registries and clients. Installs them; needs root.
	tests/e2e/run.sh $(ARGS)

e2e-long: ## What takes minutes: a cap of 1 GiB under 5 GiB of pulls, gc beside pulls and beside pushes for 5 minutes.
	GC_SECONDS=300 cargo test --locked --test it -- --nocapture nothing_acknowledged_is_lost_beside no_push_breaks_on_blobs
	E2E_LONG=1 tests/e2e/run.sh -rP -k 'cap_holds or garbage_collection' $(ARGS)

bench: ## Measure the release binary beside its peers. Prints a table; nothing is pass or fail.
	benches/peers/run.sh $(ARGS)

bench-shaped: ## A cold layer over a long line and a wide one, beside a direct connection. ARGS='--rounds N --mb N --only WORD'.
	cargo build --release --locked
	HEADPOND_BINARY=$${HEADPOND_BINARY:-$(TARGET)/release/headpond} python3 benches/peers/shaped.py $(ARGS)

bench-store: ## A store of a million blobs: start, walk, memory, evictions beside hits. ARGS='--blobs N --directory D'.
	cargo bench --locked --bench store_of_a_million -- $(ARGS)

bench-upload: ## What memory grows by while a blob of 1 GiB goes to a bucket. ARGS='--mb N --directory D'.
	cargo build --release --locked
	HEADPOND_BINARY=$${HEADPOND_BINARY:-$(TARGET)/release/headpond} python3 benches/upload_memory.py $(ARGS)

image: ## The container image for this machine's architecture, as an OCI layout in target/image, without an engine.
	cargo build --release --locked
	deploy/container/oci-layout.sh $(OUT) $(VERSION) $(ARCHITECTURE)=$(TARGET)/release/headpond

image-test: ## Build that image, copy it into a registry, and see it serve, read-only and without root.
	deploy/container/test.sh

docs-errors: ## Print docs/errors.md anew from the table in src/http/error_response.rs.
	UPDATE_DOCS=1 cargo test --locked --test it errors
