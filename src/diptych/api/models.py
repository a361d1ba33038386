"""Models by address, what a detector finds in one picture, and where phrases are in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from diptych.core.contracts import Detector, Grounder
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.inputs import image_of, names_of
from diptych.core.merged_boxes import merge_boxes
from diptych.core.run_folder import RunFolder
from diptych.core.scene_graph import SceneGraph
from diptych.data.text.tokens.spans import find

if TYPE_CHECKING:
    from diptych.core.contracts import Embedder
    from diptych.models.io.device import InferencePrecision


def load(
    name: str | Path,
    *,
    download: bool = False,
    engine: str = "torch",
    device: str = "auto",
    precision: InferencePrecision = "auto",
) -> Embedder:
    """A model: one that embeds images and texts, detects, classifies or writes, by what it was made for.

    name      a run folder, a model folder, a folder of `diptych export --to onnx`, "hf:FOLDER_OR_NAME" (CLIP, SigLIP, ALIGN, BLIP,
              Chinese-CLIP, AltCLIP), "open_clip:ARCH/FILE_OR_TAG", "timm:NAME", "rlipv2:CHECKPOINT#ROBERTA-FOLDER" (a
              `Detector`), "penet:CHECKPOINT#SETTING", "fiber:CHECKPOINT#ROBERTA-FOLDER", "glip:CHECKPOINT#BERT-FOLDER",
              "denseclip:CHECKPOINT", "tfjs:CENTERNET.json" (a `Detector`), "llava:FOLDER" (or FOLDER#CLIP-FOLDER),
              "lora:ADAPTER#BASE", a release of the table of `diptych weights` ("xclip:FILE", ...),
              "openai:http://HOST:PORT/v1#MODEL?OPTIONS" (`models.endpoint.address`); that and hf: folders of LLaVA, BLIP-2 and
              the like open as `Generator`, those of Grounding DINO and OWL-ViT as `Grounder`
    download  allows fetching what is not on this machine; nothing is fetched without it
    engine    "torch", or "onnx": ONNX Runtime on an export, which is created unless `name` already is one (extra `[onnx]`)
    device    "auto" (CUDA where it is, else the processor; DIPTYCH_DEVICE says otherwise), "cpu", "cuda", "cuda:N" or "mps". A
              model on an accelerator takes larger batches, and halves them where its memory does not hold one
    precision  of embedders: "auto" is bf16 where a CUDA device multiplies it in hardware, else float32; "fp32", "bf16"
    Raises ConfigError for a device that is not there.
    """
    if engine not in ("torch", "onnx"):
        raise UnknownName("engine", engine, ("torch", "onnx"))
    if engine == "onnx" or (Path(name) / "onnx.json").is_file():
        return _on_onnx(name, download, device)
    from diptych.models.io.open_address import open_address

    model: Embedder = open_address(name, download=download, device=device, precision=precision)
    if (Path(name) / "run.json").is_file():
        _RUNS[model] = Path(name)
    return model


_RUNS: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()
"""Where the models came from that were opened from run folders, for as long as they live."""


def run_of(model: Any) -> RunFolder | None:
    """The run that a model, or an address, is from; None for others."""
    if isinstance(model, str | Path):
        folder: Path | None = Path(model)
    else:  # what has no hash, as a plain dataclass, was opened by no `load`
        folder = _RUNS.get(model) if isinstance(model, Hashable) else None
    return RunFolder.open(folder) if folder is not None and (folder / "run.json").is_file() else None


def _on_onnx(name: str | Path, download: bool, device: str) -> Embedder:
    """The export in a folder, or one made of a model, which lasts as long as this process."""
    import tempfile

    from diptych.models.io.export.onnx_embedder import OnnxEmbedder
    from diptych.models.io.export.onnx_files import ONNX_FILE, to_onnx
    from diptych.models.pairs.embedder import PairEmbedder
    from diptych.models.pairs.frozen.locked import LockedEmbedder

    if (Path(name) / ONNX_FILE).is_file():
        return OnnxEmbedder(name, device=device)
    model: Any = load(name, download=download, device="cpu")  # an export is made there
    if not isinstance(model, PairEmbedder | LockedEmbedder):
        raise ConfigError(
            f"{name} is a {getattr(model, 'kind', 'foreign')} model, which ONNX Runtime cannot run "
            "(expected a dual encoder, such as a run of clip or locked; or the engine torch)"
        )
    with tempfile.TemporaryDirectory(prefix="diptych-onnx-") as folder:
        to_onnx(model, Path(folder, "onnx"))
        return OnnxEmbedder(Path(folder, "onnx"), device=device)


def detect(
    model: Any,
    image: Any,
    *,
    objects: str | Sequence[str] = (),
    relations: str | Sequence[str] = (),
    min_score: float = 0.0,
    top: int = 100,
    merge: float = 0.5,
) -> SceneGraph:
    """Scene graph of an image (objects, boxes, relations) for an open vocabulary of names.

    model      a model that detects, or where to load one from
    image      a path, encoded bytes, a PIL image, uint8 [H, W, 3] pixels, a `Sample` or an `ImageSource`
    objects    names of things to look for, a list or "person, dog"; empty takes those the model was trained with. The same for
               `relations`
    min_score  relations (and regions without one) below this score are left out
    top        relations, at most, the most confident first; regions where no relation is looked for
    merge      boxes of one name with this IoU or more are one thing, that with the best score; 1 keeps all
    """
    if not 0.0 < merge <= 1.0:
        raise ConfigError(f"merge is {merge} (expected an IoU above 0; 1 merges nothing)")
    made = load(model) if isinstance(model, str | Path) else model
    if not isinstance(made, Detector):
        raise ConfigError(
            f"{getattr(made, 'name', model)} does not detect (expected a model trained with a recipe such as rlipv2)"
        )
    names = names_of(objects) or tuple(getattr(made, "objects", ()))
    predicates = names_of(relations) or tuple(getattr(made, "relations", ()))
    if not names:
        raise ConfigError(f"'{getattr(made, 'name', made)}' has no names of its own (expected objects=[...])")
    # A detector drops duplicates among its best: more are requested than are kept, so that `top` are left.
    candidates = max(top, 100) if predicates else top
    (graph,) = made.detect([image_of(image)], objects=names, relations=predicates, top=candidates)
    return merge_boxes(graph, merge).strongest(top=top, min_score=min_score)


def ground(
    model: Any, image: Any, phrases: str | Sequence[str], *, text: str = "", top: int = 5, min_score: float = 0.0
) -> dict[str, PhraseBoxes]:
    """Where in an image phrases of your own are: {phrase: boxes, the best first}.

    model     a model that grounds words, or where to load one from
    image     as `detect` takes it
    phrases   one phrase, or several; commas belong to the phrase
    text      the sentence that they stand in, word for word: read as a whole, so that "the cup" in "a cup left of the plate" is that cup.
              Without it each phrase is read alone
    top       boxes of a phrase, at most; min_score leaves out those below

    Raises DataError for a phrase that does not stand in the text, or stands there more than once.
    """
    made = load(model) if isinstance(model, str | Path) else model
    if not isinstance(made, Grounder):
        raise ConfigError(
            f"{getattr(made, 'name', model)} does not ground phrases (expected a model trained with a recipe such as desco, or an hf: "
            "folder of Grounding DINO or OWL-ViT)"
        )
    unique = list(dict.fromkeys([phrases] if isinstance(phrases, str) else phrases))
    if not unique:
        raise DataError("no phrase to locate", field="phrases", expected="one or more")
    if text:
        queries = [PhraseQuery(text, tuple((find(text, phrase),) for phrase in unique))]
    else:
        queries = [PhraseQuery.of([phrase], behind="") for phrase in unique]
    rows = made.ground([image_of(image)] * len(queries), queries, top=top)
    return dict(zip(unique, (_above(answer, min_score) for row in rows for answer in row), strict=True))


def _above(answer: PhraseBoxes, min_score: float) -> PhraseBoxes:
    kept_N = answer.score_N >= min_score
    return PhraseBoxes(answer.box_N4[kept_N], answer.score_N[kept_N])
