"""Class-agnostic data: all regions have one label, for a detector that learns to localise objects without classifying them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.relation_splits import Relabelled

KIND = "thing"


def nameless(data: Dataset, kind: str = KIND) -> Pool | Relabelled:
    """The same rows, boxes and relations; every region is called `kind` and has no attributes. A pool stays one, with its splits."""
    return (
        data.with_one_label(kind)
        if isinstance(data, Pool)
        else Relabelled(data, partial(with_label, kind=kind), ["nameless", kind])
    )


def with_label(sample: Sample, *, kind: str = KIND) -> Sample:
    """The sample with regions of that name."""
    return replace(sample, regions=tuple(replace(region, label=kind, attributes=()) for region in sample.regions))
