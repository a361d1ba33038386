"""Retrieval by language on real data: packaged emoji by their names in 28 languages, stamps by their captions in up to 77.

    python benchmarks/by_language.py [--steps 300] [--seed 0] [--stamps data/stamps]

A small `rs_m_clip` (preset tiny without its self-distillation) learns from the training rows of each set, a caption in one of its languages
an image and step, with one vocabulary for all languages. `multilingual_retrieval` then asks about rows that training did not see: emoji of
known names in a new style of drawing, stamps with new captions (`diptych data fetch stamps --out data/stamps`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine_results import keep, last

import diptych as dp
from diptych.core.result import Result

BATCH, PIECES, LEAST = 64, 12_000, 20


def languages_of(result: Result) -> list[dict[str, Any]]:
    """A row a language, the best recall first."""
    rows = [
        {
            "language": language,
            "images": facts["images"],
            "mean_recall": round(result.metrics[f"{language}/mean_recall"].value, 3),
            "chance": round(result.metrics[f"{language}/mean_recall"].chance or 0.0, 3),
            "tokens_per_text": round(facts["tokens_per_text"], 1),
            "cut": round(result.metrics[f"{language}/truncated"].value, 3),
        }
        for language, facts in result.notes["languages"].items()
    ]
    return sorted(rows, key=lambda row: -row["mean_recall"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stamps", default="", help="folder of `diptych data fetch stamps`")
    options = parser.parse_args()
    sets: dict[str, tuple[str, str, tuple[str, ...]]] = {"emoji": ("emoji", "unseen_style", ("label",))}
    if options.stamps:
        sets["stamps"] = (options.stamps, "unseen_caption", ())
    for name, (address, split, origins) in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {"batch_size": BATCH, "steps": options.steps, "pieces": PIECES, "distilled": 0.0}
            settings |= {"seed": options.seed, "precision": "fp32", "device": "cpu"}
            run = dp.train("rs_m_clip", address, Path(folder, "run"), evaluation=False, **settings)
            result = dp.evaluate(run.path, "multilingual_retrieval", address, split=split, origins=origins, least=LEAST, draws=1)
        rows = languages_of(result)
        print(f"{name}, {split}: {len(rows)} languages, mean recall {result.metrics['mean_recall'].value:.3f}")
        print("| language | images | mean recall | chance | tokens per text | cut |\n|---|---:|---:|---:|---:|---:|")
        for row in rows:
            print("| " + " | ".join(str(value) for value in row.values()) + " |")
        parts = last("by_language").get("parts", {})
        parts[name] = {"split": split, "steps": options.steps, "seed": options.seed, "least": LEAST, "rows": rows}
        keep("by_language", {"parts": parts}, [])


if __name__ == "__main__":
    main()
