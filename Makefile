# Each target does all of its own set-up; the second run skips what is done.
PYTHON ?= python3
BIN := .venv/bin
# Set-up is done again when what is pinned or declared has changed.
READY := .venv/.ready

.PHONY: demo test test-all check bench docs clean

demo: $(READY)
	$(BIN)/refold forecast --example airpassengers --horizon 12 --out demo/airpassengers
	$(BIN)/refold forecast --example sunspots --horizon 12 --out demo/sunspots

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_floors.py

bench: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m bench

docs: $(READY)
	$(BIN)/python -m bench.zoo_pages
	$(BIN)/python -m bench.lesson_pictures

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo
