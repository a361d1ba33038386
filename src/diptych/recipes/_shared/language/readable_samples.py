"""Samples whose image can be read, before a model writes about it."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.core.contracts import Run
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.media.decode import decode


def readable_samples(run: Run, samples: Sequence[Sample]) -> set[str]:
    """Uids of the samples whose image decodes; those without an image are among them. The others are left out of the run."""
    reasons: dict[str, str] = {}
    for sample in {sample.uid: sample for sample in samples}.values():
        try:
            if sample.image is not None:
                decode(sample.image)
        except DataError as error:
            reasons[sample.uid] = str(error)
    if reasons:
        run.leave_out(reasons)
    return {sample.uid for sample in samples} - reasons.keys()
