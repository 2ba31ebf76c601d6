# Two commands: `make run` (the app) and `make test` (everything that must hold). Both are quiet the second time.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run test check clean

run: $(VENV)/.run-ready
	$(BIN)/python app.py

test: $(VENV)/.test-ready
	@sh scripts/find_chromium.sh $(BIN)/python > $(VENV)/chromium-path
	$(MAKE) --no-print-directory check
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKVIZ_CHROMIUM="$$(cat $(VENV)/chromium-path)" \
		$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Gradio writes stubs of our components beside them when it runs; old ones would mislead the type checker.
check: $(VENV)/.test-ready
	@rm -f tokviz/ui/*.pyi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV)

$(VENV)/.run-ready: requirements.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test-ready: requirements.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run-ready

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
