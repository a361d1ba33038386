"""RLAIF-V: iterative preference learning on a model's own answers, whose statements a labeler model judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from diptych.core.contracts import Stage
from diptych.core.errors import ConfigError
from diptych.curate.preferences.mining import PairOptions
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_config import CandidateOptions, LabelOptions
from diptych.recipes._shared.language.preference_pairs import PreferencePairRecipe, carry_beneath_adapters
from diptych.recipes._shared.language.preference_rounds import GivenPairs, PreferenceRound

ROUND_STEPS = 2672
"""Four epochs over 5,342 pairs by eights."""


@dataclass(frozen=True, kw_only=True)
class RLAIFV(PreferencePairRecipe):
    """RLAIF-V: Open-Source AI Feedback Leads to Super GPT-4V Trustworthiness (Yu et al., 2024, arXiv 2405.17220).

    In each round the model answers every instruction several times, by one prompt and one decoding, so that answers of a pair differ in
    what they say and not in how. Answers are divided into statements, each statement becomes a question, and a labeler says yes or no to
    it by the likelihood of its first token. The score of an answer is minus the number of its statements that were judged false. Pairs of
    answers with different scores, at most two an instruction, are balanced in length and learned from by DPO, whose reference is the
    model as the round began. One run holds all rounds and goes on wherever it was stopped.

    The release alternates its scripts by hand, evaluates a checkpoint every quarter of an epoch and begins the next round from the best by
    two benchmarks: here the last one is the beginning. Answers that state nothing are left out, as there, and repeated requests about
    one image count apart. As released, answers are written of images padded to squares and learned beside images whose middle is cut out
    (`pair_resize`): the command asks for padding, which its reader of pairs does not heed. An answer of the best reward among several
    (`diptych.curate.preferences.self_feedback`) needs the model and its reference alone.

    rounds      of answering and learning; 0: one phase on the pairs that the data hold, in the layouts of trl, LLaVA-RLHF, RLAIF-V or STIC
    sampling    how answers are drawn (`CandidateOptions`)
    labels      how they are judged (`LabelOptions`)
    mining      which pairs are learned from (`PairOptions`). Fields of all groups are options like these
    """

    slug = "rlaif_v"

    rounds: int = 4
    sampling: CandidateOptions = field(default_factory=CandidateOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    mining: PairOptions = field(default_factory=PairOptions)

    pair_resize: Literal["", "crop", "squash", "pad", "native", "square"] = "crop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0:
            raise ConfigError(f"rounds is {self.rounds} (expected 0 or more)")

    def stages(self) -> Sequence[Stage]:
        if self.instruct:
            return ()
        paired = self.paired()
        if not self.rounds:
            given = Stage("pairs", paired, 1 - self.start_share, make=GivenPairs(paired), carry=carry_beneath_adapters)
            return (*self.start_stages(), given)
        share = (1 - self.start_share) / self.rounds
        rounds = [
            Stage(
                f"round{number}",
                paired,
                share,
                make=PreferenceRound(paired, number, self.sampling, self.labels, self.mining),
                carry=carry_beneath_adapters,
            )
            for number in range(1, self.rounds + 1)
        ]
        return (*self.start_stages(), *rounds)

    @classmethod
    def tiny(cls) -> Self:
        """A small LLaVA that is made first, on descriptions and yes/no questions, then two rounds in which it judges itself: three minutes
        on two cores with `world:claimed_pairs`."""
        return cls(
            **cls.small() | {"steps": 900},
            start_share=0.8,
            request="what is there ?",
            rounds=2,
            sampling=CandidateOptions(candidates=6, temperature=1.0, answer_tokens=24, instructions=400, at_once=32),
            labels=LabelOptions(label_prompt="{question} ?"),
            pair_batch_size=32,
            pair_lr=1e-4,
            pair_length=128,
            pair_resize="",
        )

    @classmethod
    def paper(cls) -> Self:
        """LLaVA 1.5 of 7B (`weights_from` hf:FOLDER), all of it but the image encoder trained: four rounds of 2,672 steps of eight pairs,
        with the labeler of your choice; published is LLaVA-NeXT 34B."""
        return cls(image_tower="vit_l14", image_size=336, decoding="whole", steps=4 * ROUND_STEPS)

    @classmethod
    def lora(cls) -> Self:
        """As `paper`, with adapters of rank 64 on every linear map of the language model, the projector beside them, and a rate of 1e-5."""
        return cls(
            image_tower="vit_l14",
            image_size=336,
            decoding="whole",
            steps=4 * ROUND_STEPS,
            pair_lr=1e-5,
            tuned=AdapterConfig(adapter_rank=64, adapter_alpha=16.0, adapter_dropout=0.05),
            adapted_projector=True,
        )

    presets = ("tiny", "paper", "lora")
