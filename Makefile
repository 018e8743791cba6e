# `make demo` sets up and runs the main job on a phantom world; `make test` sets up and tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
DEMO ?= demo
# Each file's tests run in one process; the order, longest first, is that of tests/conftest.py.
TESTS = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint docs rooms clean

demo: $(INSTALLED)
	$(BIN)/hqvox demo $(DEMO)

test: $(INSTALLED)
	$(TESTS)

test-fast: $(INSTALLED)
	$(TESTS) -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The documentation as a site: build/docs/index.html. Warnings, such as broken links, are errors.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/sphinx-build -j auto -W --keep-going -q -b html docs build/docs
	@echo "wrote build/docs/index.html"

# The picture of the packages in docs/architecture.md; needs Graphviz.
rooms: $(INSTALLED)
	$(BIN)/python docs/rooms.py

# OpenCV's desktop wheel needs libGL, which servers often lack: there its headless twin serves.
$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hqvox needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -e '.[test,lint]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  echo "OpenCV's desktop libraries are missing here: using opencv-python-headless"; \
	  $(BIN)/python -m pip uninstall --yes --quiet opencv-python && \
	  $(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless; }
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO)
