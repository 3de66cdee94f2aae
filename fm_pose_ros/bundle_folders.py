"""Where bundles are: what a launch argument or a parameter names."""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory


def bundle_folders(named: str) -> list[str]:
    """From a list with ':' between. A folder stays; what has no slash and is no folder here is the name of one in the
    package's `models`."""
    return [_folder(part) for part in named.split(os.pathsep) if part]


def _folder(named: str) -> str:
    folder = os.path.expanduser(named)
    if os.sep in named or os.path.isdir(folder):
        return folder
    try:
        return os.path.join(get_package_share_directory("fm_pose_ros"), "models", named)
    except PackageNotFoundError:  # the nodes' sources, without their package
        return folder
