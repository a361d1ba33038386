"""Facts in the metadata of records: added to those that are there, and only numbers that JSON has."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from diptych.tasks._scoring.records import facts_of, with_facts


def test_facts_are_added_and_undefined_numbers_refused() -> None:
    records = with_facts(pa.table({"query": ["a"]}), classes=["", "Straße"], k=5)
    again = with_facts(records, k=6)
    assert facts_of(again) == {"classes": ["", "Straße"], "k": 6}
    assert facts_of(records)["k"] == 5
    with pytest.raises(ValueError, match="not JSON compliant"):
        with_facts(records, share=math.nan)
