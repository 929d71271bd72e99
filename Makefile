# One command from a clone to a proven artifact: `make export DEVICE=edge`. `make help` lists the rest.
# Every target makes .venv when it is missing and brings it up to date when pyproject.toml or constraints.txt changed.

MODEL   ?= models/reference
DEVICE  ?= edge
OUT     ?= artifacts/$(notdir $(abspath $(MODEL)))-$(DEVICE)
FORMATS ?=
RECIPE  ?=
SOLVER  ?=
CALIBRATION   ?=
TARGET_BITS   ?=
TARGET_SIZE   ?=
TARGET_MEMORY ?=
MAX_LOSS      ?=
GATE    ?= yes
PROMPT  ?= def fibonacci(n):
TEXT    ?= models/reference/text/heldout.txt
PYTHON  ?= $(shell command -v python3.11 || command -v python3)

VENV     := .venv
READY    := $(VENV)/.edgeport-ready
BIN      := $(VENV)/bin
EDGEPORT := $(BIN)/edgeport
MANIFEST  = $(OUT)/manifest.json
space    := $(subst ,, )
ARTIFACT  = $(subst $(space),\$(space),$(MANIFEST))

EXPORT_COMMAND = $(EDGEPORT) export "$(MODEL)" --device "$(DEVICE)" -o "$(OUT)" \
	$(if $(FORMATS),--format "$(FORMATS)") $(if $(RECIPE),--recipe "$(RECIPE)") $(if $(SOLVER),--solver "$(SOLVER)") \
	$(if $(CALIBRATION),--calibration "$(CALIBRATION)") $(if $(TARGET_BITS),--target-bits "$(TARGET_BITS)") \
	$(if $(TARGET_SIZE),--target-size "$(TARGET_SIZE)") $(if $(TARGET_MEMORY),--target-memory "$(TARGET_MEMORY)") \
	$(if $(MAX_LOSS),--max-loss "$(MAX_LOSS)") $(if $(filter no,$(GATE)),--no-gate,$(HELDOUT))
# The gate judges on the text beside the model, unless TEXT was given by hand.
HELDOUT = $(if $(filter file,$(origin TEXT)),,--heldout "$(TEXT)")

.PHONY: help setup export run bench eval report test test-all lint types docs clean peers
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PRECIOUS: $(ARTIFACT)
.SUFFIXES:

help: ## this list
	@echo "usage: make TARGET [MODEL=folder] [DEVICE=edge] [OUT=folder] [FORMATS=gguf,onnx] [RECIPE=int8]"
	@echo "       [SOLVER=auto] [CALIBRATION=file] [TARGET_BITS=4.6] [TARGET_SIZE=300MB] [TARGET_MEMORY=2GB] [MAX_LOSS=5%]"
	@echo "       [GATE=no] [PROMPT=text to continue] [TEXT=file to measure quality on]"
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  %-10s %s\n' "$$name" "$$text"; done

setup: $(READY) ## make .venv and install everything into it, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "edgeport needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@for name in "$$CXX" c++ g++ clang++ true; do command -v "$$name" >/dev/null 2>&1 && break; done; test "$$name" != true || \
		{ echo "llama-cpp-python is compiled during set-up and there is no C++ compiler here." >&2; \
		echo "Install one (Debian, Ubuntu: apt-get install g++), or name it: make $(MAKECMDGOALS) CXX=..." >&2; exit 1; }
	@echo "Setting up $(VENV), once: some minutes, most of them for torch and for compiling llama.cpp."
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

# A finished artifact in OUT is replaced; any other folder of that name is refused. The gate evaluates every container, so
# eval runs here only without it; `make eval` measures more (longer generations, a task, samples).
export: $(READY) ## export MODEL for DEVICE into OUT, judged by the gate, then bench and report
	$(EXPORT_COMMAND) $$(test -f "$(MANIFEST)" && echo --force)
	$(if $(filter no,$(GATE)),$(EDGEPORT) eval "$(OUT)" --text "$(TEXT)")
	$(EDGEPORT) bench "$(OUT)"
	$(EDGEPORT) report "$(OUT)"
	@$(EDGEPORT) inspect "$(OUT)"

# run, bench, eval and report export first when OUT holds no finished artifact yet.
$(ARTIFACT): | $(READY)
	$(EXPORT_COMMAND)

run: $(READY) $(ARTIFACT) ## continue PROMPT with the artifact in OUT
	$(EDGEPORT) run "$(OUT)" "$$PROMPT"
run: export PROMPT := $(PROMPT)

bench: $(READY) $(ARTIFACT) ## measure speed and memory of OUT in each runtime
	$(EDGEPORT) bench "$(OUT)"

eval: $(READY) $(ARTIFACT) ## measure quality of OUT against its source in each runtime
	$(EDGEPORT) eval "$(OUT)" --text "$(TEXT)"

report: $(READY) $(ARTIFACT) ## write OUT/report.html
	$(EDGEPORT) report "$(OUT)"

test: $(READY) ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow and not benchmark" -n auto --maxprocesses 4 --dist loadgroup

test-all: $(READY) ## every test
	$(BIN)/python -m pytest

lint: $(READY) ## style, import contract, and whether docs/cli.md is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate_cli.py --check

types: $(READY) ## mypy, strict
	$(BIN)/mypy -p edgeport

docs: $(READY) ## write docs/cli.md anew
	$(BIN)/python docs/generate_cli.py

peers: $(READY) ## install the exporters that benchmarks/ compares with (optional)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps optimum-intel

clean: ## remove caches and build leftovers; .venv and artifacts/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
