"""What the demo leaves behind: table, video, contact sheet."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class Row(Protocol):
    """One frame of a table. overlay (H, W, 3) RGB: as the node drew it; center: where to look in it, pixels; None: all
    of it counts."""

    @property
    def overlay(self) -> Picture | None: ...

    @property
    def center(self) -> tuple[float, float] | None: ...

    def values(self) -> list[str]:
        """As they are printed; the first is the frame's number."""
        ...

    def caption(self) -> str:
        """One line below the picture."""
        ...


def table(columns: Sequence[str], rows: Sequence[Row], every: int) -> str:
    """Every `every`-th row, with a heading."""
    lines = [list(columns), *(row.values() for row in rows[::every])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def median(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return float(np.median(values)) if len(values) else float("nan")


def latency_line(latencies: Sequence[float]) -> str:
    """Of latencies in seconds."""
    if not latencies:
        return "no answers"
    return f"{1e3 * median(latencies):.1f} ms median, {1e3 * np.percentile(latencies, 95):.1f} ms 95th percentile"


def write_csv(columns: Sequence[str], rows: Sequence[Row], path: Path) -> None:
    """The whole table."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *(row.values() for row in rows)])


def captioned(row: Row) -> Picture:
    """The node's overlay with the frame's errors below."""
    assert row.overlay is not None
    image = row.overlay.copy()
    at = (8, image.shape[0] - 10)
    cv2.putText(image, row.caption(), at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, row.caption(), at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def write_video(rows: Sequence[Row], path: Path, rate: float) -> bool:
    """The overlays as MP4. Returns whether OpenCV could write it."""
    pictures = [captioned(row) for row in rows if row.overlay is not None]
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()
    return path.is_file() and path.stat().st_size > 0


def write_contact_sheet(rows: Sequence[Row], path: Path, columns: int = 4, count: int = 20) -> None:
    """`count` overlays, evenly chosen, cut around what is looked for: half the image's width each."""
    shown = [row for row in rows if row.overlay is not None]
    chosen = [shown[round(i)] for i in np.linspace(0, len(shown) - 1, min(count, len(shown)))]
    tiles = []
    for row in chosen:
        assert row.overlay is not None
        part = row.overlay if row.center is None else _middle(row.overlay, row.center)
        size = 480, 480 * part.shape[0] // part.shape[1]
        tile = cv2.resize(part, size, interpolation=cv2.INTER_AREA if row.center is None else cv2.INTER_CUBIC)
        cv2.putText(
            tile,
            row.values()[0],
            (8, tile.shape[0] - 10),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.6,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
    cv2.imwrite(str(path), sheet[..., ::-1])


def _middle(image: Picture, center: tuple[float, float]) -> Picture:
    """Half as wide and as high, around `center` (u, v)."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    x = int(np.clip(center[0] - width / 2, 0, image.shape[1] - width))
    y = int(np.clip(center[1] - height / 2, 0, image.shape[0] - height))
    return image[y : y + height, x : x + width]


def present(
    columns: Sequence[str], rows: Sequence[Row], summary: str, output: Path, csv_name: str, rate: float, every: int
) -> None:
    """Print every `every`-th row and the summary; write the table and the pictures into `output`, and print where they
    are."""
    print(f"{table(columns, rows, every)}\n\n{summary}\n")
    write_csv(columns, rows, output / csv_name)
    if any(row.overlay is not None for row in rows):
        video = write_video(rows, output / "overlay.mp4", rate)
        print(f"video  {output / 'overlay.mp4'}" if video else "video  none: this OpenCV cannot write MP4")
        write_contact_sheet(rows, output / "overlay.png")
        print(f"image  {output / 'overlay.png'}")
    print(f"table  {output / csv_name}")
    print(f"bag    {output / 'bag'}   (open in Foxglove, or: ros2 bag play {output / 'bag'})")
