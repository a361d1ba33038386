"""A quarter of a repetitive pool chosen by codebook against a quarter drawn by chance; repaired captions against raw ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, Paired, clean_rows, drawn, retrieved, sized_for
from diptych.claims.cells.learned_pairs.probed import Pixels
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import trained, untrained
from diptych.core.disk.files import write_json
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.sources.closure import closure_hash
from diptych.curate.duplicates.whitening import whitened
from diptych.curate.operators.tldr import TLDR, spread_over_clusters
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.generation.codebook_captioner import CodebookCaptionerRecipe
from diptych.worlds.small_pairs import SIDE, SmallPairs

DISTINCT, ROWS, KEEP, GRAIN = 1500, 4000, 0.25, 6.0
"""Different scenes, rows of the repetitive pool, share that stays, and the noise by which two copies differ (of 255)."""
MISMATCHED, NOISY_ROWS, TRUSTED = 0.4, 6000, 1500
STEPS, BATCH, LENGTH = 300, 128, 40
CODING_STEPS, WRITING_STEPS, CAPTIONER_BATCH = 300, 3600, 64
"""Of a captioner whose codes are clustered, and of one whose captions are read."""
TOWER_STEPS, FIRST_STEPS, TUNED_STEPS = 300, 600, 300
"""Of the CLIP that the second captioner's tower comes from, of what learns from its captions, and of the fine-tuning behind that."""


def repetitive(cell: Cell) -> Pool:
    """Rows drawn by Zipf's law from different scenes: the frequent ones come again and again, each time with other grain."""
    scenes = drawn(SmallPairs(DISTINCT), cell)
    count = len(scenes)
    weights = 1 / (1.0 + np.arange(count))
    rows = 2 * SMOKE_ROWS if cell.smoke else ROWS
    chosen = keyed_rng("repetitive", cell.seed).choice(count, rows, p=weights / weights.sum())

    def copied(row: int, scene: int) -> Sample:
        sample = scenes[scene]
        assert isinstance(sample.image, ArrayImage)
        grain = keyed_rng("grain", cell.seed, row).normal(0, GRAIN, sample.image.pixels_HWC.shape)
        uid = f"copy-{cell.seed}-{row:06d}"
        image = ArrayImage(np.clip(sample.image.pixels_HWC + grain, 0, 255).astype(np.uint8), uid)
        return replace(sample, uid=uid, image=image, extras={**sample.extras, "scene": scene})

    return Pool.from_samples((copied(row, scene) for row, scene in enumerate(chosen.tolist())), name="repetitive")


def small_captioner(codes: int, steps: int, lr: float) -> CodebookCaptionerRecipe:
    return replace(
        CodebookCaptionerRecipe.tiny(),
        image_tower="vit_micro",
        image_size=SIDE,
        heads=4,
        layers=1,
        pieces=400,
        text_length=26,
        codes=codes,
        steps=steps,
        batch_size=CAPTIONER_BATCH,
        lr=lr,
    )


CODING = small_captioner(64, CODING_STEPS, 1e-3)
WRITING = small_captioner(512, WRITING_STEPS, 1e-3)
"""64 codes are enough to group pictures by; which of 24 things stands at which of nine places takes more of them."""


@dataclass(frozen=True)
class ByCodes:
    """A share of the repetitive pool by clusters of codes."""

    def __call__(self, cell: Cell) -> Pool:
        pool = repetitive(cell)
        captioner = str(trained(CODING, pool, cell.part("captioner")).model)
        kept = set(TLDR(captioner=captioner, keep=KEEP, repair=False, seed=cell.seed)(pool).kept)
        return pool.select(np.array([row for row, uid in enumerate(pool.uids) if uid in kept], np.int64))


@dataclass(frozen=True)
class ByChance:
    """As many rows by chance."""

    def __call__(self, cell: Cell) -> Pool:
        pool = repetitive(cell)
        return pool.select(np.sort(keyed_rng("by chance", cell.seed).permutation(len(pool))[: round(len(pool) * KEEP)]))


@dataclass(frozen=True)
class Deduplicated:
    """One row of every scene, as a perfect search for duplicates would leave: what a reader would try first."""

    def __call__(self, cell: Cell) -> Pool:
        pool = repetitive(cell)
        _, first = np.unique(np.array(pool.column("scene")), return_index=True)
        return pool.select(np.sort(first))


@dataclass(frozen=True)
class ByPixels:
    """A share of the repetitive pool by clusters of the pixels themselves: the same rule without any captioner."""

    side: int = 12

    def __call__(self, cell: Cell) -> Pool:
        pool = repetitive(cell)
        images = [image for row in range(len(pool)) if isinstance(image := pool[row].image, ArrayImage)]
        vector_ND = whitened(Pixels(self.side).embed_images(images), TLDR.whiten)
        _, stays_N = spread_over_clusters(vector_ND, KEEP, seed=cell.seed)
        return pool.select(np.flatnonzero(stays_N))


@dataclass(frozen=True)
class CaptionerRows:
    """The pairs that the captioner learns from, and nothing else."""

    def __call__(self, cell: Cell) -> Pool:
        rows = drawn(SmallPairs(TRUSTED), cell, elsewhere=1)
        cell.spending.count(trusted=len(rows))
        return rows


Texts = Literal["raw", "repaired", "generated", "right"]


def written(pairs: SmallPairs, cell: Cell) -> Mapping[str, Mapping[str, str]]:
    """Two columns by uid, as the curation leaves them: what the captioner says of each picture, and "original; generated".

    The captioner learns from the trusted pairs, its tower from CLIP on the same. It is trained once a seed, at half its steps while rates
    are swept like all else, and kept in the cache; every arm that reads its captions pays its steps.
    """
    part = replace(cell, rate=None)
    if cell.smoke:
        return _write(pairs, part)
    code = closure_hash(CodebookCaptionerRecipe.__module__, TLDR.__module__, CLIP.__module__, SmallPairs.__module__)
    key = [cell.seed, cell.share, code, repr((pairs, WRITING, _tower()))]

    def make() -> Callable[[Path], object]:
        with tempfile.TemporaryDirectory() as folder:
            texts = _write(pairs, replace(part, folder=Path(folder), spending=Spending()))
        return lambda made: write_json(made / "captions.json", texts)

    for recipe in (_tower(), WRITING):
        steps = part.sized(recipe).steps
        cell.spending.count(steps=steps, samples=steps * recipe.batch_size)
    plain: dict[str, dict[str, str]] = json.loads(
        (cached_model("written", key, make, seed=cell.seed) / "captions.json").read_text()
    )
    return plain


def _write(pairs: SmallPairs, cell: Cell) -> dict[str, dict[str, str]]:
    rows, trusted = drawn(pairs, cell), drawn(SmallPairs(TRUSTED), cell, elsewhere=1)
    tower = trained(_tower(), trusted, cell.part("tower"))
    model = trained(WRITING, trusted, cell.part("captioner"), init=str(tower.model)).model
    done = TLDR(captioner=str(model), keep=1.0, seed=cell.seed)(rows)
    return {name: dict(done.columns[name]) for name in ("generated_caption", "repaired_text")}


def _tower() -> CLIP:
    return sized_for(CLIP.tiny(), batch_size=BATCH, steps=TOWER_STEPS)


@dataclass(frozen=True)
class FineTunedCLIP:
    """CLIP on the pool, then, as published, fine-tuned on pairs whose texts are right: the captioner's own. Retrieval among clean pairs
    afterwards ("test/..."), and before the fine-tuning ("before/...").

    texts   what the pool's pictures are read with: their "raw" texts; each followed by a generated one ("repaired"), or by a "right"
            one; the "generated" ones alone
    learns  False asks the model as it is before the first step

    Also returned: "caption_right", the share of generated captions that are word for word what the image shows.
    """

    recipe: CLIP
    pairs: SmallPairs
    texts: Texts
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        trusted = CaptionerRows()(cell)
        recipe = replace(self.recipe, vocabulary=self.recipe.prepare(trusted).vocabulary)
        test = clean_rows(cell)
        if not self.learns:
            return {f"test/{name}": value for name, value in retrieved(untrained(recipe, trusted, cell), test).items()}
        rows, scores = self._rows(cell)
        first = trained(recipe, rows, replace(cell, folder=cell.folder / "first"))
        scores |= {f"before/{name}": value for name, value in retrieved(open_model(first.model), test).items()}
        last = trained(replace(recipe, steps=TUNED_STEPS), trusted, cell.part("tuned"), init=str(first.model))
        return scores | {f"test/{name}": value for name, value in retrieved(open_model(last.model), test).items()}

    def _rows(self, cell: Cell) -> tuple[Pool, dict[str, float]]:
        """The pool with its texts; and what is known of them."""
        rows = drawn(self.pairs, cell)
        if self.texts == "raw":
            return rows, {}
        true = drawn(replace(self.pairs, mismatched=0.0), cell)
        right = {uid: true[row].texts[0].string for row, uid in enumerate(true.uids)}
        if self.texts == "right":
            texts = {uid: TLDR.joint.join((rows[row].texts[0].string, right[uid])) for row, uid in enumerate(rows.uids)}
            return _with_texts(rows, texts), {}
        repairs = written(self.pairs, cell)
        captions = repairs["generated_caption"]
        share = float(np.mean([captions.get(uid) == caption for uid, caption in right.items()]))
        texts = dict(repairs["repaired_text"] if self.texts == "repaired" else captions)
        return _with_texts(rows, texts), {"caption_right": share}


def _with_texts(rows: Pool, texts: Mapping[str, str]) -> Pool:
    columns = {"string": list(texts.values()), "language": ["en"] * len(texts), "origin": ["alt"] * len(texts)}
    return rows.with_table(pa.table({"uid": list(texts), **columns}), replace=True)


def claims() -> tuple[Claim, ...]:
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS, text_length=LENGTH)

    def longer(steps: int) -> CLIP:
        """As many samples as a captioner of so many steps and what is trained on its choice read together."""
        return replace(clip, steps=STEPS + steps * CAPTIONER_BATCH // BATCH)

    whole = longer(CODING_STEPS)
    selection = declare(
        slug="tldr",
        sentence=f"At equal samples read, {KEEP:.0%} of a repetitive pool chosen by clusters of codes beat as many rows by chance",
        source="2305.20087, a quarter of CC3M against a random quarter and against all of it (COCO TR@1 72.8 against 70.9 for all)",
        refuted="a difference whose interval lies below zero, or a recall no higher than by clusters of pixels or of one row a scene",
        baseline=Arm("by chance", Paired(whole, ByChance()), around(clip.lr)),
        method=Arm("by codes", Paired(clip, ByCodes()), around(clip.lr)),
        controls=(
            Arm("untrained", Paired(clip, ByChance(), learns=False)),
            Arm("by pixels", Paired(whole, ByPixels())),
            Arm("deduplicated", Paired(whole, Deduplicated())),
        ),
        metric="test/i2t_r@1",
        margins=0.02,
        equal_budget=("samples",),
        data=f"{ROWS:,} rows, noisy copies of {DISTINCT:,} rendered scenes by Zipf's law; retrieval among 500 new ones. What the captioner "
        f"reads of the pool in its {CODING_STEPS} steps is on the method's account",
        reported=("test/t2i_r@1", "rows"),
        tuning_seeds=(0,),
    )
    noisy, first = SmallPairs(NOISY_ROWS, MISMATCHED), replace(clip, steps=FIRST_STEPS)
    captioned = TOWER_STEPS + WRITING_STEPS * CAPTIONER_BATCH // BATCH  # of the batches that CLIP reads
    raw = replace(clip, steps=captioned + FIRST_STEPS)
    repair = replace(
        selection,
        name="repair",
        sentence=f"With {MISMATCHED:.0%} of texts another image's, a generated caption behind each gives a higher R@1 after fine-tuning, "
        "at equal samples read",
        refuted="a difference whose interval lies below zero, or a recall no higher than that of the captioner's own pairs alone",
        baseline=Arm("raw", FineTunedCLIP(raw, noisy, "raw"), around(clip.lr)),
        method=Arm("repaired", FineTunedCLIP(first, noisy, "repaired"), around(clip.lr)),
        controls=(
            Arm("untrained", FineTunedCLIP(first, noisy, "raw", learns=False)),
            Arm("trusted alone", Paired(replace(clip, steps=captioned + FIRST_STEPS + TUNED_STEPS), CaptionerRows())),
            Arm("captions alone", FineTunedCLIP(first, noisy, "generated")),
        ),
        bounds=(Arm("right captions", FineTunedCLIP(first, noisy, "right")),),
        data=f"{NOISY_ROWS:,} rendered images; {TRUSTED:,} others with right texts, on which the captioner learns and all arms are "
        "fine-tuned; retrieval among 500 clean pairs. The captioner's steps are on the account of those that read its captions",
        reported=("test/t2i_r@1", "before/i2t_r@1", "caption_right"),
        seeds=3,
        why_long="a captioner that writes well takes 3,900 steps a seed, and all arms are given as many",
    )
    return selection, repair
