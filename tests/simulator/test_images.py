"""The images of a reproduction: generated ones, and the user's own; each is known again by its content."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from podrace.simulator.app.images import prepare
from podrace.simulator.errors import UsageError


def noise(path: Path, size: tuple[int, int], mode: str = "RGB", **settings: Any) -> Path:
    """A picture of blocks."""
    small = (min(size[0], 256), min(size[1], 256))
    picture = Image.frombytes("L", small, random.Random(7).randbytes(small[0] * small[1]))
    picture.resize(size, Image.Resampling.NEAREST).convert(mode).save(path, **settings)
    return path


def prepared(tmp_path: Path, source: Path | None, count: int = 3, seed: int = 7) -> list[Path]:
    folder = tmp_path / "prepared"
    folder.mkdir()
    return prepare(folder, count, source=source, rng=random.Random(seed))[0]


def test_a_made_up_screenshot_has_the_size_of_one(tmp_path: Path) -> None:
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (path,) = prepared(folder, None, count=1, seed=seed)
        with Image.open(path) as picture:
            assert picture.size == (1920, 1080)
            assert picture.format == "PNG"
        assert 50_000 <= path.stat().st_size <= 400_000


def test_the_seed_makes_the_screenshot(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        contents.append(prepared(tmp_path / name, None, count=1, seed=seed)[0].read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_each_is_known_by_its_content(tmp_path: Path) -> None:
    source = noise(tmp_path / "small.png", (64, 64))
    paths, identify = prepare(tmp_path, 100, source=source, rng=random.Random(7))
    names = [f"image-{number:04}" for number in range(1, 101)]
    assert [path.stem for path in paths] == names
    assert [identify(path.read_bytes()) for path in paths] == names
    assert [identify(one) for one in (source.read_bytes(), b"", b"text")] == [None] * 3


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("own.png", "RGB"),
        ("own.png", "RGBA"),
        ("own.png", "L"),
        ("own.png", "LA"),
        ("own.png", "P"),
        ("own.png", "1"),
        ("own.jpg", "RGB"),
        ("own.jpeg", "L"),
        ("own.JPG", "CMYK"),
    ],
)
def test_pictures_of_every_mode_are_taken_as_they_are(tmp_path: Path, name: str, mode: str) -> None:
    source = noise(tmp_path / name, (640, 480), mode)
    for path in prepared(tmp_path, source):
        with Image.open(source) as before, Image.open(path) as after:
            assert (after.format, after.mode) == (before.format, before.mode)
            assert after.tobytes() == before.tobytes()


def test_a_folders_pictures_are_taken_in_turn(tmp_path: Path) -> None:
    source = tmp_path / "own"
    source.mkdir()
    noise(source / "b.jpg", (400, 300))
    noise(source / "a.PNG", (500, 300))
    (source / "notes.txt").write_text("not a picture")
    paths = prepared(tmp_path, source, count=5)
    widths = []
    for path in paths:
        with Image.open(path) as picture:
            widths.append(picture.width)
    assert widths == [500, 400, 500, 400, 500]
    assert [path.suffix.lower() for path in paths] == [".png", ".jpg", ".png", ".jpg", ".png"]


def broken_source(folder: Path, what: str) -> Path:
    path = folder / "broken.png"
    if what == "an empty folder":
        path = folder / "nothing"
        path.mkdir()
    elif what == "a folder without images":
        path = folder / "texts"
        path.mkdir()
        (path / "a.txt").write_text("text")
    elif what == "a text":
        path = folder / "a.txt"
        path.write_text("text")
    elif what == "a text named png":
        path.write_text("text")
    elif what == "an empty file":
        path.touch()
    elif what == "a truncated PNG":
        whole = noise(folder / "whole.png", (640, 480)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "a PNG with a damaged chunk":
        whole = noise(folder / "whole.png", (640, 480)).read_bytes()
        path.write_bytes(whole[:60] + bytes(20) + whole[80:])
    elif what == "a GIF named png":
        Image.new("L", (10, 10)).save(path, "GIF")
    elif what == "one corrupt file among good ones":
        noise(folder / "good.png", (64, 64))
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
        return folder
    else:
        assert what == "nothing at all"
    return path


@pytest.mark.parametrize(
    "what",
    [
        "an empty folder",
        "a folder without images",
        "a text",
        "a text named png",
        "an empty file",
        "a truncated PNG",
        "a PNG with a damaged chunk",
        "a GIF named png",
        "one corrupt file among good ones",
        "nothing at all",
    ],
)
def test_a_source_that_is_no_image_is_one_clear_line(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    source = broken_source(folder, what)
    with pytest.raises(UsageError) as caught:
        prepared(tmp_path, source)
    assert str(source) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "prepared").iterdir()) == []
