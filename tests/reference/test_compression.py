"""Images are compressed before the upload, and no temporary file is left on disk."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from podrace.reference.upload_manager import UploadManager, compress_image

if TYPE_CHECKING:
    from tests.conftest import FakeFiles, VirtualRuntime


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def upload(runtime: VirtualRuntime, files: FakeFiles) -> Callable[..., str]:
    """Uploads a file with an UploadManager, waits for the end, and returns its status."""

    def upload_to_the_end(path: Path, *arguments: bool) -> str:
        manager = UploadManager(files, runtime, rng=random.Random(7))
        placeholder = manager.upload_file_async(str(path), 0.0, *arguments)
        runtime.run()
        status: str = manager.get_upload_status(placeholder)["status"]
        return status

    return upload_to_the_end


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(7).randbytes(size[0] * size[1] * 3))


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.JPEG"])
def test_png_and_jpeg_are_uploaded_as_jpeg(
    upload: Callable[..., str], files: FakeFiles, make_image: Callable[..., Path], name: str
) -> None:
    path = make_image(name)
    original = path.read_bytes()
    assert upload(path) == "completed"
    assert files.started[0] != path
    assert files.started[0].suffix == ".jpg"
    with Image.open(io.BytesIO(files.contents[0])) as uploaded:
        assert (uploaded.format, uploaded.mode, uploaded.size) == ("JPEG", "RGB", (64, 36))
        red, green, blue = uploaded.getpixel((30, 20))
    assert path.read_bytes() == original
    with Image.open(path) as image:
        expected = image.convert("RGB").getpixel((30, 20))
    assert all(abs(a - b) <= 3 for a, b in zip((red, green, blue), expected, strict=True))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "I;16"])
def test_every_mode_becomes_rgb(make_image: Callable[..., Path], mode: str) -> None:
    compressed = compress_image(str(make_image("a.png", mode=mode, color=0)))
    assert compressed is not None
    with Image.open(compressed) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (1920, 1080)),
        ((100, 50), (100, 50)),
        ((3840, 2160), (1920, 1080)),
        ((4000, 1000), (1920, 480)),
        ((500, 2160), (250, 1080)),
        ((1, 4320), (1, 1080)),
    ],
)
def test_fits_1920_by_1080_and_keeps_its_shape(
    make_image: Callable[..., Path], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    compressed = compress_image(str(make_image("a.png", size=size, mode="L")))
    assert compressed is not None
    with Image.open(compressed) as image:
        assert image.size == expected


def test_quality_is_85(tmp_path: Path) -> None:
    image = noise((64, 64))
    image.save(tmp_path / "a.png")
    compressed = compress_image(str(tmp_path / "a.png"))
    assert compressed is not None
    image.save(tmp_path / "85.jpg", "JPEG", quality=85)
    assert Path(compressed).read_bytes() == (tmp_path / "85.jpg").read_bytes()


def test_shrunk_by_lanczos(tmp_path: Path) -> None:
    noise((2400, 20)).save(tmp_path / "a.png")
    compressed = compress_image(str(tmp_path / "a.png"))
    assert compressed is not None
    with Image.open(tmp_path / "a.png") as image:
        image.resize((1920, 16), Image.Resampling.LANCZOS, reducing_gap=2.0).save(
            tmp_path / "lanczos.jpg", "JPEG", quality=85
        )
    assert Path(compressed).read_bytes() == (tmp_path / "lanczos.jpg").read_bytes()


def test_compression_can_be_left_out(upload: Callable[..., str], files: FakeFiles, png: Path) -> None:
    assert upload(png, False) == "completed"
    assert files.started == [png]


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "notes.txt", "png", "archive.png.zip"])
def test_files_of_other_types_are_uploaded_unchanged(
    upload: Callable[..., str], files: FakeFiles, tmp_path: Path, temporary: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    assert upload(tmp_path / name) == "completed"
    assert files.started == [tmp_path / name]
    assert list(temporary.iterdir()) == []


def test_a_corrupt_image_is_uploaded_unchanged(
    upload: Callable[..., str], files: FakeFiles, corrupt_png: Path, temporary: Path
) -> None:
    assert upload(corrupt_png) == "completed"
    assert files.started == [corrupt_png]
    assert list(temporary.iterdir()) == []


def test_a_truncated_image_is_uploaded_unchanged(
    upload: Callable[..., str], files: FakeFiles, tmp_path: Path, temporary: Path
) -> None:
    path = tmp_path / "half.png"
    noise((100, 100)).save(path)
    path.write_bytes(path.read_bytes()[:10_000])
    assert upload(path) == "completed"
    assert files.started == [path]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("error", [SyntaxError("broken PNG file"), ValueError(), Image.DecompressionBombError()])
def test_an_image_is_uploaded_unchanged_whatever_pillow_raises(
    upload: Callable[..., str],
    files: FakeFiles,
    png: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert upload(png) == "completed"
    assert files.started == [png]
    assert list(temporary.iterdir()) == []


def test_missing_file_fails(upload: Callable[..., str], files: FakeFiles, tmp_path: Path, temporary: Path) -> None:
    """Failure mode 31: the file is read when the upload starts, not before."""
    files.error = FileNotFoundError()
    assert upload(tmp_path / "gone.png") == "failed"
    assert files.started == [tmp_path / "gone.png"]
    assert list(temporary.iterdir()) == []


def test_a_file_with_the_longest_possible_name_is_uploaded(
    upload: Callable[..., str], files: FakeFiles, make_image: Callable[..., Path]
) -> None:
    assert upload(make_image("n" * 251 + ".png")) == "completed"
    assert files.started[0].suffix == ".jpg"


@pytest.mark.parametrize(("error", "expected"), [(None, "completed"), (RuntimeError("503"), "failed")])
def test_temporary_file_is_removed_after_good_and_bad_uploads(
    upload: Callable[..., str],
    files: FakeFiles,
    png: Path,
    temporary: Path,
    error: Exception | None,
    expected: str,
) -> None:
    files.error = error
    assert upload(png) == expected
    assert files.started[0].parent == temporary
    assert list(temporary.iterdir()) == []
    assert png.exists()
