# make demo: a whole local network. make test: all tests. make fuzz: the codec's fuzz targets for a short while, with a nightly toolchain.
# make test-chain SUBTENSOR_URL=ws://…: what needs a real Subtensor runtime. make test-gpu: what needs a GPU, and docs/gpu.md's figures.
# Demo and test fetch libtorch once; test makes a Python environment for the second decoder and NVIDIA's compiler of kernels, which needs no GPU.

CARGO ?= cargo
DEMO_ARGS ?=
DENY := .tools/bin/cargo-deny
FUZZ := .tools/bin/cargo-fuzz
NUMPY := .tools/python/bin/numpy-config
NVRTC := .tools/nvrtc/nvidia/cu13/lib
NIGHTLY ?= nightly
FUZZ_SECONDS ?= 8
FUZZ_TARGETS := container resealed golomb elias_fano packed group bundle encode

.PHONY: setup demo test fmt clippy unit doc deny vectors fuzz test-chain test-gpu storms

setup:
	@scripts/setup-libtorch.sh

demo: setup
	$(CARGO) build --release --quiet
	target/release/tributary demo $(DEMO_ARGS)

test: setup fmt clippy deny doc vectors unit

fmt:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path compression/fuzz/Cargo.toml --check

clippy: setup
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

deny: $(DENY)
	$(DENY) --log-level warn check licenses bans sources

$(DENY):
	$(CARGO) install --quiet --locked --debug --root .tools cargo-deny@0.20.2

# unit, property, golden and whole-network tests, and the configs
unit: setup $(NVRTC)
	TRIBUTARY_NVRTC=$(CURDIR)/$(NVRTC) $(CARGO) test --workspace --quiet

# the kernels on this machine's GPUs against the CPU, bit for bit, and training; then how fast they are; with a python3 that has torch, beside PyTorch
ON_GPU := TRIBUTARY_NVRTC=$(CURDIR)/$(NVRTC) TRIBUTARY_GPU=1
test-gpu: setup $(NVRTC)
	$(ON_GPU) $(CARGO) test --release -p kernels -p model --lib -- --nocapture a_device_gives gpus_train
	$(ON_GPU) $(CARGO) run --release -p kernels --example gpu_bench
	$(ON_GPU) $(CARGO) run --release -p model --example train_bench
	$(ON_GPU) $(CARGO) run --release -p trainer --example round_bench

# the chain's client against a real Subtensor runtime: a development chain whose root is //Alice, never one that matters
test-chain: setup
	@test -n "$(SUBTENSOR_URL)" || { echo "make test-chain: name a development chain, as in SUBTENSOR_URL=ws://127.0.0.1:9944" >&2; exit 1; }
	SUBTENSOR_URL=$(SUBTENSOR_URL) $(CARGO) test --workspace --test conformance --test subtensor -- --ignored --nocapture --test-threads=1

# the payload vectors, read by a decoder written from compression/README.md alone
vectors: $(NUMPY)
	.tools/python/bin/python compression/tests/decoder.py compression/tests/vectors

$(NUMPY): | .tools/python
	.tools/python/bin/pip install --quiet --disable-pip-version-check numpy==2.2.6

$(NVRTC): | .tools/python
	.tools/python/bin/pip install --quiet --disable-pip-version-check --target .tools/nvrtc nvidia-cuda-nvrtc==13.0.88

.tools/python:
	@python3 -m venv $@ || { echo "make: Python 3.10 or later with venv is needed (Debian: apt install python3-venv)" >&2; rm -rf $@; exit 1; }

fuzz: $(FUZZ)
	cd compression && PATH="$(CURDIR)/.tools/bin:$$PATH" $(CARGO) +$(NIGHTLY) fuzz build
	cd compression && for target in $(FUZZ_TARGETS); do \
		ASAN_OPTIONS=malloc_context_size=0:quarantine_size_mb=8 PATH="$(CURDIR)/.tools/bin:$$PATH" \
		$(CARGO) +$(NIGHTLY) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=512 -len_control=0 -rss_limit_mb=512 -malloc_limit_mb=64 || exit 1; \
	done

$(FUZZ):
	$(CARGO) install --quiet --locked --debug --root .tools cargo-fuzz@0.13.2

# 24 miners through 200 rounds in virtual time for each of so many seeds, under random faults; takes hours
STORM_SEEDS ?= 1-50
STORM_ROUNDS ?= 200
storms: setup
	STORM_SEEDS=$(STORM_SEEDS) STORM_ROUNDS=$(STORM_ROUNDS) $(CARGO) test --workspace --test storms -- --nocapture
