# weldwatch: `make demo` shows it, `make test` proves it. Both work on a bare Debian or Ubuntu with python3-venv and make.
PYTHON ?= python3
PY_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check training demo-bundle docs matrix sbom audit schemas lock clean
help:
	@echo 'make demo         install into .venv and run the whole station for a moment'
	@echo 'make test         install what the tests need and run everything: lint, types, import law, tests'
	@echo 'make training     install weldwatch-train (TensorFlow) into .venv'
	@echo 'make demo-bundle  train the shipped demo bundle anew: [WEIGHTS=path/to/imagenet.h5]'
	@echo 'make check        lint, types and import law only'
	@echo 'make docs         the documentation as a site, in build/site'
	@echo 'make matrix       the agent'"'"'s tests on each supported Python that is here'
	@echo 'make sbom         the bill of materials of a station, in build/sbom'
	@echo 'make audit        locks and licences; then, over the network, known weaknesses'
	@echo 'make schemas      write the JSON Schemas anew'
	@echo 'make lock         write the lock files anew; versions that fit stay: [LOCK=--upgrade]'

demo: $(VENV)/.demo
	$(BIN)/weldwatch demo

test: $(VENV)/.test system-packages
	$(MAKE) --no-print-directory check
	$(BIN)/python -m tests.phases $(PYTEST)
	$(if $(PYTEST),,$(BIN)/python -m tests.compatibility.matrix --quick --without $(PY_VERSION))

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

training: $(VENV)/.training

demo-bundle: $(VENV)/.training
	rm -rf build/demo-bundle
	$(BIN)/weldwatch-train synthesize --out build/demo-bundle/frames --recordings 80 --frames 60 --seed 1
	$(BIN)/weldwatch-train all --recipe demo --data build/demo-bundle/frames --out build/demo-bundle \
		$(if $(WEIGHTS),--weights $(WEIGHTS))
	rm -f agent/demo/weld-demo-*.pipeline
	cp build/demo-bundle/weld-demo-*.pipeline agent/demo/

# What tests need from the distribution: a broker to deliver to, strace to read the order of syncs from, jq for the
# examples of the documentation, an RTSP server and a simulated GigE Vision camera, and what boots a bare Debian to
# install weldwatch on.
PACKAGES := mosquitto mosquitto-clients strace jq openssl iproute2 prometheus aravis-tools python3-gi \
	systemd systemd-container debootstrap debian-archive-keyring shellcheck nodejs python3-venv \
	gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
.PHONY: system-packages
system-packages:
	@dpkg-query -W -f='$${db:Status-Status}\n' $(PACKAGES) 2>&1 | grep -qv '^installed$$' || exit 0; \
		$(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends $(PACKAGES)

$(VENV)/bin/python:
	@case "$(PY_VERSION)" in 3.10|3.11|3.12|3.13) ;; *) \
		echo "weldwatch needs Python 3.10 to 3.13, found '$(PY_VERSION)': make PYTHON=python3.11 ..."; exit 2;; esac
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'first: sudo apt install python3-venv'; exit 2; }

# The project itself is linked, not copied: what you edit is what runs.
$(VENV)/.%: $(VENV)/bin/python pyproject.toml locks/*-$(PY_VERSION).txt
	$(BIN)/pip install --quiet --require-hashes -r locks/$*-$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open build/site/index.html; it needs no server and no network'

# Beside the environment for tests: what each Python needs is in its own, below build/matrix. MATRIX='--quick', '--all', …
matrix: $(VENV)/.test system-packages
	$(BIN)/python -m tests.compatibility.matrix $(MATRIX)

sbom: $(VENV)/.docs
	$(BIN)/python -m locks.sbom

# The first part needs no network and is in `make test`; the second asks PyPI about each locked version.
audit: $(VENV)/.test
	$(BIN)/pytest -q tests/locks
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --require-hashes -r locks/audit-$(PY_VERSION).txt
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		-r locks/demo-$(PY_VERSION).txt -r locks/training-$(PY_VERSION).txt

schemas: $(VENV)/.test
	$(BIN)/python config/schemas/generate.py

lock: $(VENV)/bin/python
	$(BIN)/pip install --quiet uv packaging
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m locks.update $(LOCK)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
