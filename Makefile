# make demo       the detector on simulated brains; results in demo-output/
# make test       lint, types and all tests
# make lint       lint and types alone
# make benchmark  time and memory: build/speed/speed.md (an hour, on a quiet machine); damaged DICOM files
# make clean      remove what these made, .venv included
#
# The first call sets everything up in .venv; later calls only when pyproject.toml or constraints.txt changed.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c "" 2>/dev/null && { echo $$p; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint benchmark system-packages clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/demo.stamp
	$(BIN)/d24fad demo --output demo-output

test: system-packages lint
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/test.stamp
	$(BIN)/python Testing/Benchmarks/speed.py --output build/speed
	$(BIN)/python Testing/Benchmarks/fuzz_dicom.py --cases 2400

system-packages:
	@Testing/system-packages.sh

# Python 3.11 on Linux gets the exact versions of constraints.txt, another Python the newest that fit.
define install
	@if $(BIN)/python -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) or sys.platform != 'linux')"; then \
	  pins="-c constraints.txt"; \
	else \
	  pins=""; echo "note: constraints.txt is for Python 3.11 on Linux; installing unpinned versions"; \
	fi; \
	echo "installing .[$(1)] into $(VENV) (the first time takes minutes)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$pins -e ".[$(1)]"
endef

$(VENV)/demo.stamp: $(VENV)/python.stamp pyproject.toml constraints.txt
	$(call install,demo)
	@touch $@

# The tests' packages include the demo's.
$(VENV)/test.stamp: $(VENV)/python.stamp pyproject.toml constraints.txt
	$(call install,test$(comma)slicer-test)
	@touch $(VENV)/demo.stamp $@

$(VENV)/python.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
	  echo "error: $$($(PYTHON) --version) is too old; give Python 3.10 or later, best 3.11: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv; on Debian: apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@touch $@

comma := ,

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output Testing/Screenshots .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
