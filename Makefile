# `make demo` and `make test` work from a fresh clone: all they need is Python 3.11 and pip.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo test test-dialects fuzz chaos endurance check audit bench bench-all bench-peers bench-durable bench-sync bench-device bench-minilm bench-dialects bench-scale bench-polls bench-cpu bench-webhooks bench-batch bench-growth bench-overload bench-gpu clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# A stamp per set of extras: an install runs again only when what it installs has changed.
install: $(VENV)/installed  ## build .venv with everything `headway up` needs
demo-install: $(VENV)/installed-demo
test-install: $(VENV)/installed-test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Torch first: a later, looser requirement is then already satisfied and pulls nothing more.
$(VENV)/torch: Makefile | $(VENV)/bin/python
	$(if $(TORCH),$(PIP) -c constraints.txt "$(TORCH)")
	@touch $@

$(VENV)/installed: pyproject.toml constraints.txt $(VENV)/torch
	$(PIP) -c constraints.txt -e .
	@touch $@

# basic-pitch brings one model as SavedModel, ONNX and .tflite; nothing of its code is run, nor of what it needs.
$(VENV)/installed-%: pyproject.toml constraints.txt $(VENV)/torch
	$(PIP) -c constraints.txt -e '.[$*]'
	$(if $(filter test,$*),$(PIP) --no-deps basic-pitch==0.4.0)
	@touch $(VENV)/installed $@

demo: demo-install  ## start everything, run the main job on real input, stop
	$(BIN)/python examples/demo.py

# Mostly they wait for processes: four at a time keep two cores busy. A file's tests share what they have started.
test: test-install  ## the whole test suite
	$(BIN)/python -m pytest -n 4 --dist loadfile

fuzz: test-install  ## two thousand requests and more that OpenAPI allows or forbids
	FUZZ_EXAMPLES=80 $(BIN)/python -m pytest tests/e2e/test_openapi_fuzz.py -s

chaos: test-install  ## every step killed, failed and stalled; then faults under load on each store, and a checker's verdict
	FAILPOINTS=all $(BIN)/python -m pytest tests/e2e/test_failpoints.py -n 2 --dist loadgroup
	$(BIN)/python -m tests.chaos --store postgresql --seconds 600 --predictions 21000
	$(BIN)/python -m tests.chaos --store sqlite --seconds 300 --predictions 6000

test-dialects: test-install  ## the real servers (TorchServe needs Java 17) asked anew, and ours held against them (kept below .headway/servers)
	$(BIN)/python -m tests.dialects build
	$(BIN)/python -m tests.dialects record
	$(BIN)/python -m tests.dialects compare

endurance: test-install  ## the long proofs: kills, zombies, poison, leaks (ENDURANCE=0.1 for a tenth)
	ALL_PLANTS=1 $(BIN)/python -m pytest -s tests/endurance tests/integration/test_watchdogs.py

check: test-install  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# BENCH="--quick" shortens any of them; others: --rounds N, --seconds S, --only SIDE … (see bench/README.md).
bench: test-install  ## durable predictions beside FastAPI + plain Celery, Ray Serve and BentoML, short
	$(BIN)/python -m bench.durable --quick $(BENCH)

bench-all: test-install  ## every benchmark but overload: 1 3/4 hours; 20 minutes with BENCH=--quick
	$(BIN)/python -m bench.all $(BENCH)

bench-peers: demo-install  ## a virtual environment for each of the peers, below .headway/peers
	$(BIN)/python -m bench.build_peers

bench-durable: test-install  ## the same as `bench` in five rounds
	$(BIN)/python -m bench.durable $(BENCH)

bench-sync: demo-install  ## callers who wait, beside mosec, LitServe, BentoML, Ray Serve, FastAPI, Flask
	$(BIN)/python -m bench.sync $(BENCH)

bench-device: demo-install  ## a simulated accelerator kept busy, beside a bare loop and beside peers
	$(BIN)/python -m bench.device $(BENCH)

bench-minilm: demo-install  ## embeddings of texts of mixed lengths, beside a bare sorted loop and LitServe
	$(BIN)/python -m bench.minilm $(BENCH)

bench-dialects: test-install  ## the same artifacts and requests to Triton and TorchServe, and to Headway's ports
	$(BIN)/python -m tests.dialects build
	$(BIN)/python -m bench.dialects $(BENCH)

bench-scale: demo-install  ## 1, 2, 4, 8 simulated devices; 1 and 2 API processes
	$(BIN)/python -m bench.scale $(BENCH)

bench-polls: test-install  ## predictions read a second, ended and waiting ones
	$(BIN)/python -m bench.polls $(BENCH)

bench-cpu: test-install  ## processor time of each process for each prediction: steady on a busy machine, too
	$(BIN)/python -m bench.cpu $(BENCH)

bench-gpu: demo-install  ## device calls on a GPU, by the settings of [graph]; says so where there is none
	$(BIN)/python bench/gpu.py

bench-webhooks: test-install  ## webhooks delivered a second, on SQLite and on PostgreSQL
	$(BIN)/python bench/webhooks.py

bench-batch: demo-install  ## a file through `headway batch` beside a bare loop, and what a caller waits beside it
	$(BIN)/python -m bench.batch_file

bench-growth: test-install  ## the store full beside the store empty, on SQLite and PostgreSQL
	$(BIN)/python bench/growth.py

bench-overload: test-install  ## three times capacity for two minutes, 2,000 slow connections, a crowd of 2,000
	$(BIN)/python -m bench.overload

audit: $(VENV)/bin/python  ## known vulnerabilities of all that is pinned (needs the internet)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

clean:  ## forget the virtual environment
	rm -rf $(VENV)
