"""Windows, as a network sees them, one below the other in a PNG that people can look at too."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.contract import Contract
from fm_pose_core.errors import expect
from fm_pose_core.pictures import AS_STORED, PNG, decode

HALF = 32767.5  # steps of 16 bits in one unit of depth


def to_picture(windows: NDArray[np.generic]) -> bytes:
    """PNG of (N, S, S, 3) uint8 RGB as 8-bit colours, or of (N, S, S, 1) float32 in [-1, 1] as 16-bit grey."""
    n, size, _, channels = windows.shape
    column = windows.reshape(n * size, size, channels)
    if channels == 3:
        column = column[..., ::-1]
    else:
        column = np.rint((column.astype(np.float64) + 1.0) * HALF).clip(0, 65535).astype(np.uint16)
    _, data = cv2.imencode(".png", np.ascontiguousarray(column))
    return bytes(data)


def from_picture(data: bytes, where: str, contract: Contract) -> NDArray[np.generic]:
    """The windows of such a PNG, (N, *contract.image_shape) of the contract's type; depths to 1.5e-5. where: for
    errors. Raises InputError if it is none of this contract."""
    picture = decode(data, where, AS_STORED, kinds=(PNG,))
    size, _, channels = contract.image_shape
    kind = np.uint8 if channels == 3 else np.uint16
    wanted = f"a column of windows of {size}x{size} pixels, {channels} x {np.dtype(kind).name}"
    found = picture.reshape(*picture.shape[:2], -1)
    fits = found.shape[0] % size == 0 and found.shape[1:] == (size, channels) and found.dtype == kind
    expect(fits, where, wanted, f"{found.dtype} {found.shape}")
    windows = found.reshape(-1, *contract.image_shape)
    if channels == 3:
        return np.ascontiguousarray(windows[..., ::-1])
    return (windows.astype(np.float64) / HALF - 1.0).astype(np.float32)
