# Each target sets up .venv when it is missing or older than pyproject.toml. Needs Python 3.11 or later.
PYTHON ?= python3
BIN = .venv/bin
# What tests and tools need; participants' copies have neither.
EXTRAS = $(if $(wildcard tests),[test$(comma)browser$(comma)web$(comma)hub])
comma := ,
# make CPU=1 ... installs PyTorch without GPU libraries: several GB less on Linux
CPU_INDEX = https://download.pytorch.org/whl/cpu

.PHONY: run lab check slides web test clean

run: .venv/installed     ## execute the notebooks without a screen; results in build/
	$(BIN)/python tools/run_notebooks.py

lab: .venv/installed     ## open JupyterLab on the first notebook
	PATH="$(CURDIR)/$(BIN):$$PATH" jupyter lab --LabApp.default_url=/lab/tree/notebooks/01_data_and_augmentation.ipynb

check: .venv/installed   ## is this machine ready for the workshop, and how long will each notebook take?
	$(BIN)/python -m cifar_utils doctor

slides: .venv/installed  ## the notebooks as slides, in build/slides/; they need no internet
	$(BIN)/python tools/make_slides.py

web: .venv/installed     ## the notebooks and guides as searchable pages, in build/web/; they need no internet
	$(BIN)/python tools/make_web.py

test: .venv/installed    ## every test, the notebooks included
	$(BIN)/python -m pytest -m "slow or not slow"

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name it: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	@echo "Installing the packages into .venv: a few minutes, once."
	$(if $(CPU),$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision --index-url $(CPU_INDEX) \
		|| echo "PyTorch's CPU packages cannot be reached: installing those with GPU libraries.")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRAS)'
	touch $@

clean:                   ## remove what was installed and made, but not data/ or runs/
	rm -rf .venv build
