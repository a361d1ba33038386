"""Messages between pairs as a head of the relation detector, on scenes whose shapes are linked in pairs: recall with and without.

    python benchmarks/refined_relations.py --seeds 0 1 2 --steps 600

Both arms see the same scenes for the same steps; the refined one is also asked with more steps of messages than it was trained with.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from diptych.claims.cell import Cell
from diptych.claims.cells.relations.links import drawn, every_link, small
from diptych.claims.training import opened

REFINED, MORE = 3, 6
METRICS = ("r@5", "seen/r@5", "unseen/r@5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--tested", type=int, default=200)
    options = parser.parse_args()
    print(f"{'messages':<20}{'seed':>5}{'seconds':>9}" + "".join(f"{name:>12}" for name in METRICS))
    for seed in options.seeds:
        rows, test = drawn("train", options.scenes, seed), drawn("test", options.tested, seed)
        for steps in (0, REFINED):
            recipe = small(steps=options.steps, refine_steps=steps)
            with tempfile.TemporaryDirectory() as folder:
                begin = time.process_time()
                model = opened(recipe, rows, Cell(f"messages {steps}", seed, Path(folder) / "run"))
                seconds = time.process_time() - begin
            asked = (steps, MORE) if steps else (0,)
            for number in asked:
                if steps:
                    model.model.refinement.steps = number
                scores = every_link(model, test)
                name = f"{number} steps" if number == steps else f"{number} after {steps}"
                print(
                    f"{name if steps else 'none':<20}{seed:>5}{seconds:>9.0f}" + "".join(f"{scores[m]:>12.3f}" for m in METRICS),
                    flush=True,
                )


if __name__ == "__main__":
    main()
