"""The two terms that bring patches and codes together (VQ-VAE, 1711.00937; TL;DR, 2305.20087).

    codebook = mean |sg(z) - e|^2      moves codes to patches
    commitment = mean |z - sg(e)|^2    keeps patches near codes

mean over rows of the mean over patches and dimensions. Published: codebook + 0.25 commitment. The code that TL;DR released weighs the
codebook term by 0.25 instead of the other (`legacy`). Letters: B batch, P patches, D width.
"""

from __future__ import annotations

from torch import Tensor


def codebook_terms(patch_BPD: Tensor, code_BPD: Tensor, *, beta: float = 0.25, legacy: bool = False) -> dict[str, Tensor]:
    """Weighted terms "codebook" and "commitment"."""
    codebook = (patch_BPD.detach() - code_BPD).square().mean()
    commitment = (patch_BPD - code_BPD.detach()).square().mean()
    weights = (beta, 1.0) if legacy else (1.0, beta)
    return {"codebook": weights[0] * codebook, "commitment": weights[1] * commitment}
