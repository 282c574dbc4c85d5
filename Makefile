# `make demo` and `make test` need Python 3.11 or later and nothing else; both make the environment in .venv first.
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

.PHONY: demo test year bench compat clean

demo: .venv/made
	.venv/bin/python -m airflow_provider_aep.emulator.http.demo

# Three workers, since most tests wait for processes of their own; a file stays with one worker.
test: .venv/made
	.venv/bin/python -m pytest --numprocesses 3 --dist loadfile

year: .venv/made
	.venv/bin/python -m tests.year

bench: .bench/made
	.bench/bin/python benchmarks/run.py

# Makes its environments in .compat itself, one for each Python and Airflow.
compat:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found on the path" >&2; exit 1; }
	$(PYTHON) tests/compat.py

.venv/made: pyproject.toml tests/constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found on the path" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv/bin/python -m pip install --quiet --constraint tests/constraints.txt --editable ".[emulator]" --group test
	touch .venv/made

# The other providers that are measured have an environment of their own.
.bench/made: pyproject.toml benchmarks/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found on the path" >&2; exit 1; }
	$(PYTHON) -m venv --clear .bench
	.bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.bench/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt --editable ".[emulator]"
	touch .bench/made

clean:
	rm -rf .venv .bench .compat demo-data
