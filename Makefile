# filterd. The three commands:
#   make demo [ARGS=--once]   set up .venv and show the whole program at work on this machine, offline
#   make check                what each commit needs, in under two minutes
#   make test                 everything; as root it also installs the Debian programs we are compared with
#
# Needs python3 (3.11 or newer) with pip. Nothing outside this folder is touched, but for `make test` as root.

VENV   ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(p))))
PIP     = $(VENV)/bin/python -m pip -qq --disable-pip-version-check --no-input
ARGS   ?=

# The stamps carry a digest of pyproject.toml: a second run installs nothing, a changed list of needs installs again.
digest := $(shell cksum < pyproject.toml | cut -d' ' -f1)
ready  := $(VENV)/.filterd-$(digest)
tested := $(VENV)/.filterd-test-$(digest)

.PHONY: demo test check venv venv-test clean help

help:
	@sed -n '2,6s/^# \{0,2\}//p' Makefile

demo: $(ready)
	@$(VENV)/bin/filterd demo $(ARGS)

check: $(tested)
	@$(VENV)/bin/python -m tests $(ARGS)

test: $(tested)
	@$(VENV)/bin/python -m tests all $(ARGS)

venv: $(ready)
venv-test: $(tested)

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'filterd needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo 'setting up $(VENV) ...'
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip -qq --python $(VENV)/bin/python install pip; }

$(ready): | $(VENV)/bin/python
	@echo 'installing filterd and what it leans on ...'
	@$(PIP) install --editable . || { echo 'pip could not install filterd; its words are above' >&2; exit 1; }
	@touch $@

$(tested): | $(VENV)/bin/python
	@echo 'installing filterd and what its tests need ...'
	@$(PIP) install --editable '.[test]' || { echo 'pip could not install the test needs; its words are above' >&2; exit 1; }
	@touch $@ $(ready)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .pytest_cache
