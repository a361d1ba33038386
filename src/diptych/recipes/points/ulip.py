"""ULIP: a point-cloud encoder aligned with a frozen image-text model, by a view and the name of each object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.labels import label_of
from diptych.data.text.captions.variants import UNIFORM, TextDraw
from diptych.data.text.prompts.cloud_templates import cloud_templates
from diptych.models.points.released import SKIP
from diptych.recipes._shared.frozen.anchored_clouds import TINY, TOWER, AnchoredCloudRecipe


@dataclass(frozen=True, kw_only=True)
class ULIP(AnchoredCloudRecipe):
    """ULIP: Learning a Unified Representation of Language, Images, and Point Clouds (Xue et al., 2023, arXiv 2212.05171).

    A Point-BERT and a projection are trained so that a cloud's vector lies near those of its view and of its name, by CLIP's loss in
    both directions with each, one temperature for both; the image and text towers are frozen and there is no term between them. Objects of
    one category are each other's negatives, as published. A sample has a cloud, and "views" (several pictures, one is drawn a step) or a
    picture; "depths" beside them are drawn half of the time.

    The paper's towers are SLIP's; give any dual encoder as `weights`. The release also loads a Point-BERT that was pre-trained on shapes,
    loads the temperature of SLIP and leaves it frozen (`scale`), and keeps the checkpoint that is best on the test set, which is not
    done here.

    names        texts of a cloud: "label", one of the comma-separated names of its column `label`, or "texts", one of its texts
    text_draw    which of several texts a step reads, with names "texts": `TextDraw`, whose fields are options of their own
    templates    all 64 templates around the name, their vectors averaged; off, as released, a step reads the bare name
    nested       each template is filled with the sentence before it, as the released code does when templates are on
    """

    slug = "ulip"

    names: Literal["label", "texts"] = "label"
    text_draw: TextDraw = UNIFORM
    templates: bool = False
    nested: bool = False

    image_tower: str = "slip_b16"
    text_tower: str = "text_slip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names not in ("label", "texts"):
            raise ConfigError(f"names {self.names!r} (expected label | texts)")

    def names_of(self, sample: Sample) -> list[str]:
        """One or more names, or the texts of the sample."""
        if self.names == "texts":
            return [text.string for text in sample.positives(self.language)]
        return [name.strip() for name in label_of(sample, self.label, self.language).split(",") if name.strip()]

    def texts(self, draw: Draw) -> tuple[str, ...]:
        """The texts whose mean a step takes: one name, or the sentences of all templates."""
        if self.names == "texts":
            name = self.text_draw(draw, self.language).string
        else:
            names = self.names_of(draw.sample)
            name = names[int(draw.rng.integers(len(names)))]
        return templated(name, nested=self.nested) if self.templates else (name,)

    @classmethod
    def tiny(cls) -> Self:
        """A small tower on 256 points, towards a small dual encoder of the same data: minutes on two cores."""
        return cls(**TINY)

    @classmethod
    def paper(cls) -> Self:
        """SLIP's ViT-B and Point-BERT on 8,192 points, 250 epochs of ShapeNet-55 in batches of 8 x 64; centres of groups are sampled as the
        released kernel samples them (`skip`)."""
        return cls(tower=replace(TOWER, skip=SKIP))


def templated(name: str, *, nested: bool = False) -> tuple[str, ...]:
    """The 64 sentences of a name; `nested`: each is filled with the one before it, the first with the name."""
    sentences: list[str] = []
    for template in cloud_templates():
        sentences.append(template.format(sentences[-1] if nested and sentences else name))
    return tuple(sentences)
