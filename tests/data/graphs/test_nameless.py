"""Things of one name: everything else stays as it is."""

from __future__ import annotations

import pickle
from pathlib import Path

from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.graphs.nameless import nameless
from diptych.data.shards.build import build
from diptych.worlds.address import open_data
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


def test_an_address_before_which_it_stands_has_nameless_things(tmp_path: Path) -> None:
    """Worlds stay rendered and folders pools, with all their splits."""
    world, bare = open_data("world:links?n=6&test=2"), open_data("nameless:world:links?n=6&test=2")
    build(Pool.from_samples((world[row] for row in range(len(world))), name="links"), tmp_path / "links")
    pool, read = open_data(tmp_path / "links"), open_data(f"nameless:{tmp_path / 'links'}")
    for named, changed in ((world, bare), (pool, read)):
        assert type(changed) is type(named)
        assert (changed.split_names, changed.uids, changed.groups) == (named.split_names, named.uids, named.groups)
        assert changed.fingerprint not in (named.fingerprint, open_data("nameless:world:links?n=6&test=2&seed=1").fingerprint)
        again = pickle.loads(pickle.dumps(changed.split("test").select([1])))[0]
        before = named.split("test")[1]
        assert {region.label for region in again.regions} == {"thing"}
        assert [region.box for region in again.regions] == [region.box for region in before.regions]
        assert (again.relations, again.uid) == (before.relations, before.uid)
    texts = Pool.from_samples([world[0]]).select([0])
    assert open_data(texts) is texts


def test_attributes_go_and_masks_stay() -> None:
    mask = {"size": [2, 2], "counts": [1, 3]}
    pool = Pool.from_samples([Sample("a", regions=(Region((0, 0, 1, 1), "cup", ("red",), 0.5, mask),)), Sample("b")])
    bare = nameless(pool, "part")
    assert bare[0].regions == (Region((0, 0, 1, 1), "part", (), 0.5, mask),)
    assert bare[1].regions == ()
    plain = Pool.from_samples([Sample("b")])
    assert nameless(plain) is plain
