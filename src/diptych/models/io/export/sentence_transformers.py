"""A dual encoder as a folder that sentence-transformers opens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from diptych.core.disk.files import atomic_folder
from diptych.core.errors import MissingExtra


def to_sentence_transformers(write: Callable[[Path], None], folder: Path) -> None:
    """Writes a folder for ``SentenceTransformer(FOLDER)``, whose `encode` takes texts and PIL images and gives unit vectors.

    write  writes the folder of transformers that it holds
    """
    try:
        from sentence_transformers import SentenceTransformer

        try:
            from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
        except ImportError:  # earlier versions
            from sentence_transformers.models import Normalize, Transformer
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "sentences", needed_for="this export") from error
    with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:
        held = Path(scratch) / "model"
        write(held)
        model = SentenceTransformer(modules=[Transformer(str(held)), Normalize()], device="cpu")
        with atomic_folder(Path(folder)) as work:
            model.save(str(work))
