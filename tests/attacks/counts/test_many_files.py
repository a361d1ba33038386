"""More than a hundred files that are not what they are given as, real DICOM, GGUF and ONNX among them: pictures, media, models by address.

Each is a line in the quarantine or one line of an error, and nothing in it is run.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DiptychError
from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample, Text
from diptych.curate.writing.backends.gguf import GGUF
from diptych.curate.writing.requests import Sampling
from diptych.data.dataset import Pool
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.build import build

SECONDS = 30.0
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def of_package(package: str, *patterns: str, most: int = 40) -> list[Path]:
    """Real files that lie in an installed package; none without it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    return sorted((file for pattern in patterns for file in folder.rglob(pattern)), key=lambda file: file.stat().st_size)[:most]


DICOM = [file for file in of_package("pydicom", "*.dcm", most=200) if "test_files" in file.parts][:30]
ONNX = of_package("onnxruntime", "datasets/*.onnx")


def damages(data: bytes) -> dict[str, bytes]:
    draw = random.Random(len(data))
    flipped = bytearray(data)
    for _ in range(8):
        flipped[draw.randrange(len(data))] ^= 255
    return {
        "cut": data[: len(data) // 2],
        "cut header": data[:20],
        "zeros": data[: len(data) // 3] + bytes(len(data) - len(data) // 3),
        "flipped": bytes(flipped),
        "swapped": data[len(data) // 2 :] + data[: len(data) // 2],
    }


def gguf_file() -> bytes:
    gguf = pytest.importorskip("gguf")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_context_length(32)
        writer.add_tensor("token_embd.weight", np.zeros((8, 8), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def pictures() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    for name in FORMATS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name)
        for damage, data in damages(file.getvalue()).items():
            yield f"{name.lower()} {damage}.{name.lower()}", data
    for file in DICOM:  # whole ones are pictures, whatever their names end in
        data = file.read_bytes()
        yield f"{file.stem}.png", data[: len(data) // 2]
    for file in ONNX:
        yield f"{file.stem}.jpg", file.read_bytes()


@pytest.mark.slow
def test_pictures_that_are_none(tmp_path: Path) -> None:
    made = list(pictures())
    for name, data in made:
        (tmp_path / name).write_bytes(data)
    samples = [Sample(f"u{n}", FileImage(tmp_path / name, str(tmp_path)), (Text(name),)) for n, (name, _) in enumerate(made)]
    report = build(Pool.from_samples(samples, name="none"), tmp_path / "out")
    lines = [str(bad) for bad in read_quarantine(tmp_path / "out")]
    assert report.samples + report.quarantined == len(made)
    assert report.quarantined >= 0.8 * len(made)  # a flipped bit of a pixel leaves a picture
    assert all("\n" not in line and "Traceback" not in line for line in lines)
    print(f"pictures: {len(made)} files, {len(DICOM)} of them DICOM, {report.quarantined} left out, each with a reason")


@pytest.mark.slow
@pytest.mark.parametrize("medium", ["volume", "cloud", "raster", "clip"])
def test_media_that_are_none(medium: str, tmp_path: Path) -> None:
    for whole in [*DICOM, *ONNX]:
        file, data = tmp_path / whole.name, whole.read_bytes()
        file.write_bytes(data[: len(data) // 2] if medium == "clip" and whole in DICOM else data)  # a picture is a clip of one
        begun = time.monotonic()
        with pytest.raises(DiptychError) as caught:
            MediaItem(medium, (FileImage(file),)).decode()
        assert "\n" not in str(caught.value)
        assert time.monotonic() - begun < SECONDS
    print(f"{medium}: {len(DICOM) + len(ONNX)} files, each an error of a line")


def model_files() -> dict[str, bytes]:
    files = {f"{file.stem}.onnx": file.read_bytes() for file in ONNX}
    whole = gguf_file()
    real = {**files, "tiny.gguf": whole, **{f"{file.stem}.dcm": file.read_bytes() for file in DICOM[:10]}}
    each = dict(real)
    for name in [*files, "tiny.gguf"]:
        stem, _, ending = name.rpartition(".")
        each |= {f"{stem} {damage}.{ending}": data for damage, data in damages(real[name]).items()}
    return each


@pytest.mark.slow
def test_models_by_address_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the path of the file, of a folder that holds it under the usual names, and as a writer."""
    ran = tmp_path / "ran"
    (tmp_path / "evil").mkdir()
    evil = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    files = model_files() | {"evil.bin": evil, "evil.pt": evil, "evil.gguf": evil, "evil.onnx": evil}
    count = 0

    def one_line(use: Callable[[], Any], what: str, *, may_open: bool = False) -> None:
        nonlocal count
        begun = time.monotonic()
        try:
            use()
            assert may_open, what
        except DiptychError as error:
            assert "\n" not in str(error), what  # noqa: PT017
        assert time.monotonic() - begun < SECONDS, what
        count += 1

    for number, (name, data) in enumerate(files.items()):
        (tmp_path / name).write_bytes(data)
        one_line(lambda: dp.load(tmp_path / name), name)  # noqa: B023
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "clip"}')
        usual = {"onnx": "image.onnx", "pt": "pytorch_model.bin", "bin": "pytorch_model.bin"}
        inner = usual.get(name.rpartition(".")[2], "model.safetensors")
        (folder / inner).write_bytes(data)
        one_line(lambda: dp.load(folder), f"{name} in a folder")  # noqa: B023
        if name.endswith(".gguf"):
            one_line(lambda: GGUF(str(tmp_path / name), Sampling()).model, f"{name} as a writer", may_open=True)  # noqa: B023
    assert not ran.exists()
    assert not os.listdir(tmp_path / "evil")
    print(f"models: {count} uses of {len(files)} files, each an error of a line, nothing executed")
