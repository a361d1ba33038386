"""Grouped fields: flat names of version 0.1 as keywords, attributes, in files and in hashes."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from dataclasses import dataclass, field, replace

import pytest

from diptych.core.config import config_hash, from_plain, to_plain, with_changes
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.grouped_fields import grouped, out_of_groups
from diptych.data.graphs.label_lists import CorpusNames, LabelLists
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.recipes.bridges.mblip import MBLIP
from diptych.recipes.bridges.minigpt4 import MiniGPT4
from diptych.recipes.contrastive.ctp import CTP
from diptych.recipes.relations.penet import PENet
from diptych.recipes.relations.rlipv2 import RLIPv2


@dataclass(frozen=True, slots=True)
class Loss:
    """weight  of the term"""

    weight: float = 1.0
    margin: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Flat:
    lr: float = 1e-3
    weight: float = 1.0
    margin: float = 0.2


@grouped("loss")
@dataclass(frozen=True, kw_only=True)
class Grouped:
    lr: float = 1e-3
    loss: Loss = field(default_factory=Loss)


@dataclass(frozen=True, kw_only=True)
class Child(Grouped):
    steps: int = 3


def test_flat_names_are_taken_and_read_with_a_warning_that_names_the_group() -> None:
    with pytest.warns(DeprecationWarning, match=r"weight of Grouped is a field of its loss now: loss\.weight"):
        made = Grouped(weight=0.5)  # type: ignore[call-arg]
    assert made == Grouped(loss=Loss(weight=0.5))
    with pytest.warns(DeprecationWarning, match="margin of Grouped"):
        assert replace(made, margin=0.3) == Grouped(loss=Loss(0.5, 0.3))  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="weight of Grouped"):
        assert made.weight == 0.5  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_changes(made, {"margin": 0.4}).loss == Loss(0.5, 0.4)
        assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        _ = made.wieght  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="wieght"):
        Grouped(wieght=0.5)  # type: ignore[call-arg]


def test_sizes_of_a_q_former_are_one_group_in_all_recipes_that_have_one() -> None:
    for kind in (MiniGPT4, ArtGPT4, MBLIP):
        with pytest.warns(DeprecationWarning, match=r"former\.former_width"):
            made = kind(former_width=32)  # type: ignore[call-arg]
        assert made == from_plain(kind, {"former_width": 32})
        assert (made.former.former_width, kind().former.settings()["hidden_size"]) == (32, 768)
    assert not {"former", "former_every"} & set(out_of_groups(MiniGPT4())), "the hash of a run of before"


def test_flat_files_of_penet_and_ctp_open() -> None:
    flat = {"square": True, "mirror": 0.0, "spread_margin": 3.0, "momentum": 0.0, "lr_drops": [0.5], "warmup_from": None}
    penet = from_plain(PENet, flat)
    assert (penet.pictures.square, penet.prototype_losses.spread_margin, penet.rates.lr_drops) == (True, 3.0, (0.5,))
    assert out_of_groups(penet) == out_of_groups(PENet()) | flat | {"lr_drops": (0.5,)}
    flat = {"column": ["task"], "buffer": 4, "queue": 8, "weight_words": 0.5, "masking": "share", "keys": "own"}
    ctp = from_plain(CTP, flat)
    assert (ctp.split.column, ctp.replay.buffer, ctp.memory.queue, ctp.fusion.masking) == (("task",), 4, 8, "share")
    assert out_of_groups(ctp) == out_of_groups(CTP()) | flat | {"column": ("task",)}
    assert from_plain(CTP, to_plain(ctp)) == ctp


def test_flat_files_are_read_and_hashes_are_those_of_the_flat_list() -> None:
    flat = to_plain(Flat(weight=0.5))
    for kind in (Grouped, Child):
        made = from_plain(kind, flat)
        assert made.loss == Loss(0.5, 0.2)
        assert from_plain(kind, to_plain(made)) == made
    assert config_hash(out_of_groups(from_plain(Grouped, flat))) == config_hash(Flat(weight=0.5))
    assert from_plain(Grouped, {"margin": 0.3}).loss == Loss(1.0, 0.3), "an older file without the rest"
    with pytest.raises(UnknownName, match="wieght"):
        from_plain(Grouped, {"wieght": 0.5})
    with pytest.raises(ConfigError, match=r"Loss\.weight is 'much'"):
        from_plain(Grouped, {"weight": "much"})


def test_names_that_were_json_text_are_read_and_hash_as_the_text() -> None:
    lists = LabelLists(("cup", "táble"), ("on",))
    names = CorpusNames.counted({"cup": 2, "táble": 1}, {"on": 3})
    texts = {
        "corpus": json.dumps(names.to_json(), ensure_ascii=False, separators=(",", ":")),
        "start_names": json.dumps([lists.objects, lists.relations]),
    }
    made = from_plain(PENet, texts)
    assert (made.corpus, made.start_names) == (names, lists)
    assert from_plain(PENet, json.loads(json.dumps(to_plain(made)))) == made
    flat = out_of_groups(made)
    assert {name: flat[name] for name in texts} == texts
    assert from_plain(PENet, {"corpus": "", "start_names": ""}) == PENet()
    assert out_of_groups(PENet())["corpus"] == ""
    assert with_changes(RLIPv2.tiny(), {"corpus": texts["corpus"]}).names == names
