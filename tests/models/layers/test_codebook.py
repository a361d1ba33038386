"""The codebook against a loop over codes and autograd; the captioner sees an image through its codes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Generator
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.prompt import ImagePart, RegionPart, TextPart
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.blip.codebook_captioner import CodebookCaptionModel, CodebookCaptionNet
from diptych.models.io.saved_model import open_model
from diptych.models.layers.codebook import Codebook
from diptych.models.towers.towers import image_tower
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.codebook import codebook_terms


@pytest.fixture
def book() -> Codebook:
    torch.manual_seed(0)
    book = Codebook(4, 3).double()
    torch.nn.init.normal_(book.code_KD)
    return book


def test_nearest_code_by_a_loop(book: Codebook, parity: Any) -> None:
    patch_BPD = torch.randn(2, 5, 3, dtype=torch.float64)
    found = book(patch_BPD)
    nearest = torch.zeros(2, 5)
    for b in range(2):
        for p in range(5):
            distances = [float((patch_BPD[b, p] - code).square().sum()) for code in book.code_KD.detach()]
            nearest[b, p] = int(np.argmin(distances))
    assert torch.equal(found.code_BPD, book.code_KD[found.id_BP])
    parity("tldr", "nearest codes", "a loop over codes", [(found.id_BP, nearest)], tolerance=0.0)


def test_quantising_what_is_quantised_changes_nothing(book: Codebook, parity: Any) -> None:
    once = book(torch.randn(2, 5, 3, dtype=torch.float64)).code_BPD
    parity("tldr", "codes of codes", "the codes themselves", [(book(once).code_BPD, once)], tolerance=0.0)


def test_codes_are_drawn_as_published() -> None:
    codes = Codebook(64, 32).code_KD
    assert float(codes.min()) >= -1 / 64
    assert float(codes.max()) <= 1 / 64
    assert float(codes.std()) == pytest.approx(1 / 64 / 3**0.5, rel=0.05)


def test_a_code_that_nobody_uses_moves_onto_a_patch_after_its_time(book: Codebook) -> None:
    with torch.no_grad():
        book.code_KD[2:] += 100  # no patch comes near
    before = book.code_KD.detach().clone()
    patch_BPD = torch.randn(2, 5, 3, dtype=torch.float64)
    found = book(patch_BPD)
    ids, rows = found.id_BP.flatten(), patch_BPD.flatten(0, 1)
    used = sorted(set(ids.tolist()))
    assert used == [0, 1], "both near codes are used, or this says nothing"
    for _ in range(2):
        book.revive(ids, rows, after=3)
        assert torch.equal(book.code_KD, before), "not yet"
    book.revive(ids, rows, after=3)
    assert torch.equal(book.code_KD[:2], before[:2]), "used codes stay"
    patches = {tuple(row) for row in rows.tolist()}
    moved = [tuple(row) for row in book.code_KD[2:].tolist()]
    assert set(moved) <= patches
    assert len(set(moved)) == 2, "different ones"
    assert book.unused_K.tolist() == [0, 0, 0, 0]
    again = Codebook(4, 3).double()
    again.load_state_dict(book.state_dict())
    for one in (book, again):
        with torch.no_grad():
            one.code_KD[2:] += 100
        for _ in range(3):
            one.revive(ids, rows, after=3)
    assert torch.equal(book.code_KD, again.code_KD), "what is stored is enough to go on alike"
    assert [tuple(row) for row in book.code_KD[2:].tolist()] != moved, "another draw each time"


def test_the_gradient_goes_straight_through(book: Codebook, parity: Any) -> None:
    patch_BPD = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 4, 3, dtype=torch.float64)
    found = book(patch_BPD)
    assert torch.allclose(found.straight_BPD, found.code_BPD)
    (found.straight_BPD * weight).sum().backward()
    parity("tldr", "gradient through the codebook", "that of the identity", [(patch_BPD.grad, weight)], tolerance=0.0)
    assert book.code_KD.grad is None, "codes learn from their own term alone"


@pytest.mark.parametrize("legacy", [False, True])
def test_terms_and_their_gradients_by_hand(book: Codebook, legacy: bool, parity: Any) -> None:
    patch_BPD = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    found = book(patch_BPD)
    terms = codebook_terms(found.patch_BPD, found.code_BPD, beta=0.25, legacy=legacy)
    gap = (patch_BPD - found.code_BPD).detach()
    codes, stays = (0.25, 1.0) if legacy else (1.0, 0.25)
    assert float(terms["codebook"]) == pytest.approx(codes * float(gap.square().mean()))
    assert float(terms["commitment"]) == pytest.approx(stays * float(gap.square().mean()))
    sum(terms.values()).backward()
    assert torch.allclose(patch_BPD.grad, stays * 2 * gap / 12)
    expected = torch.zeros_like(book.code_KD)
    for p in range(4):
        expected[found.id_BP[0, p]] -= codes * 2 * gap[0, p] / 12
    assert torch.allclose(book.code_KD.grad, expected)
    size = gap.square().mean()
    pairs = [(terms["codebook"], codes * size), (terms["commitment"], stays * size)]
    pairs += [(patch_BPD.grad, stays * 2 * gap / 12), (book.code_KD.grad, expected)]
    parity("tldr", "both terms and their gradients, published and legacy", "derivatives by hand", pairs, tolerance=1e-12)


def test_caption_loss_keeps_float64() -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    text, mask = torch.tensor([[0, 1, 2, 3], [0, 4, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: caption_loss(x, text, mask), logits)


def test_caption_loss_by_a_double_loop(parity: Any) -> None:
    torch.manual_seed(1)
    logits, text = torch.randn(3, 6, 7, dtype=torch.float64), torch.randint(0, 7, (3, 6))
    mask = torch.arange(6) < torch.tensor([6, 3, 2])[:, None]
    rows = []
    for b in range(3):
        terms = [-float(torch.log_softmax(logits[b, l - 1], 0)[text[b, l]]) for l in range(1, 6) if mask[b, l]]  # noqa: E741
        rows.append(sum(terms) / len(terms))
    assert float(caption_loss(logits, text, mask)) == pytest.approx(sum(rows) / 3, rel=1e-6)
    halves = [float(caption_loss(logits[r : r + 1], text[r : r + 1], mask[r : r + 1])) for r in range(3)]
    assert float(caption_loss(logits, text, mask)) == pytest.approx(sum(halves) / 3, rel=1e-6)
    parity(
        "tldr",
        "loss of a caption",
        "a double loop over words",
        [(caption_loss(logits, text, mask), sum(rows) / 3)],
        tolerance=1e-6,
    )


@pytest.fixture
def captions() -> CodebookCaptionModel:
    torch.manual_seed(0)
    words = Tokenizer.train(["a red circle", "a blue square", "one green bar"], 300)
    tower = image_tower("vit_micro", image_size=32)
    model = CodebookCaptionNet(tower, vocab_size=words.vocab_size, length=12, codes=16, layers=1, heads=4)
    torch.nn.init.normal_(model.codebook.code_KD, std=0.3)
    return CodebookCaptionModel(model.eval(), Preprocess(32), words, "captions")


def images(count: int) -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(count)]


def test_only_codes_reach_the_decoder(captions: CodebookCaptionModel) -> None:
    """Other patches with the same codes give the same logits; a later token changes no earlier answer."""
    model = captions.model
    found = model.quantised(torch.randn(1, 3, 32, 32))
    text = torch.tensor([[1, 5, 6, 7]])
    shifted = model.codebook(found.patch_BPD + 1e-4)
    assert torch.equal(shifted.id_BP, found.id_BP)
    with torch.no_grad():
        one, other = model.decoded(found.code_BPD, text), model.decoded(shifted.code_BPD, text)
        assert torch.equal(one, other)
        changed = model.decoded(found.code_BPD, torch.tensor([[1, 5, 9, 9]]))
    assert torch.allclose(one[:, :2], changed[:, :2], atol=1e-6)
    assert not torch.allclose(one[:, 2], changed[:, 2])


def test_generates_saves_and_comes_back(captions: CodebookCaptionModel, tmp_path: Path) -> None:
    assert isinstance(captions, Generator)
    some = images(3)
    written = captions.generate(some, [""] * 3, max_tokens=6)
    assert len(written) == 3
    assert captions.generate(some[1:2], [""], max_tokens=6) == written[1:2]
    assert all(text.startswith("a red") for text in captions.generate(some, ["a red"] * 3, max_tokens=6))
    assert captions.codes(some).shape == (3, 4)
    vectors = captions.code_vectors(some)
    assert np.array_equal(vectors, captions.model.codebook.code_KD.detach().numpy()[captions.codes(some)])
    captions.save(tmp_path / "model")
    again = open_model(tmp_path / "model")
    assert again.fingerprint == captions.fingerprint
    assert again.generate(some, [""] * 3, max_tokens=6) == written
    with pytest.raises(ConfigError, match="1 prompts for 3 images"):
        captions.generate(some, [""])
    in_parts = (ImagePart(), TextPart("a "), TextPart("red"))
    assert captions.generate(some[:1], [in_parts], max_tokens=6) == captions.generate(some[:1], ["a red"], max_tokens=6)
    with pytest.raises(DataError, match="cannot read this RegionPart"):
        captions.generate(some[:1], [(RegionPart((0, 0, 4, 4)),)])
