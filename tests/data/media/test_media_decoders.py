"""Every medium: its numbers against an independent reader, its limits before decoding, its reasons in one line."""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError, DecodeError, MissingExtra, UnknownName
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.media import ArraySource, MediaItem, MediaLimit, Medium, medium_of
from diptych.core.registry import MEDIA
from diptych.data.media.clip import frame_places
from diptych.data.media.cloud_pictures import draw_cloud
from diptych.data.media.encoded import HEADER_LOCK

RNG = np.random.default_rng(0)


def item(medium: str, *parts: bytes) -> MediaItem:
    return MediaItem(medium, tuple(BytesImage(data, f"part{n}") for n, data in enumerate(parts)))


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def deep_png(value_HWC: np.ndarray) -> bytes:
    """A 16-bit PNG written by hand: a different filter on every line."""
    height, width, bands = value_HWC.shape
    raw, before = b"", np.zeros(width * bands * 2, np.uint8)
    for y in range(height):
        line = np.frombuffer(value_HWC[y].astype(">u2").tobytes(), np.uint8)
        if y % 2:
            raw += b"\2" + (line - before).tobytes()  # "up"
        else:
            left = np.concatenate([np.zeros(bands * 2, np.uint8), line[: -bands * 2]])
            raw += b"\1" + (line - left).tobytes()  # "sub"
        before = line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def deep_tiff(value_HWC: np.ndarray, order: str, *, deflate: bool) -> bytes:
    """A 16-bit RGB TIFF of one strip, in either byte order."""
    height, width, bands = value_HWC.shape
    pixels = value_HWC.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    pixels += b"\0" * (len(pixels) % 2)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, 8 + len(pixels)), (259, 3, 1, 8 if deflate else 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, 1),
    ]  # fmt: skip
    bits = struct.pack(f"{order}{bands}H", *[16] * bands) + b"\0" * (bands % 2 * 2)
    table = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        table += struct.pack(f"{order}HHI", tag, kind, count)
        table += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    start = 8 + len(pixels) + len(bits)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + pixels + bits + table + b"\0\0\0\0"


def animated(frames: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(file, kind, save_all=True, append_images=rest, **options)
    return file.getvalue()


def refused(medium: str, *parts: bytes, limit: MediaLimit | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        medium_of(medium).decode(item(medium, *parts), limit=limit)
    assert "\n" not in str(caught.value)
    assert caught.value.medium == medium
    return str(caught.value)


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("name", list(MEDIA))
def test_every_registered_medium_keeps_the_contract(name: str) -> None:
    medium = medium_of(name)
    assert isinstance(medium, Medium)
    assert medium.name == name
    assert refused_or_missing(name)


def refused_or_missing(name: str) -> bool:
    """Bytes that are nothing are refused by every medium, or the line says which extra it needs."""
    try:
        medium_of(name).decode(item(name, b"not a medium at all"))
    except (DecodeError, MissingExtra) as error:
        return "\n" not in str(error)
    return False


def test_an_unknown_medium_is_named_with_its_neighbour() -> None:
    with pytest.raises(UnknownName, match="did you mean 'volume'"):
        MediaItem("volumes", (BytesImage(b"x"),)).decode()


# ---------------------------------------------------------------- raster


@pytest.mark.parametrize("dtype", ["u1", "u2", "<i4", ">f4", "f8", "?"])
def test_a_raster_of_any_numbers_survives(dtype: str) -> None:
    value_HWC = (RNG.normal(size=(5, 7, 11)) * 90 + 100).clip(0, 255).astype(dtype)
    found = item("raster", npy(value_HWC)).decode()
    assert found.dtype.isnative
    assert np.array_equal(found, value_HWC)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_sixteen_bits_of_a_png_survive(bands: int) -> None:
    value_HWC = RNG.integers(0, 65536, (9, 6, bands), dtype=np.uint16)
    found = item("raster", deep_png(value_HWC)).decode()
    assert found.dtype == np.uint16
    assert np.array_equal(found, value_HWC)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_colour_tiff_survive_in_both_byte_orders(order: str, deflate: bool) -> None:
    value_HWC = RNG.integers(0, 65536, (9, 6, 3), dtype=np.uint16)
    assert np.array_equal(item("raster", deep_tiff(value_HWC, order, deflate=deflate)).decode(), value_HWC)


def test_floats_of_a_tiff_survive() -> None:
    value_HW = RNG.normal(size=(8, 5)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(value_HW).save(file, "TIFF", compression="tiff_deflate")
    assert np.array_equal(item("raster", file.getvalue()).decode()[..., 0], value_HW)


def test_a_raster_that_cannot_be_kept_whole_is_refused() -> None:
    assert "16-bit grey with alpha" in refused("raster", deep_png(RNG.integers(0, 65536, (4, 4, 2), dtype=np.uint16)))
    assert "pages" in refused("raster", animated(RNG.integers(0, 255, (2, 8, 8), dtype=np.uint8), "TIFF"))
    assert "complex" in refused("raster", npy(np.zeros((3, 3), complex)))


def test_a_raster_is_shown_by_its_percentiles() -> None:
    value_HW = np.linspace(1000, 3000, 400, dtype=np.float32).reshape(20, 20)
    value_HW[0, 0] = np.nan
    shown = item("raster", npy(value_HW)).thumbnail()
    assert shown.shape == (20, 20, 3)
    assert shown.dtype == np.uint8
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert shown[0, 1].tolist() == [0, 0, 0]
    assert shown[-1, -1].tolist() == [255, 255, 255]
    assert abs(int(shown[10, 0, 0]) - 128) < 3


# ---------------------------------------------------------------- NumPy files


def test_objects_are_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return pytest.fail, ("it was unpickled",)

    for medium in ("raster", "volume", "cloud"):
        assert "never unpickled" in refused(medium, npy(np.array([Bomb()], object), allow_pickle=True))


def test_a_numpy_file_is_held_against_its_limit_by_its_header() -> None:
    whole = npy(np.zeros((2, 3, 4), np.uint8))
    huge = whole.replace(b"(2, 3, 4), ", b"(99999999,)")
    assert "limit of" in refused("volume", huge, limit=MediaLimit(1000, 1000))
    assert "23 of 24 bytes are there" in refused("volume", whole[:-1])
    assert "24 voxels are more than the limit of 23" in refused("volume", whole, limit=MediaLimit(1000, 23))
    assert f"{len(whole)} bytes are more than the limit of 100" in refused("volume", whole, limit=MediaLimit(100, 1000))
    assert "is not a NumPy array" in refused("volume", whole[:30])


def test_fortran_order_is_kept() -> None:
    voxel_DHW = np.asfortranarray(RNG.integers(-1000, 1000, (3, 4, 5), dtype=np.int16))
    assert np.array_equal(item("volume", npy(voxel_DHW)).decode(), voxel_DHW)


# ---------------------------------------------------------------- volume


def test_the_pages_of_a_tiff_are_the_slices_of_a_volume() -> None:
    voxel_DHW = RNG.integers(0, 65536, (4, 6, 5), dtype=np.uint16)
    found = item("volume", animated(voxel_DHW, "TIFF")).decode()
    assert found.dtype == np.uint16
    assert np.array_equal(found, voxel_DHW)
    shown = item("volume", npy(voxel_DHW)).thumbnail()
    assert shown.shape == (6, 5, 3)
    rank = np.argsort(shown[..., 0].ravel(), kind="stable")
    assert np.all(np.diff(voxel_DHW[2].ravel()[rank].astype(int)[3:-3]) > -2000)  # the middle slice, in its order


def test_a_volume_of_another_shape_is_refused() -> None:
    assert "holds uint8 [3, 3]" in refused("volume", npy(np.zeros((3, 3), np.uint8)))
    assert "not an image" in refused("volume", b"nonsense")
    assert "grey pages of one size" in refused("volume", animated(RNG.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8), "TIFF"))


# ---------------------------------------------------------------- cloud


def ply(form: str, rows: np.ndarray, kinds: list[str], names: list[str]) -> bytes:
    head = f"ply\nformat {form} 1.0\ncomment made here\nelement vertex {len(rows)}\n"
    head += "".join(f"property {kind} {name}\n" for kind, name in zip(kinds, names, strict=True))
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    typed = [[v if k[0] in "fd" else int(v) for k, v in zip(kinds, row.tolist(), strict=True)] for row in rows]
    if form == "ascii":
        return (head + "".join(" ".join(map(repr, row)) + "\n" for row in typed) + "3 0 1 2\n").encode()
    codes = {"float": "f", "double": "d", "uchar": "B", "short": "h"}
    packing = "<" + "".join(codes[kind] for kind in kinds)
    return head.encode() + b"".join(struct.pack(packing, *row) for row in typed)


KINDS, NAMES = ["uchar", "float", "double", "short", "float"], ["red", "z", "x", "label", "y"]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_ply_file_gives_x_y_z_and_then_the_rest(form: str) -> None:
    rows = np.stack(
        [RNG.integers(0, 255, 20), *RNG.normal(size=(2, 20)), RNG.integers(-300, 300, 20), RNG.normal(size=20)], axis=1
    )
    rows = rows.astype(np.float32).astype(np.float64)
    found = item("cloud", ply(form, rows, KINDS, NAMES)).decode()
    assert found.dtype == np.float32
    assert np.array_equal(found, rows[:, [2, 4, 1, 0, 3]].astype(np.float32))


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_ply_file_that_is_wrong_says_how(form: str) -> None:
    rows = np.ones((4, 5))
    whole = ply(form, rows, KINDS, NAMES)
    assert "4 points are more than the limit of 3" in refused("cloud", whole, limit=MediaLimit(10_000, 3))
    cut = whole[: whole.index(b"end_header\n") + 30]
    assert "vert" in refused("cloud", cut)
    short = whole.replace(b"vertex 4", b"vertex 400000").removesuffix(b"3 0 1 2\n")
    assert "are there" in refused("cloud", short)
    assert "format" in refused("cloud", whole.replace(form.encode(), b"binary_big_endian"))
    assert "x, y, z" in refused("cloud", whole.replace(b"float y", b"float w"))
    assert "header line" in refused("cloud", whole.replace(b"property uchar red", b"property colour red"))
    assert "no end" in refused("cloud", whole.replace(b"end_header", b"endheader_"))


def test_points_that_are_not_finite_are_refused() -> None:
    points = RNG.normal(size=(10, 6)).astype(np.float32)
    assert np.array_equal(item("cloud", npy(points)).decode(), points)
    points[3, 1], points[4, 5] = np.nan, np.inf
    assert "2 of 10 points are not finite" in refused("cloud", npy(points))
    assert "holds float64 [4, 2]" in refused("cloud", npy(np.zeros((4, 2))))
    assert "start with" in refused("cloud", b"solid stl")


def test_a_cloud_is_drawn_upright() -> None:
    """A pole along z is a vertical line in the picture, and its upper end is at the top."""
    pole = np.stack([np.zeros(50), np.zeros(50), np.linspace(-1, 1, 50)], axis=1).astype(np.float32)
    shown = draw_cloud(np.concatenate([pole, [[0.5, 0.5, 1.0]]]).astype(np.float32), 64)
    assert shown.shape == (64, 64, 3)
    ink = np.argwhere(shown[..., 0] < 255)
    assert np.bincount(ink[:, 1]).max() > 20
    assert ink[:, 0].min() < 20


# ---------------------------------------------------------------- clip and several pictures


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_frames_of_an_animation(kind: str) -> None:
    """Two colours far apart, so that even a palette keeps them; PIL's own iterator is the oracle."""
    frame_THWC = np.zeros((5, 8, 6, 3), np.uint8)
    for t in range(5):
        frame_THWC[t, t : t + 3] = (255, 255, 255)
    data = animated(frame_THWC, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(item("clip", data).decode(), frame_THWC)
    assert np.array_equal(item("clip", data).decode(frames=2), frame_THWC[[1, 3]])
    assert np.array_equal(item("clip", data).thumbnail(), frame_THWC[2])
    assert "5 frames are more than the limit of 4" in refused("clip", data, limit=MediaLimit(10_000, 10_000, 4))
    assert "240 pixels are more than the limit of 239" in refused("clip", data, limit=MediaLimit(10_000, 239, 9))


def test_a_cut_animation_says_so() -> None:
    data = animated(RNG.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8), "WEBP", lossless=True)
    assert refused("clip", data[: len(data) // 2])


def test_the_frames_of_a_folder_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    frame_THWC = RNG.integers(0, 255, (7, 8, 6, 3), dtype=np.uint8)
    paths = [tmp_path / f"{t}.png" for t in range(7)]
    for path, frame_HWC in zip(paths, frame_THWC, strict=True):
        path.write_bytes(png(frame_HWC))
    clip = MediaItem("clip", tuple(map(FileImage, paths)))
    assert np.array_equal(clip.decode(), frame_THWC)
    for t in (0, 2, 4, 6):
        paths[t].unlink()
    assert np.array_equal(clip.decode(frames=3), frame_THWC[[1, 3, 5]])
    with pytest.raises(DecodeError, match="No such file"):
        clip.decode()


def test_frames_of_unequal_size_are_refused() -> None:
    frames = [png(np.zeros((8, 6, 3), np.uint8)), png(np.zeros((8, 7, 3), np.uint8))]
    assert "is 7 x 8 pixels but the first frame is 6 x 8" in refused("clip", *frames)
    assert "104 pixels are more than the limit of 100" in refused("clip", *frames, limit=MediaLimit(10_000, 100, 9))
    assert "2 frames are more than the limit of 1" in refused("clip", *frames, limit=MediaLimit(10_000, 1000, 1))
    sizes = [picture.shape for picture in item("images", *frames).decode()]
    assert sizes == [(8, 6, 3), (8, 7, 3)]


def test_arrays_in_memory_need_no_decoding() -> None:
    frame_THWC = RNG.integers(0, 255, (4, 8, 6, 3), dtype=np.uint8)
    for parts in ((ArraySource(frame_THWC),), tuple(map(ArrayImage, frame_THWC))):
        clip = MediaItem("clip", parts)
        assert np.array_equal(clip.decode(), frame_THWC)
        stored = [medium_of("clip").encode(part)[0] for part in parts]
        assert np.array_equal(item("clip", *stored).decode(), frame_THWC)


def test_frame_places_by_hand() -> None:
    assert frame_places(8, 8).tolist() == list(range(8))
    assert frame_places(10, 1).tolist() == [5]
    drawn_places = np.stack([frame_places(12, 3, np.random.default_rng(seed)) for seed in range(200)])
    for stretch in range(3):
        assert set(drawn_places[:, stretch]) == set(range(4 * stretch, 4 * stretch + 4))
    with pytest.raises(DataError, match="-1 of 5 frames"):
        frame_places(5, -1)


# ---------------------------------------------------------------- slide


def test_a_slide_without_its_reader_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openslide", "tiffslide"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"diptych\[slides\]"):
        item("slide", b"x").decode()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_loader_worker_forked_while_a_thread_reads_a_header_reads_arrays() -> None:
    held, raster = threading.Event(), item("raster", npy(np.ones((2, 2), np.float32)))

    def read_slowly() -> None:
        with HEADER_LOCK:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=read_slowly)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # a child that waits for a lock that nobody gives back is ended
        try:
            decoded = medium_of("raster").decode(raster, limit=MediaLimit(1_000, 100))
            os._exit(0 if decoded is not None else 1)
        finally:
            os._exit(1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
