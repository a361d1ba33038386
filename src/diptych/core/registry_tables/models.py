"""Kinds of saved models: name -> (entry point, what it is)."""

from __future__ import annotations

MODEL_ENTRIES = {
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
    "dialogue_bridge": (
        "diptych.models.policy.dialogue_generator:DialogueGenerator",
        "an image encoder before a language model, asked in turn",
    ),
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
    "finding_reader": ("diptych.models.chests.finding_reader:FindingReader", "findings and their places, by two decoders"),
    "graph_relater": (
        "diptych.models.penet.graph_relater:GraphRelater",
        "relations between things, one prototype a predicate",
    ),
    "late_encoder": ("diptych.models.pairs.late.embedder:LateEmbedder", "two towers, compared token by token"),
    "knowledge_matcher": (
        "diptych.models.knowledge.knowledge_matcher:KnowledgeMatcher",
        "reads an image and a text together with the entities that the text names",
    ),
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
    "point_encoder": (
        "diptych.models.points.point_embedder:PointCloudEmbedder",
        "point clouds, images and texts in one space",
    ),
    "room_chat": ("diptych.models.points.room_chat_model:RoomChatModel", "answers about rooms, things by identifiers"),
    "room_graph": ("diptych.models.points.room_graph_model:RoomGraphModel", "things of rooms, by sentences"),
    "text4point": (
        "diptych.models.points.point_segmenter:TextPointSegmenter",
        "classes of points, by a head or by the vectors of any names",
    ),
    "relation_detector": ("diptych.models.rlipv2.graph_detector:GraphDetector", "things and the relations between them"),
}
