"""Models from raw input against scikit-learn, a naive search and hand-made rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.models.closed_form.features import raw_features, words_of
from diptych.models.closed_form.model import METHODS, raw_input_model
from diptych.models.closed_form.ridge import PENALTIES, fit_ridge
from diptych.tasks.generation.vqa import VQA
from diptych.tasks.pairs.retrieval import Retrieval

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230), "grey": (128, 128, 128)}


def pictures(count: int, seed: int = 0, *, questions: bool = True) -> Pool:
    """Plain noisy pictures of two halves with their colours as text, the upper one first."""
    rng = np.random.default_rng(seed)
    samples = []
    for row in range(count):
        upper, lower = rng.choice(list(COLOURS), 2)
        pixels_HWC = np.zeros((24, 24, 3))
        pixels_HWC[:12], pixels_HWC[12:] = COLOURS[str(upper)], COLOURS[str(lower)]
        noisy_HWC = np.clip(pixels_HWC + rng.normal(0, 20, pixels_HWC.shape), 0, 255).astype(np.uint8)
        asked = [{"question": "What colour is the upper half?", "answer": str(upper)}] if questions else []
        regions = (Region((0, 0, 24, 12), str(upper)), Region((0, 12, 24, 24), str(lower)))
        text = f"{upper} above {lower}"
        samples.append(
            Sample(
                f"p{seed}-{row}",
                ArrayImage(noisy_HWC),
                (Text(text, "en"),),
                regions,
                (Relation(0, "above", 1),),
                group=text,
                extras={"questions": asked},
            )
        )
    return Pool.from_samples(samples, name=f"halves{seed}")


def images_of(rows: Pool) -> list[ImageSource]:
    return [image for row in range(len(rows)) if (image := rows[row].image) is not None]


@pytest.mark.parametrize(("rows", "width"), [(60, 12), (12, 40)])
def test_ridge_equals_scikit_learn_at_the_penalty_that_a_naive_loop_chooses(rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(rows, width)).astype(np.float32)
    y_NV = (x_ND @ rng.normal(size=(width, 5)) + rng.normal(0, 2, (rows, 5))).astype(np.float32)
    fitted = fit_ridge(x_ND, y_NV)
    centred_ND = x_ND.astype(np.float64) - x_ND.mean(0)
    largest = np.linalg.eigvalsh(centred_ND.T @ centred_ND).max()
    scores = []
    for share in PENALTIES:
        hat_NN = centred_ND @ np.linalg.solve(centred_ND.T @ centred_ND + share * largest * np.eye(width), centred_ND.T)
        residual_NV = (y_NV - y_NV.mean(0)) - hat_NN @ (y_NV - y_NV.mean(0))
        scores.append((residual_NV**2).sum() / (rows - 1 - min(np.trace(hat_NN), rows - 1.5)) ** 2)
    assert fitted.penalty == pytest.approx(PENALTIES[int(np.argmin(scores))] * largest, rel=1e-3)
    theirs = SklearnRidge(alpha=fitted.penalty).fit(x_ND, y_NV)
    assert fitted(x_ND) == pytest.approx(theirs.predict(x_ND), abs=2e-3)


def test_words_pairs_and_answers_are_columns_and_rows_are_read_once() -> None:
    rows = pictures(40)
    features = raw_features(rows)
    assert raw_features(rows) is features
    assert {"red", "red above", "what colour is the upper half => red"} <= set(features.columns)
    assert "red above" not in features.alone
    row = next(row for row, text in enumerate(features.texts) if text.startswith("red"))
    assert features.words_NV[row, features.columns["red"]] == 1.0
    assert features.text_features(["Red above, blue?"])[0].sum() == len(words_of("red above blue") & set(features.columns))


def test_pictures_are_retrieved_by_ridge_and_look_up_and_the_majority_has_chance() -> None:
    rows, test = pictures(300), pictures(40, seed=1)
    task = Retrieval(draws=1)
    recalls = {method: task.score(task.predict(raw_input_model(rows, method), test)).metrics["r@1"] for method in METHODS}
    assert recalls["ridge"].value > 0.9
    assert recalls["nearest picture"].value > 0.7, "a look-up knows no order, either"
    assert recalls["bag of words"].value < 0.8, "which half is above is said by the order alone"
    assert recalls["majority"].value == pytest.approx(recalls["majority"].chance, abs=0.06)
    first = task.score(task.predict(raw_input_model(rows, "ridge").first(2), test)).metrics["r@1"].value
    assert recalls["majority"].value < first < recalls["ridge"].value


def test_the_nearest_pictures_are_those_of_a_naive_search() -> None:
    model = raw_input_model(pictures(50), "nearest picture")
    query_ND = raw_features(pictures(7, seed=2)).pixels_ND
    row_NR, far_NR = model.nearest(query_ND)
    naive_NM = ((query_ND[:, None] - model.features.pixels_ND[None]) ** 2).sum(-1)
    assert row_NR.tolist() == np.argsort(naive_NM, axis=1)[:, :3].tolist()
    assert far_NR == pytest.approx(np.sort(naive_NM, axis=1)[:, :3], abs=1e-2)


def test_questions_are_answered_from_pixels_and_by_the_usual_answer() -> None:
    rows, test = pictures(300), pictures(60, seed=1)
    task = VQA(draws=1, blind=False)
    right = {m: task.score(task.predict(raw_input_model(rows, m), test)).metrics["accuracy"] for m in METHODS}
    assert min(right["ridge"].value, right["nearest picture"].value) > 0.95
    answers = set(task.predict(raw_input_model(rows, "majority"), test).column("answer").to_pylist())
    assert len(answers) == 1
    model = raw_input_model(rows, "ridge")
    (table_C2,) = model.answer_nll(images_of(test)[:1], ["What colour is the upper half?"], [["red", "green", "blue", "grey"]])
    assert ["red", "green", "blue", "grey"][int(table_C2[:, 0].argmin())] == test[0].regions[0].label


def test_a_look_up_detects_what_the_nearest_training_picture_has() -> None:
    rows, test = pictures(200), pictures(10, seed=1)
    images = images_of(test)
    graphs = raw_input_model(rows, "nearest picture").detect(images, objects=list(COLOURS), relations=["above"])
    found = [graph.triplets()[0] == test[row].graph.triplets()[0] for row, graph in enumerate(graphs)]
    assert np.mean(found) > 0.9
    usual = raw_input_model(rows, "majority").detect(images, objects=list(COLOURS), relations=["above"])
    assert len({graph.triplets()[0] for graph in usual}) == 1
