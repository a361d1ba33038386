"""Model card (README.md) of a model folder: description, training data, recipe and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAIRS = "Embeds images and texts into one space: an image and a text that match lie close together."


BIOMETRIC = (
    "This model tells persons apart by their pictures. Its vectors of persons are biometric data: where they are kept or compared, consent "
    "or another legal ground is needed in many places, and search for a person is surveillance. It was not measured on groups of people "
    "apart; do not use it to decide about a person."
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Library that opens a folder, and a snippet of Python that does."""

    library: str
    code: str


EXPORT_USAGE = {
    "transformers": Usage(
        "transformers",
        """from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("path/to/this/folder").eval()
processor = AutoProcessor.from_pretrained("path/to/this/folder", backend="pil")
inputs = processor(text=["a red bus"], images=[Image.open("bus.png")], padding="max_length", truncation=True, return_tensors="pt")
print(model(**inputs).logits_per_image)""",
    ),
    "open_clip": Usage(
        "open_clip",
        """import open_clip
from PIL import Image
from transformers import AutoTokenizer

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
length = {"padding": "max_length", "truncation": True, "max_length": model.context_length}
texts = tokenizer(["a red bus"], return_tensors="pt", **length).input_ids
images = preprocess(Image.open("bus.png")).unsqueeze(0)
print(model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T)""",
    ),
    "sentence-transformers": Usage(
        "sentence-transformers",
        """from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder", processor_kwargs={"backend": "pil"})
print(model.encode([Image.open("bus.png")]) @ model.encode(["a red bus"]).T)""",
    ),
    "onnx": Usage(
        "onnx",
        """import diptych  # runs the two files on ONNX Runtime, with their preprocessing and tokenizer

model = diptych.load("path/to/this/folder")
print(model.embed_images(["bus.png"]) @ model.embed_texts(["a red bus"]).T)""",
    ),
}
"""How other libraries open the folders of `diptych export --to NAME`."""


def model_card(name: str, config: Mapping[str, Any], parameters: int, usage: Usage | None = None) -> str:
    """Markdown with the front matter that model hubs read. Holds only what it is given; a missing part is named as missing.

    usage  how the folder is opened, where that is not `diptych.load`
    """
    card = config.get("card") or {}
    preprocess = config["preprocess"]
    lines = [
        *_head(
            name,
            card,
            ("image-text", "embeddings"),
            "Says which of its classes an image shows." if "classes" in config else PAIRS,
            usage.library if usage else "diptych",
        ),
        "| | |",
        "|---|---|",
        f"| kind | {config['kind']} |",
        *[f"| {key.replace('_', ' ')} | {_named(config[key])} |" for key in ("image_tower", "text_tower") if key in config],
        *[f"| {key.replace('_', ' ')} | {config[key]} |" for key in ("image_encoder", "text_encoder") if key in config],
        f"| parameters | {parameters:,} |",
        *([f"| embedding | {config['width']} dimensions, unit norm |"] if "width" in config else []),
        f"| images | {_pixels(preprocess)} px, resize: {preprocess['resize']}, {preprocess['interpolation']} |",
        *([f"| texts | up to {config['text_length']} tokens |"] if "text_length" in config else []),
        *([f"| classes | {len(config['classes']):,} |"] if "classes" in config else []),
        "",
        *(["## Persons", "", BIOMETRIC, ""] if config.get("biometric") else []),
        *_run(card),
        *_usage_section(usage.code if usage else _loading(_use(config))),
    ]
    return "\n".join(lines)


def detector_card(name: str, card: Mapping[str, Any], *, tags: Sequence[str], about: str, facts: str, use: str) -> str:
    """The same for a model that finds things. about: what it does, where the card has no description; facts: sizes, in a line;
    use: a line of Python that uses `model`."""
    return described_card(name, card, tags=("object-detection", *tags), about=about, facts=facts, use=use)


def described_card(name: str, card: Mapping[str, Any], *, tags: Sequence[str], about: str, facts: str, use: str) -> str:
    """The same for a model of any kind; arguments as for `detector_card`."""
    return "\n".join([*_head(name, card, tags, about), facts, "", *_run(card), *_usage_section(_loading(use))])


def _head(name: str, card: Mapping[str, Any], tags: Sequence[str], about: str, library: str = "diptych") -> list[str]:
    licence = [f"license: {card['licence']}"] if card.get("licence") else []
    front = ["---", f"library_name: {library}", *licence, f"tags: [{', '.join(tags)}]", "---"]
    return [*front, "", f"# {name}", "", card.get("description") or about, ""]


def _run(card: Mapping[str, Any]) -> list[str]:
    """Sections that `completed` fills in."""
    data, recipe = (card.get(part) or "Not stated." for part in ("data", "recipe"))
    scores = _scores(card.get("metrics") or {})
    return ["## Data", "", data, "", "## Training", "", recipe, "", "## Scores", "", *scores, ""]


def _usage_section(code: str) -> list[str]:
    return ["## Use", "", "```python", code, "```", ""]


def _loading(line: str) -> str:
    return f'import diptych\n\nmodel = diptych.load("path/to/this/folder")\n{line}'


def _pixels(preprocess: Mapping[str, Any]) -> str:
    return f"{preprocess['height']} x {preprocess['size']}" if preprocess.get("height") else str(preprocess["size"])


def completed(readme: str, facts: Mapping[str, Any]) -> str:
    """A card with what its run says of "data", "recipe" and "metrics" in the sections of that; its other sections stay.

    >>> print(completed("# m\\n\\n## Data\\n\\nNot stated.\\n\\n## Use\\n\\nx\\n", {"data": "emoji"}), end="")
    # m
    <BLANKLINE>
    ## Data
    <BLANKLINE>
    emoji
    <BLANKLINE>
    ## Use
    <BLANKLINE>
    x
    """
    texts = {"Data": facts.get("data"), "Training": facts.get("recipe"), "Scores": "\n".join(_scores(facts.get("metrics") or {}))}
    first, *sections = readme.split("\n## ")
    for index, section in enumerate(sections):
        title = section.partition("\n")[0]
        if texts.get(title):
            sections[index] = f"{title}\n\n{texts[title]}\n"
    return "\n## ".join((first, *sections))


def _use(config: Mapping[str, Any]) -> str:
    """Example of use in a line of Python."""
    if "classes" in config:
        return "scores = model.classify([image])"
    if config["kind"] == "vilt":
        return 'scores = model.score_pairs([image], ["a red bus"], query="image")'
    return 'vectors = model.embed_texts(["a red bus"])' if "width" in config else 'captions = model.generate([image], [""])'


def _named(spec: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in spec.items() if key not in ("name", "config"))
    return f"`{spec['name']}`" + (f" ({rest})" if rest else "")


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics:
        return ["None recorded."]
    return ["| | |", "|---|---|", *[f"| {key} | {f'{v:.4g}' if isinstance(v, float) else v} |" for key, v in metrics.items()]]
