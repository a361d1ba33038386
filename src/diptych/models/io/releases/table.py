"""The releases of weights that open by address, one row each; `diptych weights`, the page and the tests are made of it.

Sources and licences are those that the authors' repositories state; "not stated" where they state none. A licence of code need not be that
of the weights, and neither is that of the data.
"""

from __future__ import annotations

from diptych.models.io.releases.release import NONE_KNOWN, Release

DRIVE = "Google Drive, linked in the README of"
CLIP_TEMPLATES = "CLIP's templates for ImageNet"
_CLIP = (r"visual\.transformer\.resblocks\.0\.attn\.in_proj_weight", r"token_embedding\.weight", r"logit_scale")
_NOT_CLIP = (r"mit\.", r".+lora_A", r"point_encoder\.", r"visual\.transformer\.resblocks\.\d+\.message_fc")

RELEASES: tuple[Release, ...] = (
    Release(
        slug="xclip", systems=("xclip",), title="X-CLIP, Microsoft's files", address="xclip:FILE",
        source="github.com/nbl97/X-CLIP_Model_Zoo, releases (k400_16_8.pth and others)", licence="MIT (repository)",
        opens="VideoEmbedder", checked="logits of VideoX/X-CLIP on equal weights; XCLIPModel of transformers", prompt="bare class names",
        names=(r"mit\.positional_embedding", r"prompts_generator\.alpha", r"visual\.conv1\.weight"),
    ),
    Release(
        slug="xclip_hub", systems=("xclip",), title="X-CLIP, folders of XCLIPModel", address="hf:FOLDER",
        source="huggingface.co/microsoft/xclip-base-patch32 and others", licence="MIT (model card)", opens="VideoEmbedder",
        checked="logits of transformers' XCLIPModel on a small folder", prompt="bare class names", model_type="xclip",
    ),
    Release(
        slug="denseclip_detectors", systems=("denseclip", "denseclip_boxes", "denseclip_masks"), title="DenseCLIP, detectors",
        address="denseclip:FILE", source="Tsinghua Cloud, linked in the README of github.com/raoyongming/DenseCLIP",
        licence="MIT (repository)", opens="DenseClipDetectorModel",
        checked="names and sizes of the authors' modules; maps, texts, scores and heads on equal weights",
        names=(r"context_decoder\.", r"backbone\.", r"(bbox_head|roi_head)\."),
    ),
    Release(
        slug="denseclip_segmenters", systems=("denseclip",), title="DenseCLIP, segmenters", address="denseclip:FILE",
        source="Tsinghua Cloud, linked in the README of github.com/raoyongming/DenseCLIP", licence="MIT (repository)",
        opens="DenseClipSegmenterModel", checked="names of the authors' modules; every part on equal weights",
        names=(r"context_decoder\.", r"backbone\.", r"decode_head\."),
    ),
    Release(
        slug="coop", systems=("coop",), title="CoOp and CoCoOp, a prompt_learner", address="coop:FILE#MODEL",
        source=f"{DRIVE} github.com/KaiyangZhou/CoOp", licence="MIT (repository)", opens="PromptedEmbedder",
        checked="prompts and logits of the authors' code on equal weights", prompt="the learned context before the class name",
        names=(r"(prompt_learner\.)?ctx$",),
    ),
    Release(
        slug="penet", systems=("penet",), title="PE-Net, and in SGG-Benchmark's names", address="penet:FILE#predcls, #sgcls or #sgdet",
        source="linked in the README of github.com/VL-Group/PENET; SGG-Benchmark publishes no PE-Net", licence="not stated",
        opens="GraphRelater",
        checked="scores, losses and features of the authors' code on equal weights",
        names=(r"roi_heads\.relation\.predictor\.(context_layer\.)?obj_embed\.weight", r"backbone\.body\.stem\.conv1\.weight"),
    ),
    Release(
        slug="rlipv2", systems=("rlipv2",), title="RLIPv2, RLIP-ParSe and their detectors", address="rlipv2:FILE#ROBERTA-FOLDER",
        source="linked in the README of github.com/JacobYuan7/RLIPv2", licence="not stated", opens="GraphDetector",
        checked="every box and logit of the released code on small random weights",
        names=(r"(transformer\.encoder\.layers|transformer\.ho_decoder|input_proj)\.", r"(verb|obj|sub)_.*embed.*"),
    ),
    Release(
        slug="fiber", systems=("fiber", "desco"), title="FIBER's second stage, and DesCo on it", address="fiber:FILE#ROBERTA-FOLDER",
        source="linked in github.com/microsoft/FIBER (fine_grained); huggingface.co/harold/DesCo", licence="MIT (repositories)",
        opens="DenseFiberPhraseDetector", checked="tokens, boxes and logits of the released code on equal weights",
        names=(r"fusion_backbone\.backbone\.body\.patch_embed\.proj\.weight",),
    ),
    Release(
        slug="glip", systems=("desco",), title="GLIP, and DesCo on GLIP-T", address="glip:FILE#BERT-FOLDER",
        source="linked in github.com/microsoft/GLIP; huggingface.co/harold/DesCo", licence="MIT (repositories)",
        opens="DensePhraseDetector", checked="tokens, boxes and logits of the released code on equal weights",
        names=(r"language_backbone\.body\.model\.", r"rpn\.head\.bias_lang"),
    ),
    Release(
        slug="albef", systems=("groundvlp",), title="ALBEF and TCL, GroundVLP's matchers", address="albef:FILE#BERT-FOLDER",
        source="storage.googleapis.com/sfr-pcl-data-research/ALBEF/ALBEF.pth; TCL.pth linked in github.com/om-ai-lab/GroundVLP",
        licence="BSD-3-Clause (ALBEF), MIT (TCL) (repositories)", opens="AlbefMatcher",
        checked="timm's ViT, transformers' BertModel and the upper layers written out, on equal weights", prompt="'there is a {}'",
        names=(r"visual_encoder\.cls_token", r"itm_head\.weight", r"text_encoder\.(bert\.)?encoder\.layer\."), without=(r"text_decoder\.",),
    ),
    Release(
        slug="ulip", systems=("ulip", "ulip2"), title="ULIP with a Point-BERT or PointNeXt-S, ULIP-2 with a Point-BERT",
        address="ulip:FILE or ulip:FILE#MODEL",
        source="huggingface.co/datasets/SFXX/ulip", licence="BSD-3-Clause (repository)", opens="PointCloudEmbedder",
        checked="names and sizes of the authors' modules; vectors on equal weights", names=(r"point_encoder\.", r"pc_projection"),
    ),
    Release(
        slug="uni3d", systems=("ulip2",), title="Uni3D, tiny to giant", address="uni3d:FILE#MODEL",
        source="huggingface.co/BAAI/Uni3D", licence="MIT (repository)", opens="PointCloudEmbedder",
        checked="names and sizes of timm's models; vectors against the tower written out on equal weights",
        names=(r"point_encoder\.encoder2trans\.weight", r"point_encoder\.trans2embed\.weight"),
    ),
    Release(
        slug="biovil", systems=("biovil",), title="BioViL and BioViL-T", address="biovil:CXR-BERT-FOLDER#IMAGE-FILE",
        source="huggingface.co/microsoft/BiomedVLP-CXR-BERT-specialized and BiomedVLP-BioViL-T", licence="MIT (model cards)",
        opens="PhraseEmbedder", checked="vectors of hi-ml-multimodal on equal weights",
        prompt="'findings suggesting {}' against 'no evidence of {}', raw vectors averaged",
        names=(r"projector\.model\.0\.weight", r"encoder\.encoder\.conv1\.weight"), model_type="cxr-bert",
    ),
    Release(
        slug="medslip", systems=("medslip",), title="MeDSLIP", address="medslip:FILE#BERT-FOLDER, with a book.json in the folder",
        source="huggingface.co/pykale/MeDSLIP", licence="not stated", opens="FindingReader",
        checked="losses, logits and attention of the released code on equal weights", prompt="the book's explanations",
        names=(r"decoder_pathology\.layers\.0\.", r"mask_generator\.weight", r"pathology_embedding_layer\.weight"),
    ),
    Release(
        slug="mgca", systems=("benchx",), title="MGCA, one of the encoders of BenchX", address="mgca:FILE#BERT-FOLDER",
        source=f"{DRIVE} github.com/HKU-MedAI/MGCA", licence="not stated", opens="PairEmbedder",
        checked="timm's and torchvision's networks and transformers' BertModel, put together as the authors do, on equal weights",
        names=(r"img_encoder_q\.global_embed\.head\.0\.weight", r"text_encoder_q\.global_embed\.head\.0\.weight"),
    ),
    Release(
        slug="rad_dino", systems=("rad_dino",), title="RAD-DINO, a folder of Dinov2Model", address="rad_dino:FOLDER",
        source="huggingface.co/microsoft/rad-dino", licence="MSRLA, later MIT (model card)", opens="ImageTowerEmbedder",
        checked="class token and patches of transformers' Dinov2Model on a small folder", model_type="dinov2",
    ),
    Release(
        slug="keep", systems=("keep",), title="KEEP", address="keep:FOLDER", source="huggingface.co/Astaxanthin/KEEP",
        licence="MIT (repository)", opens="PairEmbedder", checked="timm's and transformers' modules, put together as the authors do",
        prompt="the authors' templates for pathology, such as 'an H&E image of {}.'",
        names=(r"visual_head\.2\.weight", r"text\.embeddings\."), model_type="keep",
    ),
    Release(
        slug="plip_person", systems=("plip_person",), title="PLIP, persons", address="plip_person:FILE#BERT-FOLDER",
        source=f"{DRIVE} github.com/Zplusdragon/PLIP", licence="MIT (repository)", opens="PersonEmbedder",
        checked="image tower of the authors' code on equal weights; transformers' BertModel",
        names=(r"ImgEncoder_state_dict\.", r"TxtEncoder_state_dict\."),
    ),
    Release(
        slug="alip", systems=("alip",), title="ALIP, ViT-B/32", address="alip:FILE", source=f"{DRIVE} github.com/deepglint/ALIP",
        licence="MIT (README)", opens="PairEmbedder", checked="open_clip's ViT-B-32 on equal weights", prompt=CLIP_TEMPLATES,
        names=_CLIP, without=_NOT_CLIP,
    ),
    Release(
        slug="dreamlip", systems=("dreamlip",), title="DreamLIP, ViT-B/16", address="dreamlip:FILE",
        source=f"{DRIVE} github.com/zyf0619sjtu/DreamLIP", licence="CC-BY-4.0 (repository)", opens="PairEmbedder",
        checked="open_clip's ViT-B-16 on equal weights", prompt=CLIP_TEMPLATES, names=_CLIP, without=_NOT_CLIP,
    ),
    Release(
        slug="laclip", systems=("laclip",), title="LaCLIP of CC3M, CC12M and RedCaps, ViT-B/16", address="laclip:FILE",
        source="Dropbox, linked in the README of github.com/LijieFan/LaCLIP", licence="BSD-2-Clause (repository)",
        opens="PairEmbedder", checked="vectors of the authors' model on equal weights",
        prompt="seven of CLIP's templates",
        names=(r"visual\.cls_token", r"image_projection", r"token_embedding\.weight"),
        without=(r"point_encoder\.",),
    ),
    Release(
        slug="laclip_laion", systems=("laclip",), title="LaCLIP of LAION-400M, ViT-B and L", address="laclip:FILE",
        source="Dropbox, linked in the README of github.com/LijieFan/LaCLIP", licence="BSD-2-Clause (repository)", opens="PairEmbedder",
        checked="open_clip's ViT-B-32 on equal weights", prompt=CLIP_TEMPLATES, names=_CLIP, without=_NOT_CLIP,
    ),
    Release(
        slug="negclip", systems=("negclip",), title="NegCLIP, ViT-B/32", address="negclip:FILE",
        source="Google Drive, linked in github.com/mertyg/vision-language-models-are-bows", licence="MIT (repository)",
        opens="PairEmbedder", checked="open_clip's ViT-B-32 on equal weights", prompt=CLIP_TEMPLATES, names=_CLIP, without=_NOT_CLIP,
    ),
    Release(
        slug="metaclip", systems=("metaclip",), title="MetaCLIP 1, ViT-B to bigG", address="metaclip:FILE",
        source="dl.fbaipublicfiles.com/MMPT/metaclip, linked in github.com/facebookresearch/MetaCLIP", licence="CC-BY-NC (repository)",
        opens="PairEmbedder", checked="open_clip's ViT-B-32-quickgelu on equal weights", prompt=CLIP_TEMPLATES, names=_CLIP,
        without=_NOT_CLIP,
    ),
    Release(
        slug="georsclip", systems=("georsclip",), title="GeoRSCLIP, ViT-B/32, L/14 and H/14", address="georsclip:FILE",
        source="huggingface.co/Zilun/GeoRSCLIP", licence="MIT (repository)", opens="PairEmbedder",
        checked="open_clip's ViT-B-32-quickgelu on equal weights", prompt="'a satellite image of {}' and others", names=_CLIP,
        without=_NOT_CLIP,
    ),
    Release(
        slug="biomedclip", systems=("biomedclip",), title="BiomedCLIP", address="open_clip:FOLDER",
        source="huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", licence="MIT (model card)",
        opens="PairEmbedder", checked="open_clip on a small folder of its layout; names and sizes of the full one",
        prompt="'this is a photo of {}'", names=(r"visual\.trunk\.", r"text\.transformer\.encoder\.layer\."),
    ),
    Release(
        slug="svlc", systems=("svlc",), title="TSVLC, a CLIP with low-rank adapters", address="svlc:FILE",
        source=f"{DRIVE} github.com/SivanDoveh/TSVLC", licence="not stated", opens="PairEmbedder",
        checked="open_clip's ViT-B-32-quickgelu on the merged weights", prompt=CLIP_TEMPLATES,
        names=(r"visual\.transformer\.resblocks\.0\.attn\.in_proj_weight_lora_A", r"token_embedding\.weight"),
    ),
    Release(
        slug="tips", systems=("tips",), title="TIPS and TIPSv2, S, B, L and So400m", address="tips:VISION.npz#TEXT.npz#TOKENIZER.model",
        source="storage.googleapis.com/tips_data, linked in github.com/google-deepmind/tips (files for PyTorch)",
        licence="Apache-2.0 and CC-BY-4.0 (README)", opens="PairEmbedder", checked="both towers of the authors' code on equal weights",
        names=(r"register_tokens", r"blocks\.0\.ls1\.gamma", r"mask_token"),
    ),
    Release(
        slug="ctp", systems=("ctp",), title="CTP and CTP_ER, the model of a task", address="ctp:FILE#BERT-FOLDER",
        source=f"{DRIVE} github.com/KevinLight831/CTP", licence="MIT (repository)", opens="PairEmbedder",
        checked="transformers' BertModel and the authors' vision transformer on equal weights",
        names=(r"visual_encoder\.cls_token", r"text_mlm_encoder\.", r"vision_proj\.weight"),
    ),
    Release(
        slug="filip", systems=("filip",), title="FILIP in MindFormers, ViT-L/14 with a token learner",
        address="filip:FILE.ckpt#BERT-FOLDER",
        source="MindFormers 0.8 (mindformers/models/filip; removed since); no file of the paper's authors is known",
        licence="Apache-2.0 (MindFormers)", opens="LateEmbedder", checked="a plain rewriting of MindFormers' modules on equal weights",
        names=(r"image_encoder\.token_learner\.", r"text_encoder\.embedding_table"),
    ),
    Release(
        slug="vilt", systems=("ptp",), title="ViLT, and PTP on it in transformers' layout", address="hf:FOLDER",
        source="huggingface.co/dandelin/vilt-b32-mlm and others", licence="Apache-2.0 (model card)", opens="ViltModel",
        checked="transformers' ViltModel on a small folder", model_type="vilt",
    ),
    Release(
        slug="stable_diffusion", systems=("text_to_image", "reversion", "relationbooth"), title="Stable Diffusion 1.x, 2.x and XL",
        address="hf:FOLDER", source="huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5 and others",
        licence="CreativeML OpenRAIL-M and its like (model cards)", opens="TextToImageModel",
        checked="pictures of diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline on small folders",
    ),
    Release(
        slug="reversion", systems=("reversion",), title="ReVersion, a learned word", address="reversion:FILE#hf:FOLDER",
        source="Google Drive, linked in the README of github.com/ziqihuangg/ReVersion", licence="not stated", opens="TextToImageModel",
        checked="the file in the repository's layout; pictures of a diffusers pipeline that loaded the same word", prompt="'cat <R> stone'",
    ),
    Release(
        slug="llava", systems=("llava",), title="LLaVA 1.5 and 1.6, as their authors save them", address="llava:FOLDER#CLIP-FOLDER",
        source="huggingface.co/liuhaotian/llava-v1.5-7b, -13b and llava-v1.6-*", licence="Llama 2 Community License (model card of 1.5)",
        opens="BridgeGenerator", checked="every tensor of the published sizes; logits of transformers on a small folder",
        names=(r"model\.mm_projector\.0\.weight",), without=(r"model\.mask_token",),
    ),
    Release(
        slug="croc", systems=("croc",), title="Croc, as its authors save it", address="llava:FOLDER#CLIP-FOLDER",
        source="huggingface.co/DeepGlint-AI/LLaVA-v1.5-Croc-7b", licence="not stated (code: Apache 2.0)", opens="BridgeGenerator",
        checked="names of the released code, nothing left over; tokens of norm 1", names=(r"model\.mask_token", r"transform_block\..+"),
    ),
    *(
        Release(
            slug=slug, systems=(slug,), title=title, address="", source=f"{NONE_KNOWN}: {why}", licence="", opens="", checked="",
        )
        for slug, title, why in (
            ("dcd", "DCD", "no code or weights of the authors"),
            ("growclip", "GrowCLIP", "no code or weights of the authors"),
            ("lexlip", "LexLIP", "the repository has code alone"),
            ("protoclip", "ProtoCLIP", "the README announces checkpoints and links none"),
            ("unipt", "UniPT", "the repository links the data alone"),
        )
    ),
)  # fmt: skip
"""Releases of the systems. Those of libraries' model families are in `families`."""
