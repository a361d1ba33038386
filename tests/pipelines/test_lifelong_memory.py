"""LifelongMemory: digest, prompts and parsers against the published code, windows against hand cases, files that go on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Pipeline
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import Dialogue, as_dialogue
from diptych.data.media.decode import encode_png
from diptych.pipelines._memory import requests
from diptych.pipelines._memory.caption_log import TimedCaption, caption_frames, frames_of, read_captions, table_of
from diptych.pipelines._memory.digest import digest
from diptych.pipelines._memory.questions import read_questions
from diptych.pipelines._memory.refine import refined, strongest_run
from diptych.pipelines._memory.replies import WindowReply, parse_option, parse_windows
from diptych.pipelines.lifelong_memory import LifelongMemory, MemoryAnswer, MemoryAnswers, MemoryQuery
from diptych.tasks._scoring.ranking.moments import recalls, temporal_iou

RELEASED = json.loads((Path(__file__).parents[1] / "parity/released/lifelong_memory_released.json").read_text(encoding="utf-8"))
CODE = "agentic-learning-ai-lab/lifelong-memory 2b48af4"
HEADER = "query_index\tpredictions\texplanation\tconfidence\n"
NEVER: tuple[Any, ...] = ()
W = ((120.0, 300.0),)
WINDOWS: list[tuple[tuple[Any, ...], str, int | None]] = [  # of question 1 in each released table, in their order
    (W, "read", 1), (((0.0, 60.0),), "read", 2), (NEVER, "unknown", 3), (W, "read", 1), (W, "read", 2), (W, "read", 3), (W, "read", 1),
    ((*W, (400.0, 500.0)), "read", 2), ((*W, (400.0, 500.0)), "read", 3), (NEVER, "unknown", 1), (NEVER, "unknown", 2),
    (((30.0, 90.0), (200.0, 260.0)), "read", 3), (W, "read", 1), (NEVER, "unread", 2), (W, "read", 3), (((120.5, 300.25),), "read", 1),
    (W, "read", 2), (NEVER, "unknown", 3), (NEVER, "unknown", 1), (NEVER, "unknown", 2), (NEVER, "unread", 3),
    (((1.0, 2.0), (3.0, 4.0)), "read", 1), (NEVER, "unread", 2), (NEVER, "unknown", 3), (((12000.0, 36000.0),), "read", 1), (W, "read", 2),
    *[(((1.0, 2.0),), "read", 3)] * 4, (NEVER, "unread", None), (((1.0, 2.0),), "read", 3), (((1.0, 2.0),), "read", 2),
    *[(((1.0, 2.0),), "read", None)] * 3, *[(((1.0, 2.0),), "read", 2)] * 3, *[(NEVER, "unread", None)] * 3,
]  # fmt: skip


def jaccard(first: str, second: str) -> float:
    a, b = set(first.split()), set(second.split())
    return len(a & b) / len(a | b)


class Bag:
    """Texts as counts of their words, unit-norm."""

    name, fingerprint = "bag", "1"

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[sum(map(ord, word)) % 64] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        raise AssertionError("only texts are compared")


class Reader:
    """Says what it is told to, in turn, and keeps what it was asked."""

    fingerprint = "1"

    def __init__(self, *replies: str, name: str = "reader", fails_after: int = 10**6) -> None:
        self.replies, self.name, self.fails_after = list(replies), name, fails_after
        self.asked: list[Dialogue] = []

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        found = []
        for prompt in prompts:
            if len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append(as_dialogue(prompt))
            found.append(self.replies[min(len(self.asked), len(self.replies)) - 1])
        return found


# ---------------------------------------------------------------- against the published code


def test_digest_is_that_of_the_published_code(parity: Any) -> None:
    pairs = []
    for case in RELEASED["digest"]:
        memory = [TimedCaption(time, time, text) for time, text in case["rows"]]
        found = digest(memory, jaccard, " + ".join, threshold=case["threshold"])
        assert [caption.text for caption in found] == [text for _, text in case["digest"]]
        spans = [json.loads(span) for span, _ in case["digest"]]
        pairs.append(([[caption.start, caption.end] for caption in found], spans))
        assert len(found) < len(memory)
    parity("lifelong_memory", "groups and spans of the digest", CODE, pairs, tolerance=0)


def test_merged_captions_are_written_or_the_first_of_them() -> None:
    memory = tuple(
        TimedCaption(time, time, text) for time, text in ((60, "C cuts bread"), (120, "C cuts the bread"), (180, "C runs"))
    )
    reader = Reader(" 'C cuts some bread' ")
    found = LifelongMemory(reader, embedder=Bag(), alike=0.7).digested(memory)
    assert [caption.text for caption in found] == ["C cuts some bread", "C runs"]
    first = LifelongMemory(reader, embedder=Bag(), alike=0.7, merges="first").digested(memory)
    assert [caption.text for caption in first] == ["C cuts bread", "C runs"]
    assert [(one.start, one.end) for one in first] == [(one.start, one.end) for one in found] == [(30, 150), (150, 210)]
    assert len(reader.asked) == 1, "nobody is asked for the first"
    with pytest.raises(ConfigError, match="merges is 'last'"):
        LifelongMemory(reader, embedder=Bag(), merges="last")  # type: ignore[arg-type]


def test_prompts_are_laid_out_as_in_the_published_code(parity: Any) -> None:
    wording = requests.Wording(recall_begin="BEGIN", recall_end="END", choose_end="CHOOSE")
    plain = table_of(
        [TimedCaption(30, 30, "C opens a door"), TimedCaption(90, 90, "C sits down on the chair"), TimedCaption(1200, 1200, "x")]
    )
    spans = table_of([TimedCaption(0, 60, "C opens a door"), TimedCaption(90, 12000, "C sits")])
    table = requests.queries([(1, "Where is the cup?"), (3, "When did I sit?")], released=True)
    assert {"c|v": table} == RELEASED["queries"]
    made = [
        *(requests.recall(wording, table, memory) for memory in (plain, spans)),
        requests.choose(wording, requests.options("What?", [f"o{i}" for i in range(5)]), plain),
    ]
    theirs = [*RELEASED["nlq"], *RELEASED["qa"]]
    assert made == theirs
    pairs = [
        (np.frombuffer(a.encode(), np.uint8).copy(), np.frombuffer(b.encode(), np.uint8).copy())
        for a, b in zip(made, theirs, strict=True)
    ]
    parity("lifelong_memory", "bytes of prompts with one wording", CODE, pairs, tolerance=0)


def test_options_are_read_as_in_the_published_code(parity: Any) -> None:
    assert len(RELEASED["options"]) >= 40
    pairs, better = [], []
    for reply, said in RELEASED["options"]:
        number = re.fullmatch(r"'?(\d+)(?:\.0)?'?", said)
        wanted = int(number[1]) if number and int(number[1]) < 5 else -1
        found = parse_option(reply, 5, released=True).option
        if (-1 if found is None else found) != wanted:
            better.append((reply, wanted, found))
        else:
            pairs.append((-1 if found is None else found, wanted))
    # a dictionary's "Option 3" is read here and kept as words there; nothing is evaluated as a program here
    assert better == [("{'prediction': 'Option 3', 'confidence': 2}", -1, 3)]
    parity("lifelong_memory", "options in 43 of 44 replies", CODE, pairs, tolerance=0)


@pytest.mark.parametrize(
    ("reply", "option"),
    [("2", 2), ("Option 2", 2), ("The answer is 3.", 3), ("[3]", 3), ("I choose 3 because of 2 reasons", None), ("12", None), ("", None),
     ("C cooks, so 0", None), ("The correct option is 1", 1), ("prediction two, that is 2", 2)],
)  # fmt: skip
def test_a_number_of_something_else_is_no_option(reply: str, option: int | None) -> None:
    assert parse_option(reply, 5).option == option


@pytest.mark.parametrize(
    ("reply", "option"),
    [
        ("{}C 2", 2),
        ("{}", None),
        (".4", None),
        ("4, ", None),
        ("'3'", None),
        ("2 is 2", None),
        ("({}'3'", 3),
        ("{'Prediction': 2}", None),
        ("{[1]: 2}", 1),
        ("Prediction: {}'3')", 3),
        ('{"prediction": 2, "explanation": null}', 2),
        (" {'prediction': 4}", 4),
        ("{'confidence': 3}", None),
        ("4C", 4),
    ],
)
def test_odd_replies_are_read_as_the_published_code_reads_them(reply: str, option: int | None) -> None:
    """It evaluates the reply as Python: what is another value than a dictionary stops it, what is none has its numbers searched."""
    assert parse_option(reply, 5, released=True).option == option


def test_windows_in_tables(parity: Any) -> None:
    assert len(RELEASED["tables"]) == len(WINDOWS) >= 40
    pairs = []
    for (reply, theirs), (windows, outcome, confidence) in zip(RELEASED["tables"], WINDOWS, strict=True):
        found = parse_windows(reply, [1])[1]
        assert (found.windows, found.outcome, found.confidence) == (windows, outcome, confidence), reply
        cell = next((row[1] for row in theirs if row[0] in ("1", "1.0")), None)
        if cell is None:
            assert outcome == "unread"
        else:  # the cell that pandas gives them, read alone
            again = parse_windows(f"{HEADER}1\t{cell}\t\t", [1])[1]
            pairs.append(([len(again.windows), *np.ravel(again.windows)], [len(windows), *np.ravel(windows)]))
    parity("lifelong_memory", "predictions in 42 tables", f"{CODE} by pandas", pairs, tolerance=0)
    assert parse_windows(f"{HEADER}2\t[5, 9]\tb\t1", [1, 2]) == {
        1: WindowReply((), "unread"),
        2: WindowReply(((5.0, 9.0),), "read", "b", 1),
    }


def test_the_table_is_printed_as_pandas_prints_it() -> None:
    pandas = pytest.importorskip("pandas")
    for rows in ([(30, "a"), (90_000_000_000, "long caption " * 9)], [(5, "x")], [(60, "two\nlines"), (7, "a\tb\\ \r")]):
        theirs = pandas.DataFrame(rows, columns=["timestamp", "caption"]).to_string(index=False)
        assert table_of([TimedCaption(time, time, text) for time, text in rows]) == theirs
    memory = [TimedCaption(time, time, text) for time, text in ((60, "C cuts"), (120, "C runs"), (180, "C runs"))]
    for margin in (0, 30):  # the published code writes the span of a digest as words, also that of one moment
        found = digest(memory, lambda a, b: float(a == b), " + ".join, margin=margin)
        spans = [f"[{first - margin}, {last + margin}]" for first, last in ((60, 60), (120, 180))]
        theirs = pandas.DataFrame({"timestamp": spans, "caption": ["C cuts", "C runs + C runs"]}).to_string(index=False)
        assert table_of(found) == theirs


def test_the_published_code_asks_the_last_annotation_of_a_clip(tmp_path: Path) -> None:
    """Its loader puts a clip's questions down after the loop over annotations; numbers go on over those that are lost."""
    queries = [[{"query": "a"}, {"query": "b"}], [{"query": ""}], [{"query": "c"}, {}, {"query": "d"}]]
    clips = [
        {"clip_uid": "x", "annotations": [{"language_queries": some} for some in queries]},
        {"clip_uid": "y", "annotations": [{"language_queries": queries[0]}]},
        {"clip_uid": "z", "annotations": []},
    ]
    (tmp_path / "nlq.json").write_text(json.dumps({"videos": [{"video_uid": "v", "clips": clips}]}))
    count, expected = 0, []
    for clip in clips:
        kept: list[tuple[str, str]] = []
        for annotation in clip["annotations"]:
            kept = []
            for query in annotation["language_queries"]:  # type: ignore[index]
                count += 1
                if query.get("query"):
                    kept.append((str(count), query["query"]))
        expected += kept
    assert [(one.id, one.text) for one in read_questions(tmp_path / "nlq.json", last=True)] == expected
    assert [one.text for one in read_questions(tmp_path / "nlq.json")] == ["a", "b", "c", "d", "a", "b"]


# ---------------------------------------------------------------- by hand


def test_recall_and_iou_by_hand() -> None:
    np.testing.assert_allclose(temporal_iou([(0, 10), (5, 15), (10, 20), (2, 4)], (0, 10)), [1, 1 / 3, 0, 0.2])
    found = recalls([[(0, 10)], [(50, 60), (0, 4)], []], [(0, 20), (0, 10), (0, 1)])
    # IoUs: .5; 0 then .4; none
    assert found == pytest.approx({"r@1/0.3": 1 / 3, "r@1/0.5": 0, "r@5/0.3": 2 / 3, "r@5/0.5": 0, "iou": 0.5 / 3})
    with pytest.raises(DataError, match="nothing to score"):
        recalls([], [])


def test_a_sure_model_keeps_the_localiser_to_its_widened_windows_and_others_do_not() -> None:
    memory = [TimedCaption(10 * n, 10 * n + 4, str(n)) for n in range(6)]  # 0-4, 10-14, ..., 50-54
    seen: list[list[str]] = []

    def localise(question: str, inside: Any) -> tuple[float, float]:
        seen.append([one.text for one in inside])
        return (1.0, 2.0)

    window = ((20.0, 24.0),)
    for found, pad in (
        (WindowReply(window, "read", confidence=2), 0), (WindowReply(window, "read", confidence=2), 6),
        (WindowReply(window, "read", confidence=3), 16), (WindowReply(window, "read", confidence=1), 6),
        (WindowReply(window, "read"), 6), (WindowReply((), "unknown", confidence=3), 6),
        (WindowReply(((70.0, 80.0),), "read", confidence=3), 6),
    ):  # fmt: skip
        assert refined(found, "where", memory, localise, pad=pad, sure=2) == ((1.0, 2.0), *found.windows)
    everything = ["0", "1", "2", "3", "4", "5"]
    assert seen == [["2"], ["1", "2", "3"], everything[:5], everything, everything, everything, everything]


def test_the_strongest_run_is_that_of_all_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        score_N = rng.integers(-3, 4, rng.integers(1, 9)).astype(float)
        runs = [(score_N[a : b + 1].sum(), -a) for a in range(len(score_N)) for b in range(a, len(score_N))]
        first, last = strongest_run(score_N)
        assert score_N[first : last + 1].sum() == max(runs)[0]


LOG = ["#C C opens the door"] * 3 + ["#C C looks around"] + ["#C C cuts the bread"] * 2 + ["#O O sings"]


def write_captions(path: Path, log: list[str], **keys: str) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*keys, "timestamp", "caption"])
        rows.writerows([*keys.values(), 60 * place + 30, text] for place, text in enumerate(log))
    return path


def test_one_question_about_a_table(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "log.csv", LOG)
    reader = Reader("'C opens a door'", "C cuts bread", f"{HEADER}1\t[240, 360]\tit is cut\t3")
    pipeline = LifelongMemory(reader, embedder=Bag())  # type: ignore[arg-type]
    assert isinstance(pipeline, Pipeline)
    found = pipeline.run(MemoryQuery("When do I cut the bread?", captions=captions))
    assert found == MemoryAnswer(((8.0, 12.0),), outcome="read", explanation="it is cut", confidence=3, captions=7, digested=3)
    assert [turn.role for turn in reader.asked[0].turns] == ["system", "user"]
    assert reader.asked[0].turns[1].text == "\n".join(["C opens the door"] * 3)
    memory = "  timestamp        caption\n  [0, 180] C opens a door\n[240, 360]   C cuts bread\n[360, 420]         O sings"
    assert "###\n\nquery \t query_index\nWhen do I cut the bread? \t 1 \n\n\n###" in reader.asked[2].turns[1].text
    assert [line.split() for line in memory.splitlines()] == [
        line.split() for line in reader.asked[2].turns[1].text.split("Memory:\n\n###\n\n")[1].split("\n\n###")[0].splitlines()
    ]


def test_raw_log_options_and_one_turn(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "log.csv", LOG)
    reader = Reader("{'prediction': 1, 'explanation': 'sung', 'confidence': 2}")
    found = LifelongMemory(reader, digest=False, system=False).run(MemoryQuery("What?", "a|b", captions))
    assert isinstance(found, MemoryAnswer)
    assert (found.option, found.text, found.confidence, found.digested) == (1, "b", 2, 7)
    assert found.lines()[0] == "1: b, confidence 2 of 3"
    (turn,) = reader.asked[0].turns
    assert "Question: What? \nOption 0: a\nOption 1: b" in turn.text
    assert "#C C looks around" in turn.text


def test_a_second_reader_counts_where_it_is_surer(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "log.csv", LOG)
    ask = MemoryQuery("When?", captions=captions)
    for first, second, wanted in (("1\t[0, 60]\ta\t2", "1\t[90, 99]\tb\t3", 3.0), ("1\t[0, 60]\ta\t2", "1\t[90, 99]\tb\t2", 0.0),
                                  ("1\tNA\ta\t3", "1\t[90, 99]\tb\t1", 3.0)):  # fmt: skip
        pipeline = LifelongMemory(Reader(HEADER + first), second=Reader(HEADER + second), digest=False)
        assert pipeline.run(ask).windows[0][0] == wanted  # type: ignore[union-attr]


def test_refinement_stays_within_windows_that_are_sure(tmp_path: Path) -> None:
    log = ["C cuts the bread", *["C sings"] * 6, "C cuts the bread", "C cuts the bread", *["C sings"] * 4]
    captions = write_captions(tmp_path / "log.csv", log)
    ask = MemoryQuery("cuts the bread", captions=captions)
    for row, wanted in (
        ("1\t[360, 700]\ta\t3", (420 / 30, 540 / 30)),  # within: the two captions at 450 and 510
        ("1\t[0, 100]\ta\t3", (0.0, 2.0)),  # within the first one alone
        ("1\t[0, 100]\ta\t1", (420 / 30, 540 / 30)),  # unsure: the whole log
        ("1\tNA\ta\t3", (420 / 30, 540 / 30)),
    ):
        pipeline = LifelongMemory(Reader(HEADER + row), embedder=Bag(), digest=False, refine=True, pad=0)  # type: ignore[arg-type]
        assert pipeline.run(ask).windows[0] == wanted  # type: ignore[union-attr]


def test_questions_of_a_file_go_on_and_are_scored(tmp_path: Path) -> None:
    query = {"query": "When?", "clip_start_sec": 0.0, "clip_end_sec": 4.0}
    clips = [
        {"clip_uid": name, "annotations": [{"language_queries": [query, {"query": None}]}, {"language_queries": [query]}]}
        for name in "ab"
    ]
    (tmp_path / "nlq.json").write_text(json.dumps({"videos": [{"video_uid": "v", "clips": clips}]}))
    captions = write_captions(tmp_path / "a.csv", LOG, cid="a", vid="v")
    captions.write_text(
        captions.read_text() + write_captions(tmp_path / "b.csv", LOG, cid="b", vid="v").read_text().split("\n", 1)[1]
    )
    ask = MemoryQuery(captions=captions, annotations=tmp_path / "nlq.json", answers=tmp_path / "out.jsonl")
    first = f"{HEADER}1\t[0, 120]\ta\t3\n3\tNA\tb\t1"
    with pytest.raises(KeyboardInterrupt):
        LifelongMemory(Reader(first, fails_after=1), digest=False).run(ask)
    rest = Reader(f"{HEADER}4\t[0, 90]\ta\t2\n6\t[300, 400]; [0, 120]\tb\t1")
    found = LifelongMemory(rest, digest=False).run(ask)
    assert isinstance(found, MemoryAnswers)
    assert (found.new, len(rest.asked)) == (2, 1)
    assert "When? \t 4 \nWhen? \t 6 \n" in rest.asked[0].turns[1].text, "queries without words are counted and not asked"
    # IoUs with [0, 4] s: 1; NA; .75; 0 then 1
    assert found.scores == pytest.approx(
        {"r@1/0.3": 0.5, "r@1/0.5": 0.5, "r@5/0.3": 0.75, "r@5/0.5": 0.75, "iou": (1 + 0.75) / 4}
    )
    assert found.lines()[0] == "4 answers, 2 of them new; 0 cannot be read, 1 say that they do not know"


def test_egoschema(tmp_path: Path) -> None:
    rows = [{"q_uid": name, "question": "What?", **{f"option {i}": f"o{i}" for i in range(5)}, "answer": 2} for name in "xyz"]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    captions = write_captions(tmp_path / "a.csv", LOG, q_uid="x")
    for name in "yz":
        captions.write_text(
            captions.read_text() + write_captions(tmp_path / "b.csv", LOG, q_uid=name).read_text().split("\n", 1)[1]
        )
    reader = Reader('{"prediction": 2, "confidence": 3}', "prediction: 1, confidence: 1", "I cannot say")
    found = LifelongMemory(reader, digest=False).run(MemoryQuery(captions=captions, annotations=tmp_path / "q.json"))
    assert isinstance(found, MemoryAnswers)
    assert found.scores == pytest.approx(
        {"accuracy": 1 / 3, "accuracy/1": 0, "share/1": 1 / 3, "accuracy/3": 1, "share/3": 1 / 3}
    )


def test_frames_are_described_once(tmp_path: Path) -> None:
    for name in ("0.0", "2", "10.5"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(np.full((4, 4, 3), 9, np.uint8)))
    captioner = Reader("C walks", name="captioner")
    memory, new = caption_frames(captioner, tmp_path, prompt="p", fps=30, max_tokens=8, log=tmp_path / "log.jsonl")
    assert ([caption.start for caption in memory], new) == ([0, 60, 315], 3)
    assert caption_frames(captioner, tmp_path, prompt="p", fps=30, max_tokens=8, log=tmp_path / "log.jsonl") == (memory, 0)
    assert len(captioner.asked) == 3
    reader = Reader(f"{HEADER}1\t[0, 60]\ta\t3")
    found = LifelongMemory(reader, captioner=captioner, digest=False).run(MemoryQuery("When?", frames=tmp_path))
    assert found.windows == ((0.0, 2.0),)  # type: ignore[union-attr]
    (tmp_path / "times.csv").write_text("file,seconds\n2.png,7\n")
    assert frames_of(tmp_path) == [(7.0, tmp_path / "2.png")]


def test_bad_input(tmp_path: Path) -> None:
    captions = tmp_path / "c.csv"
    for text, said in (
        ("timestamp,text\n1,a\n", "field 'caption': there is no column caption"),
        ("timestamp,caption\n", "has no captions"),
        ("timestamp,caption\n1,a\nlate,b\n", "row 2, field 'timestamp': is 'late'"),
    ):
        captions.write_text(text)
        with pytest.raises(DataError, match=said):
            read_captions(captions)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/first.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"first.png: is not named by its second"):
        frames_of(tmp_path / "frames")
    with pytest.raises(ConfigError, match="digest, refine and keep_from compare texts"):
        LifelongMemory(Reader(""))
    pipeline = LifelongMemory(Reader(""), digest=False)
    with pytest.raises(ConfigError, match="the memory is empty"):
        pipeline.run(MemoryQuery("When?"))
    with pytest.raises(ConfigError, match="options are 'a'"):
        pipeline.run(MemoryQuery("When?", "a", write_captions(captions, LOG)))
    (tmp_path / "q.json").write_text('[{"q_uid": "x", "question": "q"}]')
    with pytest.raises(DataError, match="lacks 'option 0'"):
        pipeline.run(MemoryQuery(captions=captions, annotations=tmp_path / "q.json"))
    (tmp_path / "w.json").write_text('{"merge": "x"}')
    with pytest.raises(DataError, match="is not a string"):
        requests.read_wording(tmp_path / "w.json")
