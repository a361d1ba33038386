"""Export of models for other libraries, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.api.cards import run_facts
from diptych.api.models import load, run_of
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.run_folder import RunFolder

TARGETS = ("transformers", "open_clip", "onnx", "sentence-transformers", "adapter", "diptych")


def export(
    model: Any,
    out: str | Path,
    *,
    to: str = "onnx",
    like: str = "",
    download: bool = False,
    push: str = "",
    public: bool = False,
) -> Path:
    """Write a model as another library reads it. Returns the folder.

    model  a run folder, a model folder, "lora:ADAPTER#BASE", or a model that `load` opened
    to     "transformers": a folder for AutoModel; "open_clip": for open_clip.create_model("local-dir:OUT"); "onnx";
           "sentence-transformers"; "adapter": the low-rank adapters of a run for the CLIPModel that its start is exported to; "diptych": a
           model folder of ours, of any kind, which `load` opens anywhere
    like   where the weights came from ("hf:FOLDER", "open_clip:ARCH/FILE"): the export has the same class, and of it what ours has no
           part for
    download  allows fetching a model that is not on this machine
    push   "OWNER/NAME": where the folder is sent, too, on the hub whose account is logged in (`hf auth login`); "" nowhere
    public  whether a repository that is made there can be seen by all
    Raises ConfigError for a model that the other library has no place for; it says which field would make it possible. RunError where the
    hub refuses or does not answer.
    """
    from diptych.models.io.export import hub

    if push:
        hub.check_push(push)
    elif public:
        raise ConfigError("--public makes the uploaded repository public (expected --push OWNER/NAME as well)")
    folder = _write_export(model, Path(out), to, like, download)
    if push:
        hub.push_folder(folder, push, public=public)
    return folder


def _write_export(model: Any, out: Path, to: str, like: str, download: bool) -> Path:
    from diptych.models.io.export.onnx_files import to_onnx
    from diptych.models.io.export.transformers_folder import to_transformers
    from diptych.models.pairs.embedder import PairEmbedder
    from diptych.models.pairs.frozen.locked import LockedEmbedder

    if to not in TARGETS:
        raise UnknownName("export", to, TARGETS)
    if to == "adapter":
        return _adapter(model, out)
    if like and to == "onnx":
        raise ConfigError("--like chooses the class to write, which onnx does not have (expected --to transformers or open_clip)")
    opened: Any = load(model, download=download) if isinstance(model, str | Path) else model
    model = model if isinstance(model, str | Path) else _address_of(model)
    if to == "diptych":
        return _folder_of_ours(model, opened, out)
    if not isinstance(opened, PairEmbedder) and not (to == "onnx" and isinstance(opened, LockedEmbedder)):
        raise ConfigError(_unsupported(model, opened, to))
    dual: Any = opened
    if to != "onnx" and (height := dual.preprocess.height):
        raise ConfigError(
            f"'{opened.name}' reads pictures of {height} x {dual.preprocess.size} pixels, and {to} supports only square pictures "
            "(expected --to onnx or --to diptych)"
        )

    def as_transformers(folder: Path) -> None:
        from diptych.models.io.export.source_layout import to_same_class

        to_same_class(dual, like, folder) if like else to_transformers(dual, folder)

    if to == "onnx":
        to_onnx(opened, out)
    elif to == "transformers":
        as_transformers(out)
    elif to == "sentence-transformers":
        from diptych.models.io.export.sentence_transformers import to_sentence_transformers

        to_sentence_transformers(as_transformers, out)
    elif like:
        from diptych.models.io.export.source_layout import to_open_clip_like

        to_open_clip_like(dual, like, out)
    else:
        from diptych.models.io.export.open_clip import to_open_clip

        to_open_clip(dual, out)
    if not (out / "README.md").is_file() or to == "sentence-transformers":
        (out / "README.md").write_text(card(model, opened, to), encoding="utf-8")
    return out


def _folder_of_ours(model: str | Path, opened: Any, out: Path) -> Path:
    if not hasattr(opened, "save"):
        raise ConfigError(
            f"{model} has no folder of ours (expected a run, a model folder, or a dual encoder from hf: or open_clip:)"
        )
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty: choose another folder")
    opened.save(out)
    return out


def _unsupported(model: str | Path, opened: Any, to: str) -> str:
    """Error message for exporting a model that is no dual encoder: the reason, and the exports that work."""
    from diptych.models.pairs.frozen.locked import LockedEmbedder

    if isinstance(opened, LockedEmbedder):
        return (
            f"{model} holds heads over the frozen encoders {opened.images.name} and {opened.texts.name}, which {to} has no class for "
            "(expected --to onnx or --to diptych; or a model of clip, trained with --text-tower text_clip or text_tiny_clip)"
        )
    return (
        f"{model} is a model of kind {getattr(opened, 'kind', 'foreign')}, which {to} has no class for "
        "(expected a dual encoder, such as a run of clip; --to diptych copies a model of any kind)"
    )


def _address_of(model: Any) -> str | Path:
    """Run folder that an opened model is from; its name where it is from none."""
    run = run_of(model)
    return run.path if run is not None else str(getattr(model, "name", type(model).__name__))


def _adapter(model: Any, out: Path) -> Path:
    from diptych.models.io.adapter_folder import for_transformers

    folder = RunFolder.open(Path(model if isinstance(model, str | Path) else _address_of(model)))
    if not folder.adapter.is_dir():
        raise RunError(f"{model} has no adapters (expected a finished run of `diptych train --lora`)")
    for_transformers(folder.adapter, out)
    return out


def card(model: str | Path, opened: Any, to: str) -> str:
    """The README.md of an export: data with their licences, recipe and scores of the run, where the model is one's, and how the library
    `to` opens the folder."""
    from diptych.models.io.card import EXPORT_USAGE, model_card
    from diptych.models.io.folder import parameters
    from diptych.models.pairs.frozen.locked import LockedEmbedder

    facts: dict[str, Any] = dict(opened.card)
    if Path(model).is_dir() and (Path(model) / "run.json").is_file():
        facts = run_facts(RunFolder.open(Path(model))) | facts
    if isinstance(opened, LockedEmbedder):
        module, preprocess = opened.heads, opened.images.preprocess
        parts = {"image_encoder": opened.images.spec, "text_encoder": opened.texts.spec}
    else:
        module, preprocess = opened.model, opened.preprocess
        parts = {"image_tower": module.image_tower.spec, "text_tower": module.text_tower.spec}
    settings = {"preprocess": preprocess.to_json(), "text_length": opened.text_length, "card": facts}
    settings |= opened.settings() if hasattr(opened, "settings") else {}
    config = {"kind": opened.kind, "width": module.width, **parts, **settings}
    return model_card(opened.name, config, parameters(module), EXPORT_USAGE[to])
