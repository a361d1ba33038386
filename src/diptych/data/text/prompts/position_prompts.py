"""Which block of a grid holds a thing, in words: position-guided text prompts (PTP, Wang et al., 2022, arXiv 2212.09737).

Blocks are numbered from 0, row by row from the top left. They mean something only for the picture as it is shown: a prompt is written
after every crop and flip, never before.
"""

from __future__ import annotations

from diptych.core.scene_graph import Box
from diptych.data.text.captions.cleaning import cleaned

GRID = 3
NOWHERE = "x"
"""What stands for a thing that a crop has cut away, as published."""


def block_of(box: Box, width: float, height: float, *, grid: int = GRID) -> int:
    """The block of the box's centre. xyxy, in the unit of width and height.

    >>> [block_of((x, y, x + 2, y + 2), 9, 9) for y in (0, 3, 7) for x in (0, 3, 7)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    across = min(int((box[0] + box[2]) / 2 / width * grid), grid - 1)
    down = min(int((box[1] + box[3]) / 2 / height * grid), grid - 1)
    return grid * max(down, 0) + max(across, 0)


def prompt(block: int | None, label: str) -> str:
    """ "The block 4 has a cup." None: the thing is not in the picture any more."""
    return f"The block {NOWHERE if block is None else block} has a {label}."


def append_prompt(caption: str, prompt_text: str, *, caption_words: int = 22, prompt_words: int = 8) -> str:
    """Both cleaned and cut, with a stop between them, as the second of the released loaders has it.

    >>> append_prompt("A man, (left)", prompt(4, "cup"))
    'a man, left. the block 4 has a cup'
    """
    return f"{cleaned(caption, caption_words)}. {cleaned(prompt_text, prompt_words)}"


def append_prompt_uncut(caption: str, prompt_text: str, *, words: int = 30) -> str:
    """Both cleaned as one text, which loses the stop between them, as the first of the released loaders has it.

    >>> append_prompt_uncut("A man", prompt(4, "cup"))
    'a man the block 4 has a cup'
    """
    return cleaned(f"{caption}. {prompt_text.removesuffix('.')} .", words)
