"""The region-token head, its loss and its scores against the release of DesCo (liunian-harold-li/DesCo 13b7793), which is GLIP's.

The numbers were made by running that code on made-up inputs: two maps of an image, seven tokens, two of them padding in one text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.models.detection.token_head import TokenHead, phrase_scores
from diptych.objectives.boxes.focal import sigmoid_focal

RELEASED = "liunian-harold-li/DesCo 13b7793, VLDyHead, TokenSigmoidFocalLoss and convert_grounding_to_od_logits"


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parent / "released" / "glip_head_released.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_logits_loss_and_scores_are_those_of_the_release(released: dict[str, torch.Tensor], parity: Any) -> None:
    head = TokenHead(6, 10)
    head.load_state_dict(
        {
            "project.weight": released["weight"],
            "project.bias": released["weight_bias"],
            "log_temperature": released["log_scale"],
            "token_bias_T": released["token_bias"],
            "bias": released["bias"],
        }
    )
    with torch.no_grad():
        logit_BQL = head(released["region_BQD"], released["token_BLT"])
        focal_BQL = sigmoid_focal(released["logit_BQL"], released["target_BQL"])
        loss = (focal_BQL * released["mask_BL"][:, None]).sum()
        positive_EL = torch.zeros(3, 7, dtype=torch.bool)
        for row, tokens in enumerate(([1, 2], [4], [0, 1, 5])):
            positive_EL[row, tokens] = True
        score_BQE = phrase_scores(released["logit_BQL"], positive_EL)
    pairs = [(logit_BQL, released["logit_BQL"]), (loss, released["loss"]), (score_BQE, released["score_BQE"])]
    parity("desco", "region-token logits, token focal loss, class scores", RELEASED, pairs, tolerance=5e-6)
