"""Registry of image-text models of the installed transformers: what "hf:FOLDER" loads them as, or why it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.models.io.foreign import detectors
from diptych.models.io.foreign.generators import WRITES
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.foreign.transformers_library import BY_TYPE

MAPPINGS = (
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_RETRIEVAL_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES",
)
"""Registries of transformers with models of images and texts."""
REFUSED = {
    "neomme": "reads several media at once, and has not been compared with the library",
    "omdet-turbo": "takes classes and a task in a form of its own",
    "videoprism": "reads clips; of the models of clips X-CLIP opens",
}
"""`model_type` -> why it is not supported, if the rules below do not tell."""


def image_text_models() -> dict[str, str]:
    """Return the kind of each image-text `model_type` of the installed transformers.

    Kinds are "embedder", "late embedder", "phrase detector", "generator", "fused model" or "video embedder",
    or "no: " and the reason.
    """
    from transformers.models.auto import modeling_auto

    classes: dict[str, set[str]] = {}
    for mapping in MAPPINGS:
        for model_type, names in getattr(modeling_auto, mapping, {}).items():
            classes.setdefault(model_type, set()).update([names] if isinstance(names, str) else names)
    for model_type, names in modeling_auto.MODEL_MAPPING_NAMES.items():
        name = names if isinstance(names, str) else names[0]
        if _two_sided(model_type, name):
            classes.setdefault(model_type, set()).add(name)
    for model_type in (*BY_TYPE, "xclip"):  # in none of those registries, or in one of another kind
        if model_type in modeling_auto.MODEL_MAPPING_NAMES or model_type in modeling_auto.CONFIG_MAPPING_NAMES:
            classes.setdefault(model_type, set())
    return {model_type: opens(model_type, sorted(names)) for model_type, names in sorted(classes.items())}


def opens(model_type: str, classes: list[str]) -> str:
    """Return the kind of a folder of that `model_type`, with one of these classes; or "no: " and the reason."""
    if model_type in FAMILIES:
        return "embedder"
    if model_type in BY_TYPE:
        return "late embedder" if BY_TYPE[model_type].opens == "LibraryLateEmbedder" else "embedder"
    if model_type in detectors.FAMILIES:
        return "phrase detector"
    if model_type == "vilt":
        return "fused model"
    if model_type == "xclip":
        return "video embedder"
    if REFUSED.get(model_type):
        return f"no: {REFUSED[model_type]}"
    writers = [name for name in classes if name.endswith(WRITES)]
    if not writers:
        return f"no: {' and '.join(classes)} cannot be opened: it is not an embedder, and does not end in {' or '.join(WRITES)}"
    if not _sees(model_type):
        return f"no: {writers[0]} has no vision_config, by which generators are known"
    return "generator"


def _sees(model_type: str) -> bool:
    """Return True if the family's configuration has a vision configuration under the name that `generators.is_generator`
    expects.
    """
    import transformers

    try:
        kind: Any = transformers.CONFIG_MAPPING[model_type]
    except (KeyError, ImportError):
        return False
    return "vision_config" in getattr(kind, "sub_configs", {}) or hasattr(kind, "vision_config")


def _two_sided(model_type: str, name: str) -> bool:
    """Return True if the class gives features of images and of texts. Only a family whose sources name both is imported: importing
    every family takes half a minute.
    """
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(model_type).replace(".", "/")
    if not any("get_text_features" in path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py")):
        return False
    try:
        kind: Any = getattr(transformers, name, None)
        return all(hasattr(kind, part) for part in ("get_image_features", "get_text_features"))
    except ImportError:  # a class that needs a package that is not installed
        return False
