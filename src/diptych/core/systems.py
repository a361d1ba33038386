"""The systems table: published systems of language-image pre-training and where each one lives.

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
        """True if the system's file exists (weaker than `works`)."""
        return _module_file(self.entry).is_file()

    @property
    def works(self) -> bool:
        """True with command line, page, recorded parity and, where something is learned, a verdict with controls."""
        return not facts(self.slug)["missing"] if self.slug in _facts() else False

    @property
    def verdict(self) -> str:
        """The verdict on the system's main claim after Holm's correction, in words; a system may work although its claim was reversed."""
        return str(facts(self.slug).get("verdict", "not judged")) if self.slug in _facts() else "not judged"

    @property
    def judged(self) -> str:
        """The verdict, and where the main claim is a mechanism check and not the paper's, that."""
        return self.verdict + (" (mechanism check)" if self._kind == "mechanism check" else "")

    @property
    def _kind(self) -> str:
        return str(facts(self.slug).get("kind", "")) if self.slug in _facts() else ""

    @property
    def shown(self) -> bool:
        """True if the main claim is the paper's and its verdict after Holm's correction is `shown`.

        A mechanism check (a part does what it is meant to do) does not count.
        """
        return self.verdict == "shown" and self._kind == "paper's claim"

    @property
    def missing(self) -> tuple[str, ...]:
        """Reasons why the system does not work yet; empty when it works."""
        return tuple(facts(self.slug)["missing"]) if self.slug in _facts() else ("not built",)

    @property
    def not_built(self) -> str:
        """Error message for a system that is not built yet."""
        return f"'{self.slug}' ({self.title}) is one of the {len(SYSTEMS)} systems but is not built yet"

    def load(self) -> Any:
        """Import the entry point."""
        if not self.built:
            raise ConfigError(self.not_built)
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
    System("rlipv2", "RLIPv2 (with RLIPv1/ParSe as baselines) and its Relation Tagger", "relational", "diptych.recipes.relations.rlipv2:RLIPv2", also=("curate/tagging/relation_tags.py",)),
    System("plip_person", "PLIP, person representation", "domains", "diptych.recipes.domains.plip_person:PLIPPerson", also=("curate/operators/identity_seed.py", "curate/operators/person_captions.py")),
    System("dreamlip", "DreamLIP, long captions", "objectives", "diptych.recipes.contrastive.dreamlip:DreamLIP"),
    System("filip", "FILIP, token-wise late interaction", "objectives", "diptych.recipes.contrastive.filip:FILIP", also=("index/kinds/late.py",)),
    System("medslip", "MeDSLIP, dual stream", "domains", "diptych.recipes.domains.medslip:MeDSLIP"),
    System("desco", "DesCo, description-conditioned detection", "graphs", "diptych.recipes.grounding.desco:DesCo"),
    System("ptp", "Position-guided Text Prompt", "data", "diptych.recipes.grounding.ptp:PTP", also=("curate/operators/position_prompts.py", "recipes/grounding/ptp_vilt.py")),
    System("ctp", "CTP, continual pre-training", "objectives", "diptych.recipes.contrastive.ctp:CTP", also=("tasks/pairs/continual.py",)),
    System("alip", "ALIP, adaptive weights with synthetic captions", "objectives", "diptych.recipes.contrastive.alip:ALIP"),
    System("denseclip", "DenseCLIP", "adaptation", "diptych.recipes.adaptation.denseclip:DenseCLIP", also=("recipes/adaptation/denseclip_boxes.py", "recipes/adaptation/denseclip_masks.py")),
    System("relationbooth", "RelationBooth", "graphs", "diptych.recipes.generation.relationbooth:RelationBooth"),
    System("laclip", "LaCLIP, language rewrites", "data", "diptych.recipes.contrastive.laclip:LaCLIP", also=("curate/operators/rewrite.py",)),
    System("biomedclip", "BiomedCLIP and the PMC-15M pipeline", "domains", "diptych.recipes.domains.biomedclip:BiomedCLIP", also=("curate/operators/pubmed.py",)),
    System("rad_dino", "RAD-DINO", "domains", "diptych.recipes.domains.rad_dino:RadDINO"),
    System("lexlip", "LexLIP, lexicon bottleneck", "objectives", "diptych.recipes.contrastive.lexlip:LexLIP", also=("index/kinds/lexical.py",)),
    System("realsyn", "RealSyn, interleaved documents to pairs", "data", "diptych.curate.operators.realsyn:RealSyn"),
    System("rlaif_v", "RLAIF-V", "mllm", "diptych.recipes.alignment.rlaif_v:RLAIFV"),
    System("simvlg", "SimVLG, token merging", "mllm", "diptych.recipes.bridges.simvlg:SimVLG"),
    System("growclip", "GrowCLIP", "objectives", "diptych.recipes.contrastive.growclip:GrowCLIP"),
    System("benchx", "BenchX", "domains", "diptych.tasks.domains.benchx:BenchX"),
    System("metaclip", "MetaCLIP curation", "data", "diptych.curate.operators.metaclip:MetaCLIP"),
    System("ocr_rl", "Object-centric representation pre-training for RL", "adaptation", "diptych.recipes.adaptation.ocr_rl:ObjectCentricRL"),
    System("georsclip", "RS5M and GeoRSCLIP", "domains", "diptych.recipes.domains.georsclip:GeoRSCLIP", also=("curate/operators/rs5m.py",)),
    System("ulip2", "ULIP-2", "adaptation", "diptych.recipes.points.ulip2:ULIP2"),
    System("dr_llava", "Dr-LLaVA", "domains", "diptych.recipes.domains.dr_llava:DrLLaVA"),
    System("arl", "ARL, align-reason-learn with knowledge", "domains", "diptych.recipes.domains.arl:ARL"),
    System("protoclip", "ProtoCLIP", "objectives", "diptych.recipes.contrastive.protoclip:ProtoCLIP"),
    System("coop", "CoOp (with CoCoOp)", "adaptation", "diptych.recipes.adaptation.coop:CoOp"),
    System("negclip", "ARO benchmark and NegCLIP", "data", "diptych.recipes.contrastive.negclip:NegCLIP", also=("tasks/composition/aro.py",)),
    System("ulip", "ULIP", "adaptation", "diptych.recipes.points.ulip:ULIP"),
    System("reversion", "ReVersion, relation inversion", "graphs", "diptych.recipes.generation.reversion:ReVersion"),
    System("stic", "STIC, self-training on image comprehension", "mllm", "diptych.recipes.alignment.stic:STIC"),
    System("tldr", "TL;DR data reduction", "data", "diptych.curate.operators.tldr:TLDR"),
    System("sitta", "SITTA", "mllm", "diptych.recipes.bridges.sitta:SITTA"),
    System("i2l", "In-Image Learning", "mllm", "diptych.pipelines.i2l:InImageLearning"),
    System("instructblip", "InstructBLIP", "mllm", "diptych.recipes.bridges.instructblip:InstructBLIP"),
    System("cocu", "CoCu, concept curation", "data", "diptych.curate.operators.cocu:CoCu"),
    System("lifelong_memory", "LifelongMemory", "mllm", "diptych.pipelines.lifelong_memory:LifelongMemory"),
    System("ii_bench", "II-Bench", "mllm", "diptych.tasks.choice.ii_bench:IIBench"),
    System("align", "ALIGN, noisy supervision at scale", "objectives", "diptych.recipes.contrastive.align:ALIGN", also=("curate/operators/align.py",)),
    System("snare", "SNARE", "data", "diptych.tasks.composition.snare:SNARE"),
    System("mblip", "mBLIP, multilingual", "mllm", "diptych.recipes.bridges.mblip:MBLIP"),
    System("fusecap", "FuseCap", "data", "diptych.curate.operators.fusecap:FuseCap"),
    System("limber", "LiMBeR, linear map from image to text", "mllm", "diptych.recipes.bridges.limber:LiMBeR"),
    System("laion", "LAION-5B pipeline, index and exploration page", "data", "diptych.curate.operators.laion:LAION"),
    System("chat3d_v2", "Chat-3D v2, object identifiers", "adaptation", "diptych.recipes.points.chat3d_v2:Chat3Dv2"),
    System("sg3d_vlp", "3D scene graph guided pre-training", "adaptation", "diptych.recipes.points.sg3d_vlp:SceneGraph3D"),
    System("unipt", "UniPT, pseudo texts", "domains", "diptych.recipes.domains.unipt:UniPT", also=("curate/operators/pseudo_texts.py",)),
    System("clip", "CLIP", "objectives", "diptych.recipes.contrastive.clip:CLIP"),
    System("ruig", "Reinforced UI instruction grounding", "graphs", "diptych.recipes.grounding.ruig:RUIG"),
    System("xclip", "X-CLIP, video", "adaptation", "diptych.recipes.adaptation.xclip:XCLIP"),
    System("fiber", "FIBER, fusion in the backbone", "graphs", "diptych.recipes.grounding.fiber:FIBER"),
    System("pllava", "PLLaVA", "mllm", "diptych.recipes.bridges.pllava:PLLaVA"),
    System("m3i", "M3I pre-training", "objectives", "diptych.recipes.contrastive.m3i:M3I"),
    System("q_spatial", "Q-Spatial Bench and SpatialPrompt", "mllm", "diptych.tasks.choice.q_spatial:QSpatial"),
    System("text4point", "Text4Point", "adaptation", "diptych.recipes.points.text4point:Text4Point"),
    System("ref_vlm", "REF-VLM, triplet-based referring", "graphs", "diptych.recipes.grounding.ref_vlm:RefVLM"),
    System("syvic", "SyViC, synthetic visual concepts", "data", "diptych.recipes.contrastive.syvic:SyViC", also=("worlds/scenes/world.py",)),
    System("mmrel", "MMRel", "graphs", "diptych.tasks.choice.mmrel:MMRel"),
    System("svlc", "Teaching structured vision-language concepts", "data", "diptych.recipes.contrastive.svlc:SVLC", also=("curate/operators/structured_negatives.py",)),
    System("artgpt4", "ArtGPT-4 adapters", "mllm", "diptych.recipes.bridges.artgpt4:ArtGPT4"),
    System("keep", "KEEP, knowledge-enhanced pathology", "domains", "diptych.recipes.domains.keep:KEEP"),
    System("mir", "Modality Integration Rate", "mllm", "diptych.tasks.generation.mir:MIR"),
    System("tips", "TIPS", "objectives", "diptych.recipes.contrastive.tips:TIPS"),
    System("visual_reasoning", "Multi-image reasoning with entropy and rejection", "mllm", "diptych.tasks.choice.visual_reasoning:VisualReasoning"),
    System("socialgpt", "SocialGPT and GSPO", "graphs", "diptych.pipelines.socialgpt:SocialGPT"),
    System("provision", "ProVision, instruction programs over scene graphs", "graphs", "diptych.curate.operators.provision:ProVision"),
    System("croc", "Croc", "mllm", "diptych.recipes.bridges.croc:Croc"),
    System("mono_internvl", "Mono-InternVL", "mllm", "diptych.recipes.bridges.mono_internvl:MonoInternVL"),
    System("penet", "PE-Net", "relational", "diptych.recipes.relations.penet:PENet"),
    System("minigpt4", "MiniGPT-4", "mllm", "diptych.recipes.bridges.minigpt4:MiniGPT4"),
    System("ndcr", "NDCR", "graphs", "diptych.recipes.grounding.ndcr:NDCR"),
    System("rrn", "Recurrent Relational Networks", "graphs", "diptych.recipes.relations.rrn:RRN"),
    System("biovil", "BioViL", "domains", "diptych.recipes.domains.biovil:BioViL"),
    System("rs_m_clip", "RS-M-CLIP, multilingual remote sensing", "domains", "diptych.recipes.domains.rs_m_clip:RSMCLIP", also=("curate/operators/translate.py",)),
    System("dcd", "Dynamic Contrastive Distillation", "objectives", "diptych.recipes.contrastive.dcd:DCD"),
    System("auto_bench", "Auto-Bench", "mllm", "diptych.tasks.choice.auto_bench:AutoBench", also=("curate/operators/bench_questions.py",)),
    System("rl4lms", "RL4LMs, NLPO, GRUE", "graphs", "diptych.recipes.alignment.rl4lms:RL4LMs", also=("train/engines/policy.py",)),
    System("mrl", "Matryoshka Representation Learning", "objectives", "diptych.recipes.contrastive.mrl:MRL", also=("index/kinds/nested.py",)),
    System("sgl", "SGL, symbolic goal learning", "graphs", "diptych.recipes.relations.sgl:SGL"),
    System("mc_bench", "MC-Bench", "mllm", "diptych.tasks.choice.mc_bench:MCBench"),
    System("groundvlp", "GroundVLP", "graphs", "diptych.pipelines.groundvlp:GroundVLP"),
)

BASELINES: tuple[System, ...] = (
    System("siglip", "SigLIP, a sigmoid for every pair (baseline)", "objectives", "diptych.recipes.contrastive.siglip:SigLIP"),
    System("locked", "Locked towers with cached features (baseline)", "objectives", "diptych.recipes.contrastive.locked:Locked"),
    System("fused", "A matcher that reads image and text together (baseline)", "objectives", "diptych.recipes.contrastive.fused:FusedMatcher"),
    System("llava", "LLaVA, an image projector before a language model (baseline)", "mllm", "diptych.recipes.bridges.llava:LLaVA"),
    System("linear_map", "A linear map between two frozen encoders, in closed form (baseline)", "objectives", "diptych.recipes.contrastive.linear_map:LinearMap"),
)
# fmt: on

_BY_SLUG = {system.slug: system for system in (*SYSTEMS, *BASELINES)}


def rows() -> tuple[System, ...]:
    """Every system, then the baselines."""
    return (*SYSTEMS, *BASELINES)


def find(slug: str) -> System:
    """The row of that name; near matches come from all systems and baselines, also those that are not built yet.

    >>> find("fillip")
    Traceback (most recent call last):
    ...
    diptych.core.errors.UnknownName: unknown system 'fillip'; did you mean 'filip'?
    """
    name = slug.lower().replace("-", "_")
    if name not in _BY_SLUG:
        raise UnknownName("system", slug, _BY_SLUG, hint="`diptych systems` lists them all")
    return _BY_SLUG[name]


def slugs(room: str = "", *, built: bool = False) -> list[str]:
    """Names of systems and baselines, of one room, optionally only those whose file is there."""
    return [s.slug for s in _BY_SLUG.values() if (not room or s.room == room) and (not built or s.built)]


def facts(slug: str) -> dict[str, Any]:
    """Recorded state of a system, from `make systems`: {"missing": [...], "verdict": ..., "verdicts": {...}, "parity": [...]}."""
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
