# Assumes nothing but make and Python 3.11 or newer. `make PYTHON=/path/to/python3` chooses another Python.
#   make demo    make the environment and render the example manifest to outputs/demo/
#   make test    make the environment and run every check
#   make lint    the checks without the tests        make clean   remove everything that was made

PYTHON ?= $(shell command -v python3.11 || command -v python3)
INSTALLED := .venv/.installed
PIP_INSTALL := .venv/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(INSTALLED)
	.venv/bin/stableavatar render manifests/examples/demo.jsonl --model mini --output outputs/demo/

test: lint
	.venv/bin/pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder --durations 25

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The stamp comes last and goes first: without it an environment is unfinished, and the next make starts it afresh.
# audio-separator is installed without its dependencies: they bring torchvision, which has no working CPU build and
# which the way we use it never imports. What it does need is listed in pyproject.toml.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python {v[0]}.{v[1]} is too old: install Python 3.11 or newer, or make PYTHON=/path/to/it")'
	test -e $@ || $(PYTHON) -m venv --clear .venv
	rm -f $@
	$(PIP_INSTALL) pip
	$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[test]'
	$(PIP_INSTALL) --no-deps audio-separator
	touch $@

clean:
	rm -rf .venv outputs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find manifests pipelines stableavatar tests -name __pycache__ -type d -prune -exec rm -rf {} +
