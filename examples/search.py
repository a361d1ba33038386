"""Builds a search index over data and asks it by text, by picture and with a filter.

    python examples/search.py runs/example/clip runs/example/index

The first argument is a model (`examples/train_from_python.py` makes one; "hf:FOLDER" and the like do as well).
"""

from __future__ import annotations

import sys
from pathlib import Path

import diptych as dp

DATA = "world:scenes?n=200"


def main(model: str | Path, folder: Path) -> list[str]:
    """Index the split "test" into `folder`; returns the uids that resemble its first picture, the picture itself first."""
    data = dp.read(DATA, split="test")
    with dp.index(model, data, folder, overwrite=True) as index:
        print(f"{len(index)} pictures, columns to filter by: {', '.join(index.info.columns)}")
        for hit in index.search_text("a red circle left of a blue square", k=3):
            print(f"by text     {hit.score:.3f}  {hit.uid}")
        alike = index.search_image(data[0].image, k=3)
        for hit in alike:
            print(f"by picture  {hit.score:.3f}  {hit.uid}")
        for hit in index.search_text("a red circle", k=2, where={"uid": [data.uids[0], data.uids[1]]}):
            print(f"filtered    {hit.score:.3f}  {hit.uid}")
    return [hit.uid for hit in alike]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/search.py MODEL INDEX_FOLDER")
    main(sys.argv[1], Path(sys.argv[2]))
