"""Two nodes that send one child frame: told over real DDS, and nothing is told of a node alone."""

from camera_rig import CAMERA, header, image_msg
from geometry_msgs.msg import TransformStamped
from test_object_pose_node import HERE, U, V
from tf2_msgs.msg import TFMessage
from toy_bundle import toy_image

from fm_pose_ros import child_frames

PIXELS = toy_image(CAMERA, U, V)


def test_another_node_with_the_same_child_frame_is_told(rig, monkeypatch):
    monkeypatch.setattr(child_frames, "LISTEN", 60.0)
    r = rig(("detections", "markers"), **HERE)
    r.send_info()
    for k in range(5):  # the first begins to listen
        assert r.send(image_msg(PIXELS, 1.0 + k)).detections
    r.wait(lambda: len(r.heard["tf"]) == 5, "tf")
    assert r.warnings() == []
    other = r.peer.create_publisher(TFMessage, "/tf", 10)
    r.wait(lambda: other.get_subscription_count() == 2, "the node as a listener")
    sent = [TransformStamped(header=header(6.0), child_frame_id=name) for name in ("table", "toy_box")]
    for _ in range(3):  # one that the node does not send is of no interest; many are one warning
        other.publish(TFMessage(transforms=sent))
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith("/tf: expected the child frame toy_box from this node alone")


def test_listening_ends(rig, monkeypatch):
    monkeypatch.setattr(child_frames, "LISTEN", 0.2)
    r = rig(**HERE)
    r.send_info()
    other = r.peer.create_publisher(TFMessage, "/tf", 10)
    r.send(image_msg(PIXELS, 1.0))
    r.wait(lambda: other.get_subscription_count() == 1, "the end of it")  # this test's own remains
    r.send(image_msg(PIXELS, 2.0))
    r.wait(lambda: r.node.count_subscribers("/tf") == 1, "no other listener")  # it does not begin again so soon
    assert other.get_subscription_count() == 1
