"""Relation steering of ReVersion (Huang et al., 2024, arXiv 2303.13495): a contrast of one word vector with a set of positives.

The loss is the InfoNCE of several positives: with cosine similarities s over temperature tau,

    L = log sum_{p in positives and negatives} exp(s_p / tau) - log sum_{p in positives} exp(s_p / tau)

Positives are prepositions and negatives the other content words of the prompts, as rows of the token table before any transformer. Only
the relation's vector gets a gradient.

Letters: B prompts, P positive tokens, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from diptych.core.errors import ShapeError


def relation_steering(
    relation_D: Tensor,
    positive_BPD: Tensor,
    negative_BLD: Tensor,
    *,
    positive_mask_BP: Tensor | None = None,
    negative_mask_BL: Tensor | None = None,
    temperature: float = 0.07,
    rows: int = 0,
) -> Tensor:
    """Mean steering loss over blocks of `rows` prompts whose words stand in one contrast; 0 takes all prompts together.

    Positives are normalised and detached, so are negatives; masks are True on the tokens that count. Every block needs a positive.
    Published: blocks of two prompts, four of which are accumulated to a step.

    >>> r, p, n = torch.eye(3)[0], torch.tensor([[[1.0, 1, 0], [0, 1, 0]]]), torch.tensor([[[1.0, 0, 1]]])
    >>> [round(float(relation_steering(r, p, n, temperature=tau)), 6) for tau in (1.0, 0.07)]
    [0.512681, 0.693127]
    """
    count = len(positive_BPD)
    rows = rows or count
    if count % rows or len(negative_BLD) != count:
        raise ShapeError(f"{count} and {len(negative_BLD)} prompts in blocks of {rows} (expected equally many, in whole blocks)")
    relation = functional.normalize(relation_D, dim=-1)
    logit_BP = _logits(relation, positive_BPD, positive_mask_BP, temperature).reshape(count // rows, -1)
    logit_BL = _logits(relation, negative_BLD, negative_mask_BL, temperature).reshape(count // rows, -1)
    return (torch.logsumexp(torch.cat([logit_BP, logit_BL], 1), 1) - torch.logsumexp(logit_BP, 1)).mean()


def _logits(relation_D: Tensor, word_BLD: Tensor, mask_BL: Tensor | None, temperature: float) -> Tensor:
    logit_BL = functional.normalize(word_BLD.detach(), dim=-1) @ relation_D / temperature
    return logit_BL if mask_BL is None else logit_BL.masked_fill(~mask_BL, -torch.inf)
