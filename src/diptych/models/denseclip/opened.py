"""A checkpoint of DenseCLIP's release as a model: "denseclip:CHECKPOINT", a detector or a segmenter by its heads."""

from __future__ import annotations

from pathlib import Path

from diptych.core.errors import ConfigError, DataError
from diptych.models.denseclip.detecting import DenseClipDetectorModel
from diptych.models.denseclip.released import opened_detector
from diptych.models.denseclip.released_segmenter import is_segmenter, opened_segmenter
from diptych.models.denseclip.segmenting import DenseClipSegmenterModel
from diptych.models.io.tensor_files import read_content


def open_released(spec: str) -> DenseClipDetectorModel | DenseClipSegmenterModel:
    """The model of "denseclip:CHECKPOINT". Leaves the torch random state unchanged.

    Raises DataError for a file that is missing or not one of tensors, and ConfigError for a network of another architecture, with the
    tensors that are left over, missing or of another size, and for classes that are not as many as its head has.
    """
    path = spec.removeprefix("denseclip:")
    if not path:
        raise ConfigError(f"{spec!r} does not name a checkpoint (expected denseclip:CHECKPOINT)")
    content = read_content(Path(path).expanduser())
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        raise DataError("contains no state_dict", file=path, expected="a checkpoint of DenseCLIP, with 'state_dict' and 'meta'")
    classes = tuple(map(str, (content.get("meta") or {}).get("CLASSES") or ()))
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    try:
        if is_segmenter(tensors):
            return opened_segmenter(tensors, classes, spec)
        return opened_detector(tensors, classes, spec)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
