"""Every row of the table of releases, executed: a made-up file opens as the row says, one tensor more or less is refused in a line, a wrong
file is named, and answers are those of the modules that the release is made of."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, DiptychError
from diptych.core.image import ArrayImage
from diptych.core.registry import RECIPES
from diptych.core.systems import BASELINES, SYSTEMS
from diptych.models.io.open_address import OPENERS
from diptych.models.io.releases.clip_files import merged
from diptych.models.io.releases.families import all_releases
from diptych.models.io.releases.release import NONE_KNOWN, recognised, tensor_names
from diptych.models.io.releases.table import RELEASES

sys.path.insert(0, str(Path(__file__).parent))
import library_folders
import released_files

ROWS = {row.slug: row for row in all_releases()}
MASK_HEADS = "tests/recipes/adaptation/test_denseclip_mask_heads.py"
ELSEWHERE = {
    "croc": "tests/recipes/bridges/test_croc.py::test_every_tensor_of_a_released_folder_has_a_place",
    "llava": "tests/recipes/bridges/test_llava.py::test_the_authors_folder_is_the_same_model",
    "denseclip_detectors": f"{MASK_HEADS}::test_every_tensor_of_a_released_checkpoint_has_its_place",
    "penet": "tests/models/penet/test_penet_opened.py::test_every_released_tensor_has_its_place",
    "rlipv2": "tests/models/rlipv2/test_opened.py",
    "fiber": "tests/models/detection/test_dense_fiber.py::test_a_released_checkpoint_is_opened",
    "glip": "tests/models/detection/test_glip_opened.py",
    "ulip": "tests/recipes/points/test_ulip.py::test_a_released_file_opens_by_address",
    "rad_dino": "tests/recipes/domains/test_rad_dino.py::test_a_released_folder_is_the_same_model",
    "uni3d": "tests/recipes/points/test_ulip2.py::test_a_released_uni3d_opens_by_address",
    "stable_diffusion": "tests/models/diffusion/test_diffusers_folder.py::test_pictures_are_those_of_the_pipeline",
    "reversion": "tests/models/diffusion/test_diffusers_folder.py::test_a_learned_word_opens_by_address_and_in_diffusers",
    "medslip": "tests/recipes/domains/test_medslip.py::test_a_released_file_opens_by_address",
    "mgca": "tests/tasks/domains/test_mgca.py::test_a_made_up_checkpoint_gives_the_authors_vectors",
    "biovil": "tests/recipes/domains/test_biovil.py::test_released_weights_give_the_authors_numbers",
    "biomedclip": "tests/recipes/domains/test_biomedclip.py::test_the_published_folder_opens_by_address",
    "vilt": "tests/models/vilt/test_vilt_model.py",
    "open_clip": "tests/models/io/test_foreign.py",
    "timm": "tests/models/io/test_foreign.py",
}
"""Rows whose files are made in the tests of their systems."""
MADE = {**released_files.MADE, **library_folders.MADE}
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
PICTURE = ArrayImage(PIXELS)


def test_every_row_is_executed_and_belongs_to_a_system() -> None:
    slugs = {system.slug for system in (*SYSTEMS, *BASELINES)} | set(RECIPES)
    root = Path(__file__).parents[3]
    for row in all_releases():
        assert set(row.systems) <= slugs, row.slug
        if not row.address:
            assert row.source.startswith(NONE_KNOWN)
            continue
        assert all((row.source, row.licence, row.opens, row.checked)), row.slug
        assert (row.slug in MADE) != (row.slug in ELSEWHERE), row.slug
    for where in ELSEWHERE.values():
        file, _, test = where.partition("::")
        assert f"def {test}" in (root / file).read_text(encoding="utf-8"), where
    assert len(ROWS) == len(all_releases()), "each slug once"
    assert MADE.keys() <= ROWS.keys()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: Any) -> dict[str, str]:
    """The address of each made-up file, written when first asked for."""

    class Written(dict[str, str]):
        def __missing__(self, slug: str) -> str:
            self[slug] = MADE[slug](tmp_path_factory.mktemp(slug))
            return self[slug]

    return Written()


@pytest.mark.parametrize("slug", sorted(released_files.MADE))
def test_a_made_up_file_opens_as_the_row_says(slug: str, addresses: dict[str, str]) -> None:
    row = ROWS[slug]
    model: Any = dp.load(addresses[slug])
    assert type(model).__name__ == row.opens
    if hasattr(model, "embed_images"):
        vector = model.embed_images([PICTURE])
        assert vector.shape == model.embed_texts(["a red bus"]).shape
        np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, atol=1e-5)


FILES = [slug for slug in sorted(released_files.MADE) if not ROWS[slug].address.startswith(("hf:", "keep:", "tips:", "filip:"))]


@pytest.mark.parametrize("slug", FILES)
def test_a_tensor_more_or_less_is_refused_in_a_line(slug: str, addresses: dict[str, str], tmp_path: Path) -> None:
    prefix, _, rest = addresses[slug].partition(":")
    file, _, behind = rest.partition("#")
    content = torch.load(file, weights_only=False)
    inside = next((content[key] for key in ("state_dict", "model", "ImgEncoder_state_dict") if key in content), content)
    lost = [
        name
        for name in inside
        if name.endswith(("ln_post.weight", "norm.weight", "bn1.weight", "ctx", "visual.norm.bias")) and "_m." not in name
    ][-1]
    for name, tensor in (("nobody.knows.this", torch.zeros(2)), (lost, None)):
        changed = {key: value for key, value in inside.items() if key != name} | ({name: tensor} if tensor is not None else {})
        nested = next((key for key in ("state_dict", "model", "ImgEncoder_state_dict") if key in content), "")
        torch.save({**content, nested: changed} if nested else changed, tmp_path / "changed.pt")
        with pytest.raises((ConfigError, DataError)) as said:
            dp.load(f"{prefix}:{tmp_path / 'changed.pt'}" + (f"#{behind}" if behind else ""))
        assert "\n" not in str(said.value)
        assert "changed.pt" in str(said.value)


def test_a_wrong_file_says_what_it_looks_like(addresses: dict[str, str], tmp_path: Path) -> None:
    xclip, segmenter, mindspore = (addresses[slug].partition(":")[2] for slug in ("xclip", "denseclip_segmenters", "filip"))
    for address, expected in (
        (f"laclip:{xclip}", r"looks like X-CLIP, Microsoft's files \(xclip:FILE\)"),
        (f"xclip:{segmenter}", r"looks like DenseCLIP, segmenters \(denseclip:FILE\)"),
        (segmenter, r"is a file without a prefix.*looks like DenseCLIP, segmenters"),
        (f"open_clip:ViT-B-32/{segmenter}", r"looks like DenseCLIP, segmenters"),
        (f"ctp:{mindspore.partition('#')[0]}#{mindspore.partition('#')[2]}", r"looks like FILIP in MindFormers"),
        (f"hf:{addresses['keep'].partition(':')[2]}", r"looks like KEEP \(keep:FOLDER\)"),
    ):
        with pytest.raises(DiptychError, match=expected) as said:
            dp.load(address)
        assert "\n" not in str(said.value)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"expected the weights of LaCLIP, a CLIP\)$"):
        dp.load(f"laclip:{tmp_path / 'other.pt'}")


def test_files_are_recognised(addresses: dict[str, str]) -> None:
    for slug, others in {
        "xclip": set(), "denseclip_segmenters": set(), "coop": set(), "plip_person": set(), "laclip": set(), "svlc": set(), "ctp": set(),
        "filip": set(), "tips": set(), "alip": {"dreamlip", "laclip_laion", "negclip", "metaclip", "georsclip"},
    }.items():  # fmt: skip
        path = Path(addresses[slug].partition(":")[2].partition("#")[0])
        assert {row.slug for row in recognised(path, RELEASES)} == {slug} | others, tensor_names(path)[:5]


def test_only_the_records_of_the_list_are_read(tmp_path: Path) -> None:
    import argparse

    from diptych.models.io.tensor_files import read_content

    class Elsewhere:
        pass

    Elsewhere.__module__, Elsewhere.__qualname__ = "collections", "UserDict"
    known = {
        "args": argparse.Namespace(lr=1.0),
        "best": np.float64(0.5),
        "step": np.int64(3),
        "state_dict": {"a": torch.zeros(1)},
    }
    torch.save(known, tmp_path / "known.pt")
    content = read_content(tmp_path / "known.pt")
    assert (content["best"], content["step"], content["args"].lr) == (0.5, 3, 1.0)
    from pathlib import PosixPath

    torch.save({"state_dict": {}, "where": PosixPath("x")}, tmp_path / "path.pt")
    with pytest.raises(
        DataError, match=r"path\.pt: not read, since it asks for pathlib.*PosixPath \(expected tensors, plain values"
    ) as said:
        read_content(tmp_path / "path.pt")
    assert "\n" not in str(said.value)
    assert np.dtype not in torch.serialization.get_safe_globals(), "allowed for that read alone"


def test_the_command_lists_them(addresses: dict[str, str], capsys: Any) -> None:
    assert main(["weights", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["releases"]
    assert [row["slug"] for row in rows] == list(ROWS)
    assert all(
        set(row) == {"slug", "systems", "title", "address", "source", "licence", "opens", "checked", "prompt"} for row in rows
    )
    assert main(["weights", "laclip"]) == 0
    assert "BSD-2-Clause" in capsys.readouterr().out
    file = addresses["xclip"].partition(":")[2]
    assert main(["weights", "--file", file]) == 0
    assert re.search(r"^xclip .*xclip:FILE$", capsys.readouterr().out, re.MULTILINE)
    assert main(["weights", "xcilp"]) == 2
    assert "did you mean 'xclip'" in capsys.readouterr().err


def test_each_prefix_has_an_opener_that_is_there() -> None:
    import importlib

    for prefix, where in OPENERS.items():
        module, _, name = where.partition(":")
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        assert callable(value), prefix


# ---------------------------------------------------------------- answers


def unit(vector: Any) -> torch.Tensor:
    return F.normalize(torch.as_tensor(vector).detach().double(), dim=-1)


CLIPS = {"alip": False, "dreamlip": False, "laclip_laion": False, "negclip": False, "metaclip": True, "georsclip": False}


@pytest.mark.parametrize("slug", sorted(CLIPS))
def test_vectors_of_a_clip_are_open_clips(slug: str, addresses: dict[str, str], parity: Any) -> None:
    import open_clip

    theirs, _ = released_files.clip(quick=CLIPS[slug])
    model: Any = dp.load(addresses[slug])
    pixels = model.preprocess([PIXELS])
    with torch.no_grad():
        expected = unit(theirs.encode_image(pixels)), unit(theirs.encode_text(open_clip.tokenize(["a red bus", "two dogs"])))
    found = model.embed_images([PICTURE]), model.embed_texts(["a red bus", "two dogs"])
    pairs = list(zip(found, expected, strict=True))
    parity(
        ROWS[slug].systems[0], f"vectors of an opened file ({slug})", "open_clip's CLIP on equal weights", pairs, tolerance=1e-5
    )


def test_laclips_small_data_layout_is_timms_and_clips(addresses: dict[str, str], parity: Any) -> None:
    vision, tensors = released_files.slip()
    model: Any = dp.load(addresses["laclip"])
    assert (model.preprocess.mean[0], model.preprocess.interpolation) == (0.485, "bilinear")
    with torch.no_grad():
        expected = unit(vision(model.preprocess([PIXELS])) @ tensors["image_projection"])
        text, _ = released_files.clip(quick=True)
        text.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(("visual.", "image_"))}, strict=False)
        import open_clip

        words = unit(text.encode_text(open_clip.tokenize(["a red bus"])))
    pairs = [(model.embed_images([PICTURE]), expected), (model.embed_texts(["a red bus"]), words)]
    parity(
        "laclip", "vectors of an opened file (laclip)", "timm's ViT and CLIP's text side on equal weights", pairs, tolerance=1e-5
    )


def test_low_rank_updates_are_added_as_loralib_adds_them(addresses: dict[str, str], parity: Any) -> None:
    theirs, tensors = released_files.clip(quick=True)
    adapted = released_files.with_updates(tensors)
    own = dict(tensors)
    for name in adapted:
        if name.endswith("lora_B"):
            weight = name.removesuffix("_lora_B") if "in_proj" in name else name.replace("lora_B", "weight")
            update = adapted[name] @ adapted[name[:-1] + "A"]
            own[weight] = own[weight] + update.view(own[weight].shape) / 4
    theirs.load_state_dict(own, strict=False)
    model: Any = dp.load(addresses["svlc"])
    with torch.no_grad():
        expected = unit(theirs.encode_image(model.preprocess([PIXELS])))
    pairs = [(model.embed_images([PICTURE]), expected)]
    parity("svlc", "vectors of an opened file", "open_clip's CLIP on the merged weights", pairs, tolerance=1e-5)
    with pytest.raises(ConfigError, match="has no"):
        merged({name: t for name, t in adapted.items() if name != "visual.conv1.lora_A"})


def test_keep_is_its_modules_put_together(addresses: dict[str, str], tmp_path: Path, parity: Any) -> None:
    vision, head, text = released_files.keep_modules(tmp_path)
    model: Any = dp.load(addresses["keep"])
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")(
        ["a red bus", "the tree"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = [unit(head(vision(model.preprocess([PIXELS])))), unit(text(**words).pooler_output)]
    found = [model.embed_images([PICTURE]), model.embed_texts(["a red bus", "the tree"])]
    assert model.model.log_scale.item() == pytest.approx(3.2)
    parity("keep", "vectors of an opened folder", "timm and transformers, put together as released", zip(found, expected, strict=True),
           tolerance=1e-5)  # fmt: skip


def test_persons_texts_are_berts_pooled_vectors(addresses: dict[str, str], tmp_path: Path, parity: Any) -> None:
    place, text, _, _ = released_files.person_tensors(tmp_path)
    model: Any = dp.load(addresses["plip_person"])
    assert (model.preprocess.size, model.preprocess.height) == (64, 128)
    words = transformers.AutoTokenizer.from_pretrained(place)(["a red bus"], return_tensors="pt")
    with torch.no_grad():
        expected = unit(text(**words).pooler_output)
    found = model.embed_texts(["a red bus"])
    parity(
        "plip_person", "texts of an opened file", "transformers' BertModel on equal weights", [(found, expected)], tolerance=1e-5
    )


def test_ctps_sides_are_the_transformers_that_they_are_made_of(addresses: dict[str, str], tmp_path: Path, parity: Any) -> None:
    place, vision, lower, tensors = released_files.ctp_modules(tmp_path)
    model: Any = dp.load(addresses["ctp"])
    words = transformers.AutoTokenizer.from_pretrained(place)(["a red bus"], return_tensors="pt")
    with torch.no_grad():
        seen = vision.forward_features(model.preprocess([PIXELS]))[:, 0]
        read = lower(**words).last_hidden_state[:, 0]
        expected = [unit(F.linear(vector, tensors[f"{side}_proj.weight"], tensors[f"{side}_proj.bias"]))
                    for side, vector in (("vision", seen), ("text", read))]  # fmt: skip
    found = [model.embed_images([PICTURE]), model.embed_texts(["a red bus"])]
    assert model.model.log_scale.exp().item() == pytest.approx(1 / 0.07)
    assert {name.partition(".")[0] for name in model.left} == {"text_encoder", "text_mlm_encoder", "distill_temp", "image_queue",
                                                               "text_queue", "queue_ptr"}  # fmt: skip
    parity(
        "ctp",
        "vectors of an opened file",
        "timm's ViT and transformers' BertModel",
        zip(found, expected, strict=True),
        tolerance=1e-5,
    )


def test_albef_reads_pairs_and_says_where(addresses: dict[str, str], tmp_path: Path, parity: Any) -> None:
    """Lower layers by transformers, upper ones written out from the tensors."""
    place, vision, lower, tensors = released_files.albef_modules(tmp_path)
    model: Any = dp.load(addresses["albef"])
    words = transformers.AutoTokenizer.from_pretrained(place)(["a red bus"], return_tensors="pt")
    at = "text_encoder.bert.encoder.layer."

    def dense(x: Any, name: str) -> Any:
        return F.linear(x, tensors[f"{at}{name}.weight"], tensors[f"{at}{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (64,), tensors[f"{at}{name}.weight"], tensors[f"{at}{name}.bias"], 1e-12)

    def attention(x: Any, seen: Any, name: str) -> tuple[Any, Any]:
        q, k, v = (dense(y, f"{name}.self.{part}").unflatten(-1, (2, 32)).transpose(1, 2)
                   for y, part in ((x, "query"), (seen, "key"), (seen, "value")))  # fmt: skip
        share = (q @ k.transpose(-2, -1) / 32**0.5).softmax(-1)
        return norm(dense((share @ v).transpose(1, 2).flatten(2), f"{name}.output.dense") + x, f"{name}.output.LayerNorm"), share

    with torch.no_grad():
        seen = vision.forward_features(model.preprocess([PIXELS]))
        x = lower(**words).last_hidden_state
        shares = []
        for n in (2, 3):
            x, _ = attention(x, x, f"{n}.attention")
            x, share = attention(x, seen, f"{n}.crossattention")
            shares.append(share)
            x = norm(dense(F.gelu(dense(x, f"{n}.intermediate.dense")), f"{n}.output.dense") + x, f"{n}.output.LayerNorm")
        answer = F.linear(x[:, 0], tensors["itm_head.weight"], tensors["itm_head.bias"])[0]
    found = model.score_pairs([PICTURE], ["a red bus"], query="text")
    (place_map,) = model.map_match(PICTURE, ["a red bus"], layer=3)
    expected = (answer[1] - answer[0]).reshape(1, 1)
    parity(
        "groundvlp",
        "log-odds of an opened ALBEF",
        "transformers and the upper layers written out",
        [(found, expected)],
        tolerance=1e-5,
    )
    assert place_map.weight_LHW.shape == (5, 2, 2)
    assert place_map.score == pytest.approx(float(expected), abs=1e-5)
    assert "text_encoder.cls.predictions.bias" in model.left
    with pytest.raises(ConfigError, match=r"layer is 1 \(expected 2\.\.3: lower ones read no picture"):
        model.map_match(PICTURE, ["a red bus"], layer=1)


def test_tips_reads_lower_case_pieces_without_marks(addresses: dict[str, str]) -> None:
    model: Any = dp.load(addresses["tips"])
    row = model.tokenizer.encode(["A RED bus", ""], 6)
    assert row.ids_BL.tolist() == [[3, 5, 6, 0, 0, 0], [0] * 6]
    assert row.mask_BL.sum(1).tolist() == [3, 0]
    assert model.preprocess.size == 448
    assert model.model.log_scale.exp().item() == pytest.approx(50.0)
    assert not np.allclose(model.reading("second").embed_images([PICTURE]), model.embed_images([PICTURE]))


def test_filip_is_mindformers(addresses: dict[str, str], parity: Any) -> None:
    """A plain rewriting of filip_modules.py, from the tensors in their own names."""
    model: Any = dp.load(addresses["filip"])
    tensors = released_files.filip_tensors(len(released_files.published.bert_words()))

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.gamma"], tensors[f"{name}.beta"])

    def blocks(x: Any, side: str, causal: bool) -> Any:
        for n in range(2):
            at = f"{side}.encoder.blocks.{n}"
            seen = norm(x, f"{at}.layernorm1")
            q, k, v = (
                F.linear(seen, tensors[f"{at}.attention.dense{i}.weight"], tensors[f"{at}.attention.dense{i}.bias"])
                for i in (1, 2, 3)
            )
            weights = q @ k.transpose(-2, -1) / 8.0
            if causal:
                weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), -1e9)
            x = (
                x
                + (weights.softmax(-1) @ v) @ tensors[f"{at}.attention.projection.weight"]
                + tensors[f"{at}.attention.projection.bias"]
            )
            inside = norm(x, f"{at}.layernorm2") @ tensors[f"{at}.output.mapping.weight"] + tensors[f"{at}.output.mapping.bias"]
            inside = inside * torch.sigmoid(1.702 * inside)
            x = x + inside @ tensors[f"{at}.output.projection.weight"] + tensors[f"{at}.output.projection.bias"]
        return x

    pixels = model.preprocess([PIXELS])
    x = F.conv2d(pixels, tensors["image_encoder.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = (
        torch.cat([tensors["image_encoder.class_embedding"].expand(1, 1, -1), x], 1)
        + tensors["image_encoder.positional_embedding"]
    )
    x = norm(blocks(norm(x, "image_encoder.ln_pre"), "image_encoder.transformer", False), "image_encoder.ln_post")
    patches = (x @ tensors["image_encoder.proj"])[:, 1:].reshape(1, 2, 2, 16)
    learner = "image_encoder.token_learner"
    chosen = F.conv2d(
        norm(patches, f"{learner}.norm").permute(0, 3, 1, 2), tensors[f"{learner}.attntion_maps.0.weight"], groups=8
    )
    chosen = (
        F.conv2d(chosen, tensors[f"{learner}.attntion_maps.1.weight"])
        .permute(0, 2, 3, 1)
        .reshape(1, 4, 3)
        .transpose(1, 2)
        .softmax(-1)
    )
    values = (
        F.conv2d(patches.permute(0, 3, 1, 2), tensors[f"{learner}.feat_conv.weight"], groups=8)
        .permute(0, 2, 3, 1)
        .reshape(1, 4, 16)
    )
    row = model.tokenizer.encode(["a red bus"], 12)
    ids = torch.from_numpy(row.ids_BL)
    words = tensors["text_encoder.embedding_table"][ids] + tensors["text_encoder.positional_embedding"]
    words = (
        norm(blocks(words, "text_encoder.transformer_layer", True), "text_encoder.ln_final")
        @ tensors["text_encoder.text_projection"]
    )
    expected = unit((chosen @ values)[0]), unit(words[0][torch.from_numpy(row.mask_BL[0])])
    found = model.embed_patches([PICTURE])[0], model.embed_words(["a red bus"])[0]
    parity("filip", "tokens of an opened checkpoint", "MindFormers' filip_modules.py, rewritten", zip(found, expected, strict=True),
           tolerance=1e-5)  # fmt: skip


def test_a_segmenters_pyramid_and_head_are_mmsegmentations(addresses: dict[str, str], parity: Any) -> None:
    """From the map of the backbone on, by the released names: FPN and FPNHead written out."""
    model: Any = dp.load(addresses["denseclip_segmenters"])
    tensors, network = released_files.segmenter_tensors(), model.model.eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense = network.tap(image)
        score = network.guide(dense)
        maps = list(dense.maps)
        maps[2] = torch.cat([maps[2], score], 1)
        sides = [
            F.conv2d(m, tensors[f"neck.lateral_convs.{n}.conv.weight"], tensors[f"neck.lateral_convs.{n}.conv.bias"])
            for n, m in enumerate(maps)
        ]
        for n in (2, 1, 0):
            sides[n] = sides[n] + F.interpolate(sides[n + 1], size=sides[n].shape[2:], mode="nearest")
        levels = [F.conv2d(m, tensors[f"neck.fpn_convs.{n}.conv.weight"], tensors[f"neck.fpn_convs.{n}.conv.bias"], padding=1)
                  for n, m in enumerate(sides)]  # fmt: skip
        total: Any = 0
        for n, x in enumerate(levels):
            for step in range(max(1, n)):
                at = f"decode_head.scale_heads.{n}.{2 * step}"
                norm = [tensors[f"{at}.bn.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")]
                x = F.batch_norm(F.conv2d(x, tensors[f"{at}.conv.weight"], padding=1), *norm).relu()
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if n else x
            total = total + x
        expected = F.conv2d(total, tensors["decode_head.conv_seg.weight"], tensors["decode_head.conv_seg.bias"])
        found = network(image).logit_NKHW
    assert model.settings.text["act"] == model.settings.image["act"] == "quick_gelu"
    assert (model.stride, model.preprocess.size, model.classes) == (42, 64, ("wall", "sky", "tree"))
    parity(
        "denseclip",
        "logits of an opened segmenter",
        "FPN and FPNHead, written out by the released names",
        [(found, expected)],
        tolerance=1e-5,
    )


def test_prompts_go_with_a_clip_and_its_classes(addresses: dict[str, str], tmp_path: Path) -> None:
    model: Any = dp.load(addresses["coop"])
    tensors = torch.load(addresses["coop"].partition(":")[2].partition("#")[0], weights_only=False)["state_dict"]
    assert torch.equal(model.prompted.bank.context, tensors["ctx"])
    assert (model.prompts.count, model.prompts.tail, model.classes) == (4, ".", ())
    (tmp_path / "classes.txt").write_text("cat\ndog\nbus\n")
    named: Any = dp.load(f"{addresses['coop']}#{tmp_path / 'classes.txt'}")
    assert named.classes == ("cat", "dog", "bus")
    assert named.classify([PICTURE]).shape == (1, 3)
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    with pytest.raises(ConfigError, match="learned for 3 classes and 2 are named"):
        dp.load(f"{addresses['coop']}#{tmp_path / 'two.txt'}")


def test_microsofts_names_are_those_of_transformers_read_back(addresses: dict[str, str], parity: Any) -> None:
    theirs = released_files.clip_of_videos()
    model: Any = dp.load(addresses["xclip_hub"])
    ids = torch.tensor([[52, 7, 8, 53], [52, 9, 10, 53]])
    video = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=video, attention_mask=torch.ones_like(ids)).logits_per_video
        model.model.ids_KL, model.model.mask_KL = ids, torch.ones_like(ids).bool()
        found = model.model(video).logit_NK
    parity("xclip", "logits of an opened folder", "transformers' XCLIPModel", [(found, expected)], tolerance=1e-4)
