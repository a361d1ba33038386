"""The systems table: 82 published systems of language-image pre-training and where each one lives.

The command line, the documentation and the tests are generated from it. Whether a row *works* is never typed in: `make systems`
computes it from facts into ``systems.json``, and this module only reads that file.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, UnknownName


@dataclass(frozen=True, slots=True)
class System:
    """One row: public name, title, family, its entry point, other files it brings.

    The entry point is a string, imported only when the system is used.
    """

    slug: str
    title: str
    family: str
    entry: str
    also: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        """The room of its own file."""
        return self.entry.split(".")[1]

    @property
    def sheet(self) -> str:
        """The family's chapter in which the system is specified."""
        return f"{self.family}#{self.slug}"

    @property
    def built(self) -> bool:
        """Whether its file is there at all (a weaker word than `works`)."""
        return _module_file(self.entry).is_file()

    @property
    def works(self) -> bool:
        """Command line, page, recorded parity and a fresh verdict with controls, whatever the verdict says."""
        return not facts(self.slug)["missing"] if self.slug in _facts() else False

    @property
    def verdict(self) -> str:
        """The fresh verdict on the system's main claim, in words; a system may work although its claim was reversed."""
        return str(facts(self.slug).get("verdict", "not judged")) if self.slug in _facts() else "not judged"

    @property
    def shown(self) -> bool:
        """Whether the main claim has a fresh verdict `shown`."""
        return self.verdict == "shown"

    @property
    def missing(self) -> tuple[str, ...]:
        """What keeps the system from working, in words; empty when it works."""
        return tuple(facts(self.slug)["missing"]) if self.slug in _facts() else ("not built",)

    def load(self) -> Any:
        """Import the entry point."""
        if not self.built:
            raise ConfigError(f"'{self.slug}' ({self.title}) is one of the {len(SYSTEMS)} systems but is not built yet")
        module, _, name = self.entry.partition(":")
        return getattr(importlib.import_module(module), name)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "room": self.room,
            "sheet": self.sheet,
            "built": self.built,
            "works": self.works,
            "verdict": self.verdict,
            "shown": self.shown,
            "missing": list(self.missing),
        }


# fmt: off
SYSTEMS: tuple[System, ...] = (
    System("rlipv2", "RLIPv2 (with RLIPv1/ParSe as baselines) and its Relation Tagger", "relational", "diptych.recipes.rlipv2:RLIPv2", also=("curate/relation_tags.py",)),
    System("plip_person", "PLIP, person representation", "domains", "diptych.recipes.plip_person:PLIPPerson"),
    System("dreamlip", "DreamLIP, long captions", "objectives", "diptych.recipes.dreamlip:DreamLIP"),
    System("filip", "FILIP, token-wise late interaction", "objectives", "diptych.recipes.filip:FILIP", also=("index/late.py",)),
    System("medslip", "MeDSLIP, dual stream", "domains", "diptych.recipes.medslip:MeDSLIP"),
    System("desco", "DesCo, description-conditioned detection", "graphs", "diptych.recipes.desco:DesCo"),
    System("ptp", "Position-guided Text Prompt", "data", "diptych.recipes.ptp:PTP", also=("curate/position_prompts.py",)),
    System("ctp", "CTP, continual pre-training", "objectives", "diptych.recipes.ctp:CTP", also=("tasks/continual.py",)),
    System("alip", "ALIP, adaptive weights with synthetic captions", "objectives", "diptych.recipes.alip:ALIP"),
    System("denseclip", "DenseCLIP", "adaptation", "diptych.recipes.denseclip:DenseCLIP"),
    System("relationbooth", "RelationBooth", "graphs", "diptych.recipes.relationbooth:RelationBooth"),
    System("laclip", "LaCLIP, language rewrites", "data", "diptych.recipes.laclip:LaCLIP", also=("curate/rewrite.py",)),
    System("biomedclip", "BiomedCLIP and the PMC-15M pipeline", "domains", "diptych.recipes.biomedclip:BiomedCLIP", also=("curate/pubmed.py",)),
    System("rad_dino", "RAD-DINO", "domains", "diptych.recipes.rad_dino:RadDINO"),
    System("lexlip", "LexLIP, lexicon bottleneck", "objectives", "diptych.recipes.lexlip:LexLIP", also=("index/lexical.py",)),
    System("realsyn", "RealSyn, interleaved documents to pairs", "data", "diptych.curate.realsyn:RealSyn"),
    System("rlaif_v", "RLAIF-V", "mllm", "diptych.recipes.rlaif_v:RLAIFV"),
    System("simvlg", "SimVLG, token merging", "mllm", "diptych.recipes.simvlg:SimVLG"),
    System("growclip", "GrowCLIP", "objectives", "diptych.recipes.growclip:GrowCLIP"),
    System("benchx", "BenchX", "domains", "diptych.tasks.benchx:BenchX"),
    System("metaclip", "MetaCLIP curation", "data", "diptych.curate.metaclip:MetaCLIP"),
    System("ocr_rl", "Object-centric representation pre-training for RL", "adaptation", "diptych.recipes.ocr_rl:ObjectCentricRL"),
    System("georsclip", "RS5M and GeoRSCLIP", "domains", "diptych.recipes.georsclip:GeoRSCLIP", also=("curate/rs5m.py",)),
    System("ulip2", "ULIP-2", "adaptation", "diptych.recipes.ulip2:ULIP2"),
    System("dr_llava", "Dr-LLaVA", "domains", "diptych.recipes.dr_llava:DrLLaVA"),
    System("arl", "ARL, align-reason-learn with knowledge", "domains", "diptych.recipes.arl:ARL"),
    System("protoclip", "ProtoCLIP", "objectives", "diptych.recipes.protoclip:ProtoCLIP"),
    System("coop", "CoOp (with CoCoOp)", "adaptation", "diptych.recipes.coop:CoOp"),
    System("negclip", "ARO benchmark and NegCLIP", "data", "diptych.recipes.negclip:NegCLIP", also=("tasks/aro.py",)),
    System("ulip", "ULIP", "adaptation", "diptych.recipes.ulip:ULIP"),
    System("reversion", "ReVersion, relation inversion", "graphs", "diptych.recipes.reversion:ReVersion"),
    System("stic", "STIC, self-training on image comprehension", "mllm", "diptych.recipes.stic:STIC"),
    System("tldr", "TL;DR data reduction", "data", "diptych.curate.tldr:TLDR"),
    System("sitta", "SITTA", "mllm", "diptych.recipes.sitta:SITTA"),
    System("i2l", "In-Image Learning", "mllm", "diptych.pipelines.i2l:InImageLearning"),
    System("instructblip", "InstructBLIP", "mllm", "diptych.recipes.instructblip:InstructBLIP"),
    System("cocu", "CoCu, concept curation", "data", "diptych.curate.cocu:CoCu"),
    System("lifelong_memory", "LifelongMemory", "mllm", "diptych.pipelines.lifelong_memory:LifelongMemory"),
    System("ii_bench", "II-Bench", "mllm", "diptych.tasks.ii_bench:IIBench"),
    System("align", "ALIGN, noisy supervision at scale", "objectives", "diptych.recipes.align:ALIGN", also=("curate/align.py",)),
    System("snare", "SNARE", "data", "diptych.tasks.snare:SNARE"),
    System("mblip", "mBLIP, multilingual", "mllm", "diptych.recipes.mblip:MBLIP"),
    System("fusecap", "FuseCap", "data", "diptych.curate.fusecap:FuseCap"),
    System("limber", "LiMBeR, linear map from image to text", "mllm", "diptych.recipes.limber:LiMBeR"),
    System("laion", "LAION-5B pipeline, index and exploration page", "data", "diptych.curate.laion:LAION"),
    System("chat3d_v2", "Chat-3D v2, object identifiers", "adaptation", "diptych.recipes.chat3d_v2:Chat3Dv2"),
    System("sg3d_vlp", "3D scene graph guided pre-training", "adaptation", "diptych.recipes.sg3d_vlp:SceneGraph3D"),
    System("unipt", "UniPT, pseudo texts", "domains", "diptych.recipes.unipt:UniPT"),
    System("clip", "CLIP", "objectives", "diptych.recipes.clip:CLIP"),
    System("ruig", "Reinforced UI instruction grounding", "graphs", "diptych.recipes.ruig:RUIG"),
    System("xclip", "X-CLIP, video", "adaptation", "diptych.recipes.xclip:XCLIP"),
    System("fiber", "FIBER, fusion in the backbone", "graphs", "diptych.recipes.fiber:FIBER"),
    System("pllava", "PLLaVA", "mllm", "diptych.recipes.pllava:PLLaVA"),
    System("m3i", "M3I pre-training", "objectives", "diptych.recipes.m3i:M3I"),
    System("q_spatial", "Q-Spatial Bench and SpatialPrompt", "mllm", "diptych.tasks.q_spatial:QSpatial"),
    System("text4point", "Text4Point", "adaptation", "diptych.recipes.text4point:Text4Point"),
    System("ref_vlm", "REF-VLM, triplet-based referring", "graphs", "diptych.recipes.ref_vlm:RefVLM"),
    System("syvic", "SyViC, synthetic visual concepts", "data", "diptych.recipes.syvic:SyViC", also=("worlds/scenes.py",)),
    System("mmrel", "MMRel", "graphs", "diptych.tasks.mmrel:MMRel"),
    System("svlc", "Teaching structured vision-language concepts", "data", "diptych.recipes.svlc:SVLC", also=("curate/structured_negatives.py",)),
    System("artgpt4", "ArtGPT-4 adapters", "mllm", "diptych.recipes.artgpt4:ArtGPT4"),
    System("keep", "KEEP, knowledge-enhanced pathology", "domains", "diptych.recipes.keep:KEEP"),
    System("mir", "Modality Integration Rate", "mllm", "diptych.tasks.mir:MIR"),
    System("tips", "TIPS", "objectives", "diptych.recipes.tips:TIPS"),
    System("visual_reasoning", "Multi-image reasoning with entropy and rejection", "mllm", "diptych.tasks.visual_reasoning:VisualReasoning"),
    System("socialgpt", "SocialGPT and GSPO", "graphs", "diptych.pipelines.socialgpt:SocialGPT"),
    System("provision", "ProVision, instruction programs over scene graphs", "graphs", "diptych.curate.provision:ProVision"),
    System("croc", "Croc", "mllm", "diptych.recipes.croc:Croc"),
    System("mono_internvl", "Mono-InternVL", "mllm", "diptych.recipes.mono_internvl:MonoInternVL"),
    System("penet", "PE-Net", "relational", "diptych.recipes.penet:PENet"),
    System("minigpt4", "MiniGPT-4", "mllm", "diptych.recipes.minigpt4:MiniGPT4"),
    System("ndcr", "NDCR", "graphs", "diptych.recipes.ndcr:NDCR"),
    System("rrn", "Recurrent Relational Networks", "graphs", "diptych.recipes.rrn:RRN"),
    System("biovil", "BioViL", "domains", "diptych.recipes.biovil:BioViL"),
    System("rs_m_clip", "RS-M-CLIP, multilingual remote sensing", "domains", "diptych.recipes.rs_m_clip:RSMCLIP"),
    System("dcd", "Dynamic Contrastive Distillation", "objectives", "diptych.recipes.dcd:DCD"),
    System("auto_bench", "Auto-Bench", "mllm", "diptych.tasks.auto_bench:AutoBench"),
    System("rl4lms", "RL4LMs, NLPO, GRUE", "graphs", "diptych.recipes.rl4lms:RL4LMs", also=("train/policy.py",)),
    System("mrl", "Matryoshka Representation Learning", "objectives", "diptych.recipes.mrl:MRL", also=("index/nested.py",)),
    System("sgl", "SGL, symbolic goal learning", "graphs", "diptych.recipes.sgl:SGL"),
    System("mc_bench", "MC-Bench", "mllm", "diptych.tasks.mc_bench:MCBench"),
    System("groundvlp", "GroundVLP", "graphs", "diptych.pipelines.groundvlp:GroundVLP"),
)

BASELINES: tuple[System, ...] = (
    System("siglip", "SigLIP, a sigmoid for every pair (baseline)", "objectives", "diptych.recipes.siglip:SigLIP"),
    System("locked", "Locked towers with cached features (baseline)", "objectives", "diptych.recipes.locked:Locked"),
)
# fmt: on

_BY_SLUG = {system.slug: system for system in (*SYSTEMS, *BASELINES)}


def find(slug: str, *, room: str = "") -> System:
    """The row of that name; near matches come from all systems and baselines, also those that are not built yet.

    >>> find("fillip")
    Traceback (most recent call last):
    ...
    diptych.core.errors.UnknownName: unknown system 'fillip'; did you mean 'filip'?
    """
    kind = {"recipes": "recipe", "tasks": "task", "pipelines": "pipeline", "curate": "curation operator"}.get(room, "system")
    name = slug.lower().replace("-", "_")
    if name not in _BY_SLUG:
        raise UnknownName(kind, slug, _BY_SLUG, hint="`diptych systems` lists them all")
    system = _BY_SLUG[name]
    if room and system.room != room and not any(path.startswith(f"{room}/") for path in system.also):
        raise ConfigError(f"'{slug}' ({system.title}) is not a {kind}: it lives in {system.room}/")
    return system


def slugs(room: str = "", *, built: bool = False) -> list[str]:
    """Names of systems and baselines, of one room, optionally only those whose file is there."""
    return [s.slug for s in _BY_SLUG.values() if (not room or s.room == room) and (not built or s.built)]


def facts(slug: str) -> dict[str, Any]:
    """What `make systems` found out about a system: {"missing": [...], "verdict": ..., "verdicts": {...}, "parity": [...]}."""
    return dict(_facts()[slug])


@cache
def _facts() -> dict[str, Any]:
    path = Path(__file__).with_name("systems.json")
    if not path.exists():
        return {}
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return plain


def _module_file(entry: str) -> Path:
    parts = entry.partition(":")[0].split(".")[1:]
    return Path(__file__).resolve().parents[1].joinpath(*parts).with_suffix(".py")
