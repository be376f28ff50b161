"""The workload's images: made up or the user's own, each with a mark that says which one it is.

The mark is a strip of black and white cells in the top left corner. It survives the target's own
compression and shrinking, so that the harness knows which image an uploaded file is without the
target's help.
"""

from __future__ import annotations

import io
import math
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
SCREEN_PX = (1920, 1080)
CELLS, ROWS = 16, 2
STRIP_OF_WIDTH = 3
"""The strip is a third as wide as the image: cells of 40 px on a screenshot, of 8 px on the smallest."""
SMALLEST_PX = (384, 64)
"""Smaller images, and much wider or higher ones, get a black margin, so that the whole strip fits on each."""


def prepare(
    folder: Path,
    count: int,
    *,
    source: Path | None,
    rng: random.Random,
    progress: Callable[[int], None] = lambda steps: None,
) -> list[Path]:
    """Write `count` marked images into `folder`: copies of the source's in turn, or made-up screenshots.

    `progress` hears of each. Raises UsageError where the source holds no image or one that cannot be read.
    """
    pictures = _load(source) if source else [(_screenshot(rng), ".png")]
    paths = []
    for index in range(count):
        picture, suffix = pictures[index % len(pictures)]
        path = folder / f"image-{index + 1:04}{suffix}"
        marked = _marked(picture, index + 1)
        if suffix == ".png":
            marked.save(path, compress_level=1)
        else:
            marked.save(path, quality=90)
        paths.append(path)
        progress(1)
    return paths


def identify(content: bytes) -> str | None:
    """The name, such as `image-0001`, of the workload image that this file shows; None for any other."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("L", (picture.width // 2, picture.height // 2))
            cell = picture.width / STRIP_OF_WIDTH / CELLS
            strip = picture.crop((0, 0, round(cell * CELLS), round(cell * ROWS))).convert("L")
    except (OSError, ValueError):
        return None
    cells = strip.resize((CELLS, ROWS), Image.Resampling.BOX).tobytes()
    code = 0
    for brightness in cells:
        code = code << 1 | (brightness < 128)
    index = code >> 8
    return f"image-{index:04}" if code == _code(index) and index else None


def _code(index: int) -> int:
    """32 bits: the index in 24, a checksum in 8, so that an unmarked picture is not taken for a marked one."""
    return index << 8 | zlib.crc32(index.to_bytes(3)) & 0xFF


def _marked(picture: Image, index: int) -> Image:
    from PIL import Image

    # an image that is shrunk to the screen's height must still be as wide as the smallest
    width = max(picture.width, SMALLEST_PX[0], math.ceil(picture.height * SMALLEST_PX[0] / SCREEN_PX[1]))
    size = (width, max(picture.height, SMALLEST_PX[1], math.ceil(width / STRIP_OF_WIDTH / CELLS * ROWS)))
    marked = picture.copy()
    if size != picture.size:
        marked = Image.new(picture.mode, size)
        marked.paste(picture)
    white = 1 if marked.mode == "P" else 255
    bits = bytes(0 if _code(index) >> position & 1 else white for position in reversed(range(CELLS * ROWS)))
    cell = marked.width / STRIP_OF_WIDTH / CELLS
    strip = Image.frombytes("L", (CELLS, ROWS), bits).resize(
        (round(cell * CELLS), round(cell * ROWS)), Image.Resampling.NEAREST
    )
    marked.paste(strip)
    return marked


def _screenshot(rng: random.Random) -> Image:
    """Something like a desktop: windows full of lines of words and a photo, few colours, 50 to 400 KB as PNG."""
    from PIL import Image, ImageDraw

    picture = Image.new("P", SCREEN_PX, 2)
    colours = [(0, 0, 0), (255, 255, 255)] + [tuple(rng.randrange(40, 230) for _ in range(3)) for _ in range(14)]
    picture.putpalette([part for colour in colours for part in colour])
    draw = ImageDraw.Draw(picture)
    for _ in range(3):
        left, top = rng.randrange(0, 900), rng.randrange(90, 400)
        right, bottom = left + rng.randrange(700, 1000), top + rng.randrange(400, 650)
        draw.rectangle((left, top, right, bottom), fill=1, outline=0)
        draw.rectangle((left, top, right, top + 28), fill=rng.randrange(2, 16))
        for line in range(top + 40, bottom - 14, 16):
            x = left + 12
            while x < right - 90:
                width = rng.randrange(12, 80)
                for stroke in range(x, x + width, 5):
                    height = rng.randrange(4, 11)
                    draw.line((stroke, line + 11 - height, stroke + rng.randrange(4), line + 11), fill=0)
                x += width + 8
    photo_px = (300, 240)
    pixels = rng.randbytes(photo_px[0] * photo_px[1]).translate(bytes(range(16)) * 16)
    picture.paste(Image.frombytes("P", photo_px, pixels), (1580, 800))
    return picture


def _load(source: Path) -> list[tuple[Image, str]]:
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise UsageError(f"images {source}: expected a folder with PNG or JPEG files, found none")
    elif source.exists():
        paths = [source]
    else:
        raise UsageError(f"images {source}: expected a PNG or JPEG file or a folder of them, nothing is there")
    return [(_read(path), path.suffix.lower()) for path in paths]


def _read(path: Path) -> Image:
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"image {path}: expected a PNG or JPEG file, got {path.name}")
    if not path.is_file():  # a pipe or a device might never end
        raise UsageError(f"image {path}: expected a PNG or JPEG file, it is no regular file")
    try:
        with Image.open(path) as picture:
            if picture.format not in ("PNG", "JPEG"):
                raise UsageError(f"image {path}: expected PNG or JPEG content, got {picture.format}")
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"image {path}: expected a PNG or JPEG file, cannot read it: {error}") from error
