# The short way to everything. Each target is idempotent and does its own set-up.
.PHONY: setup build test demo reference

PRESET ?= release
export OPTIQ_REFERENCE_MODELS := $(CURDIR)/models

setup:
	scripts/setup.sh

build: setup
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET)

# The model that demo and the slow tests use: models/reference and models/reference-f32.
reference: build
	scripts/make_reference.sh build/$(PRESET)

test: reference
	ctest --preset $(PRESET) -j2

demo: reference
	scripts/demo.sh build/$(PRESET)/bin/optiq
