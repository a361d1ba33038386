"""Entries of the registries that are of point clouds and rooms (`core.registry`)."""

from __future__ import annotations

POINT_WORLDS = {
    "rooms": ("diptych.worlds.rooms.world:rooms", "furnished rooms: points, pictures with depth, boxes, descriptions"),
    "solids": ("diptych.worlds.solids.world:solids", "solid things as clouds of points, with views from around them"),
}
POINT_TASKS = {
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
}
POINT_MODELS = {
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
}
