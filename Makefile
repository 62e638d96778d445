# Every target sets up what it needs: .venv, the dependencies under constraints.txt, the C++ extension.
# `make PYTHON=python3.12 test` picks the interpreter of a new .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ "$$n" -gt 8 ] && n=8; echo "$$n")
VENV := .venv
BIN := $(VENV)/bin
# Touched when .venv, and then the extension, are up to date with the files they depend on.
INSTALLED := $(VENV)/.fastsia-installed
STAMP := $(VENV)/.fastsia-built
NATIVE := $(wildcard csrc/*.cc csrc/*.h)
CXX_FILES := $(NATIVE) $(wildcard csrc/fuzz/*.cc)
DEMO_LIMIT ?= 64

# One thread a test process: there is one process a core.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-order test-arc coverage test-gpu test-lm-eval test-inspect test-polygraph test-vllm sanitize fuzz mutation soak audit check format docs freeze demo-models wheel wheel-test clean \
	bench bench-gpu bench-vllm bench-memory bench-answers bench-stop bench-scheduler bench-report bench-store bench-kernels

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with everything a developer needs

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "fastsia needs Python 3.11 or newer; give one as make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) -m venv failed. On Debian and Ubuntu: apt install python3-venv python3-dev g++"; exit 1; }

$(INSTALLED): pyproject.toml setup.py constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]' --constraint constraints.txt
	@touch $@

$(STAMP): $(INSTALLED) $(NATIVE) fastsia/answers/tables.txt
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

demo: $(STAMP) ## evaluate the shipped model on the demo task (a few minutes, no download)
	$(BIN)/fastsia run --model demo:sft --tasks demo --limit $(DEMO_LIMIT) -o runs/demo

test: $(STAMP) ## the test suite
	$(PYTEST) -n $(JOBS)

test-slow: $(STAMP) ## the minutes-long tests
	$(PYTEST) -m 'slow and not gpu'

test-order: $(STAMP) ## the test suite three times, in an order of chance each
	for seed in 1 2 3; do $(PYTEST) -n $(JOBS) --random-order --random-order-seed=$$seed || exit 1; done

test-arc: $(STAMP) ## every option of ARC in 40 phrasings: how many are read, for each letter and phrasing
	$(PYTEST) -m slow -s tests/answers/test_choice.py -k every_option_of_arc

coverage: $(STAMP) ## the share of the lines of fastsia/ that the test suite runs
	$(PYTEST) -n $(JOBS) --cov --cov-report=term

# The tools that fastsia serves, one environment each: what they need cannot all be installed together.
# What their own providers need, which ours are compared with.
BESIDE_lm-eval := 'lm-eval[hf]'
BESIDE_inspect-ai := accelerate
.venvs/%/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venvs/$*
	grep -E '^(torch|transformers|pytest|pytest-timeout)==' constraints.txt > .venvs/$*/constraints.txt
	.venvs/$*/bin/python -m pip install --quiet --editable '.[$*]' pytest pytest-timeout $(BESIDE_$*) \
		--constraint .venvs/$*/constraints.txt
	@touch $@

TOOL_TEST = OMP_NUM_THREADS=1 .venvs/$(1)/bin/python -m pytest -q --session-timeout=1200 tests/integrations/$(2)

test-lm-eval: .venvs/lm-eval/.installed ## lm-evaluation-harness on the demo model (in an environment of its own)
	$(call TOOL_TEST,lm-eval,test_lm_eval.py)

test-inspect: .venvs/inspect-ai/.installed ## Inspect on the demo model (in an environment of its own)
	$(call TOOL_TEST,inspect-ai,test_inspect_ai.py)

test-polygraph: .venvs/lm-polygraph/.installed ## LM-Polygraph on the demo model (in an environment of its own)
	$(call TOOL_TEST,lm-polygraph,test_lm_polygraph.py)

# vLLM brings its own torch; `make test-vllm VLLM=DIR` takes an environment that has it already.
VLLM ?= .venvs/vllm
$(VLLM)/.fastsia-installed: pyproject.toml benchmarks/vllm_environment.py | $(STAMP)
	$(BIN)/python benchmarks/vllm_environment.py $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --editable . pytest pytest-timeout
	@touch $@

test-vllm: $(VLLM)/.fastsia-installed ## `vllm serve` and vLLM in process on the demo model (in an environment of its own)
	FASTSIA_VLLM=$(abspath $(VLLM)) $(PYTEST) -m slow tests/backends/test_vllm_server.py
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q -m slow tests/backends/test_vllm.py

sanitize: $(STAMP) ## the C++ core's tests under AddressSanitizer and UBSan
	csrc/sanitize.sh

fuzz: ## 20 minutes of libFuzzer on the C++ core (needs clang)
	csrc/fuzz.sh

mutation: $(STAMP) ## mutation testing of the core: the share of small changes that its tests notice
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation

soak: $(STAMP) ## 2,000 demo problems: memory, open files, threads and blocks must not grow
	$(BIN)/python -m benchmarks.soak

audit: $(STAMP) ## advisories about the dependencies, and their licences (needs the network)
	$(PYTHON) -m venv .venvs/audit
	.venvs/audit/bin/pip install --quiet pip-audit pip-licenses
	.venvs/audit/bin/pip-licenses --python $(BIN)/python --partial-match --fail-on 'GPL;SSPL;UNKNOWN'
	.venvs/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

test-gpu: $(STAMP) ## the tests that need a CUDA device
	$(PYTEST) -m gpu

check: $(STAMP) ## ruff, mypy, clang-format, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: $(STAMP) ## the documentation as a site: site/index.html
	$(BIN)/mkdocs build --strict

freeze: $(STAMP) ## write the versions in .venv to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| grep -viE '^(pip|fastsia)\b' | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

demo-models: $(STAMP) ## train the demo models again from nothing
	$(BIN)/python -m fastsia.demo.train

wheel: $(STAMP) ## build dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

wheel-test: $(STAMP) ## build the wheel, install it in a clean environment, run it there
	$(PYTEST) -m slow tests/test_packaging.py

bench: $(STAMP) ## fastsia against transformers' generate
	$(BIN)/python benchmarks/vs_hf.py

bench-gpu: $(STAMP) ## the GPU suite, what is missing of it (MODEL=, PEER=, DEVICE=cpu, OUTPUT=, BUDGET_S=)
	$(BIN)/python -m benchmarks.gpu $(MODEL:%=--model %) $(PEER:%=--peer %) $(DEVICE:%=--device %) \
		$(OUTPUT:%=--output %) $(BUDGET_S:%=--budget_s %)

bench-vllm: $(STAMP) ## fastsia against vLLM (in an environment of its own)
	$(BIN)/python benchmarks/vs_vllm.py

bench-memory: $(STAMP) ## peak memory of short and long runs
	$(BIN)/python -m benchmarks.bench_memory

bench-answers: $(STAMP) ## the C++ core against its Python reference
	$(BIN)/python benchmarks/bench_answers.py

bench-stop: $(STAMP) ## what the streaming stop saves
	$(BIN)/python benchmarks/bench_stop.py

bench-scheduler: $(STAMP) ## the host's share of a decode step
	$(BIN)/python benchmarks/bench_scheduler.py

bench-report: $(STAMP) ## analysis, figures and report of 1,319 x 16 x 20 rollouts
	$(BIN)/python benchmarks/bench_report.py

bench-store: $(STAMP) ## what one driver takes in: rollouts stored a second, trajectories received over Ray
	$(BIN)/python -m benchmarks.bench_store

bench-kernels: $(STAMP) ## the Triton kernels against their floors and other libraries (needs a GPU)
	$(BIN)/python -m pytest -q benchmarks/bench_sampling.py benchmarks/bench_prefix_attention.py benchmarks/bench_kv.py

clean: ## remove build outputs and .venv
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -f fastsia/_C.*.so
