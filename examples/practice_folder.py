"""Writes a folder of pictures with a caption file beside each, as one has them on disk: practice material for the first hour.

    python examples/practice_folder.py pictures

About 1,500 drawings of animals, food, places and things by two vendors. `pictures/noto/avocado.png` lies beside
`pictures/noto/avocado.json`, which holds the caption and the concept; both drawings of an avocado have the same concept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

import diptych as dp
from diptych.data.media.decode import decode

STYLES = ("noto", "twemoji")
TOPICS = ("animals-nature", "food-drink", "travel-places", "objects")


def main(folder: Path, limit: int = 100_000) -> int:
    """Write at most `limit` pictures below `folder`; returns how many."""
    drawings = dp.read("emoji").where("style", STYLES).where("group_name", TOPICS)
    written = 0
    for row in range(min(limit, len(drawings))):
        drawing = drawings[row]
        name, *tags = [text.string for text in drawing.positives("en")]
        path = folder / drawing.extras["style"] / f"{''.join(c if c.isalnum() else '-' for c in name.lower())}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(decode(drawing.image)).save(path)
        caption = f"{name}, {tags[0]}" if tags else name
        path.with_suffix(".json").write_text(json.dumps({"caption": caption, "concept": name}), encoding="utf-8")
        written += 1
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
    print(f"{target}: {main(target):,} pictures, each with a caption")
