"""What a step says of the templates that its texts were written by."""

from __future__ import annotations

from torch import Tensor


def template_metrics(template_B: Tensor) -> dict[str, Tensor]:
    """ "templated": the share of texts that a template wrote; "templates": how many different ones did. -1 is a text of the data."""
    drawn = template_B[template_B >= 0]
    return {"templated": (template_B >= 0).float().mean(), "templates": drawn.new_tensor(len(drawn.unique())).float()}
