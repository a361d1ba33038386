"""Tasks: name -> (entry point, what it is)."""

from __future__ import annotations

TASK_ENTRIES = {
    "clinical_dialogue": (
        "diptych.tasks.domains.clinical_dialogue:ClinicalDialogue",
        "answers of a conversation, right and hanging together",
    ),
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
    "frozen_segmentation": (
        "diptych.tasks.domains.frozen_segmentation:FrozenSegmentation",
        "the class of every pixel, by a head on an encoder that is not trained",
    ),
    "report_generation": (
        "diptych.tasks.domains.report_generation:ReportGeneration",
        "reports of chest X-rays, by words and by findings",
    ),
    "report_head": (
        "diptych.tasks.domains.report_head:ReportHead",
        "reports of chest X-rays by a decoder that is trained on an encoder",
    ),
    "report_retrieval": (
        "diptych.tasks.domains.report_retrieval:ReportRetrieval",
        "the report of an image, and those of its class",
    ),
    "retrieval": ("diptych.tasks.pairs.retrieval:Retrieval", "texts by image and images by text"),
    "segmentation": ("diptych.tasks.pairs.segmentation:Segmentation", "the class of every pixel"),
    "point_classification": ("diptych.tasks.pairs.point_tasks:PointClassification", "classes of point clouds"),
    "point_retrieval": ("diptych.tasks.pairs.point_tasks:PointRetrieval", "texts or pictures by point cloud, and back"),
    "room_captions": ("diptych.tasks.rooms.room_captions:RoomCaptions", "captions of the things of a room, at IoU"),
    "room_detection": ("diptych.tasks.rooms.room_detection:RoomDetection", "boxes and classes of the things of a room"),
    "room_grounding": ("diptych.tasks.rooms.room_grounding:RoomGrounding", "which thing of a room a sentence means"),
    "room_multi_grounding": (
        "diptych.tasks.rooms.room_grounding:RoomMultiGrounding",
        "which things of a room a sentence means, none or several",
    ),
    "room_questions": ("diptych.tasks.rooms.room_questions:RoomQuestions", "answers to questions about rooms"),
    "point_segmentation": ("diptych.tasks.pairs.point_segmentation:PointSegmentation", "the class of every point"),
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
        "diptych.tasks.generation.generated_text:TextGeneration",
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
    "picture_similarity": (
        "diptych.tasks.generation.picture_similarity:PictureSimilarity",
        "generated pictures against prompts, given things and real pictures, by an embedder",
    ),
    "relation_generation": (
        "diptych.tasks.generation.relation_generation:RelationGeneration",
        "generated pictures of two shapes: their relation, the things, what leaked",
    ),
    "pope": ("diptych.tasks.generation.pope:POPE", "yes or no: is this object in the image?"),
    "vqa": ("diptych.tasks.generation.vqa:VQA", "questions about images"),
    "word_ranking": ("diptych.tasks.generation.word_ranking:WordRanking", "words of a vocabulary by image"),
    "omnilabel": ("diptych.tasks.grounding.omnilabel:OmniLabel", "free descriptions and names, also of absent objects"),
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
}
