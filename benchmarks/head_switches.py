"""Order of encoders of chest X-rays under each setting of the head (`benchx`): LayerNorm, a head that starts near zero, the encoder's rate.

    python benchmarks/head_switches.py [--images 200] [--steps 60] [--epochs 12] [--share 0.25] [--seeds 42 0]

Three small encoders of rendered chests (`world:chests`): CLIP over a transformer, CLIP over a convolutional network, and the transformer as
it is before training. Each is fine-tuned on a share of the training patients with each of the eight settings. The table has the AUROC of
findings on test images, a mean over seeds, and the order of the encoders; the last line is the setting that each encoder's validation
images choose.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine_results import keep

from diptych.core.contracts import Dataset
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.domains.benchx import BenchX
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

TESTED = 200
TOWERS = {"clip, transformer": "vit_micro", "clip, convolutions": "convnet_micro"}
UNTRAINED = "untrained transformer"


def encoders(train: Dataset, steps: int, folder: Path) -> dict[str, Any]:
    """Name -> embedder."""
    made = {}
    for name, tower in TOWERS.items():
        recipe = replace(CLIP.tiny(), image_tower=tower, image_size=48, batch_size=64, steps=steps)
        made[name] = open_model(fit(recipe, train, folder / tower, TrainOptions(progress=False)).model)
    prepared = replace(CLIP.tiny(), image_tower="vit_micro", image_size=48).prepare(train)
    torch.manual_seed(0)
    return {**made, UNTRAINED: prepared.deploy(prepared.model().eval())}


def order(aurocs: dict[str, float]) -> str:
    """Encoders from the highest to the lowest, by their first letters' places in the table."""
    places = {name: str(place) for place, name in enumerate(aurocs, 1)}
    return " > ".join(places[name] for name in sorted(aurocs, key=lambda name: -aurocs[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 0])
    given = parser.parse_args()
    start = time.process_time()
    data = resolve(f"world:chests?n={given.images}&val=60&test={TESTED}&size=48")
    task = BenchX(shares=(given.share,), seeds=tuple(given.seeds), epochs=given.epochs, draws=20)
    tables: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in encoders(data.split("train"), given.steps, Path(folder)).items():
            tables[name] = task.score(task.predict(model, data)).notes["table"]
    print(f"| setting | {' | '.join(f'{place} {name}' for place, name in enumerate(tables, 1))} | order |")
    print("|---" * (len(tables) + 2) + "|")
    rows = []
    for number, first in enumerate(next(iter(tables.values()))):
        aurocs = {name: table[number]["test"] for name, table in tables.items()}
        rows.append({"setting": first["setting"], "auroc": aurocs, "order": order(aurocs)})
    chosen = {name: next(row for row in table if row["chosen"]) for name, table in tables.items()}
    best = {name: row["test"] for name, row in chosen.items()}
    rows.append({"setting": "chosen on validation", "auroc": best, "order": order(best)})
    for row in rows:
        print(f"| {row['setting']} | {' | '.join(f'{value:.3f}' for value in row['auroc'].values())} | {row['order']} |")
    for name, row in chosen.items():
        print(f"{name}: {row['setting']}")
    print(f"{time.process_time() - start:.0f} s of processor")
    settings = {name: value for name, value in vars(given).items() if name != "seeds"} | {"seeds": given.seeds}
    keep(
        "head_switches",
        {"settings": settings, "rows": rows, "chosen": {name: row["setting"] for name, row in chosen.items()}},
        [],
    )


if __name__ == "__main__":
    main()
