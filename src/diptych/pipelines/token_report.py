"""Section of a run's report: patches that image tokens stand for, of models that reduce tokens before a language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file
from diptych.core.image import ImageSource
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample
from diptych.pipelines.token_sources import REDUCING, token_sources

SHOWN, SIDE = 6, 448


def token_sections(folder: RunFolder, data: Any, load: Callable[[str], Any]) -> list[Any]:
    """One section with evenly spaced pictures, or clips, of the data: left each with lines between patches of different tokens, right each
    token's mean colour. None for a run whose model reduces no tokens, which is not loaded then.

    load  opens the model at a path
    """
    path = folder.model / "config.json"
    spec = read_object(path).get("connector") if is_file(path) else None
    if not isinstance(spec, dict) or spec.get("kind") not in REDUCING or not len(data):
        return []
    from diptych.report import page

    model = load(str(folder.model))
    step = max(1, len(data) // SHOWN)
    figures = [_figure(model, data[row]) for row in range(0, min(len(data), step * SHOWN), step)]
    note = page.text(
        "Lines lie between patches of different image tokens; beside it every token in the mean colour of its patches.", note=True
    )
    return [page.Section("Image tokens", (note, page.sheet([figure for figure in figures if figure])))]


def _figure(model: Any, sample: Sample) -> str:
    """The picture of one sample with its caption; "" for a sample without a picture or clip."""
    from diptych.data.media.decode import decode
    from diptych.report import page
    from diptych.report.pictures import data_uri
    from diptych.report.token_sources import token_source_picture

    images: list[ImageSource] = [sample.image] if sample.image else list(sample.media["clip"].parts) if model.frames else []
    if not images:
        return ""
    sources = token_sources(model, images)
    shown = [decode(images[number], exact=True) for number in sources.frames]
    picture_HWC = token_source_picture(shown, sources.owners, sources.box)
    text = sample.texts[0].string if sample.texts else sample.uid
    return page.figure(data_uri(picture_HWC, side=SIDE), f"{text} ({sources.lines()[0]})")
