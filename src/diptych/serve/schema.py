"""Schemas of requests and answers, from which the OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from diptych.serve.admission.limits import Limits
from diptych.serve.refusals import RequestError

Picture = Field(default=None, description="base64, or a data URL (data:image/png;base64,...)")
Name = Field(default=None, description="which model, where the service has several; see /info")


class StrictRequest(BaseModel):
    """Of ours: unknown fields are refused. No NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Words = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})]
"""A text that says something; `text_of` refuses others in words of its own."""


def one_of(*names: str, exactly: bool = False) -> dict[str, Any]:
    """JSON schema of objects that have at least one of these fields, or exactly one."""
    each = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
    return {"oneOf" if exactly else "anyOf": each}


class ImageOrUid(StrictRequest):
    """A request about a picture: one that comes along, or an item that is there."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=one_of("image", "uid", exactly=True))


class ImageInput(StrictRequest):
    """An image as base64 or as a data URL."""

    image: Words


class TextInput(StrictRequest):
    """A text as an object, as some clients of mixed inputs send it."""

    text: Words


TokenIds = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
"""A text as ids of the model's own tokenizer."""


class EmbeddingRequest(BaseModel):
    """As OpenAI clients send it; an input may be an image too. Fields that such clients add are ignored."""

    input: (
        Words
        | TokenIds
        | ImageInput
        | TextInput
        | Annotated[list[Words | TokenIds | ImageInput | TextInput], Field(json_schema_extra={"minItems": 1})]
    )
    model: str | None = Name
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1, description="a shorter vector, where the model was trained on prefixes")


class SearchRequest(StrictRequest):
    """At least one of text, image, cloud and like. Several are combined: image or cloud + mean of like + weight * text - against * mean of
    unlike.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=one_of("text", "image", "cloud", "like"))

    text: Words | None = None
    image: str | None = Picture
    cloud: str | None = Field(
        default=None, description="a point cloud: a PLY, PCD or .npy file, or one of cloud_format, in base64"
    )
    cloud_format: Literal["", "obj", "off", "xyz"] = Field(default="", description="of a file that does not say what it is")
    like: str | list[str] = Field(default_factory=list, description="uids of items that are good examples")
    unlike: str | list[str] = Field(default_factory=list, description="uids of bad examples")
    weight: float = Field(default=2.0, ge=-100, le=100, description="of the text beside pictures; negative removes what it names")
    against: float = Field(default=0.5, ge=0, le=100, description="weight of the bad examples")
    k: int = Field(default=10, ge=1)
    where: dict[str, Any] = Field(
        default_factory=dict, description='conditions on columns: {"split": "train", "width": {">=": 64}}'
    )
    distinct: float | None = Field(default=None, ge=-1, le=1, description="of hits more alike than this cosine only the best")
    min_score: float | None = Field(default=None, description="leave out hits below")
    mode: Literal["exact", "dense", "lexical"] | None = Field(
        default=None, description="exact: compare with everything; dense or lexical: one half of a hybrid index"
    )
    cursor: str | None = Field(default=None, description="`next` of the answer before, to go on after its hits")
    model: str | None = Name


class ClassifyRequest(StrictRequest):
    """Names for pictures, from a list of your own."""

    image: str | list[str] = Field(description="base64 or data URL, or several")
    labels: list[str] = Field(min_length=2)
    templates: list[str] = Field(default=["{}"], min_length=1, description="sentences with {} in the place of the name")
    k: int = Field(default=5, ge=1)
    model: str | None = Name


class DetectRequest(ImageOrUid):
    """Objects and the relations between them, for given names; without names, those that the model was trained with."""

    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    objects: list[str] = Field(default_factory=list)
    relations: list[str] = Field(default_factory=list)
    min_score: float = Field(default=0.1, ge=0, le=1)
    top: int = Field(default=20, ge=1, le=200, description="relations, at most")


class ExplainRequest(ImageOrUid):
    """Relevance map of a picture for each word of a text."""

    text: Words
    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    grid: int = Field(default=7, ge=2, le=14, description="parts per side, for models whose pictures are covered part by part")
    model: str | None = Name


class LocateRequest(ImageOrUid):
    """Map of where a text fits in a large picture, by overlapping windows, and its peaks."""

    text: str
    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    model: str | None = Name


class WordsRequest(ImageOrUid):
    """Term weights of a picture, heaviest first, and a map for each term."""

    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    top: int = Field(default=20, ge=1, le=200, description="words, at most")
    model: str | None = Name


class TokensRequest(ImageOrUid):
    """Patches of a picture that each image token of a language model stands for."""

    image: str | None = Picture
    uid: str | None = Field(default=None, description="an item that is there, instead of an image")
    model: str | None = Name


class EmbeddingObject(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(BaseModel):
    object: Literal["list"]
    model: str
    data: list[EmbeddingObject]
    usage: dict[str, int]


class SearchHit(BaseModel):
    uid: str
    score: float
    payload: dict[str, Any]


class SearchAnswer(BaseModel):
    hits: list[SearchHit]
    next: str | None = Field(default=None, description="cursor of the hits after these; null at the end")
    suggestion: str = Field(
        default="",
        description="the text with words of the index in the place of unknown ones that are spelled alike; mostly empty",
    )


class TextIn(StrictRequest):
    """A text of an item."""

    text: str
    language: str = Field(default="", max_length=35, description="BCP 47, such as en or pt-BR")
    origin: Literal["alt", "caption", "label", "tags", "rewrite", "synthetic", "negative"] = "caption"


class NewItemRequest(StrictRequest):
    """An item to add: a picture, texts, or both. Sent again with the same content it changes nothing and answers the same."""

    uid: str | None = Field(
        default=None,
        description="letters, digits, _ and -, at most 200; without, the first 32 digits of the sha256 of the content",
    )
    image: str | None = Picture
    texts: list[str | TextIn] = Field(default_factory=list)
    group: str = Field(default="", max_length=1000, description="unit that must not leak between splits: a person, a product")
    licence: str = Field(default="", max_length=1000)
    source: str = Field(default="", max_length=1000)
    fields: dict[str, Any] = Field(default_factory=dict, description="columns to filter by: strings, numbers, lists of strings")


class ItemCorrectionRequest(StrictRequest):
    """Other texts, instead of all that are there, and fields to set; null removes a field. What is left out stays."""

    texts: list[str | TextIn] | None = None
    group: str | None = Field(default=None, max_length=1000)
    licence: str | None = Field(default=None, max_length=1000)
    source: str | None = Field(default=None, max_length=1000)
    fields: dict[str, Any] = Field(default_factory=dict)


class NewItemAnswer(BaseModel):
    uid: str
    created: bool = Field(description="false where it was there already with the same content")
    sha256: str | None = Field(description="of the picture")


class ItemCorrectionAnswer(BaseModel):
    uid: str
    changed: bool


class ItemRemovalAnswer(BaseModel):
    uid: str
    removed: bool = Field(description="false where it was removed before")


class ReloadRequest(StrictRequest):
    """Model and index to serve from now on. Without fields, what lies under the addresses that the service was started with."""

    model: str | None = Field(default=None, description="address of the model; without, the one that built the index")
    index: str | None = Field(default=None, description="folder of an index; with `build` a new one")
    build: bool = Field(
        default=False, description="build the index from the items that are served, by the model, before it is served"
    )
    name: str | None = Field(default=None, description="which of several models it replaces; see /info")


class ReloadAnswer(BaseModel):
    model: str
    fingerprint: str
    count: int = Field(description="items in the index that is served now")
    switched: bool = Field(description="false where it is what was served already")
    caught_up: int = Field(
        description="items that were served and that the new index lacked: they were embedded before the switch"
    )


class ClassScore(BaseModel):
    name: str
    score: float = Field(description="cosine of the picture and the mean of the name's sentences")


class ImageClasses(BaseModel):
    classes: list[ClassScore]


class ClassifyAnswer(BaseModel):
    answers: list[ImageClasses]


class RegionOut(BaseModel):
    label: str
    name: str = Field(description="the label, numbered where several things share it")
    box: list[float] = Field(description="x0, y0, x1, y1 in pixels")
    score: float


class RelationOut(BaseModel):
    subject: int
    predicate: str
    object: int
    score: float


class GraphAnswer(BaseModel):
    regions: list[RegionOut]
    relations: list[RelationOut]
    drawings: dict[str, Any] = Field(description="`picture` (boxes and arrows) and `graph`, as shapes that the page draws")


class ExplainAnswer(BaseModel):
    method: Literal["patches", "lexicon", "occlusion"]
    score: float = Field(description="cosine of the picture and the text; of patches, the mean over the words of the best cosine")
    box: list[float] = Field(description="part of the picture that the grid covers: x0, y0, x1, y1 as shares of its sides")
    rows: int
    columns: int
    words: list[str] = Field(description="the first one is the whole text")
    weights: list[list[list[float]]] = Field(description="[words][rows][columns]")


class LocatedHit(BaseModel):
    x: float = Field(description="share of the width")
    y: float = Field(description="share of the height")
    box: list[float] = Field(description="best window that holds the point: x0, y0, x1, y1 as shares of the sides")
    probability: float = Field(description="of the map, 0 to 1: its highest point is 1 whatever the picture shows")
    cosine: float = Field(description="of the window and the text")


class LocateAnswer(BaseModel):
    rows: int
    columns: int
    values: list[list[float]] = Field(description="[rows][columns], 0 to 1")
    windows: int = Field(description="windows that were compared")
    hits: list[LocatedHit] = Field(description="peaks, the most probable first")


class WordsAnswer(BaseModel):
    words: list[str] = Field(description="heaviest first")
    weights: list[float] = Field(description="of norm 1 over all words of the picture")
    count: int = Field(description="words that have a weight at all")
    box: list[float] = Field(description="part of the picture that the grid covers: x0, y0, x1, y1 as shares of its sides")
    rows: int
    columns: int
    places: list[list[list[float]]] = Field(description="[words][rows][columns]: the weight that each part alone would give")


class TokensAnswer(BaseModel):
    tokens: int = Field(description="image tokens that the language model reads")
    rows: int
    columns: int
    box: list[float] = Field(description="part of the picture that the grid covers: x0, y0, x1, y1 as shares of its sides")
    owner: list[list[int]] = Field(description="[rows][columns]: token in which each patch has its largest share, -1 for none")


class ModelInfo(BaseModel):
    name: str
    fingerprint: str
    embeds: bool
    aligns: Literal["patches", "lexicon", "occlusion", ""] = Field(description="how /explain asks it; empty: it cannot")
    lexical: bool = Field(description="whether /words says which words a picture becomes")
    index: str | None = Field(description="kind of its index")
    modes: list[str] = Field(description="what `mode` of a search may be")
    combines: bool = Field(description="whether texts, pictures and examples can be added and subtracted")
    count: int | None = Field(description="items in its index")
    columns: dict[str, dict[str, Any]] = Field(description="what can be filtered by: kind, and values or range where known")
    examples: list[str] = Field(description="uids of a few items that can be shown, from all over the data")


class WriterInfo(BaseModel):
    name: str
    streams: bool = Field(description="whether it gives away words while it writes")
    ranks: bool = Field(description="whether it says how likely given answers are")
    reduces: bool = Field(description="whether /tokens says which patches its image tokens stand for")


class InfoAnswer(BaseModel):
    models: list[ModelInfo]
    writers: list[WriterInfo] = Field(description="models that write about pictures")
    data: bool = Field(description="whether items and their pictures can be looked at")
    detector: str | None
    objects: list[str] = Field(description="what the detector looks for when none is given")
    relations: list[str]
    limits: dict[str, float]


class ServiceStatus(BaseModel):
    status: Literal["ok", "ready", "stopping", "busy"]
    version: str


class ModelObject(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelObject]


class ItemText(BaseModel):
    text: str
    language: str
    origin: str


class ItemAnswer(BaseModel):
    uid: str
    texts: list[ItemText]
    group: str
    licence: str
    source: str
    columns: dict[str, Any]
    image: bool = Field(description="whether it has a picture that models can be asked about")
    width: int | None
    height: int | None
    shown: bool = Field(description="whether /image/UID has something to show: its picture, or a thumbnail of another medium")
    media: dict[str, str] = Field(description="what it has beside the picture: name and kind of medium")
    graph: GraphAnswer | None = Field(description="regions and relations that the data hold")


class CloudAnswer(BaseModel):
    count: int = Field(description="points of the whole cloud")
    points: list[list[float]] = Field(description="[points][3]: x, y and z in the unit ball, z up")
    colours: list[list[int]] | None = Field(
        description="[points][3]: red, green and blue in 0..255; null for a cloud without colours"
    )


class ErrorDetail(BaseModel):
    message: str
    type: str
    code: int


class ErrorResponse(BaseModel):
    error: ErrorDetail


def text_of(text: str, name: str, limits: Limits) -> str:
    if not text.strip():
        raise RequestError(422, f"{name} is empty (expected some text)")
    if len(text) > limits.text_characters:
        raise RequestError(413, f"{name} has {len(text):,} characters (expected at most {limits.text_characters:,})")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(422, f"{name} holds half of a surrogate pair (expected Unicode text)") from None
    return text


def texts_of(texts: list[str], name: str, most: int, limits: Limits) -> list[str]:
    if len(texts) > most:
        raise RequestError(422, f"{name} has {len(texts):,} entries (expected at most {most:,})")
    return [text_of(text, f"{name}[{index}]", limits) for index, text in enumerate(texts)]
