# make demo: a whole local network. make test: everything CI runs. Both fetch libtorch once.

CARGO ?= cargo
DEMO_ARGS ?=
DENY := .tools/bin/cargo-deny

.PHONY: setup demo test fmt clippy unit doc deny

setup:
	@scripts/setup-libtorch.sh

demo: setup
	$(CARGO) build --release --quiet
	target/release/tributary demo $(DEMO_ARGS)

test: setup fmt clippy deny doc unit

fmt:
	$(CARGO) fmt --all --check

clippy: setup
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

deny: $(DENY)
	$(DENY) --log-level warn check licenses bans sources

$(DENY):
	$(CARGO) install --quiet --locked --debug --root .tools cargo-deny@0.20.2

# unit, property, golden and whole-network tests, and the configs
unit: setup
	$(CARGO) test --workspace --quiet
