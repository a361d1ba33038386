"""Captions by a model that writes: batches, one broken image of many, a kill in the middle, and the same files on Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych
from diptych.cli import main
from diptych.core.contracts import Generator
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.pool import curate, plan
from diptych.curate.operators import generated_captions
from diptych.curate.operators.generated_captions import ALIP_PROMPT, Captioner, GeneratedCaptions
from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode, encode_png

from ...models.bridges.test_bridge import writer


class Sizes:
    """Says how large an image is, and nothing about one of 4 rows."""

    name, fingerprint = "sizes", "f1"

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, int]] = []

    def generate(self, images: Sequence[ImageSource], prompts: Sequence[str], *, max_tokens: int = 64) -> list[str]:
        self.asked.append((len(images), prompts[0], max_tokens))
        heights = [decode(image).shape[0] for image in images]
        return [f" size {height} " if height != 4 else "" for height in heights]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    made = Sizes()
    assert isinstance(made, Generator)
    monkeypatch.setattr(generated_captions, "open_address", lambda address: made)
    return made


def pool(count: int = 5, broken: int | None = None) -> Pool:
    samples = [Sample(f"u{n:02d}", ArrayImage(np.full((n + 1, 4, 3), n, np.uint8))) for n in range(count)]
    if broken is not None:
        samples[broken] = Sample(f"u{broken:02d}", BytesImage(b"broken", "broken.png"))
    return Pool.from_samples([*samples, Sample("text", None, (Text("no image"),))], name="shop")


def test_a_captioner_is_asked_in_batches_and_one_broken_image_costs_itself(model: Sizes, tmp_path: Path) -> None:
    data = pool(6, broken=4)
    done = curate(data, [GeneratedCaptions("a", batch_size=2)], tmp_path)
    assert done.columns["synthetic_caption"] == {f"u{n:02d}": f"size {n + 1}" for n in (0, 1, 2, 5)}, "an empty one is none"
    assert [(drop.uid, drop.reason.partition(":")[0]) for drop in done.removed] == [("u04", "unreadable")]
    assert "broken.png" in done.removed[0].reason
    assert sorted(done.kept.uids) == ["text", "u00", "u01", "u02", "u03", "u05"]
    assert [size for size, *_ in model.asked] == [2, 2, 2, 1, 1]
    assert {(prompt, tokens) for _, prompt, tokens in model.asked} == {(ALIP_PROMPT, 15)}


def test_each_caption_says_where_it_comes_from(model: Sizes, tmp_path: Path) -> None:
    data = pool(3)
    curate(data, [GeneratedCaptions("a", prompt="what ?")], tmp_path)
    stored = read_table(tmp_path, "synthetic_caption_by")
    rows = {row["uid"]: row["synthetic_caption_by"] for row in stored.table.to_pylist()}
    assert rows["u01"] == {"model": "sizes", "fingerprint": "f1", "prompt": "what ?", "data": "shop", "row": 1}
    assert set(rows) == {"u00", "u01", "u02"}
    (step,) = read_table(tmp_path, "synthetic_caption").made_by["config"]["steps"]
    assert step["options"] == {"captioner": "a", "prompt": "what ?", "max_tokens": 15, "batch_size": 16}


def test_a_killed_run_goes_on_with_its_finished_parts(model: Sizes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_captions, "PART_ROWS", 3)
    data, step = pool(8), GeneratedCaptions("a", batch_size=2)
    whole = curate(data, [step], tmp_path / "whole")
    asked, said = len(model.asked), model.generate

    def killed(images: Any, prompts: Any, **options: Any) -> list[str]:
        if len(model.asked) == asked + 3:
            raise KeyboardInterrupt
        return said(images, prompts, **options)

    monkeypatch.setattr(model, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        curate(data, [step], tmp_path / "cut")
    monkeypatch.setattr(model, "generate", said)
    before = len(model.asked)
    again = curate(data, [step], tmp_path / "cut")
    assert sum(size for size, *_ in model.asked[before:]) == 5, "the first three were there"
    assert again.columns["synthetic_caption"] == whole.columns["synthetic_caption"]
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")
    assert curate(data, [step], tmp_path / "cut").steps[0].resumed
    model.fingerprint = "f2"
    made = GeneratedCaptions("a", batch_size=2).run(data, PartStore(tmp_path / "parts", "key"))
    assert len(made.columns["synthetic_caption"]) == 7, "parts of other weights are not taken"


def test_the_order_of_rows_does_not_show(model: Sizes) -> None:
    data, step = pool(7), GeneratedCaptions("a", batch_size=3)
    turned = data.select(list(range(len(data)))[::-1])
    assert step(data).columns["synthetic_caption"] == step(turned).columns["synthetic_caption"]


def test_bad_input_is_one_line(model: Sizes) -> None:
    with pytest.raises(ConfigError, match="--captioner MODEL"):
        GeneratedCaptions()(pool())
    with pytest.raises(ConfigError, match="expected 1 or more"):
        GeneratedCaptions("a", batch_size=0)
    assert plan(pool(), [GeneratedCaptions("a")])[0]["items"] == 6


def test_a_model_that_does_not_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_captions, "open_address", lambda address: object())
    with pytest.raises(ConfigError, match="Generator"):
        GeneratedCaptions("a")(pool())


def test_a_worker_travels_without_its_model(model: Sizes) -> None:
    assert Captioner("a", "what ?", 5, 2, model).__getstate__() == Captioner("a", "what ?", 5, 2).__dict__


# ---------------------------------------------------------------- with a model on disk


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def pictures(folder: Path, count: int = 9) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode_png(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)))
        (folder / f"{number}.txt").write_text("a red circle")
    return folder


def test_the_command_writes_what_caption_writes(tmp_path: Path) -> None:
    made = writer()
    made.save(tmp_path / "model")
    source = pictures(tmp_path / "in")
    command = ["curate", "generated_captions", str(source), str(tmp_path / "out"), "--captioner", str(tmp_path / "model")]
    assert main([*command, "--prompt", "", "--max-tokens", "6"]) == 0
    found = {r["uid"]: r["synthetic_caption"] for r in read_table(tmp_path / "out", "synthetic_caption").table.to_pylist()}
    data = diptych.read(source)
    for row, uid in enumerate(data.uids):
        assert found.get(uid, "") == diptych.caption(made, data[row].image, max_tokens=6)
    by = read_table(tmp_path / "out", "synthetic_caption_by").table.to_pylist()[0]["synthetic_caption_by"]
    assert by["fingerprint"] == made.fingerprint


@pytest.mark.slow
def test_ray_gives_the_very_files_of_the_local_engine(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra scale is not installed: Daft on Ray is not tested")
    writer().save(tmp_path / "model")
    source = pictures(tmp_path / "in", 40)
    (source / "3.png").write_bytes(b"broken")
    for name in ("local", "ray"):
        command = [sys.executable, "-m", "diptych.cli", "curate", "generated_captions", str(source), str(tmp_path / name)]
        options = ["--captioner", str(tmp_path / "model"), "--max-tokens", "6", "--engine", name]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert tables(tmp_path / "local") == tables(tmp_path / "ray")
    shutil.rmtree(tmp_path / "ray")
