"""The transforms of a node on /tf. TF takes two nodes that send one child frame for an object that jumps, without a
word; so this node listens now and then whether another one does."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import TransformStamped
from tf2_msgs.msg import TFMessage

from fm_pose_ros.compat import TransformBroadcaster, destroy_broadcaster

if TYPE_CHECKING:
    from fm_pose_ros.lifecycle import PoseNode

LISTEN, PAUSE = 3.0, 60.0  # seconds: how long, and how long not, since all of /tf has to be read for that


class ChildFrames:
    """Sends transforms, and warns if another node sends one of the same frames."""

    def __init__(self, node: "PoseNode") -> None:
        self._node, self._broadcaster = node, TransformBroadcaster(node)
        self._listening: tuple[Any, Any] | None = None  # the subscription, and the timer that ends it
        self._next = 0.0  # when to listen again, steady clock
        self._own: set[str] = set()
        self._unheard: Counter[tuple[object, ...]] = Counter()  # what was sent, and has not come back yet

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """Send, as tf2's broadcaster does."""
        if self._listening is None and time.monotonic() >= self._next:
            self._unheard.clear()
            subscription = self._node.create_subscription(TFMessage, "/tf", self._on_tf, 100)
            self._listening = subscription, self._node.steady_timer(LISTEN, self.rest)
        self._own.update(t.child_frame_id for t in transforms)
        if self._listening is not None:
            self._unheard.update(_key(t) for t in transforms)
        self._broadcaster.sendTransform(list(transforms))

    def rest(self) -> None:
        """Listen no longer, for a while."""
        if self._listening is not None:
            subscription, timer = self._listening
            self._node.destroy_timer(timer)
            self._node.destroy_subscription(subscription)
            self._listening = None
            self._next = time.monotonic() + PAUSE

    def close(self) -> None:
        """The end of the publisher, and of the subscription."""
        self.rest()
        destroy_broadcaster(self._node, self._broadcaster)

    def _on_tf(self, msg: TFMessage) -> None:
        for transform in msg.transforms:
            if transform.child_frame_id not in self._own:
                continue
            key = _key(transform)
            if self._unheard[key] > 0:
                self._unheard[key] -= 1
                continue
            name = transform.child_frame_id
            remedy = "give one of them a tf_prefix or a child_frame"
            self._node.get_logger().warning(
                f"/tf: expected the child frame {name} from this node alone, got it from another, too; {remedy}",
                throttle_duration_sec=LISTEN,
            )


def _key(transform: TransformStamped) -> tuple[object, ...]:
    stamp, p = transform.header.stamp, transform.transform.translation
    return transform.child_frame_id, stamp.sec, stamp.nanosec, p.x, p.y, p.z
