"""STIC: preference learning on a model's own image descriptions, then fine-tuning with descriptions in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from diptych.core.contracts import Optimiser, Stage
from diptych.data.text.prompts.comprehension_prompts import IMAGINATIVE, NEUTRAL, STEP_BY_STEP
from diptych.models.bridges.aligned.describing import DescribingGenerator
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.writer import BridgeGenerator
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_config import CandidateOptions, PreferenceLoss
from diptych.recipes._shared.language.preference_pairs import PreferencePairRecipe, carry_beneath_adapters
from diptych.recipes._shared.language.self_descriptions import DescribedQuestions, DescriptionRequests, SelfMadePairs

PAIR_STEPS, ANSWER_STEPS = 750, 157
"""6,000 images by eights, 5,000 rows by 32s."""


@dataclass(frozen=True, kw_only=True)
class STIC(PreferencePairRecipe):
    """Enhancing Large Vision Language Models with Self-Training on Image Comprehension (Deng et al., 2024, arXiv 2405.19716).

    First stage: of each unlabelled image the model writes a description by a long request that leads it step by step, which is preferred,
    and one that is not: by a request for things that are not there, or of a corrupted image. A short neutral request stands before both,
    the image of the pair is the clean one. Adapters learn from these pairs by DPO with the negative log-likelihood of the preferred
    description beside it, 1/1024 of a nat. The reference is the model with the adapters off. Second stage: a few rows of instruction data,
    each behind the model's own description of its image, teach adapters and projector.

    The preferred descriptions are simply longer: "chosen_words" and "rejected_words" in the log say by how much. In the released first
    stage no dropout acts, and the projector, which its command gives a rate, is frozen by the second call of peft: so here. As released,
    the rejected description's own tokens do not count (`released_scoring`); the formula of the paper is the default. The release trains
    LLaVA 1.6 with Mistral (`weights_from` takes its folder) and, as here, shows it images padded to squares; tiles of LLaVA 1.6 are seen
    only where it writes the descriptions. Here these are written of the padded image too.

    requests       careful, neutral and imaginative requests, shares and size of corrupted images (`DescriptionRequests`)
    sampling       how descriptions are drawn (`CandidateOptions`); one of each kind an image
    images         unlabelled images of the first stage, drawn from the data; 0: all
    answer_share   share of the steps behind LLaVA's own stages that the second stage takes; 0: none
    answer_rows    rows of instruction data of the second stage, drawn from the data; 0: all
    answer_batch_size  samples of an optimiser step of the second stage
    answer_lr      highest learning rate of the second stage
    answer_dropout  dropout of the adapters in the second stage
    answer_warmup  steps of the second stage until its highest rate; below 1, a share of that stage
    describes_first  the deployed model describes an image before it answers a question about it
    """

    slug = "stic"
    pairs_come_from = "images whose two descriptions have words: more images, or a model that is trained for longer first"

    requests: DescriptionRequests = field(default_factory=lambda: DescriptionRequests(STEP_BY_STEP, NEUTRAL, IMAGINATIVE))
    sampling: CandidateOptions = field(
        default_factory=lambda: CandidateOptions(candidates=1, temperature=0.2, answer_tokens=1024)
    )
    images: int = 6000
    answer_share: float = ANSWER_STEPS / (PAIR_STEPS + ANSWER_STEPS)
    answer_rows: int = 5000
    answer_batch_size: int = 32
    answer_lr: float = 2e-5
    answer_dropout: float = 0.05
    answer_warmup: float = 0.03
    describes_first: bool = False

    loss: PreferenceLoss = field(default_factory=lambda: PreferenceLoss(chosen_weight=1 / 1024))
    tuned: AdapterConfig = field(default_factory=lambda: AdapterConfig(128, 256.0, 0.0))
    pair_lr: float = 1e-7
    pair_warmup: float = 0.03
    pair_weight_decay: float = 0.0
    pair_length: int = 1048

    responds: bool = field(default=False, metadata={"prepared": True})

    @property
    def adapts(self) -> bool:
        return (self.pairs or self.responds) and self.tuned.adapter_rank > 0

    @property
    def trained(self) -> tuple[str, ...]:
        return ("connector",) if self.responds and self.adapts else super().trained

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        return replace(chosen, rules=()) if self.responds else chosen

    def stages(self) -> Sequence[Stage]:
        if self.instruct:
            return ()
        own = 1 - self.start_share
        paired = self.paired()
        first = Stage(
            "descriptions",
            paired,
            own * (1 - self.answer_share),
            make=SelfMadePairs(paired, self.requests, self.sampling, self.images),
            carry=carry_beneath_adapters,
        )
        answering = replace(
            self,
            instruct=True,
            responds=True,
            described=0.0,
            batch_size=self.answer_batch_size,
            lr=self.answer_lr,
            warmup=self.answer_warmup,
            rows_a_mean=self.instruct_rows_a_mean,
            tuned=replace(self.tuned, adapter_dropout=self.answer_dropout),
        )
        second = Stage(
            "answers",
            answering,
            own * self.answer_share,
            make=DescribedQuestions(answering, self.requests, self.sampling, self.answer_rows),
            carry=carry_beneath_adapters,
        )
        return tuple(stage for stage in (*self.start_stages(), first, second) if stage.share > 0)

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        if not self.describes_first:
            return made
        describing = DescribingGenerator(
            made.bridge, made.preprocess, made.vocabulary, made.template, made.name, connector=made.connector_spec
        )
        vars(describing).update({name: value for name, value in vars(made).items() if name != "fingerprint"})
        describing.describes = self.requests.neutral[min(4, len(self.requests.neutral) - 1)]
        describing.description_tokens = self.sampling.answer_tokens
        return describing

    @classmethod
    def tiny(cls) -> Self:
        """A small LLaVA that is made first, whose careless descriptions are those of images of four pixels, adapters of rank 8: two minutes
        on two cores with `world:claimed_pairs`."""
        settings: dict[str, Any] = cls.small() | {"steps": 900}
        request = "what is there ?"
        return cls(
            **settings,
            start_share=0.8,
            request=request,
            requests=DescriptionRequests(request, (request,), imagined=0.0, shrunk=1.0, side=4),
            sampling=CandidateOptions(candidates=1, temperature=0.5, answer_tokens=24, at_once=32),
            images=600,
            answer_share=0.3,
            answer_rows=600,
            answer_lr=1e-3,
            tuned=AdapterConfig(8, 16.0, 0.0),
            pair_batch_size=32,
            pair_lr=3e-4,
            pair_length=128,
        )

    @classmethod
    def paper(cls) -> Self:
        """LLaVA 1.5 of 7B (`weights_from` hf:FOLDER), adapters of rank 128 on every linear map of the language model: 6,000 images of COCO
        by eights at a rate of 1e-7, then 5,000 rows by 32s at 2e-5, of similar length in a step."""
        return cls(image_tower="vit_l14", image_size=336, decoding="whole", steps=PAIR_STEPS + ANSWER_STEPS, group_by_length=True)
