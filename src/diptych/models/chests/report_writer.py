"""Report generation from patch features of an encoder by a memory transformer.  Letters: N images, P patches, E feature width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.data.text.reports.report_words import ReportVocabulary
from diptych.models.chests.memory_transformer import MemoryTransformer, beam_search
from diptych.models.io.inference import evaluating, parts


class ReportWriter:
    """`Generator` of reports, without a prompt.

    features    image features [N, P, E]
    beams       number of beams
    batch_size  images that are decoded at once
    """

    def __init__(
        self,
        features: Callable[[Sequence[ImageSource]], Tensor],
        head: MemoryTransformer,
        vocabulary: ReportVocabulary,
        *,
        beams: int = 3,
        batch_size: int = 16,
    ) -> None:
        self.features, self.head, self.vocabulary = features, head, vocabulary
        self.beams, self.batch_size = beams, batch_size

    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike] = (), *, max_tokens: int = 60
    ) -> list[str]:
        """Return a report of at most `max_tokens` words for each image. Raises DataError for a missing image."""
        shown = [image for image in images if image is not None]
        if len(shown) < len(images):
            raise DataError(
                f"{len(images) - len(shown)} prompts have no image", field="image", expected="an image for each report"
            )
        return [report for part in parts(shown, self.batch_size) for report in self.write(self.features(part), max_tokens)]

    def write(self, feature_NPE: Tensor, length: int) -> list[str]:
        """Return a report of at most `length` words for each row of features."""
        device = next(self.head.parameters()).device
        with evaluating(self.head):
            reports = beam_search(self.head, feature_NPE.to(device), beams=self.beams, length=length)
        return [self.vocabulary.decode(ids) for ids in reports]
