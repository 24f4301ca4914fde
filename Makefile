# `make app` and `make test` do all the set-up; a stamp in .venv makes the second time quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv installs the same in half the time; bytecode, so that not every start compiles torch again.
INSTALL := $(shell command -v uv >/dev/null 2>&1 && echo "uv pip install --compile-bytecode --python $(BIN)/python" || echo "$(BIN)/python -m pip install --progress-bar off")

.PHONY: app test check docs clean browser

app: $(VENV)/.app
	$(BIN)/python -m streamlit run app.py

# Side by side on a few cores, a file at a time, in their order: those with few tests, which take longest, not last. Each
# with one thread, so that they do not wait for each other.
test: $(VENV)/.test browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of the documentation, in build/site; a warning is an error.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html -c docs . build/site
	@echo "The documentation is at build/site/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The browser tests take a Chromium on the path, or Playwright's own; those of the JavaScript take Node.js.
browser: $(VENV)/.test
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get -qq update && apt-get -qq install -y chromium >/dev/null; \
	else $(BIN)/python -m playwright install chromium; fi
	@command -v node >/dev/null || \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get -qq update && apt-get -qq install -y nodejs >/dev/null; \
	else echo "Node.js is not installed: the unit tests of the JavaScript are skipped."; fi

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Inspector needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 app") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[concepts,quick]'
	-@$(BIN)/inspector accelerate efficientnet_lite0 # so that the app starts with it at once; it runs without, too
	@$(BIN)/python -m compileall -q inspector app.py # so that the first start is as quick as the next
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.app
