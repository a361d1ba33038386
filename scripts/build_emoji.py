"""Build the packaged emoji data set from npm packages: about 1,850 concepts, each drawn by four vendors, with names in many languages.

    python -m venv /tmp/emoji && /tmp/emoji/bin/pip install -e . pyvips pyvips-binary
    /tmp/emoji/bin/python scripts/build_emoji.py                       # downloads 170 MB with `npm pack`, then builds
    /tmp/emoji/bin/python scripts/build_emoji.py --cache FOLDER        # keeps, or takes, the archives there
    /tmp/emoji/bin/python scripts/build_emoji.py --sheet docs/images/emoji.png

Every archive is checked against a pinned sha512. Archives are read member by member; nothing is extracted to a path that an
archive names. pyvips renders the vector drawings and is needed by this script alone. On one machine with one set of library
versions the same archives give the same bytes.

The result is what `diptych data build` writes, with two differences that halve its size: images lie end to end in one file
(a tar would spend 1.8 kB a picture on headers), and texts are ordered by language, so that the four drawings of a concept
share their compressed strings.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from diptych.core.disk.files import atomic_folder, write_atomic
from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import MadeBy, read_parquet, write_parquet, write_table
from diptych.data.dataset import Pool
from diptych.data.shards.build import MANIFEST, SHARDS, build, open_built

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "src" / "diptych" / "data" / "emoji"
SIZE, QUALITY, SEED, HELD_OUT, LIMIT = 64, 87, 20261125, 300, 15_000_000
SKIN = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
CLDR_NAMES = 1_900
"""A further language is taken when CLDR has at least this many names in it (a complete one has 1,966)."""

PACKAGES = {
    "emoji-datasource-google@16.0.0": "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "emoji-datasource-twitter@16.0.0": "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "@lobehub/fluent-emoji-3d@1.1.0": "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "openmoji@17.0.0": "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    "emojibase-data@17.0.0": "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "emojilib@4.0.3": "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    "cldr-annotations-full@48.2.0": "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "spdx-license-list@6.12.0": "+nUYqm3aZMSHbjsthK+i/HHI2okTElCvqwUd4k8QcSk+FTGgjq+fsdFj2wZOaX6XmR2JdWhf/NeflNnvKOjcnQ==",
}
"""npm packages and the sha512 of their archives, in base64 as npm's own lock files write it."""

GOOGLE, TWITTER, FLUENT, OPENMOJI, EMOJIBASE, EMOJILIB, CLDR, SPDX = PACKAGES


@dataclass(frozen=True, slots=True)
class Vendor:
    """Who drew a style, under which licence, and which members of which archive are its pictures."""

    style: str
    package: str
    pattern: str
    licence: str
    credit: str


VENDORS = (
    Vendor("noto", GOOGLE, r"package/img/google/64/([0-9a-f-]+)\.png", "Apache-2.0", "Noto Emoji, © Google LLC"),
    Vendor(
        "twemoji",
        TWITTER,
        r"package/img/twitter/64/([0-9a-f-]+)\.png",
        "CC-BY-4.0",
        "Twemoji, © Twitter, Inc and other contributors",
    ),
    Vendor(
        "fluent",
        FLUENT,
        r"package/assets/([0-9a-f-]+)\.webp",
        "MIT",
        "Fluent Emoji, © Microsoft Corporation; packaged by LobeHub",
    ),
    Vendor(
        "openmoji",
        OPENMOJI,
        r"package/color/svg/([0-9A-F-]+)\.svg",
        "CC-BY-SA-4.0",
        "OpenMoji, by the OpenMoji project and its contributors",
    ),
)


@dataclass(slots=True)
class Concept:
    """One emoji: its key (code points without the variation selector), where it stands, and its texts, English first."""

    key: str
    group: str
    subgroup: str
    label: str
    texts: list[Text] = field(default_factory=list)
    names: list[Text] = field(default_factory=list)
    held_out: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the packaged emoji data set.")
    parser.add_argument("--out", type=Path, default=HOME, help="folder to write (default: the package data)")
    parser.add_argument("--cache", type=Path, help="folder of npm archives; missing ones are downloaded into it")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the built data to this file, and build nothing")
    options = parser.parse_args()
    if options.sheet:
        contact_sheet(open_built(options.out), options.sheet)
        return
    with tempfile.TemporaryDirectory() as scratch:
        archives = {name: archive(name, options.cache or Path(scratch)) for name in PACKAGES}
        concepts = read_concepts(archives)
        pictures = {vendor.style: read_pictures(archives[vendor.package], vendor, concepts) for vendor in VENDORS}
        chosen = [concept for concept in concepts.values() if all(concept.key in drawn for drawn in pictures.values())]
        hold_out(chosen, twins(pictures))
        pool = Pool.from_samples(samples(chosen, pictures), name="emoji")
        with atomic_folder(options.out) as folder:
            build(pool, Path(scratch, "built"), shard_samples=len(pool))
            compact(Path(scratch, "built"), folder)
            write_names(folder, chosen)
            write_licences(archives, folder)
    report(options.out)


# ---------------------------------------------------------------- archives


def archive(package: str, cache: Path) -> Path:
    """The package's archive in `cache`, downloaded with `npm pack` when it is not there. Its sha512 must be the pinned one."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not path.is_file():
        if shutil.which("npm") is None:
            raise SystemExit(f"{package} is not in {cache} and npm is not installed: install npm, or put {path.name} there")
        print(f"npm pack {package}", flush=True)
        done = subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=False, capture_output=True, text=True)
        if done.returncode or not path.is_file():
            raise SystemExit(f"npm pack {package} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != PACKAGES[package]:
        raise SystemExit(f"{path} has sha512 {found}, expected {PACKAGES[package]}: remove it and run again")
    return path


def members(path: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """Name match and bytes of every regular member whose whole name matches."""
    with tarfile.open(path, "r:gz") as tar:
        for info in tar:
            match = re.fullmatch(pattern, info.name)
            if match and info.isreg():
                handle = tar.extractfile(info)
                assert handle is not None
                yield match, handle.read()


def member(path: Path, name: str) -> bytes:
    for _, data in members(path, re.escape(name)):
        return data
    raise DataError(f"has no member {name}", file=path)


def key_of(code: str) -> str:
    """Join key of a code sequence: upper case, four digits or more each, no FE0F.

    >>> key_of("39-fe0f-20e3")
    '0039-20E3'
    """
    return "-".join(part.upper().zfill(4) for part in code.split("-") if part.upper() != "FE0F")


def key_of_emoji(emoji: str) -> str:
    return key_of("-".join(f"{ord(sign):x}" for sign in emoji))


# ---------------------------------------------------------------- concepts and texts


def read_concepts(archives: dict[str, Path]) -> dict[str, Concept]:
    """Every emoji that has a group, without skin tones and parts, in the order of the Unicode list, with all its texts."""
    languages = {match[1]: json.loads(data) for match, data in members(archives[EMOJIBASE], r"package/([a-z-]+)/data\.json")}
    groups = json.loads(member(archives[EMOJIBASE], "package/meta/groups.json"))
    concepts: dict[str, Concept] = {}
    for entry in sorted(languages["en"], key=lambda entry: entry.get("order", 0)):
        group = groups["groups"].get(str(entry.get("group")), "component")
        key = key_of(entry["hexcode"])
        if group != "component" and not SKIN & set(key.split("-")):
            concepts[key] = Concept(key, group, groups["subgroups"][str(entry["subgroup"])], clean(entry["label"]))
    keywords = read_keywords(archives)
    for language in ["en", *sorted(set(languages) - {"en"})]:
        for entry in languages[language]:
            concept = concepts.get(key_of(entry["hexcode"]))
            if concept is None:
                continue
            tag = bcp47(language)
            concept.texts.append(Text(clean(entry["label"]), tag, "label"))
            if words := unique(entry.get("tags", ()), without=()):
                concept.texts.append(Text(", ".join(words), tag, "tags"))
            if language == "en" and (words := unique(keywords[concept.key], without=[concept.label])):
                concept.texts.append(Text(", ".join(words), tag, "caption"))
    add_cldr_names(archives[CLDR], concepts, taken={bcp47(language) for language in languages} | {"no"})
    return concepts


def read_keywords(archives: dict[str, Path]) -> dict[str, list[str]]:
    """English keywords by key: emojilib's, then OpenMoji's own tags. Emoticons such as ":D" are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for emoji, words in json.loads(member(archives[EMOJILIB], "package/dist/emoji-en-US.json")).items():
        found[key_of_emoji(emoji)] += [word.replace("_", " ") for word in words]
    for entry in json.loads(member(archives[OPENMOJI], "package/data/openmoji.json")):
        found[key_of(entry["hexcode"])] += entry["openmoji_tags"].split(",")
    plain = re.compile(r"[^\W_][\w &'’.+/-]*")
    return defaultdict(list, {key: [word for word in map(clean, words) if plain.fullmatch(word)] for key, words in found.items()})


def add_cldr_names(path: Path, concepts: dict[str, Concept], taken: set[str]) -> None:
    """Names in further languages, from every complete CLDR file ("no" stands for "nb", which is there already)."""
    for match, data in sorted(
        members(path, r"package/annotations/([A-Za-z-]+)/annotations\.json"), key=lambda found: found[0][1]
    ):
        entries = json.loads(data)["annotations"].get("annotations", {})
        names = {key_of_emoji(emoji): entry["tts"][0] for emoji, entry in entries.items() if "tts" in entry}
        if match[1] in taken or len(names) < CLDR_NAMES:
            continue
        for concept in concepts.values():
            if concept.key in names:
                concept.names.append(Text(clean(names[concept.key]), match[1], "label"))


def clean(text: str) -> str:
    """One line; the escapes that some languages have for "#" and "*" (``\\x{23}``) become the signs."""
    return " ".join(re.sub(r"\\x\{([0-9A-Fa-f]+)\}", lambda code: chr(int(code[1], 16)), text).split())


def unique(words: Iterable[str], *, without: Iterable[str]) -> list[str]:
    """Words in order, each once whatever its case, none of `without`."""
    seen = {word.casefold() for word in without}
    kept = []
    for word in map(clean, words):
        if word and word.casefold() not in seen:
            seen.add(word.casefold())
            kept.append(word)
    return kept


def bcp47(language: str) -> str:
    """ "es-mx" -> "es-MX", "zh-hant" -> "zh-Hant"."""
    head, _, tail = language.partition("-")
    return head if not tail else f"{head}-{tail.upper() if len(tail) == 2 else tail.title()}"


# ---------------------------------------------------------------- pictures


def read_pictures(path: Path, vendor: Vendor, concepts: dict[str, Concept]) -> dict[str, bytes]:
    """The vendor's drawings of these concepts as WebP. Of two members for one key the one with the shorter name counts."""
    found: dict[str, tuple[str, bytes]] = {}
    for match, data in members(path, vendor.pattern):
        key, name = key_of(match[1]), match[1]
        if key in concepts and (key not in found or (len(name), name) < (len(found[key][0]), found[key][0])):
            found[key] = name, data
    return {key: webp(render(data, vendor)) for key, (_, data) in sorted(found.items())}


def render(data: bytes, vendor: Vendor) -> Image.Image:
    """One drawing as 64 x 64 RGBA, centred, its proportions kept."""
    if vendor.style == "openmoji":
        import pyvips

        pixels = pyvips.Image.thumbnail_buffer(data, SIZE, height=SIZE)
        image = Image.fromarray(np.asarray(pixels.colourspace("srgb")).astype(np.uint8)).convert("RGBA")
    else:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGBA")
        image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    if image.size != (SIZE, SIZE):
        canvas = Image.new("RGBA", (SIZE, SIZE))
        canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
        return canvas
    return image


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)  # method 6 takes 45 times as long and saves 3%
    return buffer.getvalue()


# ---------------------------------------------------------------- splits and samples


def twins(pictures: dict[str, dict[str, bytes]]) -> set[str]:
    """Keys of concepts that share a picture with another one in some style ("farmer" and "man farmer")."""
    found = set()
    for drawn in pictures.values():
        keys = defaultdict(list)
        for key, data in drawn.items():
            keys[data].append(key)
        found.update(key for same in keys.values() if len(same) > 1 for key in same)
    return found


def hold_out(concepts: list[Concept], stay: set[str]) -> None:
    """Mark `HELD_OUT` concepts: each group gives its share (largest remainders), chosen by a hash of seed and key.

    Those in `stay` are never chosen: their twin would show the held-out picture in training.
    """
    by_group: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        by_group[concept.group].append(concept)
    exact = {group: HELD_OUT * len(items) / len(concepts) for group, items in by_group.items()}
    quota = {group: int(share) for group, share in exact.items()}
    left = HELD_OUT - sum(quota.values())
    for group in sorted(exact, key=lambda group: (quota[group] - exact[group], group))[:left]:
        quota[group] += 1
    for group, items in by_group.items():
        items = sorted(
            (concept for concept in items if concept.key not in stay),
            key=lambda concept: hashlib.sha256(f"{SEED}:{concept.key}".encode()).digest(),
        )
        for concept in items[: quota[group]]:
            concept.held_out = True


def split_of(concept: Concept, style: str) -> str:
    if style == "fluent":
        return "unseen_both" if concept.held_out else "unseen_style"
    return "unseen_concept" if concept.held_out else "train"


def samples(concepts: list[Concept], pictures: dict[str, dict[str, bytes]]) -> Iterator[Sample]:
    for concept in concepts:
        for vendor in VENDORS:
            uid = f"{vendor.style}-{concept.key}"
            yield Sample(
                uid,
                BytesImage(pictures[vendor.style][concept.key], uid),
                tuple(concept.texts),
                group=concept.key,
                licence=vendor.licence,
                source=f"npm:{vendor.package}",
                extras={
                    "split": split_of(concept, vendor.style),
                    "style": vendor.style,
                    "label": concept.label,
                    "group_name": concept.group,
                    "subgroup": concept.subgroup,
                },
            )


# ---------------------------------------------------------------- writing


def compact(built: Path, out: Path) -> None:
    """Copy a built folder: images end to end in one file, sidecars dropped (the tables hold what they say), texts reordered."""
    manifest = read_parquet(built / MANIFEST)
    order = np.argsort(np.array(manifest["uid"].to_pylist()))
    manifest = manifest.take(pa.array(order))
    blob, offsets = bytearray(), []
    for name, offset, size in zip(*(manifest[c].to_pylist() for c in ("shard", "image_offset", "image_size")), strict=True):
        with (built / SHARDS / name).open("rb") as file:
            file.seek(offset)
            offsets.append(len(blob))
            blob += file.read(size)
    new = {"shard": pa.array(["00000.bin"] * len(manifest)), "image_offset": pa.array(offsets, pa.int64())}
    for column, values in new.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(column), manifest.schema.field(column), values)
    write_parquet(out / MANIFEST, manifest)
    write_atomic(out / SHARDS / "00000.bin", bytes(blob))
    texts = read_parquet(built / TABLES / "texts.parquet")
    write_small(out / TABLES / "texts.parquet", by_language(texts))
    for name in ("quarantine.parquet", "diptych.json"):
        shutil.copyfile(built / name, out / name)


def by_language(texts: pa.Table) -> pa.Table:
    """Rows in order of language, origin, concept, style: equal strings adjoin. Texts of one uid keep their order."""
    languages = list(dict.fromkeys(texts["language"].to_pylist()))
    rank = {language: place for place, language in enumerate(["en", *sorted(set(languages) - {"en"})])}
    origin = {"label": 0, "tags": 1, "caption": 2}
    keys = [
        (rank[language], origin[kind], *uid.partition("-")[::-2])
        for uid, language, kind in zip(*(texts[c].to_pylist() for c in ("uid", "language", "origin")), strict=True)
    ]
    return texts.take(pa.array(sorted(range(len(keys)), key=keys.__getitem__)))


def write_small(path: Path, table: pa.Table) -> None:
    """Parquet for text that repeats at once: strings plain under strong zstd, the short columns as dictionaries."""
    buffer = io.BytesIO()
    small = [name for name in table.column_names if name != "string"]
    pq.write_table(table, buffer, compression="zstd", compression_level=19, use_dictionary=small, row_group_size=2**30)
    write_atomic(path, buffer.getvalue())


def write_names(folder: Path, concepts: list[Concept]) -> None:
    """The further languages as a table of their own, so that samples stay light: `open_built(folder, tables=("names",))`."""
    records = [
        {"uid": f"{vendor.style}-{concept.key}", "string": text.string, "language": text.language, "origin": text.origin}
        for concept in concepts
        for vendor in VENDORS
        for text in concept.names
    ]
    schema = pa.schema([("uid", pa.string()), ("string", pa.large_string()), ("language", pa.string()), ("origin", pa.string())])
    path = write_table(folder, "names", by_language(pa.Table.from_pylist(records, schema)), MadeBy("cldr", {"package": CLDR}))
    write_small(path, read_parquet(path))


def write_licences(archives: dict[str, Path], folder: Path) -> None:
    """Each licence in full beside the data, and who is to be named for what."""

    def spdx(name: str) -> str:
        text: str = json.loads(member(archives[SPDX], f"package/licenses/{name}.json"))["licenseText"]
        return text

    mit = spdx("MIT")
    body = mit[mit.index("Permission is hereby granted") :]
    texts = {
        "noto-Apache-2.0.txt": spdx("Apache-2.0"),
        "twemoji-CC-BY-4.0.txt": spdx("CC-BY-4.0"),
        "fluent-MIT.txt": f"MIT License\n\nCopyright (c) Microsoft Corporation.\nCopyright (c) 2024 LobeHub\n\n{body}",
        "openmoji-CC-BY-SA-4.0.txt": member(archives[OPENMOJI], "package/LICENSE.txt").decode(),
        "emojibase-MIT.txt": member(archives[EMOJIBASE], "package/LICENSE").decode(),
        "emojilib-MIT.txt": member(archives[EMOJILIB], "package/LICENSE").decode(),
        "cldr-Unicode-3.0.txt": member(archives[CLDR], "package/LICENSE").decode(),
        "emoji-datasource-MIT.txt": member(archives[GOOGLE], "package/LICENSE").decode(),
    }
    for name, text in texts.items():
        write_atomic(folder / "licences" / name, text.rstrip() + "\n")
    write_atomic(folder / "ATTRIBUTION.md", attribution())


def attribution() -> str:
    rows = [f"| {v.style} | {v.credit} | npm `{v.package}` | {v.licence} |" for v in VENDORS]
    return "\n".join(
        [
            "# Whose work this is",
            "",
            "Drawings. Changed by us: scaled to 64 x 64 pixels where they were not, stored as lossy WebP with their transparency.",
            "",
            "| style | drawn by | taken from | licence |",
            "|---|---|---|---|",
            *rows,
            "",
            "All emojis of the style openmoji are designed by OpenMoji – the open-source emoji and icon project",
            "(<https://openmoji.org>), licence CC BY-SA 4.0 (<https://creativecommons.org/licenses/by-sa/4.0/>); what is made from them",
            "is shared alike. Twemoji graphics are licensed under CC BY 4.0 (<https://creativecommons.org/licenses/by/4.0/>).",
            "",
            "Texts. English keywords: emojilib (MIT) and OpenMoji's tags (CC-BY-SA-4.0). Names and tags in 28 languages: emojibase (MIT),",
            "made from Unicode CLDR. Names in further languages: Unicode CLDR (Unicode-3.0). Noto and Twemoji pictures come through",
            "emoji-datasource (MIT for its own part). The full texts lie in `licences/`; every sample carries its licence.",
            "",
        ]
    )


# ---------------------------------------------------------------- looking


def report(folder: Path) -> None:
    """Counts by split, languages and bytes; ends with an error when the folder is larger than allowed."""
    pool = open_built(folder)
    print(f"{len(set(pool.groups)):,} concepts, {len(pool):,} pictures, fingerprint {pool.fingerprint[:16]}")
    for name, count in Counter(pool.column("split")).most_common():
        print(f"  {name:15} {count:6,}")
    names = read_parquet(folder / TABLES / "names.parquet", ["language"])["language"].unique().to_pylist()
    languages = sorted(set(pool.texts_table()["language"].to_pylist()))
    print(f"texts in {len(languages)} languages: {' '.join(languages)}")
    print(f"names in {len(names)} more: {' '.join(names)}")
    files = {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for path, size in files.items():
        print(f"  {size:12,} {path}")
    print(f"  {sum(files.values()):12,} in all; sha256 of everything {digest(folder)[:16]}")
    if sum(files.values()) > LIMIT:
        raise SystemExit(f"{folder} is larger than {LIMIT:,} bytes")


def digest(folder: Path) -> str:
    """One hash over names and bytes of all files: two builds are equal when theirs are."""
    state = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        state.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode() + data)
    return state.hexdigest()


def contact_sheet(pool: Pool, path: Path, *, columns: int = 18) -> None:
    """A picture with one concept a column and one style a row, evenly taken from the whole list."""
    place = {uid: row for row, uid in enumerate(pool.uids)}
    keys = sorted(set(pool.groups))
    keys = keys[:: len(keys) // columns][:columns]
    sheet = Image.new("RGB", (columns * (SIZE + 8) + 8, len(VENDORS) * (SIZE + 8) + 8), "white")
    for x, key in enumerate(keys):
        for y, vendor in enumerate(VENDORS):
            source = pool.image(place[f"{vendor.style}-{key}"])
            assert source is not None
            image = Image.open(io.BytesIO(source.read())).convert("RGBA")
            sheet.paste(image, (8 + x * (SIZE + 8), 8 + y * (SIZE + 8)), image)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
