"""The published loss of nested classifiers: equal to numbers that the authors' code printed for the same weights and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.pairs.classifiers.nested_classifier import NestedClassifier
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.nested import nested, nested_cross_entropy

DIMS, CLASSES = (2, 3, 6), 4
LABEL = torch.tensor([0, 3, 1, 1, 2])
WEIGHTS = [0.5, 1.0, 2.0]

RELEASED = {  # (tied, bias, weights, smoothing): loss, sum of |gradient| of the features; RAIVNLab/MRL at 7ccb42d
    (False, False, False, 0.0): (4.769905809291978, 3.7933897517293307),
    (False, False, True, 0.1): (5.415238762530711, 3.609820219403922),
    (False, True, False, 0.0): (5.4672896059667755, 4.109288353933795),
    (False, True, True, 0.1): (6.33504953678387, 3.8884163850838296),
    (True, False, False, 0.1): (4.263960787176106, 1.7966351728353083),
    (True, False, True, 0.0): (5.042527839796866, 2.8693604033739266),
    (True, True, False, 0.1): (5.035025941138695, 2.1354057871901335),
    (True, True, True, 0.1): (6.031333977854009, 3.085560837812328),
}


def features(width: int = 6) -> torch.Tensor:
    return torch.sin(torch.arange(5 * 6, dtype=torch.float64)).reshape(5, 6)[:, :width].requires_grad_()


@pytest.mark.parametrize("case", RELEASED)
def test_loss_and_gradient_are_those_of_the_released_code(case: tuple[bool, bool, bool, float], parity: Any) -> None:
    tied, bias, weighted, smoothing = case
    model = NestedClassifier(6, CLASSES, DIMS, tied=tied, bias=bias).double()
    for p in model.parameters():
        p.data = torch.cos(torch.arange(p.numel(), dtype=torch.float64) + p.numel()).reshape(p.shape)
    x = features()
    loss, _ = nested_cross_entropy(model(x), LABEL, weights=WEIGHTS if weighted else None, smoothing=smoothing)
    loss.backward()
    assert (loss.item(), x.grad.abs().sum().item()) == pytest.approx(RELEASED[case], rel=1e-12)
    parity(
        "mrl",
        "classification loss and gradient, each of its eight forms",
        "numbers printed by RAIVNLab/MRL at 7ccb42d",
        [((loss.item(), x.grad.abs().sum().item()), RELEASED[case])],
        tolerance=1e-12,
    )


def test_terms_are_those_of_each_width_and_the_mean_is_a_named_option() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, CLASSES, dtype=torch.float64, requires_grad=True)
    loss, term_M = nested_cross_entropy(logits, LABEL, weights=WEIGHTS)
    wanted = [F.cross_entropy(logits[m], LABEL) for m in range(3)]
    torch.testing.assert_close(term_M, torch.stack(wanted).detach())
    assert not term_M.requires_grad
    mean, _ = nested_cross_entropy(logits, LABEL, weights=WEIGHTS, reduction="mean")
    torch.testing.assert_close(mean, loss / 3)


def test_the_sum_over_widths_is_the_mean_times_their_number() -> None:
    torch.manual_seed(1)
    image, text = (F.normalize(torch.randn(4, 6, dtype=torch.float64), dim=-1) for _ in range(2))
    for weights in (None, WEIGHTS):
        mean, total = (nested(info_nce, DIMS, weights, how)(image, text, scale=5.0)[0] for how in ("mean", "sum"))  # type: ignore[arg-type]
        torch.testing.assert_close(total, 3 * mean)


def test_the_tied_classifier_has_no_weight_beyond_its_last_width_and_no_bias_unless_asked() -> None:
    shapes = [tuple(p.shape) for p in NestedClassifier(8, CLASSES, (2, 6), tied=True, bias=False).parameters()]
    assert shapes == [(CLASSES, 6)]
    shapes = [tuple(p.shape) for p in NestedClassifier(8, CLASSES, (2, 6), bias=False).parameters()]
    assert shapes == [(CLASSES, 2), (CLASSES, 6)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"label_N": LABEL[:3]}, ShapeError, r"\[M, N, C\] with labels \[N\]"),
        ({"weights": [1.0]}, ConfigError, "3 terms with weights"),
        ({"smoothing": 1.0}, ConfigError, "smoothing is 1.0"),
        ({"reduction": "max"}, ConfigError, "mean or sum"),
    ],
)
def test_errors_say_what_came(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        nested_cross_entropy(**({"logits_MNC": torch.zeros(3, 5, CLASSES), "label_N": LABEL} | change))
