"""One version number: fm_pose_core.__version__, which pyproject.toml reads, and package.xml agree."""

import xml.etree.ElementTree as ET
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import fm_pose_core

ROOT = Path(__file__).resolve().parent.parent


def test_package_xml_names_the_version_of_the_core():
    assert ET.parse(ROOT / "package.xml").findtext("version") == fm_pose_core.__version__


def test_the_installed_distribution_has_the_version_of_the_core():
    try:
        installed = version("fm-pose")
    except PackageNotFoundError:
        pytest.skip("fm-pose is not installed by pip here (a robot's colcon build)")
    assert installed == fm_pose_core.__version__
