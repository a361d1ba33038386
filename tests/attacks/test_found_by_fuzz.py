"""What fuzzing found once, kept as cases of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from diptych.core.errors import DataError, RunError
from diptych.data.columns import refuse_duplicates
from diptych.data.read.caption_sources import captions_by_uid
from diptych.index.facts import Facts


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
