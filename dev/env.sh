# Development environment; source it (bash or zsh), or run one command in it with dev/with_ros.
#
# .venv/bin comes first in PATH. ROS comes from PyPI (in .venv) unless a ROS installation has been sourced before, as on
# a robot; then that one is used, and the overlay holds fm_pose_ros alone.

_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
_fm_pose_venv=$_root/.venv
_overlay=$_fm_pose_venv/overlay/install

# Is the ROS package $1 in a prefix that is not ours?
has_system_ros_package() {
  local prefix
  for prefix in $(printf %s "${AMENT_PREFIX_PATH:-}" | tr : ' '); do
    case $prefix in "$_fm_pose_venv"*) continue ;; esac
    [ -e "$prefix/share/$1/package.xml" ] && return 0
  done
  return 1
}

_python=$(echo "$_fm_pose_venv"/lib/python3.*)
_python=lib/${_python##*/}/site-packages  # where packages lie in .venv, and where colcon installs ours

export PATH=$_fm_pose_venv/bin:$_overlay/bin:$PATH
if has_system_ros_package rclpy; then
  export AMENT_PREFIX_PATH=$_overlay:$AMENT_PREFIX_PATH
  export LD_LIBRARY_PATH=$_overlay/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export PYTHONPATH=$_overlay/$_python${PYTHONPATH:+:$PYTHONPATH}
else
  export ROS_DISTRO=jazzy VIRTUAL_ENV=$_fm_pose_venv  # CMake takes the Python of VIRTUAL_ENV
  export AMENT_PREFIX_PATH=$_overlay:$_fm_pose_venv
  export LD_LIBRARY_PATH=$_overlay/lib:$_fm_pose_venv/lib$(printf ':%s' "$_fm_pose_venv/$_python"/ros_*.libs)
  # Else each Python start finds these libraries for itself and then starts anew.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  export PYTHONPATH=$_overlay/$_python
fi
export CMAKE_PREFIX_PATH=$AMENT_PREFIX_PATH
unset _root _overlay _python
