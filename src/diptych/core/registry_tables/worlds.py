"""Worlds: name -> (entry point, what it is)."""

from __future__ import annotations

WORLD_ENTRIES = {
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
    "rooms": ("diptych.worlds.rooms.world:rooms", "furnished rooms: points, pictures with depth, boxes, descriptions"),
    "solids": ("diptych.worlds.solids.world:solids", "solid things as clouds of points, with views from around them"),
    "related": ("diptych.worlds.related.world:related", "two coloured shapes in one of eight relations, for generation"),
    "figures": ("diptych.worlds.figures.world:figures", "two stick figures in a relation, with pictures of each alone"),
    "exemplars": ("diptych.worlds.related.world:exemplars", "pictures of one relation, {} in place of its name"),
    "kitchens": ("diptych.worlds.kitchens.world:kitchens", "kitchens with an instruction and the goal it means"),
    "emoji_vendors": (
        "diptych.worlds.emoji_vendors:emoji_vendors",
        "the same concepts by one vendor of emoji after the other",
    ),
}
