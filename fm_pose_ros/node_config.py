"""Parameters of every pose node."""

from dataclasses import dataclass

from fm_pose_core.config import knob
from fm_pose_core.errors import expect

TRANSPORT = "raw subscribes to the image topic, compressed to its /compressed (for depth: /compressedDepth)."
RECTIFIED = "The image is already rectified (image_rect): take P from camera_info, no distortion."

Configs = dict[type, tuple[str, ...]]  # dataclasses of knobs, each with the names that are fixed at the start


@dataclass(frozen=True)
class NodeConfig:
    """Start, camera input, warnings and diagnostics."""

    autostart: bool = knob(True, "Configure and activate at the start; false leaves both to a lifecycle manager.")
    image_transport: str = knob("raw", TRANSPORT, choices=("raw", "compressed"))
    rectified: bool = knob(False, RECTIFIED)
    warning_period: float = knob(5.0, "Seconds between two warnings about the same kind of fault.", 0.0, 3600.0)
    diagnostics_period: float = knob(1.0, "Seconds between two messages on /diagnostics.", 0.05, 60.0)


def check_frames(**names: str) -> None:
    """Raise InputError for a name that tf2 does not take for a frame's, or its beginning."""
    for parameter, name in names.items():
        wanted = "a frame's name: printable, without blanks and without a slash in front (tf2)"
        expect(name.isprintable() and " " not in name and not name.startswith("/"), parameter, wanted, repr(name))


NODE: Configs = {NodeConfig: ("autostart", "image_transport", "rectified", "diagnostics_period")}
ENGINE_FIXED = ("backend", "precision", "threads")  # of EngineConfig: what decides about the network
