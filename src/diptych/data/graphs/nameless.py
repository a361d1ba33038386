"""A data set whose things all have one name: what a detector learns to find before anybody asks what it is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.data.graphs.relation_splits import Relabelled


def nameless(data: Dataset, kind: str = "thing") -> Relabelled:
    """The same rows, boxes and relations; every region is called `kind` and has no attributes."""
    return Relabelled(data, partial(_called, kind=kind), ["nameless", kind])


def _called(sample: Sample, *, kind: str) -> Sample:
    return replace(sample, regions=tuple(replace(region, label=kind, attributes=()) for region in sample.regions))
