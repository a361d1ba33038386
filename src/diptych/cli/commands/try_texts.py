"""``diptych try MODEL PICTURE "a text" "another"``: how well texts fit a picture, at once, with a heat map of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "Score texts against a picture: cosines of a model of vectors, scores of one that reads pairs, and probabilities where the "
    "model has a temperature. With --out the best text is laid over the picture."
)


@dataclass(frozen=True)
class TryArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder, hf:NAME, open_clip:ARCH/FILE, ...")]
    image: Annotated[Positional[Path], arg(metavar="PICTURE", help="a picture file")]
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT ...", help="one text or more")]
    out: Annotated[Path | None, arg(help="the picture with the heat map of the best text (.png)")] = None
    download: Annotated[bool, arg(help="allow downloading published weights")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(TryArgs, argv, "try", DESCRIPTION)
    existing_file(args.image)
    if not args.texts:
        raise ConfigError('no text is given (expected one or more, such as "a red bus")')
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.api import load
    from diptych.core.image import FileImage

    model, image = load(args.model, download=args.download), FileImage(args.image)
    score_K, probability_K = _scores(model, image, args.texts)
    order = np.argsort(-score_K, kind="stable")
    rows = [
        {
            "text": args.texts[k],
            "score": float(score_K[k]),
            **({"probability": float(probability_K[k])} if probability_K is not None else {}),
        }
        for k in order
    ]
    lines = [
        f"{row['score']:8.3f}  " + (f"{row['probability']:6.1%}  " if "probability" in row else "") + str(row["text"])
        for row in rows
    ]
    if args.out is not None:
        from diptych.data.media.decode import decode, encode_png
        from diptych.pipelines.alignment import align
        from diptych.report.alignment import alignment_picture

        alignment = align(model, image, str(rows[0]["text"]))
        picture = alignment_picture(decode(image, exact=True), alignment.words, alignment.weight_WHW, alignment.box)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(encode_png(picture))
        lines.append(f"picture: {args.out}")
    return finish({"image": str(args.image), "texts": rows}, lines, args.json)


def _scores(model: Any, image: Any, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Scores [K] of the texts, and their probabilities [K] at the model's temperature, where it has one: a softmax over several texts, or
    with a bias the sigmoid of each pair."""
    from scipy.special import expit, softmax

    from diptych.core.contracts import Embedder, PairScorer
    from diptych.models.io.open_address import require
    from diptych.tasks._scoring.pair_scores import pair_scores

    require(model, Embedder | PairScorer, who="try")
    if isinstance(model, PairScorer):
        return pair_scores(model, [image], list(texts), query="image")[0], None
    score_K = np.asarray(model.embed_images([image]) @ model.embed_texts(list(texts)).T, np.float32)[0]
    parts = getattr(model, "model", None)
    log_scale, bias = getattr(parts, "log_scale", None), getattr(parts, "bias", None)
    if log_scale is None:
        return score_K, None
    logit_K = float(log_scale.detach().exp()) * score_K.astype(np.float64)
    if bias is not None:  # SigLIP: each pair by itself
        return score_K, np.asarray(expit(logit_K + float(bias.detach())), np.float32)
    return score_K, np.asarray(softmax(logit_K), np.float32) if len(texts) > 1 else None
