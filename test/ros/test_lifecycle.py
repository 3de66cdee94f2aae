"""Configure, activate, deactivate, clean up, shut down, through the real services; and the executable as a process."""

import signal
import subprocess

import pytest
from camera_rig import CAMERA, Peer, ends_cleanly, image_msg, info_msg, start
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from test_object_pose_node import HERE, U, V
from toy_bundle import toy_image
from visualization_msgs.msg import Marker

from fm_pose_core import EstimatorConfig

PIXELS = toy_image(CAMERA, U, V)


class Manager:
    """A lifecycle manager's view of the node."""

    def __init__(self, r):
        self.r = r
        self._change = r.peer.create_client(ChangeState, f"{r.node_name}/change_state")
        self._get = r.peer.create_client(GetState, f"{r.node_name}/get_state")
        r.wait(lambda: self._change.service_is_ready() and self._get.service_is_ready(), "the services")

    def __call__(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        future = self._change.call_async(request)
        self.r.wait(future.done, "the transition")
        return future.result().success

    @property
    def state(self) -> int:
        future = self._get.call_async(GetState.Request())
        self.r.wait(future.done, "the state")
        return future.result().current_state.id


def topics(r) -> set[str]:
    return {
        name
        for name, _ in r.peer.get_publisher_names_and_types_by_node("object_pose_node", f"/{r.namespace}")
        if r.node_name in name
    }


def test_a_manager_leads_the_node_through_all_states_and_back(rig):
    r = rig(autostart=False, **HERE)
    manager = Manager(r)
    for stamp in (1.0, 2.0):
        assert manager.state == State.PRIMARY_STATE_UNCONFIGURED
        assert manager(Transition.TRANSITION_CONFIGURE)
        assert manager.state == State.PRIMARY_STATE_INACTIVE
        assert r.images.get_subscription_count() == 0
        r.wait(lambda: f"{r.node_name}/detections" in topics(r))
        assert manager(Transition.TRANSITION_ACTIVATE)
        assert manager.state == State.PRIMARY_STATE_ACTIVE
        r.wait_active()
        r.send_info()
        assert r.send(image_msg(PIXELS, stamp)).detections
        assert manager(Transition.TRANSITION_DEACTIVATE)
        assert manager.state == State.PRIMARY_STATE_INACTIVE
        r.wait(lambda: r.images.get_subscription_count() == 0, "the end of the subscription")
        assert manager(Transition.TRANSITION_CLEANUP)
        r.wait(lambda: f"{r.node_name}/detections" not in topics(r), "the end of the publishers")
    assert manager(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert manager.state == State.PRIMARY_STATE_FINALIZED
    assert r.warnings() == []


def test_a_transition_that_is_not_allowed_is_refused_and_the_node_goes_on(rig):
    r = rig(**HERE)
    manager = Manager(r)
    r.send_info()
    for k, transition in enumerate(
        (Transition.TRANSITION_CLEANUP, Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 200)
    ):
        assert not manager(transition)
        assert manager.state == State.PRIMARY_STATE_ACTIVE
        assert r.send(image_msg(PIXELS, 1.0 + k)).detections
    assert [w for w in r.warnings() if "expected a transition from active" in w]


def test_deactivation_clears_the_markers_and_activation_starts_anew(rig):
    r = rig(("detections", "markers"), window_source="tracking", **HERE)
    r.send_info()
    r.send(image_msg(PIXELS, 50.0))
    manager = Manager(r)
    assert manager(Transition.TRANSITION_DEACTIVATE)
    last = r.wait(lambda: r.heard["markers"] if len(r.heard["markers"]) > 1 else None)[-1]
    assert [m.action for m in last.markers] == [last.markers[0].DELETEALL]
    assert manager(Transition.TRANSITION_ACTIVATE)
    r.wait_active()
    r.images.publish(image_msg(PIXELS, 1.0))  # an older camera_info isn't used, an earlier stamp is no fault
    r.wait(lambda: r.node.diagnostics.statistics.faults["camera_info missing"] == 1)
    r.send_info()
    assert r.send(image_msg(PIXELS, 2.0)).detections[0].id == "toy_box_2"


@pytest.mark.parametrize("transition", [Transition.TRANSITION_ACTIVE_SHUTDOWN, Transition.TRANSITION_INACTIVE_SHUTDOWN])
def test_shutdown_from_active_and_inactive(rig, transition):
    r = rig(**HERE)
    manager = Manager(r)
    if transition == Transition.TRANSITION_INACTIVE_SHUTDOWN:
        assert manager(Transition.TRANSITION_DEACTIVATE)
    assert manager(transition)
    assert manager.state == State.PRIMARY_STATE_FINALIZED
    r.wait(lambda: r.images.get_subscription_count() == 0)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"bundle": ""}, "bundle: expected the folder or name of a bundle, got an empty parameter"),
        ({"bundle": "/nowhere/duck"}, "/nowhere/duck: expected a bundle"),
        ({"backend": "abacus"}, "backend: expected one of auto"),
        ({"window_source": "crystal ball"}, "window_source: expected one of"),
    ],
)
def test_a_node_that_cannot_be_configured_says_why_and_waits(rig, toy_bundle, parameters, text):
    r = rig(autostart=False, **parameters)
    manager = Manager(r)
    assert not manager(Transition.TRANSITION_CONFIGURE)
    assert manager.state == State.PRIMARY_STATE_UNCONFIGURED
    (error,) = r.wait(r.warnings, "the error")
    assert text in error
    status = r.wait(lambda: next((s for a in r.heard["diagnostics"] for s in a.status if text in s.message), None))
    assert status.level == status.ERROR


def test_qos_can_be_overridden_by_parameters(rig):
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    prefix = "qos_overrides./{ns}/"
    changes = {
        f"{prefix}image_raw.subscription.reliability": "reliable",
        f"{prefix}image_raw.subscription.depth": 3,
        f"{prefix}camera_info.subscription.durability": "transient_local",
        f"{prefix}object_pose_node/detections.publisher.reliability": "best_effort",
    }
    r = rig(autostart=False, **changes)
    manager = Manager(r)
    assert manager(Transition.TRANSITION_CONFIGURE) and manager(Transition.TRANSITION_ACTIVATE)
    names = [f"/{r.namespace}/image_raw", f"/{r.namespace}/camera_info"]
    images, infos = (r.wait(lambda name=name: r.peer.get_subscriptions_info_by_topic(name)) for name in names)
    assert images[0].qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert r.node.camera_input._images.qos_profile.depth == 3
    assert infos[0].qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    (output,) = r.wait(lambda: r.peer.get_publishers_info_by_topic(f"{r.node_name}/detections"))
    assert output.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert infos[0].qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT  # the default of the inputs


def test_a_wrong_override_is_told_in_one_line(rig):
    r = rig(autostart=False, **{"qos_overrides./{ns}/image_raw.subscription.reliability": "sometimes"})
    manager = Manager(r)
    assert manager(Transition.TRANSITION_CONFIGURE) and not manager(Transition.TRANSITION_ACTIVATE)
    (error,) = r.wait(r.warnings, "the error")
    assert error.endswith("expected one of reliable, best_effort, system_default, got 'sometimes'")
    status = r.wait(lambda: next((s for s in r.states() if "sometimes" in s.message), None))
    assert status.level == status.ERROR


def start_node(peer: Peer, *options: str) -> "subprocess.Popen[str]":
    return start(peer, "object_pose_node", "--ros-args", "-r", f"__ns:=/{peer.namespace}", *options)


def test_the_executable_with_remapped_topics(toy_bundle):
    peer = Peer(("pose",), image="front/image", info="front/info", node="toy_finder")
    remaps = ["-r", "__node:=toy_finder", "-r", "image_raw:=front/image", "-r", "camera_info:=front/info"]
    parameters = [
        "-p",
        f"bundle:={toy_bundle}",
        "-p",
        f"window_u:={U}",
        "-p",
        f"window_v:={V}",
        "-p",
        "backend:=onnxruntime",
    ]
    process = start_node(peer, *remaps, *parameters)
    try:
        stamps = iter(range(1, 10**6))

        def send() -> list:
            assert process.poll() is None, process.communicate()[1]
            peer.infos.publish(info_msg())
            peer.images.publish(image_msg(PIXELS, float(next(stamps))))
            return peer.heard["pose"]

        assert peer.wait(send, "a pose")[0].header.frame_id == "camera_optical_frame"
        ends_cleanly(process)
    finally:
        process.kill()
        peer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_frames_is_a_clean_end(toy_bundle, number):
    """At 60 images a second, and twice, as Ctrl-C under launch comes."""
    peer = Peer(("detections", "markers"))
    here = {"bundle": toy_bundle, "backend": "onnxruntime", "window_source": "fixed", "window_u": U, "window_v": V}
    process = start_node(peer, *(x for k, v in here.items() for x in ("-p", f"{k}:={v}")))
    try:
        stamps = iter(range(1, 10**6))

        def send() -> int:
            peer.infos.publish(info_msg())
            peer.images.publish(image_msg(PIXELS, next(stamps) / 60))
            return len(peer.heard["detections"]) > 30

        peer.wait(send, "poses")
        process.send_signal(number)
        process.send_signal(number)
        peer.wait(lambda: send() and process.poll() is not None, "the end")
        assert process.returncode == 0
        assert "Traceback" not in process.communicate()[1]
        cleared = [Marker.DELETEALL]
        peer.wait(lambda: [m.action for m in peer.heard["markers"][-1].markers] == cleared, "the markers' end")
    finally:
        process.kill()
        peer.close()


def test_the_executable_refuses_a_parameter_out_of_range():
    peer = Peer()
    process = start_node(peer, "-p", "min_score:=2.0")
    _, errors = process.communicate(timeout=20)
    peer.close()
    assert process.returncode == 1
    assert "min_score" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-r", "__node:=a-b"), "Couldn't parse remap rule"),
        (("--log-level", "nonsense"), "Couldn't parse log level"),
        (("-p", b"bundle:=\xff"), "can't encode"),
        (("--nonsense",), "object_pose_node: ['--nonsense']"),
    ],
)
def test_the_executable_refuses_ros_arguments_that_are_none(arguments, told):
    peer = Peer()
    process = start_node(peer, *arguments)
    _, errors = process.communicate(timeout=20)
    peer.close()
    assert process.returncode == 1
    assert told in errors.splitlines()[-1] and "Traceback" not in errors


def test_misspelt_parameters_are_told_and_whole_numbers_taken(rig):
    r = rig(mim_score=0.5, **{**HERE, "window_u": int(U), "max_reprojection_error": 9})
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning == "parameter mim_score: expected one that this node has, got another; is min_score meant?"
    assert (r.node.settings.window_u, r.node.parameters.get(EstimatorConfig).max_reprojection_error) == (int(U), 9.0)


@pytest.mark.parametrize("name", ["/left", "left arm", "tab\t"])
@pytest.mark.parametrize("parameter", ["child_frame", "tf_prefix"])
def test_frame_names_that_tf_does_not_take_are_refused(rig, parameter, name):
    r = rig(autostart=False, **{parameter: name})
    assert not Manager(r)(Transition.TRANSITION_CONFIGURE)
    (error,) = r.wait(r.warnings, "the error")
    assert f"{parameter}: expected a frame's name" in error


def test_the_prefix_stands_before_the_frame(rig):
    r = rig(tf_prefix="left/", **HERE)
    r.send_info()
    r.send(image_msg(PIXELS, 1.0))
    assert r.wait(lambda: r.heard["tf"], "tf")[0].transforms[0].child_frame_id == "left/toy_box"
