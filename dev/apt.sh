#!/usr/bin/env bash
# dev/apt.sh build|render: install the system packages that are missing; does nothing when all are there.
#   build   compiler, CMake, Python's venv and headers
#   render  EGL with Mesa's software renderer, for rendering without a display
set -e

python=${PYTHON:-python3}
missing=()
needs() { "${@:2}" >/dev/null 2>&1 || missing+=("$1"); }  # needs PACKAGE CHECK...

case $1 in
  build)
    needs cmake command -v cmake
    needs g++ command -v g++
    needs make command -v make
    needs "${python##*/}-venv" "$python" -c 'import ensurepip, venv'
    needs "${python##*/}-dev" "$python" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")'
    ;;
  render)
    for package in libegl1 libgl1-mesa-dri libgles2; do needs $package dpkg -s $package; done
    ;;
  *) sed -n 2,4p "$0" && exit 2 ;;
esac

[ ${#missing[@]} = 0 ] && exit 0
echo "Installing system packages: ${missing[*]}"
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
if ! command -v apt-get >/dev/null || { [ "$sudo" ] && ! command -v sudo >/dev/null; }; then
  echo "Please install these packages (Debian's names) by hand: ${missing[*]}" >&2
  exit 1
fi
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y --no-install-recommends "${missing[@]}"
