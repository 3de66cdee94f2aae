"""Make the ROS packages from PyPI usable for building messages.

Their exported CMake files name the include folders of the machine on which the wheels were built, in the form
`/opt/python/cp311-cp311/include/python3.11` and
`/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include`. This writes the folders of the interpreter
that runs the script instead, in all of `<venv>/share/**/*.cmake`. Running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

BUILD_MACHINE = r"/opt/python/cp\d+-cp\d+"


def main() -> None:
    numpy_include, python_include = np.get_include(), sysconfig.get_path("include")
    if not Path(python_include, "Python.h").is_file():
        sys.exit(
            f"{python_include}/Python.h is missing: install the development files of this Python (Debian: python3-dev)"
        )
    changed = 0
    for file in Path(sys.prefix, "share").rglob("*.cmake"):
        before = file.read_text()
        after = re.sub(
            BUILD_MACHINE + r"/lib/python[\d.]+/site-packages/numpy/(?:_core|core)/include", numpy_include, before
        )
        after = re.sub(BUILD_MACHINE + r"/include/python[\d.]+", python_include, after)
        if after != before:
            file.write_text(after)
            changed += 1
    print(f"fix_cmake_paths: {changed} files changed")


if __name__ == "__main__":
    main()
