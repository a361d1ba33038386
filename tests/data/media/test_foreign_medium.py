"""A package adds a kind of medium, here sound: read, built, verified, inspected, drawn and shown by rooms that never heard of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import wave
from pathlib import Path

import numpy as np

MODULE = '''
import io
import wave
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import DecodeError
from diptych.core.media import MediaFacts, MediaLimit


@dataclass(frozen=True)
class Sound:
    """16-bit WAV to float32 [samples, channels]."""

    name: str = "sound"
    suffixes: tuple = ("wav",)
    limit: MediaLimit = MediaLimit(bytes=1 << 20, elements=100_000)

    def decode(self, item, *, limit=None):
        limit = limit or self.limit
        try:
            with wave.open(io.BytesIO(item.parts[0].read())) as file:
                count, channels = file.getnframes(), file.getnchannels()
                if count * channels > limit.elements:
                    raise DecodeError(f"{count:,} samples are too many", file=item.name, medium=self.name)
                raw = file.readframes(count)
        except (wave.Error, EOFError) as error:
            raise DecodeError(f"is not a sound: {error}", file=item.name, medium=self.name) from error
        return (np.frombuffer(raw, "<i2").reshape(-1, channels) / 32768).astype(np.float32)

    def thumbnail(self, item, *, side=0, limit=None):
        wave_S = self.decode(item, limit=limit)[:, 0]
        picture_HWC = np.full((32, 64, 3), 255, np.uint8)
        for column, part in enumerate(np.array_split(wave_S, 64)):
            picture_HWC[: int(np.abs(part).max() * 31) + 1, column] = 0
        return picture_HWC[::-1]

    def facts(self, content):
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part):
        return part.read(), "wav"
'''

SCRIPT = """
import sys
from pathlib import Path

import numpy as np

import diptych as dp
from diptych.data.inspect import inspect
from diptych.data.load.cache import decoded_media
from diptych.data.shards.build import build, open_built
from diptych.data.shards.verify import verify
from diptych.report.pages.inspection import inspection_page

work = Path(sys.argv[1])
pool = dp.read(work / "source")
assert len(pool) == 4, len(pool)
report = build(pool, work / "built")
assert report.quarantined == 1
opened = open_built(work / "built")
assert [(bad.uid, bad.stage) for bad in opened.quarantine] == [("s3", "sound")], opened.quarantine
assert verify(work / "built").ok
for row, uid in enumerate(opened.uids):
    expected = np.load(work / f"{uid}.npy")
    assert np.abs(opened[row].media["sound"].decode()[:, 0] - expected).max() < 1e-4
    assert np.array_equal(dp.read(str(work / "built/shards/*.tar"))[row].media["sound"].decode(), opened[row].media["sound"].decode())
found = inspect(opened)
assert found.shapes == {"sound": {"float32 500 x 1": 3}}, found.shapes
assert inspection_page(opened, found).count("data:image/webp") >= 3
ready = decoded_media(opened, "sound", work / "cache")
assert ready[0].media["sound"].parts[0].array.shape == (500, 1)
assert ready.fingerprint == opened.content_fingerprint()
print("all rooms")
"""


def test_a_package_adds_a_medium(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "sound_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sound_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diptych.media]\nsound = sound_package:Sound\n")
    (site / "sound_package.py").write_text(MODULE)
    (tmp_path / "source").mkdir()
    for n in range(3):
        tone = np.sin(np.arange(500) * (n + 1) / 20) * 0.5
        np.save(tmp_path / f"s{n}.npy", tone)
        with wave.open(str(tmp_path / "source" / f"s{n}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((tone * 32768).round().astype("<i2").tobytes())
        (tmp_path / "source" / f"s{n}.txt").write_text(f"tone {n}")
    (tmp_path / "source" / "s3.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "source" / "s3.txt").write_text("broken")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "all rooms\n", done.stderr
