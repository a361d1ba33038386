"""Things of one name: everything else stays as it is."""

from __future__ import annotations

import pickle

from diptych.data.graphs.nameless import nameless
from diptych.worlds.links.world import links


def test_only_what_things_are_called_changes() -> None:
    rows = links(4, seed=1)
    bare = pickle.loads(pickle.dumps(nameless(rows)))  # as a reader's process gets it
    for row in range(4):
        sample, before = bare[row], rows[row]
        assert {region.label for region in sample.regions} == {"thing"}
        assert [region.box for region in sample.regions] == [region.box for region in before.regions]
        assert (sample.relations, sample.uid) == (before.relations, before.uid)
    assert len({rows.fingerprint, bare.fingerprint, nameless(rows, "part").fingerprint}) == 3
