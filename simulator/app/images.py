"""The images of a reproduction: made up or the user's own, no two with the same content.

So the harness knows by its content which image an uploaded file is, without the target's help.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

from PIL import Image, ImageDraw

from podrace.simulator.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
SCREEN_PX, PHOTO_PX = (1920, 1080), (300, 240)


def prepare(
    folder: Path,
    count: int,
    *,
    source: Path | None,
    rng: random.Random,
    progress: Callable[[int], None] = lambda steps: None,
) -> tuple[list[Path], Callable[[bytes], str | None]]:
    """Write `count` images into `folder`: copies of the source's in turn, or of a made-up screenshot.

    Each has its number behind its end, where no decoder looks. Returns their paths, and what tells the name, such as
    `image-0001`, of the one that has a content, None for any other. `progress` hears of each. Raises UsageError where
    the source holds no image or one that cannot be read.
    """
    pictures = _load(source) if source else [(_screenshot(rng), ".png")]
    paths, names = [], {}
    for index in range(count):
        picture, suffix = pictures[index % len(pictures)]
        path, content = folder / f"image-{index + 1:04}{suffix}", picture + b"%d" % (index + 1)
        path.write_bytes(content)
        paths.append(path)
        names[hashlib.sha256(content).digest()] = path.stem
        progress(1)
    return paths, lambda content: names.get(hashlib.sha256(content).digest())


def _screenshot(rng: random.Random) -> bytes:
    """Something like a desktop: lines of words and a photo, few colours, 50 to 400 KB as PNG."""
    picture = Image.new("P", SCREEN_PX, 1)
    colours = [(0, 0, 0), (255, 255, 255)] + [tuple(rng.randrange(40, 230) for _ in range(3)) for _ in range(14)]
    picture.putpalette([part for colour in colours for part in colour])
    draw = ImageDraw.Draw(picture)
    for line in range(20, SCREEN_PX[1] - 20, 16):
        words = ("".join(rng.choices(ascii_lowercase, k=rng.randrange(2, 10))) for _ in range(40))
        draw.text((20, line), " ".join(words), fill=rng.choice((0, 0, 0, rng.randrange(2, 16))))
    pixels = rng.randbytes(PHOTO_PX[0] * PHOTO_PX[1]).translate(bytes(range(16)) * 16)
    picture.paste(Image.frombytes("P", PHOTO_PX, pixels), (1580, 800))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _load(source: Path) -> list[tuple[bytes, str]]:
    if not source.exists():
        raise UsageError(f"images {source}: expected a PNG or JPEG file or a folder of them, nothing is there")
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"images {source}: expected a folder with PNG or JPEG files, found none")
    return [(_read(path), path.suffix.lower()) for path in paths]


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"image {path}: expected a PNG or JPEG file, got {path.name}")
    if not path.is_file():  # a pipe or a device might never end
        raise UsageError(f"image {path}: expected a PNG or JPEG file, it is no regular file")
    try:
        with Image.open(path) as picture:
            if picture.format not in ("PNG", "JPEG"):
                raise UsageError(f"image {path}: expected PNG or JPEG content, got {picture.format}")
            picture.load()
        return path.read_bytes()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"image {path}: expected a PNG or JPEG file, cannot read it: {error}") from error
