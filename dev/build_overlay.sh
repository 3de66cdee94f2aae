#!/usr/bin/env bash
# Build fm_pose_ros, and the interface packages that this machine lacks, into .venv/overlay with colcon. Python files,
# launch files and configuration are linked, not copied: edits count at once, only new files and messages need another
# build.
set -e
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source dev/env.sh

packages=(.)
for package in vision_msgs tf2_msgs; do
  has_system_ros_package $package || packages+=(dev/overlay/$package)
done
build_python=$PWD/.venv/bin/python
# The Python that has the message generators' modules.
if has_system_ros_package rclpy; then build_python=${ROS_PYTHON:-/usr/bin/python3}; fi

if ! colcon --log-base .venv/overlay/log build --merge-install --symlink-install \
  --build-base .venv/overlay/build --install-base .venv/overlay/install --paths "${packages[@]}" \
  --cmake-args -DPython3_EXECUTABLE="$build_python" -DBUILD_TESTING=OFF >.venv/overlay.log 2>&1; then
  cat .venv/overlay.log
  exit 1
fi
