"""A page of HTML that needs no other file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from fm_pose_core.files import write_atomically
from fm_pose_core.objects.overlay import Image

STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em; }
body { color: #222; } img { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr.mean td { font-weight: 600; border-top: 2px solid #888; }
figure { display: inline-block; margin: 0 .5em .8em 0; } figcaption { font-size: 12px; color: #555; }
.note { color: #a33; } .green { color: #090; } .blue { color: #15c; }"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write the parts, HTML each, below the title, atomically. title: plain text. The path is returned."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>{''.join(parts)}"
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    write_atomically(path, page.encode())
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]], mean: str = "") -> str:
    """A table of plain text. mean: first cell of the row that is set apart."""
    lines = [f"<tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>"]
    for row in rows:
        kind = " class=mean" if mean and row[0] == mean else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def figure(image: Image, caption: str) -> str:
    """A picture (H, W, 3) uint8 RGB, as JPEG, with a caption of plain text."""
    import cv2

    _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    tag = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}">'
    return f"<figure>{tag}<figcaption>{html.escape(caption)}</figcaption></figure>"
