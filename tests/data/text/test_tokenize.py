import json
import multiprocessing
import pickle
import random
import subprocess
import sys
import unicodedata
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.cleaners import clip_clean

TEXTS = [
    "A photo of a Cat!!",
    "naïve café 😀 1234",
    "<end_of_text> hi <start_of_text>",
    "don't &amp;amp; I'll, we've",
    "日本語 テキスト",
    "",
    "  \n a\tb\x07",
    "ʼn ſ's Ⅷ ½ İ Σας ﬁ",
    "schÃ¶n â€œquotedâ€",
    "\u03b1\u0345x a\u0345b !\u0345! \u00cd\x85",
    "a red bus left of a tree " * 30,
]
CORPUS = ["a red bus", "a Red tree", "two red buses near a tree", "ein roter Bus", "赤いバス", "a bus"] * 4


@pytest.fixture(scope="module")
def clip():
    return Tokenizer.from_spec("clip")


@pytest.fixture(scope="module")
def learned():
    return Tokenizer.train(CORPUS, 300)


@pytest.mark.parametrize("length", [77, 8])
def test_clip_ids_equal_open_clips(clip, length):
    import open_clip

    encoded = clip.encode(TEXTS, length)
    np.testing.assert_array_equal(encoded.ids_BL, open_clip.tokenize(TEXTS, length).numpy())
    theirs = open_clip.tokenizer.SimpleTokenizer()
    lengths = [len(theirs.encode(text)) + 2 for text in TEXTS]
    assert encoded.truncated == sum(n > length for n in lengths)
    assert encoded.mask_BL.sum(1).tolist() == [min(n, length) for n in lengths]


LETTERS = st.characters(max_codepoint=0x52F, exclude_categories=["Cs", "Cn", "Mn", "Me"]) | st.sampled_from(
    "日本語あアक한😀🏽❤️\u200dﬁ€…“”&<>;"
)


@given(st.text(LETTERS, max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_open_clips_ids(text):
    """Characters that Unicode gained lately are left out: libraries differ in whether they know them as letters."""
    import open_clip

    assume(all(unicodedata.category(letter) != "Cn" for letter in clip_clean(text)))
    np.testing.assert_array_equal(_both()[1].encode([text], 40).ids_BL, open_clip.tokenize([text], 40).numpy())


@given(st.text(st.characters(max_codepoint=127), max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_short_cut_of_cleaning_changes_nothing(text):
    from open_clip.tokenizer import _clean_lower

    assert clip_clean(text) == _clean_lower(text)


def test_clip_does_not_import_open_clip():
    use = "from diptych.data.text.tokenize import Tokenizer; Tokenizer.from_spec('clip').encode(['a'], 8)"
    code = f"import sys; {use}; print('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_learned_ids_do_not_depend_on_the_order_of_the_texts():
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdeé") for _ in range(rng.randint(1, 9))) for _ in range(400)]
    texts = [" ".join(rng.choice(words) for _ in range(6)) for _ in range(300)]
    first = Tokenizer.train(texts, 500).to_json()
    for _ in range(4):
        rng.shuffle(texts)
        assert Tokenizer.train(texts, 500).to_json() == first


def test_learned_vocabulary(learned):
    assert [learned.inner.token_to_id(t) for t in ("<pad>", "<sot>", "<eot>", "<unk>")] == [0, 1, 2, 3]
    assert (learned.pad_id, learned.sot_id, learned.eot_id) == (0, 1, 2)
    assert learned.vocab_size <= 300
    row = learned.encode(["A  RED\nbus"], 12).ids_BL
    np.testing.assert_array_equal(row, learned.encode(["a red bus"], 12).ids_BL)
    assert learned.decode(row[0]) == "a red bus"
    spelled = learned.encode(["<eot> a"], 20)
    assert (spelled.ids_BL == learned.eot_id).sum() == 1  # what a user types is never the end mark


@given(st.lists(st.text(max_size=50), min_size=1, max_size=4), st.integers(3, 30))
@settings(max_examples=80, deadline=None)
def test_every_row_is_marked_padded_and_counted(texts, length):
    for tokenizer in _both():
        encoded = tokenizer.encode(texts, length)
        whole = tokenizer.encode(texts, 400)
        assert encoded.ids_BL.shape == (len(texts), length)
        assert encoded.truncated == (whole.mask_BL.sum(1) > length).sum()
        for ids, mask in zip(encoded.ids_BL, encoded.mask_BL, strict=True):
            n = mask.sum()
            assert mask[:n].all()
            assert ids[0] == tokenizer.sot_id
            assert ids[n - 1] == tokenizer.eot_id
            assert (ids[n:] == tokenizer.pad_id).all()
            assert ids.max() < tokenizer.vocab_size


def test_of_a_long_text_the_first_or_the_last_tokens_stay(tmp_path):
    """The last ones as transformers keeps them, cutting at the left, as InstructBLIP's Q-Former reads questions."""
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "on", "the", "table", "left", "of", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    theirs = BertTokenizer(str(tmp_path / "vocab.txt"), truncation_side="left")
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_spec(str(tmp_path / "tokenizer.json"))
    texts = ["what is on the table left of the table?", "what is on the table?", "what?"]
    for length in (3, 5, 7, 12):
        expected = theirs(texts, truncation=True, max_length=length, padding="max_length").input_ids
        np.testing.assert_array_equal(ours.encode(texts, length, keep="last").ids_BL, expected)
        first = BertTokenizer(str(tmp_path / "vocab.txt"))(texts, truncation=True, max_length=length, padding="max_length")
        np.testing.assert_array_equal(ours.encode(texts, length).ids_BL, first.input_ids)


@lru_cache
def _both():
    return Tokenizer.train(CORPUS, 300), Tokenizer.from_spec("clip")


def same(a, b):
    texts = [*CORPUS, *TEXTS]
    left, right = a.encode(texts, 20), b.encode(texts, 20)
    np.testing.assert_array_equal(left.ids_BL, right.ids_BL)
    np.testing.assert_array_equal(left.mask_BL, right.mask_BL)
    assert left.truncated == right.truncated
    assert (a.vocab_size, a.pad_id, a.sot_id, a.eot_id) == (b.vocab_size, b.pad_id, b.sot_id, b.eot_id)


def test_round_trips(tmp_path, clip, learned):
    for tokenizer in (clip, learned):
        again = Tokenizer.from_spec(tokenizer.to_json())
        same(tokenizer, again)
        assert again.to_json() == tokenizer.to_json()
        tokenizer.save(tmp_path)
        same(tokenizer, Tokenizer.load(tmp_path))
    same(learned, pickle.loads(pickle.dumps(learned)))
    same(learned, Tokenizer.from_spec(str(tmp_path / "tokenizer.json")))


def test_transformers_reads_what_save_wrote(tmp_path, learned):
    from transformers import AutoTokenizer

    learned.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    ours = learned.encode(["two red buses"], 40)
    assert theirs("two red buses")["input_ids"] == ours.ids_BL[ours.mask_BL].tolist()
    assert (theirs.pad_token_id, theirs.eos_token_id) == (learned.pad_id, learned.eot_id)


def bert_folder(folder):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "bus", "##es", "."]
    theirs = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    theirs.save_pretrained(folder)
    return theirs


def test_a_transformers_folder_keeps_its_own_marks(tmp_path):
    theirs = bert_folder(tmp_path)
    ours = Tokenizer.from_spec(str(tmp_path))
    texts = ["A red bus.", "a", "red buses " * 9]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=8, return_tensors="np")
    encoded = ours.encode(texts, 8)
    np.testing.assert_array_equal(encoded.ids_BL, expected["input_ids"])
    np.testing.assert_array_equal(encoded.mask_BL, expected["attention_mask"].astype(bool))
    assert encoded.truncated == 1
    assert (ours.sot_id, ours.eot_id, ours.pad_id) == (2, 3, 0)


def test_marks_of_a_file_without_post_processor_come_from_its_side_files(tmp_path):
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "bus": 1, "END": 2, "FILL": 3}, unk_token="a"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer.json").write_text(inner.to_str())
    with pytest.raises(ConfigError, match="no end-of-text token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "END"}, "pad_token": "FILL"}))
    ours = Tokenizer.load(tmp_path)
    assert ours.encode(["a bus"], 5).ids_BL.tolist() == [[0, 1, 2, 3, 3]]
    assert ours.sot_id == -1


def test_what_cannot_work_is_named(tmp_path, clip):
    with pytest.raises(ConfigError, match="leaves no room"):
        clip.encode(["a"], 2)
    with pytest.raises(ConfigError, match="at least 260"):
        Tokenizer.train(["a"], 100)
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train([" "], 300)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        Tokenizer.from_spec(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a tokenizers file"):
        Tokenizer.load(tmp_path)


def _encode_in_child(tokenizer, queue):
    queue.put(tokenizer.encode(["a red bus"], 8).ids_BL.tolist())


def test_a_used_tokenizer_survives_the_fork(learned):
    expected = learned.encode(["a red bus"] * 64, 8).ids_BL[:1].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(learned, queue))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("spec", ["clip", "data"])
def test_words_have_their_pieces(spec: str) -> None:
    text = "A  tyrannosaurus, 25 naïve words — ok"
    words = Tokenizer.from_spec("clip") if spec == "clip" else Tokenizer.train(["tyrannosaurus ok ok", "words words"], 300)
    row = words.encode([text], 64)
    places = words.word_places(text, 64)
    assert [word for word, _ in places] == (text.lower() if spec == "clip" else text).split()

    def told(rows: list[int]) -> list[int]:
        """Without pieces that are a space alone."""
        return [place for place in rows if words.decode(row.ids_BL[0, [place]].tolist())]

    every = list(range(len(words.prefix), int(row.mask_BL.sum()) - len(words.suffix)))
    assert told([place for _, here in places for place in here]) == told(every), "every piece in one word, in order"
    for word, here in places:
        assert words.decode(row.ids_BL[0, here].tolist()).replace(" ", "") == word.lower()
    short = words.word_places(text, 5)
    assert {place for _, here in short for place in here} <= {1, 2, 3}
    assert short[-1][1] == []


def test_tokenizers_of_clip_share_their_vocabulary_but_not_what_is_set() -> None:
    first, second = Tokenizer.from_spec("clip"), Tokenizer.from_spec("clip")
    assert first.inner is second.inner
    first.pad_id, first.clean = first.eot_id, "none"
    assert (second.pad_id, second.clean) == (0, "clip")
    copied = Tokenizer.from_spec(second.to_json())
    copied.inner.add_tokens(["<mark>"])
    assert copied.vocab_size == second.vocab_size + 1 == 49409


class SharedVocabulary:
    """Vocabulary with the settings of "clip", in use by another thread: tokenizers 0.22 refuses every change of it."""

    truncation = padding = None

    def __init__(self) -> None:
        self.__dict__["encode_special_tokens"] = False

    def no_truncation(self) -> None:
        raise RuntimeError("Already borrowed")

    no_padding = no_truncation

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("Already borrowed")


def test_a_vocabulary_that_has_the_settings_already_is_not_changed() -> None:
    Tokenizer(SharedVocabulary(), pad_id=0, prefix=[], suffix=[1])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        Tokenizer(SharedVocabulary(), pad_id=0, prefix=[], suffix=[1], literal=True)  # type: ignore[arg-type]
