# `make demo` and `make test` do all the set-up: they create .venv and install into it.
#
#   PYTHON    the interpreter for .venv (3.11 to 3.13)
#   PIP_ARGS  more arguments for pip; torch for CPU only, for example:
#             make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   EXTRAS    what to install; tests need all,dev, `make docs` docs

PYTHON ?= python3
PIP_ARGS ?=
EXTRAS ?= all,dev,docs
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-slow test-wheel test-live test-real lint docs format diagram settings commands python screenshots page-states bench clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

install: $(INSTALLED) ## create .venv and install everything into it

demo: $(INSTALLED) ## render pictures, fine-tune, export, feed, and search them (about 90 s)
	$(BIN)/clipsearch demo || { $(BIN)/clipsearch doctor; exit 1; }

test: $(INSTALLED) ## the test suite, on all cores
	$(BIN)/python -m pytest -n auto --dist loadscope

test-slow: $(INSTALLED) ## the longer checks (kill -9 at twenty moments, a million rows, ...)
	$(BIN)/python -m pytest -m slow

test-wheel: $(INSTALLED) ## build the wheel, install it into an empty environment, run its demo
	CLIPSEARCH_PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m pytest -m wheel tests/packaging

test-live: $(INSTALLED) ## against a real Vespa: CLIPSEARCH_TEST_VESPA, or Docker
	$(BIN)/python -m pytest -m live

test-real: $(INSTALLED) ## docs/real-text-encoder.md with real weights, which it installs (minutes)
	$(BIN)/python -m pytest -m real tests/end_to_end

lint: $(INSTALLED) docs ## ruff, mypy, and the site of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The package prints an advertisement unless the variable is set; with --quiet no warning would count.
docs: $(INSTALLED) ## the documentation as a site, into build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(INSTALLED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

diagram: $(INSTALLED) ## draw the rooms of docs/architecture.md anew, from the imports
	$(BIN)/python tests/architecture/diagram.py

settings: $(INSTALLED) ## write docs/settings.md anew, from the settings of a training run
	$(BIN)/python tests/architecture/settings_page.py

commands: $(INSTALLED) ## write docs/reference/commands.md anew, from the help of the commands
	$(BIN)/python tests/architecture/commands_page.py

python: $(INSTALLED) ## write docs/reference/python.md anew, from the docstrings
	$(BIN)/python tests/architecture/python_page.py

screenshots: $(INSTALLED) ## write the pictures of the page in docs/ anew, from the demo; needs chromium
	test -d demo/pictures.index || $(BIN)/clipsearch demo
	$(BIN)/python tests/clipsearch/page/screenshots.py demo

page-states: $(INSTALLED) ## write pictures of every state of the page into build/page-states/; needs chromium
	PAGE_STATES=build/page-states $(BIN)/python -m pytest -q tests/clipsearch/page/test_accessibility.py

bench: $(INSTALLED) ## measure the ratios we are held to, into benchmarks/README.md (10 min)
	$(BIN)/python benchmarks/check.py --write

bench-check: $(INSTALLED) ## fail where a kept ratio fell by over 20 % (10 min)
	$(BIN)/python benchmarks/check.py

bench-all: $(INSTALLED) ## every benchmark, each printing a table (an hour on 2 cores)
	for question in $(filter-out benchmarks/check.py,$(wildcard benchmarks/*.py)); do echo "== $$question"; $(BIN)/python $$question || exit 1; done

clean: ## remove .venv and the demo
	rm -rf $(VENV) demo build dist
