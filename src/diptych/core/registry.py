"""Registries of all named components: entry strings, imported on first use. Other packages can add names without a fork.

    RECIPES     what `diptych train` takes          diptych.recipes
    OPERATORS   what `diptych curate` takes         diptych.operators
    TASKS       what `diptych eval` takes           diptych.tasks
    PIPELINES   what `diptych run` takes            diptych.pipelines
    WORLDS      what stands after "world:"          diptych.worlds
    INDEXES     what `index build --kind` takes     diptych.indexes
    ENGINES     how a recipe comes to its weights   diptych.engines
    MODELS      the kinds of model folders          diptych.models
    MEDIA       what a sample may hold              diptych.media
    IMAGE_WEIGHTS, TEXT_WEIGHTS   encoders that come in packages   diptych.image_weights, diptych.text_weights
    TEXT_BACKENDS   what writes texts in curation   diptych.text_backends
    EXTRACTORS  which option a reply means         diptych.extractors
    REWARDS     scores of generated texts           diptych.rewards

The right column is the entry-point group by which an installed distribution adds its own, in its `pyproject.toml`:

    [project.entry-points."diptych.recipes"]
    my_clip = "my_package.recipes:MyCLIP"

Systems of the table (`core.systems`) are in the registry of their room by themselves, as soon as their file is there.
"""

from __future__ import annotations

from diptych.core.entries import Registry
from diptych.core.registry_tables.models import MODEL_ENTRIES
from diptych.core.registry_tables.tasks import TASK_ENTRIES
from diptych.core.registry_tables.worlds import WORLD_ENTRIES

RECIPES = Registry(
    "recipe",
    "diptych.recipes",
    {
        "codebook_captioner": (
            "diptych.recipes.generation.codebook_captioner:CodebookCaptionerRecipe",
            "captions by the codes of image patches",
        ),
        "concept_texts": (
            "diptych.recipes.contrastive.concept_texts:ConceptTexts",
            "captions and concepts that `curate cocu` found, as positives of an image",
        ),
        "denseclip_boxes": (
            "diptych.recipes.adaptation.denseclip_boxes:DenseCLIPBoxes",
            "boxes by a RetinaNet that class names guide, on a trained model",
        ),
        "denseclip_masks": (
            "diptych.recipes.adaptation.denseclip_masks:DenseCLIPMasks",
            "boxes and masks of instances by a Mask R-CNN that class names guide, on a trained model",
        ),
        "fiber_cider": (
            "diptych.recipes.grounding.fiber_cider:FIBERCider",
            "captions that are drawn and rewarded by CIDEr-D, the last stage of FIBER's",
        ),
        "fiber_statements": (
            "diptych.recipes.grounding.fiber_statements:FIBERStatements",
            "whether a statement is true of two pictures (NLVR2), by FIBER",
        ),
        "mix": (
            "diptych.recipes.contrastive.mix:Mix",
            "parts of the recipes over pairs, each by a field: texts, loss, gates, prefixes, queue",
        ),
        "mrl_classes": (
            "diptych.recipes.contrastive.mrl_classes:MRLClasses",
            "a classifier on every prefix of an image's vector, from labels",
        ),
        "text_to_image": (
            "diptych.recipes.generation.text_to_image:TextToImage",
            "pictures from prompts by diffusion, from scratch or from published weights",
        ),
        "ptp_vilt": (
            "diptych.recipes.grounding.ptp_vilt:PTPViLT",
            "block prompts for one transformer over words and patches",
        ),
        "ruig_supervised": (
            "diptych.recipes.grounding.ruig:ScreenLikelihood",
            "the box that an instruction means by cross-entropy, what RUIG starts from",
        ),
        "rl4lms_supervised": (
            "diptych.recipes._shared.text_policy.supervised_text:SupervisedText",
            "text behind prompts by cross-entropy, the baseline of RL4LMs and its warm start",
        ),
    },
    room="recipes",
)
OPERATORS = Registry(
    "curation operator",
    "diptych.operators",
    {
        "align": ("diptych.curate.operators.align:AlignFilters", "sizes, shapes and texts of web pairs, by counting"),
        "bench_questions": (
            "diptych.curate.operators.bench_questions:BenchQuestions",
            "drops nothing: questions to ask models, from boxes and relations",
        ),
        "exact_duplicates": (
            "diptych.curate.duplicates.exact:ExactDuplicates",
            "images that are the same file, or the same pixels",
        ),
        "face_boxes": ("diptych.curate.filters.face_boxes:FaceBoxes", "drops nothing: boxes of faces, for blurring"),
        "hard_images": ("diptych.curate.operators.hard_images:HardImages", "drops nothing: the images that look most like each"),
        "generated_captions": (
            "diptych.curate.operators.generated_captions:GeneratedCaptions",
            "a caption for every image, by a model that writes",
        ),
        "identity_seed": (
            "diptych.curate.operators.identity_seed:IdentitySeed",
            "persons that trackers mixed up, by their pictures",
        ),
        "image_scores": (
            "diptych.curate.filters.image_heads:ImageScores",
            "drops nothing: scores of images by a head that you trained",
        ),
        "near_duplicates": ("diptych.curate.duplicates.near:NearDuplicates", "images that look like another one"),
        "noun_knowledge": (
            "diptych.curate.operators.noun_knowledge:NounKnowledge",
            "drops nothing: what nouns are and look like, a file for desco",
        ),
        "overhead_captions": (
            "diptych.curate.operators.overhead_captions:OverheadCaptions",
            "drops nothing: captions of pictures from above, by a model that writes and from what is known of them",
        ),
        "person_captions": (
            "diptych.curate.operators.person_captions:PersonCaptions",
            "drops nothing: a sentence about each person from six attributes, by 1,664 templates",
        ),
        "personal_data": (
            "diptych.curate.filters.personal_data:PersonalData",
            "texts with mail addresses, telephone, card and account numbers",
        ),
        "position_prompts": (
            "diptych.curate.operators.position_prompts:PositionPrompts",
            "which block of a picture holds a thing, in words",
        ),
        "pseudo_texts": (
            "diptych.curate.operators.pseudo_texts:PseudoTexts",
            "drops nothing: what a frozen model sees of each person, in attributes and a sentence",
        ),
        "pubmed": (
            "diptych.curate.operators.pubmed:PubMedFigures",
            "figures of articles by licence, caption, type and panels",
        ),
        "relation_tags": (
            "diptych.curate.operators.relation_tagging:TagRelations",
            "relations for images that have boxes and captions, by a trained tagger",
        ),
        "rewrite": (
            "diptych.curate.operators.rewrite:Rewrite",
            "drops nothing: captions in other words, further texts of each row",
        ),
        "rs5m": ("diptych.curate.operators.rs5m:RS5M", "pictures from above out of web pairs, stage by stage"),
        "semantic_duplicates": (
            "diptych.curate.duplicates.semantic:SemanticDuplicates",
            "images that mean the same, by a model's embeddings",
        ),
        "structured_negatives": (
            "diptych.curate.operators.structured_negatives:StructuredNegatives",
            "drops nothing: wrong captions and right ones, by a word that is replaced",
        ),
        "target_clusters": (
            "diptych.curate.filters.target_clusters:TargetClusters",
            "images in the clusters of a target set",
        ),
        "text_duplicates": ("diptych.curate.duplicates.text:TextDuplicates", "texts that are nearly those of another row"),
        "top_fraction": (
            "diptych.curate.operators.top_fraction:TopFraction",
            "the share of rows with the highest values of a column",
        ),
        "train_head": (
            "diptych.curate.filters.image_heads:TrainHead",
            "drops nothing: a head that judges images, from a column of labels",
        ),
        "translate": (
            "diptych.curate.operators.translate:Translate",
            "drops nothing: captions in further languages, by a model that writes",
        ),
        "view_captions": (
            "diptych.curate.operators.view_captions:ViewCaptions",
            "drops nothing: captions of every view of an object, by a model that writes, ranked by another",
        ),
        "template_captions": (
            "diptych.curate.operators.synthetic_captions:TemplateCaptions",
            "drops nothing: writes a caption from what the data know",
        ),
    },
    room="curate",
)
TASKS = Registry(
    "task",
    "diptych.tasks",
    TASK_ENTRIES,
    room="tasks",
)
PIPELINES = Registry(
    "pipeline",
    "diptych.pipelines",
    {
        "alignment": ("diptych.pipelines.alignment:Align", "which parts of a picture a text is about"),
        "picture_words": (
            "diptych.pipelines.picture_words:WordsOfPicture",
            "which words a picture becomes, and where they stand",
        ),
        "instructions": ("diptych.pipelines.instructions:Instructions", "steps for an instruction in a picture"),
        "composed_search": (
            "diptych.pipelines.composed_search:ComposedSearch",
            "a picture and a text together: 'this, but at night'",
        ),
    },
    room="pipelines",
)
WORLDS = Registry(
    "world",
    "diptych.worlds",
    WORLD_ENTRIES,
)
INDEXES = Registry(
    "kind of index",
    "diptych.indexes",
    {
        "dense": ("diptych.index.kinds.dense:DenseIndex", "a vector a sample"),
        "nested": ("diptych.index.kinds.nested:NestedIndex", "short vectors first, whole ones for the best"),
        "lexical": ("diptych.index.kinds.lexical:LexicalIndex", "words"),
        "late": ("diptych.index.kinds.late:LateIndex", "a vector a patch or word"),
        "hybrid": ("diptych.index.kinds.hybrid:HybridIndex", "words and vectors"),
        "graphs": ("diptych.index.kinds.graphs:GraphIndex", "scene graphs, by triplet"),
    },
)
ENGINES = Registry(
    "engine",
    "diptych.engines",
    {
        "supervised": ("diptych.train.engines.supervised:Supervised", "gradients of losses on batches"),
        "solve": ("diptych.train.engines.solve:Solve", "closed form, one pass over the data"),
        "preference": ("diptych.train.engines.preference:Preference", "which of two answers is better"),
        "policy": ("diptych.train.engines.policy:Policy", "answers that the model gives itself, and their reward"),
    },
)
MODELS = Registry(
    "kind of model",
    "diptych.models",
    MODEL_ENTRIES,
)
"""The word in config.json -> the class that reads it. A word and not an import path: a model folder may come from anywhere."""
MEDIA = Registry(
    "medium",
    "diptych.media",
    {
        "image": ("diptych.data.media.picture:Picture", "one picture of 8 bits a channel"),
        "images": ("diptych.data.media.picture:Pictures", "several pictures"),
        "clip": ("diptych.data.media.clip:Clip", "frames of a video: pictures, or an animated GIF or WebP"),
        "cloud": ("diptych.data.media.cloud:Cloud", "points with features"),
        "volume": ("diptych.data.media.volume:Volume", "slices of a scan"),
        "slide": ("diptych.data.media.slide:Slide", "a whole slide, read by region"),
        "raster": ("diptych.data.media.raster:Raster", "bands of 8, 16 or 32 bits, or of floats"),
    },
)
IMAGE_WEIGHTS = Registry(
    "image encoder",
    "diptych.image_weights",
    {"efficientnet-lite0": ("diptych.models.io.weights:lite0", "EfficientNet-Lite0 of ImageNet-1k, 1,280 dimensions")},
)
TEXT_WEIGHTS = Registry(
    "text encoder",
    "diptych.text_weights",
    {"minilm-l6": ("diptych.models.io.weights:minilm", "all-MiniLM-L6-v2 of English sentences, 384 dimensions")},
)
TEXT_BACKENDS = Registry(
    "text backend",
    "diptych.text_backends",
    {
        "grammar": ("diptych.curate.writing.backend_address:open_grammar", "rules of paraphrase"),
        "ngram": ("diptych.curate.writing.backend_address:open_ngram", "an n-gram model of texts"),
        "folder": ("diptych.curate.writing.backend_address:open_folder", "a language model in a folder of transformers"),
        "gguf": ("diptych.curate.writing.backend_address:open_gguf", "a language model in a GGUF file"),
        "endpoint": ("diptych.curate.writing.backend_address:open_endpoint", "any OpenAI-compatible endpoint"),
    },
)
"""Each takes a `curate.writing.backend_address.BackendOptions` and gives a `TextBackend`."""
EXTRACTORS = Registry(
    "extractor",
    "diptych.extractors",
    {
        "strict": ("diptych.tasks.choice.extractors:strict", "what a reply says outright; the default"),
        "ii_bench": ("diptych.tasks.choice.released_extractors:ii_bench", "as II-Bench is released"),
        "vlmevalkit": ("diptych.tasks.choice.released_extractors:vlmevalkit", "as VLMEvalKit matches without a judge"),
        "muirbench": ("diptych.tasks.choice.released_extractors:muirbench", "as lmms-eval reads MUIRBench"),
    },
)

REWARDS = Registry(
    "reward",
    "diptych.rewards",
    {
        "dates": ("diptych.tasks._scoring.rewards.text_rewards:date_reward", "1 for a text with a date such as 2024-05-01"),
        "repetition": (
            "diptych.tasks._scoring.rewards.text_rewards:repetition_reward",
            "share of word pairs that were there before",
        ),
    },
)
"""Functions `reward(prompts, answers, references)`, one score an answer. Further ones of Diptych take arguments and are named in
`tasks._scoring.rewards.text_rewards`."""

# fmt: off
REGISTRIES: tuple[Registry, ...] = (
    RECIPES, OPERATORS, TASKS, PIPELINES, WORLDS, INDEXES, ENGINES, MODELS, MEDIA, IMAGE_WEIGHTS, TEXT_WEIGHTS, TEXT_BACKENDS,
    EXTRACTORS, REWARDS,
)
# fmt: on
