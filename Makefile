# setup: everything a fresh machine needs.  run: the main job.  test, check: what CI runs.  bench: side by side with peers.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
DEBS := libegl1 libgl1 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxkbcommon-x11-0 xvfb xauth
# A window needs a screen; without one the tests bring their own.
SCREEN := $(if $(DISPLAY),,xvfb-run -a -s "-screen 0 1600x1000x24")

.PHONY: setup run test check bench docs scores study-cascade study-pruning study-adaptation study-xray2em clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup.sh
	PYTHON="$(PYTHON)" DEBS="$(DEBS)" sh tools/setup.sh
	touch $@

run: setup
	$(BIN)/python -m connectoscope_app.demo

test: setup
	$(BIN)/python -m pytest -n 2 tests/unit tests/engine
	$(SCREEN) $(BIN)/python -m pytest tests/plugin tests/app tests/journeys

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(SCREEN) $(BIN)/python tests/benchmarks/run.py

docs: setup
	$(BIN)/python docs/make_reference.py

# The figures on the cards of the bundled models, measured again by the commands that users have.
scores: setup
	$(BIN)/python recipes/score_models.py

# What cascades save and miss on made volumes; measurements are kept in studies/results and not repeated.
study-cascade: setup
	$(BIN)/python studies/cascade.py

# Budgeted Broadcast beside its rivals, three folds and seeds; runs are kept in studies/results and not repeated.
study-pruning: setup
	$(BIN)/python studies/pruning.py

# Four labelled patches and the nearest model beside training from scratch; runs are kept likewise.
study-adaptation: setup
	$(BIN)/python studies/adaptation.py

# Membranes in EM made from simulated X-ray, beside interpolation, deconvolution and true EM; runs are kept.
study-xray2em: setup
	$(BIN)/python studies/xray2em.py

clean:
	rm -rf .venv build dist
