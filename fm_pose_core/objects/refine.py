"""The place for a refinement of poses: what comes after PnP, before the gates."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fm_pose_core.objects.solver import Look, Solution


class Refiner(Protocol):
    """Improves poses by another look at the image, one at a time."""

    def refine(self, look: "Look", solution: "Solution") -> "Solution":
        """look: what the network saw, and the whole image. solution: an accepted one. Returns a better one, or the same
        where it finds none; pose, covariance and errors belong together."""
        ...
