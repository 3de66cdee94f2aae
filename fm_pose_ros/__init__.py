"""ROS 2 nodes around fm_pose_core. The messages of this package, fm_pose_ros.msg, are generated beside these
modules."""

from pkgutil import extend_path

# Also the built package, which holds fm_pose_ros.msg, when run from the sources.
__path__ = extend_path(__path__, __name__)
