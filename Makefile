# Two commands matter: `make quickstart` and `make test`. Both set up by themselves.
PYTHON ?= $(shell for p in python3.12 "$$HOME/.pyenv/versions/3.12.1/bin/python" python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin

.PHONY: setup quickstart test targets test-kernels parity fuzz lint lock clean

setup: .venv/ready

# The lock holds the versions the tests ran with. The package itself is installed in place, without asking the index again. Python
# compiles what is imported when it is imported; compiling everything that was installed would take longer than fetching it.
.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.12 or newer found; install one, or run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 2; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: setup
	$(BIN)/python launch/quickstart.py

test: setup
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --dist loadfile

# The compilers for TPUs (0.5 GB) and Hopper GPUs (0.9 GB), of the versions that jax wants and without what they need to run.
TARGETS ?= build/targets
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --upgrade
WANTED = $$($(BIN)/python -c 'import sys; from kaiyuan_jax.sharding import topology; print(*topology.requirements(sys.argv[1]))'

targets: $(TARGETS)/ready

$(TARGETS)/ready: requirements.lock | .venv/ready
	$(INSTALL) --target $(TARGETS)/tpu $(WANTED) tpu)
	$(INSTALL) --target $(TARGETS)/cuda $(WANTED) gpu)
	@touch $@

# Kernels compiled for TPUs and GPUs that are not here.
test-kernels: setup targets
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m kernels

# Our decoder against transformers and torch, and our adapter to lm-evaluation-harness against that one's own backend, in an environment of
# their own (Python 3.11): outputs computed anew, and the tests that `make test` does with the committed ones. To commit the new ones:
# cp -r build/goldens/. tests/parity/goldens
PARITY_PYTHON ?= $(shell for p in python3.11 "$$HOME"/.pyenv/versions/3.11.*/bin/python; do \
	"$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$p" && break; done)

parity: setup build/parity/ready
	rm -rf build/goldens
	$(BIN)/python tests/parity/cases.py build/goldens
	build/parity/bin/python tests/parity/transformers_outputs.py build/goldens
	build/parity/bin/python tests/parity/harness_outputs.py build/goldens
	JAX_PLATFORMS=cpu KAIYUAN_GOLDENS=build/goldens $(BIN)/python -m pytest tests/models/hf/test_goldens.py tests/evaluation/harness/test_parity.py

build/parity/ready: tests/parity/requirements.lock
	@test -n "$(PARITY_PYTHON)" || { echo "error: found no Python 3.11 with ensurepip, which this build of torch is for; install one, or run: make parity PARITY_PYTHON=/path/to/python3.11"; exit 2; }
	"$(PARITY_PYTHON)" -m venv --clear build/parity
	build/parity/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r tests/parity/requirements.lock || \
		{ echo "error: torch 2.13.0, transformers 5.23.0 and lm_eval 0.4.13 could not be installed into build/parity; see the lines above"; exit 2; }
	@touch $@

# Every reader of a file format fed damaged files, guided by the code they reach; SECONDS for each of them.
SECONDS ?= 60

fuzz: setup build/fuzz/ready
	PYTHONPATH=build/fuzz/packages JAX_PLATFORMS=cpu $(BIN)/python tests/fuzz/run.py --seconds=$(SECONDS)

build/fuzz/ready: | .venv/ready
	$(INSTALL) --target build/fuzz/packages 'atheris>=3.1,<4' || \
		{ echo "error: atheris could not be installed (it comes for Linux and Python 3.11 to 3.13); see the lines above"; exit 2; }
	@touch $@

lint: setup
	$(BIN)/ruff check .

# Solves requirements.txt anew and writes down what came out.
lock:
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[engine,harness,ray,s3,gcs,tests]' 'ruff>=0.12' 'setuptools>=77'
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude kaiyuan_jax > requirements.lock
	rm -rf build/lock

clean:
	rm -rf build runs stores .venv
