"""Pictures and words as one picture: sizes and lines as published, nothing overlaps, everything can be read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.data.canvas.compose import Lettering, put_at, resized, stacked, turned, upper_part, with_text
from diptych.data.canvas.demonstrations import read_demonstrations
from diptych.data.canvas.font import open_font
from diptych.data.canvas.reading import read_lines
from diptych.data.canvas.wrapping import released_lines
from diptych.data.media.decode import encode_png

RELEASED = Path(__file__).parents[1] / "parity/released/i2l_canvas.npz"
CODE = "AGI-Edgerunners/IIL bef31c7 with DejaVu Sans and Pillow's basic layout"
READ = "Is it left?\nAnswer: (B) yes."
QUESTION = "Which of the bars is the longest, and what's above it?\nAnswer: the blue one (B)."


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], 2).astype(np.uint8)


@pytest.fixture(scope="module")
def released() -> dict[str, Any]:
    found = dict(np.load(RELEASED))
    return found | json.loads(bytes(found["cases"]))


def test_lines_and_sizes_are_those_of_the_published_code(released: dict[str, Any], parity: Any) -> None:
    pairs = []
    for case in released["cases"]:
        lettering = Lettering(wrap="released", text_side="below" if case["pos"] == "b" else "above")
        text = released["texts"][case["text"]]
        canvas = with_text(ramp(case["h"], case["w"]), text, lettering, width=case["mw"], height=case["mh"])
        assert list(canvas.lines) == [line for _, _, line in case["lines"]]
        pairs.append((canvas.pixels_HWC.shape[:2], case["size"]))
        tops = [canvas.text_top + number * canvas.line_height for number in range(len(canvas.lines))]
        pairs.append((tops, [top for _, top, _ in case["lines"]]))
    assert len(pairs) == 224
    parity("i2l", "lines, their places and sizes of canvases", CODE, pairs, tolerance=0)


def test_pixels_are_those_of_the_published_code(released: dict[str, Any], parity: Any) -> None:
    first, second = ramp(30, 45), ramp(21, 60)
    text = next(text for text in released["texts"] if text.startswith("Don't"))
    made = {
        "text_b": with_text(first, text, Lettering(wrap="released"), width=300).pixels_HWC,
        "text_t": with_text(first, text, Lettering(wrap="released", text_side="above"), width=300).pixels_HWC,
        "put": put_at(first, second, 35, 15),
        **{f"size_{area}": resized(second, area) for area in (0.25, 0.5, 2)},
    }
    for letter, place in (("l", "left"), ("c", "centre")):
        made[f"stack_{letter}"] = stacked([first, second], place)  # type: ignore[arg-type]
        made[f"turn_{letter}"] = stacked([first, turned(second)], place)  # type: ignore[arg-type]
        made[f"crop_{letter}"] = stacked([first, upper_part(second)], place)  # type: ignore[arg-type]
    assert set(made) == set(released) - {"cases", "texts"}
    parity("i2l", "pixels of canvases, stacks and variants", CODE, [(made[name], released[name]) for name in made], tolerance=0)


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("width", [60, 249, 250, 400])
def test_nothing_overlaps_and_all_text_is_inside(side: Any, width: int) -> None:
    picture = ramp(40, width)
    canvas = with_text(picture, QUESTION, Lettering(text_side=side))
    x0, y0, x1, y1 = canvas.image_box
    np.testing.assert_array_equal(canvas.pixels_HWC[y0:y1, x0:x1], picture)
    assert canvas.pixels_HWC.shape[1] == (int(1.8 * width) if width < 250 else width)
    outside = canvas.pixels_HWC.copy()
    outside[y0:y1, x0:x1] = 255
    ink = np.argwhere(outside.min(axis=2) < 255)
    assert ink[:, 1].min() >= 20 - 2
    assert ink[:, 1].max() < canvas.pixels_HWC.shape[1] - 8
    assert not any(y0 <= row < y1 for row in set(ink[:, 0]))
    assert " ".join("".join(canvas.lines).split()) != ""
    assert "".join(canvas.lines).replace(" ", "") == QUESTION.replace(" ", "").replace("\n", "")
    bare = with_text(np.full_like(picture, 255), QUESTION, Lettering(text_side=side))
    for number in range(1, len(canvas.lines)):  # a line ends before the next begins
        row = canvas.text_top + number * canvas.line_height
        assert bare.pixels_HWC[row].min() == 255


def test_text_can_be_read_back_and_is_lost_with_resolution() -> None:
    canvas = with_text(ramp(40, 300) // 2, READ)
    letters = "".join(canvas.lines).replace(" ", "")
    right = {}
    for area in (1.0, 0.1):
        read = read_lines(resized(canvas.pixels_HWC, area), Lettering(), area=area, alphabet="".join(sorted(set(READ) - {"\n"})))
        found = "".join(text for _, text in read).replace(" ", "")
        right[area] = sum(a == b for a, b in zip(found, letters, strict=False)) / len(letters)
    assert right[1.0] == 1.0
    assert right[0.1] < 0.5


def test_a_stack_keeps_every_pixel() -> None:
    pictures = [ramp(20, 30), ramp(10, 50), ramp(15, 15)]
    for place in ("left", "centre"):
        canvas = stacked(pictures, place)  # type: ignore[arg-type]
        assert canvas.shape == (45, 50, 3)
        top = 0
        for picture in pictures:
            left = (50 - picture.shape[1]) // 2 if place == "centre" else 0
            np.testing.assert_array_equal(canvas[top : top + len(picture), left : left + picture.shape[1]], picture)
            top += len(picture)


def test_long_words_and_chinese_break_where_they_must() -> None:
    font_width = 120
    canvas = with_text(ramp(10, 250), "counterrevolutionaries " + "x" * 60, width=font_width)
    assert "".join(canvas.lines) == "counterrevolutionaries" + "x" * 60
    with pytest.raises(ConfigError, match=r"'DejaVu Sans' has no letter for 你 好 \(2 in all; expected a font file"):
        with_text(ramp(10, 250), "你好")
    with pytest.raises(ConfigError, match="no letter of 'WWW' fits into -12 pixels"):
        with_text(ramp(10, 10), "WWW", Lettering(text_size=60))
    with pytest.raises(ConfigError, match=r"nowhere.ttf is not a readable font"):
        with_text(ramp(10, 250), "a", Lettering(font="nowhere.ttf"))


def test_demonstrations_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(ramp(40, 260)))
    row = {"image": "a.png", "question": "Which?", "answer": "B", "rationale": "The frame.", "cues": [[5, 5, 30, 30]]}
    (tmp_path / "demonstrations.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"canvas": "a.png", "category": "x"}))
    first, second = read_demonstrations(tmp_path)
    canvas = first.draw(Lettering())
    assert tuple(canvas[5, 20]) == (255, 0, 0)
    assert [text for _, text in read_lines(canvas, Lettering())] == ["Which?", "The frame.", "Answer: B"]
    np.testing.assert_array_equal(second.draw(Lettering()), ramp(40, 260))
    for bad, said in (
        ({"image": "b.png", "question": "q", "answer": "a"}, "row 1, field 'image': there is no picture b.png"),
        ({"image": "a.png", "question": "q"}, "row 1, field 'question': lacks its question or answer"),
        ({"image": "a.png", "question": "q", "answer": "a", "cues": [[1, 2, 3]]}, "field 'cues': has the cue"),
        ({"image": "a.png", "question": "q", "answer": "a", "cue": []}, "field 'cue': unknown field"),
        ({"question": "q", "answer": "a"}, "field 'image': has neither picture nor canvas"),
    ):
        (tmp_path / "demonstrations.jsonl").write_text(json.dumps(bad))
        with pytest.raises(DataError, match=said):
            read_demonstrations(tmp_path)


def test_released_lines_keep_a_carriage_return() -> None:
    """jieba gives both characters of such a break as one word, which the release cuts at its line feed alone."""
    font = open_font("", 20)
    assert released_lines("ab\r\ncd\n\nef", font, 400) == ["ab\r", "cd", "", "ef"]
    assert released_lines("abcdefghijkl\r\ncd", font, 60) == ["", "abcdefghijkl", "\r", "cd"]


def test_a_canvas_too_narrow_for_anything_breaks_as_released() -> None:
    """Below 10 pixels the published limit is negative: nothing fits, not even what stands behind a line break, which is nothing."""
    assert released_lines("a\nb", open_font("", 20), -9) == ["", "a", "", "", "", "b"]
