"""What fuzzing found once, kept as cases of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diptych
from diptych.claims.ledger import lines
from diptych.core.errors import DataError, RunError
from diptych.core.run_folder import RunFolder
from diptych.data.columns import refuse_duplicates
from diptych.data.read.caption_sources import captions_by_uid
from diptych.data.read.read_options import ReadOptions
from diptych.data.shards.build import build
from diptych.data.shards.inside import MANIFEST_FIELDS
from diptych.data.shards.verify import verify
from diptych.index.facts import Facts
from diptych.train import checkpoint
from diptych.worlds.scenes.world import scenes

from ..data.graphs.conftest import Published


def test_captions_nested_deeper_than_arrow_can_take(tmp_path: Path) -> None:
    """Arrow's reader of JSON ended the process (a segmentation fault)."""
    path = tmp_path / "captions.jsonl"
    path.write_text('{"uid": "a", "caption": "one"}\n{"uid": "b", "x": ' + "[" * 3000 + "]" * 3000 + "}\n")
    with pytest.raises(DataError, match=r"captions\.jsonl, row 2: is nested more than 100 deep"):
        captions_by_uid(path)
    path.write_text('{"uid": "a", "caption": "one"}\n\n{"uid": "a", "caption": " two "}\n{"uid": 3, "caption": "three"}\n')
    assert captions_by_uid(path) == {"a": ("one", "two"), "3": ("three",)}


def test_uids_that_are_missing_or_no_strings() -> None:
    with pytest.raises(DataError, match="row 1, field 'uid': has no uid"):
        refuse_duplicates(pa.array(["a", None, None]))
    with pytest.raises(DataError, match="holds double"):
        refuse_duplicates(pa.array([float("nan")] * 2))


def test_options_and_widths_of_an_index_that_no_build_writes() -> None:
    facts = Facts("lexical", "images", {}, {}, {"query_terms": True, "mean_length": 3, "depth": -1, "lexical": float("inf")})
    assert facts.option("mean_length", float) == 3.0
    for name, kind in (("query_terms", int), ("depth", int), ("lexical", float), ("shortlist", int)):
        with pytest.raises(RunError, match=f"as option {name} of a lexical index: build the index again"):
            facts.option(name, kind)
    with pytest.raises(RunError, match="has no width of the space ''"):
        facts.width("")


def test_a_built_folder_whose_texts_are_no_utf8_loses_those_rows(tmp_path: Path) -> None:
    build(scenes(3, seed=0).to_pool(), tmp_path / "built")
    file = tmp_path / "built" / "manifest.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("licence")
    spoiled = pa.array([b"CC0", b"\xff", b"CC0"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(place, "licence", spoiled), file)
    assert len(diptych.read(tmp_path / "built")) == 2
    assert any("licence is not UTF-8" in bad.reason for bad in verify(tmp_path / "built", update=False).bad)


def test_a_manifest_without_a_column_says_which(tmp_path: Path) -> None:
    """What nothing reads may be missing; what is read is named, and no KeyError of Arrow comes out."""
    build(scenes(3, seed=0).to_pool(), tmp_path / "built")
    file = tmp_path / "built" / "manifest.parquet"
    table = pq.read_table(file)
    for column in table.column_names:
        pq.write_table(table.rename_columns(["renamed" if name == column else name for name in table.column_names]), file)
        if column not in MANIFEST_FIELDS:
            verify(tmp_path / "built", update=False)
            continue
        with pytest.raises(DataError, match=f"has no column '{column}'"):
            verify(tmp_path / "built", update=False)


def test_a_log_line_without_a_step_counts_no_seconds(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", slug="clip", environment={"packages": {}})
    line = '{"kind": "train", "step": %s, "seconds": 0.5}\n'
    folder.metrics_file.write_text(line % 2 + line % "null" + line % 4)
    assert folder.training_seconds() == 2.0


def test_a_checkpoint_whose_files_are_a_number_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(f'{{"format": {checkpoint.FORMAT}, "files": -1}}')
    with pytest.raises(RunError, match="is not a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_a_ledger_line_that_is_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.jsonl").write_text('[null, "x", 3]\n')
    with pytest.raises(DataError, match="not a ledger line"):
        list(lines(tmp_path / "clip.jsonl"))


def test_half_a_surrogate_pair_in_the_split_of_karpathys_json_costs_its_row(tmp_path: Path) -> None:
    rows = [
        {"filename": f"{n}.png", "split": split, "sentences": [{"raw": "a cat"}]} for n, split in enumerate(["val", "val\ud800"])
    ]
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(b"\x89PNG")
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": rows}))
    pool = diptych.read(path)
    assert (pool.uids, [bad.reason for bad in pool.quarantine]) == (
        ("0",),
        ["its split holds half a surrogate pair, which is not a character"],
    )
    path.write_text(json.dumps([{"image": "0.png", "caption": "a cat", "split": "val\ud800"}]))
    with pytest.raises(DataError, match=r"field 'split': .* holds half a surrogate pair"):
        diptych.read(path)


@pytest.mark.parametrize("word", ["ImageID", "RelationshipLabel", "XMin2", "00a1", "plays"])
def test_bytes_of_open_images_csv_that_are_no_utf8_are_named(tmp_path: Path, word: str) -> None:
    folder = Published(tmp_path).open_images_csv()
    file = folder / "oidv6-validation-annotations-vrd.csv"
    file.write_bytes(file.read_bytes().replace(word.encode(), word.encode()[:-1] + b"\xff", 1))
    with pytest.raises(DataError, match=r"annotations-vrd\.csv: is not a CSV file: .*(utf-8|UTF8)") as caught:
        diptych.read(folder, format="open-images-csv")
    assert "\n" not in str(caught.value)


def test_a_parquet_file_with_one_other_byte_in_its_schema_is_named(tmp_path: Path) -> None:
    """Arrow's reader says of some that it has not been written for them: integers of more than 64 bits."""
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"caption": ["a cat"], "width": pa.array([8], pa.uint32())}), path)
    whole, refused = path.read_bytes(), 0
    for at in range(whole.index(b"ARROW:schema"), len(whole) - 8):
        path.write_bytes(whole[:at] + b"z" + whole[at + 1 :])
        try:
            pq.read_schema(path)
        except pa.ArrowNotImplementedError:
            refused += 1
            with pytest.raises(DataError, match=r"table\.parquet: is not readable as Parquet") as caught:
                diptych.read(path)
            assert "\n" not in str(caught.value)
            break
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            continue
    assert refused


# ---------------------------------------------------------------- limits of texts and columns


def test_a_small_parquet_file_of_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    index = pa.array(np.zeros(40_000, np.int32))
    texts = pa.DictionaryArray.from_arrays(index, pa.array(["y" * 100_000]))
    rows = pa.table({"caption": texts, "nested": pa.ListArray.from_arrays(pa.array(range(40_001), pa.int32()), texts)})
    pq.write_table(rows, path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(
        DataError, match=r"table\.parquet: has .* bytes and would take 8,00.* in memory.*unpacked_bytes=8"
    ) as caught:
        diptych.read(path)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "small"
    folder.mkdir()
    pq.write_table(pa.table({"image": ["a.png"] * 3, "caption": ["a cat", "b" * 2000, "c" * 3_000]}), folder / "t.parquet")
    (folder / "a.png").write_bytes(b"\x89PNG")
    assert len(diptych.read(folder / "t.parquet")[0].texts) == 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "json"])
def test_a_text_longer_than_the_limit_is_left_out_and_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table.{ending}"
    rows = [{"image": f"{n}.png", "caption": caption} for n, caption in enumerate(["a cat", "b" * 3_000_000])]
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(b"\x89PNG")
    if ending == "csv":
        path.write_text("image,caption\n" + "".join(f"{row['image']},{row['caption']}\n" for row in rows))
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if ending == "jsonl" else json.dumps(rows))
    pool = diptych.read(path)
    assert pool.uids == ("0",)
    reason = "its caption has 3,000,000 bytes, and at most 1,048,576 are read of a text (longest_text)"
    assert [bad.reason for bad in pool.quarantine] == [reason, "there is no text"]
    assert len(diptych.read(path, longest_text=4_000_000)) == 2


def test_rows_that_bring_more_and_more_columns_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    rows = [{"image": f"{n}.png", "caption": "a cat", f"key{n}": n} for n in range(40)]
    (tmp_path / "0.png").write_bytes(b"\x89PNG")
    path.write_text("\n".join(map(json.dumps, rows)))
    pool = diptych.read(path, most_columns=30)
    assert (len(pool), len(pool.quarantine)) == (28, 12)
    assert pool.quarantine[0].reason == "line 29 brings the new column 'key28', and at most 30 are read (most_columns)"
    assert len(diptych.read(path)) == 40
    assert ReadOptions().most_columns == 1_000


def test_a_checkpoint_of_deeply_nested_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(RunError, match="is not a whole checkpoint"):
        checkpoint.load(tmp_path)
