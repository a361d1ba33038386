"""STIC on pictures of two shapes: pairs of a description of the image and one of a shrunk image, against the same pairs turned round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from diptych.claims.cells.preferences import PAIRS, REQUEST, TESTED, WORLD, SelfTrained
from diptych.claims.claim import Arm, Claim, Margins, around, declare
from diptych.core.contracts import Run, Stage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.text.question_answering.preferences import PREFERENCE_FIELD, PreferencePair, preference_of
from diptych.recipes._shared.language.self_descriptions import DescriptionRequests, SelfMadePairs
from diptych.recipes.alignment.stic import STIC
from diptych.recipes.bridges.llava import LLaVA

STEPS = 60


@dataclass(frozen=True)
class TurnedPairs(SelfMadePairs):
    """The pairs of STIC, every second one turned round, drawn by its name."""

    def __call__(self, run: Run) -> Sequence[Sample]:
        samples = list[Sample]()
        for sample in super().__call__(run):
            pair = preference_of(sample)
            if keyed_rng("turned", sample.uid).random() < 0.5:
                values = (pair.rejected, pair.chosen, pair.turns, pair.reference_rejected, pair.reference_chosen)
                pair = PreferencePair(pair.question, *values)
            samples.append(replace(sample, extras={PREFERENCE_FIELD: pair.to_json()}))
        return samples


@dataclass(frozen=True, kw_only=True)
class RandomPairSTIC(STIC):
    """STIC with pairs that prefer one description as often as the other."""

    def stages(self) -> Sequence[Stage]:
        return tuple(
            replace(stage, make=TurnedPairs(stage.make.recipe, self.requests, self.sampling, self.images))
            if isinstance(stage.make, SelfMadePairs)
            else stage
            for stage in super().stages()
        )


def claims() -> tuple[Claim, ...]:
    start = replace(LLaVA.tiny(), image_weights=WORLD, small_image_steps=800)
    requests = DescriptionRequests(REQUEST, (REQUEST,), imagined=0.0, shrunk=1.0, side=4)
    made = replace(
        STIC.tiny(),
        image_weights=WORLD,
        small_image_steps=800,
        requests=requests,
        steps=STEPS,
        start_share=0.0,
        answer_share=0.0,
        images=240,
    )
    turned = RandomPairSTIC(**{each.name: getattr(made, each.name) for each in fields(made) if each.init})
    rates = around(made.pair_lr)
    return (
        declare(
            slug="stic",
            sentence="Descriptions name fewer things that are not there after learning to prefer those of the image to those of a shrunk "
            "image, than after as many steps on the same pairs turned at random",
            source="2405.19716: preferring descriptions of clean images to corrupted ones lowers hallucination",
            baseline=Arm("pairs turned at random", SelfTrained(turned, start), rates),
            method=Arm("self-made pairs", SelfTrained(made, start), rates),
            controls=(Arm("as it was", SelfTrained(made, start, learns=False)),),
            metric="false_share",
            higher_is_better=False,
            margins=Margins(matters=0.03, equivalence=0.02),
            data=f"240 rendered images of two shapes to describe, {TESTED} of the same seed to test; {PAIRS:,} others to begin with",
            reported=("recall", "words"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
