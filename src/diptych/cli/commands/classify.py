"""``diptych classify MODEL IMAGE... --classes cat,dog``. A model that was trained with labels says its own classes without, and so does a
file of prompts (recipe coop), which takes the place of templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, listed, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class ClassifyArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder, hf:NAME or open_clip:ARCH/FILE")]
    images: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            metavar="IMAGE ...",
            help="picture files; for video models, video files or folders of frames",
            help_behavior_hint="(one or more)",
        ),
    ]
    classes: Annotated[str, arg(help="class names, separated by commas; '' uses those of a trained classifier")] = ""
    templates: Annotated[str, arg(help="plain | one | seven | eighty, or a sentence with {}")] = "plain"
    prompts: Annotated[
        Path | None,
        arg(help="the prompts.safetensors of a run of coop that adapted MODEL; its classes are the default of --classes"),
    ] = None
    k: Annotated[int, arg(aliases=["-k"], help="number of classes to print per image")] = 3
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ClassifyArgs, argv, "classify", "Name what is in an image, from your own list.")
    names = listed(args.classes)
    if names and len(names) < 2:
        raise ConfigError(f"--classes is {args.classes!r} (expected two names or more, with commas between them)")
    for path in args.images:
        if not path.is_dir():
            existing_file(path)
    import numpy as np

    from diptych.api import load

    model = load(args.model, download=args.download)
    if args.prompts is not None:
        from diptych.models.pairs.prompted.embedder import PromptedEmbedder

        model = PromptedEmbedder.with_prompts(model, args.prompts)
    names, score_NK = _scores(args, model, names)
    answers = []
    for path, score_K in zip(args.images, score_NK, strict=True):
        best = np.argsort(-score_K, kind="stable")[: args.k]
        answers.append({"image": str(path), "classes": [{"name": names[k], "score": float(score_K[k])} for k in best]})
    lines = [
        f"{answer['image']}: " + ", ".join(f"{c['name']} {c['score']:.3f}" for c in answer["classes"])  # type: ignore[index]
        for answer in answers
    ]
    return finish({"answers": answers}, lines, args.json)


def _scores(args: ClassifyArgs, model: Any, names: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """Class names and scores [N, K] of each image, for any kind of model."""
    from scipy.special import softmax

    from diptych.core.contracts import Classifier, ClipScorer
    from diptych.core.image import FileImage
    from diptych.tasks._scoring.pair_scores import compared_by
    from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads

    own = tuple(getattr(model, "classes", ()))
    if not (names or own):
        raise ConfigError(
            f"--classes is missing: '{args.model}' has no classes of its own (expected two names or more, with commas)"
        )
    if isinstance(model, ClipScorer):
        return names or own, softmax(model.score_clips([_clip(path) for path in args.images], names or own), axis=1)
    for path in args.images:
        existing_file(path)
    images = [FileImage(path) for path in args.images]
    if hasattr(model, "prompts"):
        return names or own, softmax(model.scores(images, names or own), axis=1)
    if not names and isinstance(model, Classifier):
        return own, softmax(model.classify(images), axis=1)
    if compared_by(model, "auto") == "pairs":
        return names, ZeroShot(templates=args.templates, ensemble="mean_scores").pair_scores(model, images, names)
    heads_KD = class_heads(ZeroShot(templates=args.templates).embed_classes(model, names))
    return names, model.embed_images(images) @ heads_KD.T


def _clip(path: Path) -> Any:
    """A video file, an animated picture, or a folder of frames in order."""
    from diptych.core.image import FileImage
    from diptych.core.media import MediaItem
    from diptych.data.read.media import parts_of

    if not path.is_dir():
        return MediaItem("clip", (FileImage(path),))
    if not (names := parts_of(path)):
        raise ConfigError(f"{path} contains no pictures (expected frames such as 0001.jpg)")
    return MediaItem("clip", tuple(FileImage(path / name) for name in names))
