"""Generated relations: an oracle draws what is asked, another draws it mirrored, a third leaks; references and labels are counted so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diptych.api import evaluate
from diptych.core.errors import ConfigError, DataError
from diptych.tasks.generation.relation_generation import RelationGeneration
from diptych.worlds.related.world import PlacedShape, RelatedPair, placed_pair, related, render_pair
from diptych.worlds.scenes.world import scenes


class Oracle:
    """Draws a prompt's shapes; `mirror`: the other way round; `leak`: with a red square beside them."""

    name = "oracle"

    def __init__(self, *, mirror: bool = False, leak: bool = False) -> None:
        self.mirror, self.leak = mirror, leak

    def generate_images(self, prompts: Sequence[str], **options: Any) -> Any:
        return np.stack([self.drawn(prompt) for prompt in prompts])

    def drawn(self, prompt: str) -> Any:
        words = prompt.split()
        subject, relation, other = " ".join(words[:2]), " ".join(words[2:-2]), " ".join(words[-2:])
        pair = placed_pair(np.random.default_rng(len(prompt)), relation)
        moved = [
            PlacedShape(noun, thing.x, thing.y, thing.radius) for noun, thing in ((subject, pair.subject), (other, pair.object))
        ]
        pixels_HWC, _ = render_pair(RelatedPair(moved[0], moved[1], relation))
        if self.leak:
            pixels_HWC[:5, :5] = (225, 45, 45)
        return pixels_HWC[::-1, ::-1] if self.mirror else pixels_HWC


def test_oracle_mirror_and_leak_get_what_they_deserve() -> None:
    data = related(40, seed=5, plain=0.0, colours=("green", "blue", "yellow"))
    task = RelationGeneration(limit=40, leaks=("red",))
    found = {name: evaluate(model, task, data) for name, model in {"oracle": Oracle(), "leak": Oracle(leak=True)}.items()}
    assert found["oracle"].metrics["relation_accuracy"].value == 1.0
    assert found["oracle"].metrics["entity_accuracy"].value > 0.9
    assert found["oracle"].metrics["leak_rate"].value == 0.0
    assert found["leak"].metrics["leak_rate"].value == 1.0
    assert not found["leak"].metrics["leak_rate"].higher_is_better
    sides = [row for row in range(40) if data[row].extras["relation"]["predicate"] not in ("inside", "around")]
    turned = evaluate(Oracle(mirror=True), task, data.select(sides))
    assert turned.metrics["relation_accuracy"].value == 0.0
    assert turned.metrics["both"].value == 0.0
    assert evaluate(Oracle(), RelationGeneration(limit=3, samples=2), data).n_items == 6


def test_rows_without_a_relation_are_refused() -> None:
    with pytest.raises(DataError, match="has no relation"):
        evaluate(Oracle(), "relation_generation", scenes(2))
    with pytest.raises(ConfigError, match="leaks names pink"):
        RelationGeneration(leaks=("pink",))
