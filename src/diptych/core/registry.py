"""Everything that has a name: an entry string, imported when it is used. Other packages add names without a fork.

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

The right column is the entry-point group by which an installed distribution adds its own, in its `pyproject.toml`:

    [project.entry-points."diptych.recipes"]
    my_clip = "my_package.recipes:MyCLIP"

Systems of the table (`core.systems`) are in the registry of their room by themselves, as soon as their file is there.
"""

from __future__ import annotations

from diptych.core.entries import Registry
from diptych.core.point_entries import POINT_MODELS, POINT_TASKS, POINT_WORLDS

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
        "hard_images": ("diptych.curate.operators.hard_images:HardImages", "drops nothing: the images that look most like each"),
        "generated_captions": (
            "diptych.curate.operators.generated_captions:GeneratedCaptions",
            "a caption for every image, by a model that writes",
        ),
        "identity_seed": (
            "diptych.curate.operators.identity_seed:IdentitySeed",
            "persons that trackers mixed up, by their pictures",
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
        "text_duplicates": ("diptych.curate.duplicates.text:TextDuplicates", "texts that are nearly those of another row"),
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
    {
        "person_attributes": (
            "diptych.tasks.domains.person_attributes:PersonAttributes",
            "what a person wears and carries, by words",
        ),
        "person_reid": (
            "diptych.tasks.domains.person_reid:PersonReid",
            "all pictures of a person by one of them, another camera's",
        ),
        "person_search": ("diptych.tasks.domains.person_search:PersonSearch", "all pictures of a person by a description"),
        "category_search": (
            "diptych.tasks.pairs.category_search:CategorySearch",
            "items of one category by image and text read together",
        ),
        "multilingual_retrieval": ("diptych.tasks.pairs.multilingual_retrieval:MultilingualRetrieval", "retrieval by language"),
        "retrieval": ("diptych.tasks.pairs.retrieval:Retrieval", "texts by image and images by text"),
        "segmentation": ("diptych.tasks.pairs.segmentation:Segmentation", "the class of every pixel"),
        **POINT_TASKS,
        "video_classification": (
            "diptych.tasks.pairs.video_classification:VideoClassification",
            "classes of videos",
        ),
        "video_retrieval": ("diptych.tasks.pairs.video_retrieval:VideoRetrieval", "texts by video and videos by text"),
        "zero_shot": ("diptych.tasks.pairs.zero_shot:ZeroShot", "classes named by prompts"),
        "classification": ("diptych.tasks.pairs.trained_classes:Classification", "classes that a model was trained on"),
        "few_shot": (
            "diptych.tasks.pairs.few_shot:FewShot",
            "1 to 16 labelled images a class, against zero-shot and a linear probe",
        ),
        "linear_probe": ("diptych.tasks.pairs.linear_probe:LinearProbe", "a linear classifier on frozen features"),
        "probe": ("diptych.tasks.composition.probe:Probe", "which of two texts fits the image"),
        "aro": ("diptych.tasks.composition.aro:ARO", "attributes, relations and word order exchanged (ARO)"),
        "sugarcrepe": ("diptych.tasks.composition.sugarcrepe:SugarCrepe", "fluent wrong captions (SugarCrepe and SugarCrepe++)"),
        "vl_checklist": (
            "diptych.tasks.composition.vl_checklist:VLChecklist",
            "objects, attributes, relations with one word wrong",
        ),
        "winoground": ("diptych.tasks.composition.winoground:Winoground", "two pictures and two captions of the same words"),
        "dense_probe": ("diptych.tasks.pairs.dense_probe:DenseProbe", "a linear classifier on every patch"),
        "localisation": ("diptych.tasks.pairs.localisation:Localisation", "whether the patches of a phrase lie on what it names"),
        "continual": ("diptych.tasks.pairs.continual:Continual", "what is kept of earlier tasks"),
        "captions": ("diptych.tasks.generation.captions:Captions", "captions that the model writes"),
        "chair": ("diptych.tasks.generation.chair:CHAIR", "objects that captions name and that are not there"),
        "generated_text": (
            "diptych.tasks.generation.generated_text:GeneratedText",
            "answers to prompts: rewards as metrics, and how natural they are",
        ),
        "clip_score": ("diptych.tasks.generation.clip_score:CLIPScore", "how captions fit their images, by an embedder"),
        "multiple_choice": (
            "diptych.tasks.choice.multiple_choice:MultipleChoice",
            "questions with options, in several orders of them",
        ),
        "mme": ("diptych.tasks.choice.mme:MME", "yes or no, two questions about each picture, in categories"),
        "figure_generation": (
            "diptych.tasks.generation.figure_generation:FigureGeneration",
            "generated pictures of two figures: key points, relation, identity",
        ),
        "relation_generation": (
            "diptych.tasks.generation.relation_generation:RelationGeneration",
            "generated pictures of two shapes: their relation, the things, what leaked",
        ),
        "pope": ("diptych.tasks.generation.pope:POPE", "yes or no: is this object in the image?"),
        "vqa": ("diptych.tasks.generation.vqa:VQA", "questions about images"),
        "word_ranking": ("diptych.tasks.generation.word_ranking:WordRanking", "words of a vocabulary by image"),
        "omnilabel": ("diptych.tasks.grounding.omnilabel:OmniLabel", "free descriptions and names, also of what is not there"),
        "foreground_ari": (
            "diptych.tasks.grounding.foreground_ari:ForegroundARI",
            "whether the parts that a model cuts a picture into are its objects",
        ),
        "open_detection": ("diptych.tasks.grounding.open_detection:OpenDetection", "boxes of classes, by name or description"),
        "phrase_maps": ("diptych.tasks.grounding.phrase_maps:PhraseMaps", "how well a map singles out the region of a phrase"),
        "phrase_grounding": ("diptych.tasks.grounding.phrase_grounding:PhraseGrounding", "where phrases of a caption are"),
        "reasoning": ("diptych.tasks.reasoning.solved:ReasoningTask", "problems of several steps: Sudoku, stories, jumps"),
        "image_choice": (
            "diptych.tasks.reasoning.image_choice:ImageChoice",
            "which of several similar pictures a text describes",
        ),
        "goals": ("diptych.tasks.reasoning.goals:SymbolicGoals", "what an instruction wants done, and a plan for it"),
        "referring": ("diptych.tasks.grounding.referring:Referring", "the one thing that an expression means"),
        "vg150": ("diptych.tasks.relations.vg150:VG150", "scene graphs from pixels (SGDet)"),
        "vg150_sgcls": ("diptych.tasks.relations.vg150:VG150SGCls", "scene graphs, boxes given"),
        "vg150_predcls": ("diptych.tasks.relations.vg150:VG150PredCls", "predicates, boxes and labels given"),
        "open_images_predicates": (
            "diptych.tasks.relations.open_images_relations:OpenImagesPredicates",
            "Open Images V6 relations",
        ),
        "open_images_triplets": (
            "diptych.tasks.relations.open_images_triplets:OpenImagesTriplets",
            "Open Images V6, a class a triplet",
        ),
        "hico_det": ("diptych.tasks.relations.hico_det:HicoDet", "human-object interactions of HICO-DET"),
        "v_coco": ("diptych.tasks.relations.v_coco:VCoco", "actions and roles of V-COCO"),
        "slide_detection": (
            "diptych.tasks.domains.slide_detection:SlideDetection",
            "slides with a tumour, by the share of their tiles",
        ),
        "slide_segmentation": (
            "diptych.tasks.domains.slide_segmentation:SlideSegmentation",
            "where a slide's tumour is, at a threshold from validation slides",
        ),
        "slide_subtyping": ("diptych.tasks.domains.slide_subtyping:SlideSubtyping", "kinds of tumour, by the votes of tiles"),
        "v_coco_triplets": ("diptych.tasks.relations.v_coco_triplets:VCocoTriplets", "V-COCO, a class a triplet"),
    },
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
    {
        "scenes": ("diptych.worlds.scenes.world:scenes", "objects with colours, sizes and relations"),
        "questions": ("diptych.worlds.scenes.questions:questions", "scenes with questions about colour, shape, number, presence"),
        "descriptions": (
            "diptych.worlds.scenes.descriptions:descriptions",
            "scenes with careless captions, some described in full",
        ),
        "styles": ("diptych.worlds.scenes.styles:styles", "scenes blurred, inverted or dithered, as their captions say"),
        "languages": ("diptych.worlds.scenes.languages:languages", "scenes with captions in three languages, word order and all"),
        "scene_pairs": ("diptych.worlds.scenes.pairs:scene_pairs", "pairs of scenes with a text that both together answer"),
        "statements": (
            "diptych.worlds.scenes.statements:statements",
            "pairs of scenes with a statement that is true of them or not",
        ),
        "invented": ("diptych.worlds.scenes.invented:invented", "shapes with made-up names, known by their descriptions"),
        "links": ("diptych.worlds.links.world:links", "shapes that are linked in pairs"),
        "tailed_links": ("diptych.worlds.links.tailed:tailed_links", "linked shapes whose predicates come up by Zipf's law"),
        "pedestrians": (
            "diptych.worlds.people.world:pedestrians",
            "persons by their attributes, several pictures and captions each",
        ),
        "small_pairs": ("diptych.worlds.small_pairs:small_pairs", "two coloured shapes in nine cells, some with another's text"),
        "asked_pairs": ("diptych.worlds.asked_pairs:asked_pairs", "two coloured shapes in nine cells, asked by where they are"),
        "claimed_pairs": (
            "diptych.worlds.claimed_pairs:claimed_pairs",
            "two coloured shapes in nine cells, with statements that hold or not",
        ),
        "pair_languages": (
            "diptych.worlds.pair_languages:pair_languages",
            "two coloured shapes with captions in three languages",
        ),
        "chests": ("diptych.worlds.chests.world:chests", "chest X-rays with reports, lesions in six zones, boxes and masks"),
        "overhead": ("diptych.worlds.overhead.world:overhead", "views from above at any rotation, captions in ten languages"),
        "overhead_scenes": ("diptych.worlds.overhead.scenes:overhead_scenes", "large views from above as GeoTIFF"),
        "screens": ("diptych.worlds.screens.world:screens", "pages with buttons, fields and icons, and what to act on"),
        "sprites": ("diptych.worlds.sprites.world:sprites", "coloured shapes on black, with the mask of each"),
        "tissue": (
            "diptych.worlds.tissue.world:tissue",
            "tiles of sixteen kinds of tumour in four families, captions at mixed levels",
        ),
        "tissue_dialogues": (
            "diptych.worlds.tissue.dialogues:tissue_dialogues",
            "tiles of tissue with five questions whose answers hang together",
        ),
        "slides": ("diptych.worlds.tissue.slides:slides", "whole slides, half of them with a small share of tumour"),
        "mirrored": ("diptych.worlds.scenes.mirrored:mirrored", "two things side by side, each scene with its mirror image"),
        "long_tail": ("diptych.worlds.long_tail:long_tail", "one shape an image, of kinds that come up by Zipf's law"),
        "sudoku": ("diptych.worlds.problems.sudoku:sudoku", "Sudoku of 4, 6 or 9 digits with one solution"),
        "stories": ("diptych.worlds.problems.stories:stories", "persons, places and things in short sentences, with a question"),
        "jumps": ("diptych.worlds.problems.jumps:jumps", "eight things, and where jumps to the nearest one lead"),
        "image_sets": ("diptych.worlds.problems.image_sets:image_sets", "ten pictures that differ little, and a text about one"),
        "clips": ("diptych.worlds.clips:clips", "one moving shape, in classes that are each other's reverse in time"),
        **POINT_WORLDS,
        "related": ("diptych.worlds.related.world:related", "two coloured shapes in one of eight relations, for generation"),
        "figures": ("diptych.worlds.figures.world:figures", "two stick figures in a relation, with pictures of each alone"),
        "exemplars": ("diptych.worlds.related.world:exemplars", "pictures of one relation, {} in place of its name"),
        "kitchens": ("diptych.worlds.kitchens.world:kitchens", "kitchens with an instruction and the goal it means"),
        "emoji_vendors": (
            "diptych.worlds.emoji_vendors:emoji_vendors",
            "the same concepts by one vendor of emoji after the other",
        ),
    },
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
    {
        "blip": ("diptych.models.blip.blip_model:BlipModel", "compares, matches and writes"),
        "bridge": ("diptych.models.bridges.writer:BridgeGenerator", "an image encoder before a language model"),
        "codebook_captioner": ("diptych.models.blip.codebook_captioner:CodebookCaptionModel", "captions by codes"),
        "conditioned_prompts": (
            "diptych.models.pairs.prompted.embedder:ConditionedEmbedder",
            "class names behind context that each image shifts",
        ),
        "dense_detector": ("diptych.models.denseclip.detecting:DenseClipDetectorModel", "boxes of the classes of training"),
        "dense_fiber_detector": (
            "diptych.models.fiber.dense:DenseFiberPhraseDetector",
            "boxes for phrases, as FIBER's second stage is released",
        ),
        "dense_phrase_detector": (
            "diptych.models.detection.dense.dense_detector:DensePhraseDetector",
            "boxes for phrases, as GLIP and DesCo are released",
        ),
        "dense_segmenter": ("diptych.models.denseclip.segmenting:DenseClipSegmenterModel", "the class of every pixel"),
        "dual_encoder": ("diptych.models.pairs.embedder:PairEmbedder", "two towers"),
        "describing_bridge": (
            "diptych.models.bridges.aligned.describing:DescribingGenerator",
            "an image encoder before a language model, which describes an image before it answers",
        ),
        "fiber": ("diptych.models.fiber.fiber_model:FiberModel", "compares, matches, answers and writes, fused or not"),
        "fiber_detector": ("diptych.models.fiber.grounding:FiberPhraseDetector", "boxes for phrases, on the towers of FIBER"),
        "fiber_statements": (
            "diptych.models.fiber.statements:FiberStatementClassifier",
            "whether a statement is true of two pictures",
        ),
        "graph_relater": (
            "diptych.models.penet.graph_relater:GraphRelater",
            "relations between things, one prototype a predicate",
        ),
        "late_encoder": ("diptych.models.pairs.late.embedder:LateEmbedder", "two towers, compared token by token"),
        "lexical_encoder": ("diptych.models.lexlip.lexical_embedder:LexicalModel", "two towers, weights over words"),
        "linear_map": ("diptych.models.pairs.frozen.locked:LinearMapEmbedder", "a closed-form map between frozen encoders"),
        "image_encoder": ("diptych.models.pairs.image_embedder:ImageTowerEmbedder", "an image tower alone"),
        "phrase_encoder": ("diptych.models.pairs.phrase_embedder:PhraseEmbedder", "two towers, patches in the joint space"),
        "relational_reasoner": ("diptych.models.reasoning.reasoner:RelationalReasoner", "answers problems in steps"),
        "screen_grounder": ("diptych.models.screens.screen_grounder:ScreenGrounder", "the box that an instruction means"),
        "set_picker": ("diptych.models.reasoning.set_picker:SetPicker", "picks the picture of a set that a text describes"),
        "goal_predictor": ("diptych.models.reasoning.goal_predictor:GoalPredictorModel", "goals of instructions"),
        "locked": ("diptych.models.pairs.frozen.locked:LockedEmbedder", "trained heads on frozen encoders"),
        "named_after": (
            "diptych.models.detection.named_after:NearestCropDetector",
            "a detector of things, each named like the known crop that it looks most like",
        ),
        "nested_classifier": (
            "diptych.models.pairs.classifiers.class_embedder:ClassEmbedder",
            "an image tower with classifiers on prefixes",
        ),
        "matcher": ("diptych.models.pairs.matching.embedder:MatcherModel", "reads an image and a text together"),
        "fused_pairs": (
            "diptych.models.pairs.matching.fused_embedder:FusedPairs",
            "two towers, and a vector of image and text together",
        ),
        "person_encoder": ("diptych.models.people.person_embedder:PersonEmbedder", "two towers for persons; biometric"),
        "word_writer": ("diptych.models.bridges.word_writer:WordCaptioner", "words of a picture before a language model"),
        "object_encoder": ("diptych.models.slots.object_encoder:ObjectEncoder", "a picture as slots, for a policy"),
        "phrase_detector": ("diptych.models.detection.phrase_detector:PhraseDetector", "boxes for phrases of a text"),
        "reference_to_image": (
            "diptych.models.diffusion.reference_model:ReferenceImageModel",
            "makes pictures of given things",
        ),
        "text_to_image": ("diptych.models.diffusion.text_to_image:TextToImageModel", "makes pictures of prompts"),
        "prompted": ("diptych.models.pairs.prompted.embedder:PromptedEmbedder", "class names behind learned context"),
        "text_generator": ("diptych.models.policy.text_generator:TextGenerator", "a language model that writes behind a prompt"),
        "vilt": ("diptych.models.vilt.vilt_model:ViltModel", "reads words and patches in one transformer"),
        "video_encoder": ("diptych.models.video.video_embedder:VideoEmbedder", "clips and class names"),
        **POINT_MODELS,
        "relation_detector": ("diptych.models.rlipv2.graph_detector:GraphDetector", "things and the relations between them"),
    },
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

# fmt: off
REGISTRIES: tuple[Registry, ...] = (
    RECIPES, OPERATORS, TASKS, PIPELINES, WORLDS, INDEXES, ENGINES, MODELS, MEDIA, IMAGE_WEIGHTS, TEXT_WEIGHTS, TEXT_BACKENDS,
    EXTRACTORS,
)
# fmt: on
