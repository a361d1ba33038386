"""SITTA: its four maps against scikit-learn and the published loop, prompts by looked-up words, the choice among captions."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diptych
from diptych.core.errors import ConfigError
from diptych.core.run_folder import RunFolder
from diptych.data.load.stream import batches
from diptych.data.text.prompts.layout import TextPiece, TokenPiece, lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.semantic_map import (
    SemanticMap,
    StandardMap,
    fold_accuracies,
    gram_matrices,
    image_statistics,
    solve_map,
    solve_map_of_rows,
)
from diptych.models.bridges.word_writer import WordCaptioner, WordPrompt
from diptych.models.io.folder import load_weights
from diptych.recipes.bridges.sitta import SITTA
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

DATA = scenes(40, seed=0, lengths=("short",), negatives=False).remembering()
SMALL = replace(SITTA.tiny(), small_steps=2, small_image_steps=2, batch_size=16)
EXPANDED = "scikit-learn 1 on a row for each pair of image and token, fit_intercept=False"
LOOP = "the loop of the released train_external_dataset.py, written again with NumPy"


class Given(nn.Module):
    """An image-text model whose features are the first pixels of an image."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.image_projection = nn.Identity()

    def image_tower(self, image_BCHW: Tensor) -> Any:
        return type("Tokens", (), {"pooled_BD": image_BCHW.flatten(1)[:, : self.width]})


def rows_of(model: SemanticMap, batch: Any) -> tuple[Any, Any, Any]:
    """Features of the images, and for each token its image and its standardised row: what the released code writes down."""
    with torch.no_grad():
        feature_ND = model.image_features(batch.image_BCHW).double().numpy()
        table_VE = model.word_table().double().numpy()
    image_R, place_R = batch.token_mask_BT.nonzero(as_tuple=True)
    return feature_ND, image_R.numpy(), table_VE[batch.token_BT[image_R, place_R].numpy()]


def published(x_RD: Any, y_RE: Any, solution: str) -> Any:
    """The released maps, rows written down."""
    from sklearn.linear_model import LinearRegression, Ridge

    def procrustes(a: Any, b: Any) -> Any:
        left, _, right = np.linalg.svd(a.T @ b, full_matrices=False)
        return left @ right

    if solution == "least_squares":
        return LinearRegression(fit_intercept=False).fit(x_RD, y_RE).coef_.T
    if solution == "ridge":
        return Ridge(alpha=1.0, fit_intercept=False).fit(x_RD, y_RE).coef_.T
    found = procrustes(x_RD, y_RE)
    for _ in range(5 if solution == "robust" else 0):
        weight = 1 / (np.linalg.norm(y_RE - x_RD @ found, axis=1) + 1e-3)
        weight = np.sqrt(weight / weight.max())[:, None]
        found = procrustes(weight * x_RD, weight * y_RE)
    return found


def test_the_maps_are_those_of_rows_that_are_written_down(parity: Any) -> None:
    torch.manual_seed(0)
    language = LanguageModel(config={"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 40}).double()
    model = SemanticMap(Given(), language, words=37).double()  # type: ignore[arg-type]
    image_BCHW = torch.randn(60, 3, 2, 2, dtype=torch.float64) * 3 + 5
    token_BT, mask_BT = torch.randint(0, 37, (60, 7)), torch.rand(60, 7) < 0.6
    mask_BT[3] = False  # a picture without a word counts in the statistics and nowhere else
    batch = type("Batch", (), {"image_BCHW": image_BCHW, "token_BT": token_BT, "token_mask_BT": mask_BT})
    feature_ND, image_R, y_RE = rows_of(model, batch)
    x_RD = ((feature_ND - feature_ND.mean(0)) / feature_ND.std(0))[image_R]

    totals = model.sums(image_BCHW, token_BT, mask_BT)
    mean_D, std_D = image_statistics(totals)
    gram_DD, cross_DE = gram_matrices(totals, mean_D, std_D)
    maps = {name: solve_map(gram_DD, cross_DE, name, penalty=1.0) for name in ("least_squares", "ridge", "procrustes")}  # type: ignore[arg-type]
    pairs = [(maps[name], published(x_RD, y_RE, name)) for name in ("least_squares", "ridge")]
    parity("sitta", "least-squares and ridge maps from sums by image", EXPANDED, pairs, tolerance=1e-10)
    given = torch.from_numpy(x_RD), torch.from_numpy(y_RE)
    robust = solve_map_of_rows(*given, "robust", penalty=1.0, rounds=5, floor=1e-3)
    pairs = [(maps["procrustes"], published(x_RD, y_RE, "procrustes")), (robust, published(x_RD, y_RE, "robust"))]
    parity("sitta", "Procrustes and robust maps, pictures without words among them", LOOP, pairs, tolerance=1e-10)
    assert torch.allclose(maps["procrustes"] @ maps["procrustes"].T, torch.eye(6, dtype=torch.float64), atol=1e-12)


def test_statistics_keep_float64_where_asked() -> None:
    """A mean of a million and a deviation of a thousandth: in float32 nothing of the rows is left."""
    rows_ND = 1e6 + 1e-3 * torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (rows_ND - rows_ND.mean(0)) / rows_ND.std(0, correction=0)
    for dtype, close in ((torch.float64, True), (torch.float32, False)):
        kept = StandardMap(3, 2, statistics=dtype)
        kept.mean_D.copy_(rows_ND.mean(0))
        kept.std_D.copy_(rows_ND.std(0, correction=0))
        assert torch.allclose(kept.standard(rows_ND), expected, atol=1e-6) is close
        assert kept.standard(rows_ND.float()).dtype == torch.float32
        assert kept(rows_ND.float()).shape == (50, 2)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of width 8, so that forty pictures determine an orthonormal map."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = Tokenizer.train([text.string for row in range(len(DATA)) for text in DATA[row].texts], 400)
    tokenizer.save(folder)
    torch.manual_seed(0)
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": tokenizer.vocab_size}
    LanguageModel(config={**config, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}).inner.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("solution", ["ridge", "robust"])
def test_a_run_ends_in_the_published_map(solution: Any, narrow: Path, parity: Any, tmp_path: Path) -> None:
    """Batches that do not divide the data, and for the robust map one pass a round, between which the map is kept in single precision."""
    recipe = replace(SMALL, solution=solution, language_model=f"hf:{narrow}")
    folder = fit(recipe, DATA, tmp_path / "run", TrainOptions(precision="fp64", device="cpu", progress=False))
    steps = folder.state["step"]
    assert steps == (18 if solution == "robust" else 3)
    prepared = recipe.prepare(DATA)
    model = prepared.model().double()
    load_weights(model.map, folder.model)
    (step,) = batches(DATA, replace(prepared, batch_size=40), seed=0, stop=1)
    feature_ND, image_R, y_RE = rows_of(model, replace(step.batch, image_BCHW=step.batch.image_BCHW.double()))
    assert np.abs(model.map.mean_D.numpy() - feature_ND.mean(0)).max() < 1e-10
    x_RD = ((feature_ND - feature_ND.mean(0)) / feature_ND.std(0))[image_R]
    wanted = published(x_RD, y_RE, solution)
    what = f"map that a run of several batches ends in ({solution})"
    parity("sitta", what, LOOP, [(model.map.map_DE, wanted)], tolerance=1e-7)


@pytest.mark.parametrize("solution", ["least_squares", "robust"])
def test_tokens_that_were_left_out_are_found_as_the_released_script_finds_them(solution: Any) -> None:
    """`perform_cv` of train_lexical_matching.py: five folds, the nearest target among those of the same part. 52 rows do not divide."""
    rng = np.random.default_rng(0)
    x_RD = rng.standard_normal((52, 6))
    y_RE = x_RD @ rng.standard_normal((6, 8)) + 0.5 * rng.standard_normal((52, 8))
    order_R = np.random.RandomState(101).permutation(52)
    given, settings = (torch.from_numpy(x_RD), torch.from_numpy(y_RE)), {"penalty": 1.0, "rounds": 5, "floor": 1e-3}
    found = fold_accuracies(*given, solution, folds=5, seed=101, **settings)
    wanted: list[list[float]] = [[], []]
    for left in np.split(order_R, np.cumsum([11, 11, 10, 10])):  # the first two parts have one more
        learned = np.setdiff1d(np.arange(52), left)
        map_DE = published(x_RD[learned], y_RE[learned], solution)
        for accuracies, part in zip(wanted, (learned, np.sort(left)), strict=True):
            mapped = x_RD[part] @ map_DE
            mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
            target = y_RE[part] / np.linalg.norm(y_RE[part], axis=1, keepdims=True)
            accuracies.append(float(np.mean((mapped @ target.T).argmax(1) == np.arange(len(part)))))
    assert found == pytest.approx({"fold_train_accuracy": np.mean(wanted[0]), "fold_accuracy": np.mean(wanted[1])}, abs=1e-12)
    assert 0.2 < found["fold_accuracy"] < 1


def test_every_token_of_the_vocabulary_is_a_row_of_lexical_matching(tmp_path: Path) -> None:
    recipe = replace(SMALL, learned_from="vocabulary", solution="ridge").prepare(DATA)
    model = recipe.model()
    (step,) = batches(DATA, recipe, seed=0, stop=1)
    with torch.no_grad():
        found = recipe.solve(model, recipe.statistics(model, step.batch))
        measured = replace(recipe, folds=2).solve(model, recipe.statistics(model, step.batch))
    assert found["rows"] == model.words
    assert set(measured) - set(found) == {"fold_train_accuracy", "fold_accuracy"}
    inner, joint = recipe.words().tokenizer.inner, recipe.joint()
    texts = [f"a photo of a {inner.decode([token], skip_special_tokens=False).strip()}." for token in range(model.words)]
    encoded = joint.tokenizer.encode(texts, joint.text_length)
    with torch.no_grad():
        x_VD = model.text_features(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)).double().numpy()
    spread = x_VD.std(0)
    x_VD = (x_VD - x_VD.mean(0)) / np.where(spread > 0, spread, 1)
    wanted = published(x_VD, model.word_table().double().numpy(), "ridge")
    assert np.abs(model.map.map_DE.detach().numpy() - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> WordCaptioner:
    run = diptych.train(SMALL, data=DATA, out=tmp_path_factory.mktemp("sitta") / "run", seed=0)
    loaded: WordCaptioner = diptych.load(RunFolder.open(run.path).path)
    return loaded


def test_words_are_the_nearest_tokens_each_spelling_once(writer: WordCaptioner) -> None:
    ranked_NV = writer.rank_words([DATA[0].image, DATA[1].image])
    model = writer.model
    with torch.no_grad():
        mapped = model.map(model.image_features(writer._pixels([DATA[0].image])))[0]
        cosine = torch.nn.functional.cosine_similarity(mapped[None], model.word_table(), dim=1)
    assert (cosine[ranked_NV[0, :-1]] >= cosine[ranked_NV[0, 1:]] - 1e-6).all()
    writer.words  # noqa: B018, filled once
    spelled = [writer.words[token] for token in writer.chosen(ranked_NV[0])]
    assert len(spelled) == len(set(spelled)) == 6
    assert all(spelled)
    repeated = np.array([5, 300, 300, 301, 5, *range(302, 320)])
    assert writer.chosen(repeated)[:2] != [300, 300]


def test_orders_begin_with_the_rank_and_are_those_of_the_released_seed(writer: WordCaptioner) -> None:
    orders = writer.orders([10, 11, 12, 13])
    np.random.seed(101)
    drawn = [[10, 11, 12, 13]]
    for _ in range(writer.prompt.orders - 1):
        drawn.append(np.array([10, 11, 12, 13])[np.random.permutation(np.arange(4))].tolist())
    assert orders == drawn


def test_a_prompt_is_words_with_spaces_between_then_the_template(writer: WordCaptioner) -> None:
    spaced = WordCaptioner(
        writer.model, writer.joint, writer.vocabulary, replace(writer.prompt, spaced=True, template="A picture of"), "sitta"
    )
    space = tuple(writer.vocabulary.pieces(" "))
    tokens, words = spaced._row([300, 301], "A picture of")
    assert tokens == TokenPiece((300, *space, 301, *space), picture=True)
    assert words == TextPiece("A picture of")
    (asked,) = spaced._row([300, 301], "Use these words: {words}")
    assert isinstance(asked, TextPiece)
    assert asked.text == f"Use these words: {' '.join(spaced.vocabulary.decode([token]) for token in (300, 301))}"


def test_the_caption_nearest_to_the_picture_is_chosen(writer: WordCaptioner) -> None:
    image = DATA[0].image
    captions = sorted({text.string for row in range(8) for text in DATA[row].texts})
    vectors = writer.joint.embed_texts(captions) @ writer.joint.embed_images([image])[0]
    assert writer.best(image, captions) == captions[int(np.argmax(vectors))]
    assert writer.best(image, []) == ""
    written = writer.written(writer.chosen(writer.rank_words([image])[0]), max_tokens=8)
    assert written == sorted(set(written))
    assert writer.generate([image], [""], max_tokens=8) == [writer.best(image, written)]
    with pytest.raises(ConfigError, match="of the 256 tokens of the language model of 'sitta', so 300 tokens more do not fit"):
        writer.generate([image], [""], max_tokens=300)


def test_stop_words_and_punctuation_leave_a_caption() -> None:
    recipe = SMALL.prepare(DATA)
    pieces = recipe.words().pieces("circle red square")
    assert recipe.tokens(["A red circle,", "the red square."]) == pieces
    assert replace(recipe, marks=True).tokens(["A red circle,", "the red square."]) == [*recipe.words().start_ids, *pieces]


def test_prompts_are_laid_out_as_released(writer: WordCaptioner) -> None:
    """For LLaMA the start mark comes with "A picture of", behind the words and their spaces; a sentence has the words as decoded."""
    vocabulary = LanguageVocabulary(writer.vocabulary.tokenizer, start=True, start_behind=True)
    tokens, inner = [ids[0] for ids in map(vocabulary.pieces, ("circle", "red", "square"))], vocabulary.tokenizer.inner
    space, behind = vocabulary.pieces(" "), vocabulary.pieces("A picture of")
    made = WordCaptioner(writer.model, writer.joint, vocabulary, WordPrompt(marks=True, within=True), "sitta")
    layout = lay_out([made._row(tokens, "A picture of")], vocabulary)
    wanted: list[int] = []
    for token in tokens:  # `np.insert` of the encoded space behind every token
        wanted += [token, *space]
    assert layout.id_BL.tolist() == [[*wanted, *vocabulary.start_ids, *behind]]
    (sentence,) = made._row(tokens, "words: {words}")
    assert sentence == TextPiece("words: " + " ".join(inner.decode([token]) for token in tokens))
    plain = WordCaptioner(writer.model, writer.joint, vocabulary, WordPrompt(), "sitta")
    assert plain._row(tokens, "words: {words}") == [TextPiece("words: circle red square")]


def test_a_stop_behind_a_letter_ends_a_caption_too(writer: WordCaptioner) -> None:
    """LLaMA has two tokens for a full stop; the released code names the second by its number."""
    pieces = {".": [7, 8], "\n": [7, 9], "a.": [3, 5], "a\n": [3, 9]}
    decoded = {5: ".", 8: " .", 9: "\n"}

    class Stops:
        tokenizer = type("T", (), {"inner": type("I", (), {"decode": staticmethod(lambda ids: decoded[ids[0]])})})
        pieces = staticmethod(lambda text: pieces[text])

    for within, ends in ((True, [8, 9, 5]), (False, [8, 9])):
        made = WordCaptioner(writer.model, writer.joint, Stops(), WordPrompt(within=within), "sitta")  # type: ignore[arg-type]
        assert made._ends() == ends


def test_the_published_size() -> None:
    """RN50x64 has a joint space of 1,024, LLaMA-7B a width of 4,096: the map is all that is solved for."""
    import open_clip
    from transformers import LlamaConfig

    width = open_clip.get_model_config("RN50x64")["embed_dim"]
    assert width * LlamaConfig().hidden_size == 4_194_304
    made = SITTA.paper()
    assert (made.shown, made.orders, made.nearest, made.order_seed) == (8, 40, 50, 101)
    assert (made.marks, made.start_behind, made.within, made.spaced) == (True,) * 4


def test_bad_settings_say_what_would_work() -> None:
    with pytest.raises(ConfigError, match="folds is 5"):
        replace(SITTA.paper(), folds=5)
    with pytest.raises(ConfigError, match="shown, orders, nearest are 0, 40, 50"):
        replace(SITTA.paper(), shown=0)
    with pytest.raises(ConfigError, match="no image encoder yet: call prepare"):
        SITTA.tiny().joint()


def test_an_image_encoder_without_texts_is_read_before_its_classifier(writer: WordCaptioner, tmp_path: Path, parity: Any) -> None:
    """A network of timm: the map is the released one on its features with the head taken off; another model chooses among captions."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    net = timm.create_model("test_vit", pretrained=False)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    address = f"timm:test_vit/{tmp_path / 'net.safetensors'}"
    writer.joint.save(tmp_path / "judge")
    recipe = replace(SMALL, image_weights=address, judge=str(tmp_path / "judge"), solution="ridge")
    run = fit(recipe, DATA, tmp_path / "run", TrainOptions(precision="fp64", device="cpu", progress=False))
    made: WordCaptioner = diptych.load(run.path)
    net.head = nn.Identity()
    prepared = recipe.prepare(DATA)
    (step,) = batches(DATA, replace(prepared, batch_size=40), seed=0, stop=1)
    with torch.no_grad():
        feature_ND = net.eval()(step.batch.image_BCHW)
    parity("sitta", "features of an image encoder alone", "timm's network with its head taken off, as released",
           [(made.model.image_features(step.batch.image_BCHW), feature_ND)], tolerance=1e-6)  # fmt: skip
    doubled_ND, image_R, y_RE = rows_of(prepared.model().double(), replace(step.batch, image_BCHW=step.batch.image_BCHW.double()))
    x_RD = ((doubled_ND - doubled_ND.mean(0)) / doubled_ND.std(0))[image_R]
    wanted = published(x_RD, y_RE, "ridge")
    parity("sitta", "ridge map of an image encoder alone", EXPANDED, [(made.model.map.map_DE, wanted)], tolerance=1e-5)
    image = DATA[0].image
    assert made.preprocess.size == 160
    assert made.joint.preprocess.size == writer.joint.preprocess.size
    written = made.written(made.chosen(made.rank_words([image])[0]), max_tokens=8)
    assert made.generate([image], [""], max_tokens=8) == [writer.best(image, written)]
    with pytest.raises(ConfigError, match="which does not read words of a vocabulary"):
        replace(recipe, learned_from="vocabulary").prepare(DATA)
    with pytest.raises(ConfigError, match="embeds texts itself"):
        replace(recipe, image_weights=str(tmp_path / "judge")).prepare(DATA)
    other = copy.copy(writer.joint)
    other.model = copy.deepcopy(writer.joint.model)
    with torch.no_grad():
        other.model.log_scale.add_(1)
    other.__dict__.pop("fingerprint", None)
    judged = [
        WordCaptioner(made.model, judge, made.vocabulary, made.prompt, "a", images=made.preprocess)
        for judge in (made.joint, other)
    ]
    assert judged[0].fingerprint == made.fingerprint != judged[1].fingerprint


def test_an_image_encoder_without_texts_needs_another_model_that_chooses() -> None:
    alone = replace(SMALL, image_weights="timm:test_vit/random")
    with pytest.raises(ConfigError, match=r"image_weights is 'timm:test_vit/random', which does not read texts .* as judge"):
        alone.prepare(DATA)
    with pytest.raises(ConfigError, match="judge is 'timm:test_vit/random', which does not read texts"):
        replace(alone, judge="timm:test_vit/random").prepare(DATA)
