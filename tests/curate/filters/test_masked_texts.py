"""Masked texts stand in the place of the data's own, and hold no personal data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.curate.filters.personal_data import PersonalData, mask_personal_data, personal_data_in
from diptych.data.dataset import Pool
from diptych.data.lineage.why import row_history
from diptych.data.shards.build import build, open_built


def test_masked_texts_replace_those_of_earlier_steps(tmp_path: Path) -> None:
    card = "4111 1111 1111 1111"
    texts = (Text("a dog", "en"), Text("mail a@b.org or 555-123-4567", "en"), Text(f"card {card}", origin="negative"))
    twin = (Text("ask c@d.org", "en"),)
    same, other = (ArrayImage(np.full((8, 8, 3), grey, np.uint8)) for grey in (50, 200))
    build(
        Pool.from_samples([Sample("a", same, texts), Sample("b", same, twin), Sample("c", other, (Text("a cat"),))]),
        tmp_path / "in",
    )
    steps = [ExactDuplicates(), PersonalData(mask=True)]
    done = curate(open_built(tmp_path / "in"), steps, tmp_path / "out", source=str(tmp_path / "in"))
    assert list(done.kept.uids) == ["a", "c"]
    again = {sample.uid: sample.texts for sample in open_pool(tmp_path / "out")}
    assert [(text.string, text.language, text.origin) for text in again["a"]] == [
        ("a dog", "en", "caption"),
        ("mail <EMAIL> or <PHONE>", "en", "caption"),
        ("card <CREDIT_CARD>", "", "negative"),
        ("ask <EMAIL>", "en", "caption"),
    ]
    assert [text.string for text in again["c"]] == ["a cat"]
    lines = [event.line for event in row_history(tmp_path / "out", "a")]
    assert any("a@b.org" in line for line in lines)
    assert any("<EMAIL> or <PHONE>" in line for line in lines)


@given(
    st.lists(st.sampled_from(["a dog", "x@y.org", "+49 170 1234567", "GB82 WEST 1234 5698 7654 32", "8.8.8.8", "7"]), max_size=6)
)
def test_no_personal_data_is_left_in_a_masked_text(parts: list[str]) -> None:
    text = ", ".join(parts)
    masked = mask_personal_data(text)
    assert personal_data_in(masked) == []
    assert masked.count("<") == sum(bool(personal_data_in(part)) for part in parts)
