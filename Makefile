# Two commands: `make run` (the app) and `make test` (everything that must hold). Both are quiet the second time.
# Both install exact versions and check the hash of every file; `make lock` writes them anew from the requirements.
PYTHON ?=
LOCKED ?= yes
VENV := .venv
BIN := $(VENV)/bin
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run test test-all check docs lock clean

run: $(VENV)/.run-ready
	$(BIN)/python app.py

# Interpreters that the tests start compile the package once: PYTHONDONTWRITEBYTECODE, where set, is lifted. Files are
# handed out in their order: the longest of one test would otherwise come last, with one core idle beside them.
pytest = PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKVIZ_CHROMIUM="$$(cat $(VENV)/chromium-path)" \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.test-ready
	@sh scripts/find_chromium.sh $(BIN)/python > $(VENV)/chromium-path
	$(MAKE) --no-print-directory check docs
	$(pytest) -m "not generator"

# What is too slow for every change as well: training, benchmarks and products of parameters whole, every digest of
# behaviour, every mutant.
test-all: $(VENV)/.test-ready
	@sh scripts/find_chromium.sh $(BIN)/python > $(VENV)/chromium-path
	$(MAKE) --no-print-directory check docs
	$(pytest)
	$(BIN)/python -m scripts.behaviour_digest --check
	TOKVIZ_CHROMIUM="$$(cat $(VENV)/chromium-path)" $(BIN)/python -m scripts.mutants run

# The documentation as a site, in out/site; a broken link or an unknown name fails.
docs: $(VENV)/.test-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Gradio writes stubs of our components beside them when it runs; old ones would mislead the type checker.
check: $(VENV)/.test-ready
	@rm -f tokviz/ui/*.pyi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV)

# LOCKED=no: where a locked version has no wheel, what the ranges of the requirements allow, unchecked.
ifeq ($(LOCKED),no)
install = $(BIN)/pip install --quiet --disable-pip-version-check -r $(1:.lock=.txt)
$(VENV)/.run-ready $(VENV)/.test-ready: requirements.txt requirements-mcp.txt requirements-dev.txt
else
install = sh scripts/install_locked.sh $(VENV) $(1)
endif

$(VENV)/.run-ready: requirements.lock requirements-build.lock | $(BIN)/python
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.test-ready: requirements.lock requirements-dev.lock requirements-build.lock | $(BIN)/python
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.run-ready

# Versions stay while they fit what the requirements ask; UPGRADE=1 takes the newest.
lock: | $(BIN)/python
	@UPGRADE="$(UPGRADE)" sh scripts/lock.sh $(BIN)/python

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
