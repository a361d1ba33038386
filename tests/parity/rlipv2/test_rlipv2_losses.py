"""The losses of the RLIPv2 release on random predictions: pairs with and without objects, with and without subject classes, the tagger.

`rlipv2_losses.npz` holds predictions, targets and, for each case, the four terms that the released matcher and criterion gave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.data.graphs.pairs import PairPredictions, PairTargets
from diptych.objectives.boxes.pair_set import PairSetLoss

STORED = Path(__file__).parent / "rlipv2_losses.npz"
CORNER = {"focal": "corner", "quality": False}
CASES: dict[str, tuple[dict[str, Any], bool]] = {  # options, whether objects are missing
    "hico": ({}, False),
    "hico without subjects": ({"subjects": False}, False),
    "v-coco": (CORNER | {"missing": "zero_box"}, True),
    "v-coco without subjects": (CORNER | {"missing": "zero_box", "subjects": False}, True),
    "tagger": (CORNER | {"matching": "given"}, False),
}


def stored() -> dict[str, Tensor]:
    with np.load(STORED) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def terms(values: dict[str, Tensor], options: dict[str, Any], missing: bool) -> Tensor:
    predictions = PairPredictions(**{name: values[name] for name in PairPredictions.__dataclass_fields__})
    names = [name for name in PairTargets.__dataclass_fields__ if name != "has_object_BG"]
    targets = {name: values[name] for name in names}
    if missing:
        has_object_BG = values["has_object_BG"]
        targets |= {
            "has_object_BG": has_object_BG | ~values["valid_BG"],
            "object_box_BG4": values["object_box_BG4"] * has_object_BG[..., None],
        }
    given, _ = PairSetLoss(divisors="process", pseudo=None, **options)(predictions, PairTargets(**targets))
    return torch.stack([given[name] for name in ("labels", "relations", "boxes", "giou")])


@pytest.mark.parametrize("name", CASES)
def test_terms_equal_the_release(name: str, parity: Any) -> None:
    values = stored()
    found = terms(values, *CASES[name]).double()
    torch.testing.assert_close(found, values[f"{name}/terms"], atol=2e-5, rtol=0)
    parity(
        "rlipv2",
        "losses of labels, relations and boxes",
        "terms that JacobYuan7/RLIPv2 gave",
        [(found, values[f"{name}/terms"])],
        tolerance=2e-5,
    )


def test_objects_that_do_not_exist_move_no_match_by_default() -> None:
    """The release's zero box changes who answers for a pair here; left out, as by default, it does not."""
    values = stored()
    options, missing = CASES["v-coco"]
    ours = terms(values, options | {"missing": "left_out"}, missing)
    assert (ours[2:] - values["v-coco/terms"][2:]).abs().max() > 1e-2
