"""A disk that fills up under an index: one line, nothing acknowledged is lost, and what was asked goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest

import diptych as dp
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index import lexicon
from diptych.index.engine import disk, edge
from diptych.index.engine.disk import DiskFull

Usage = namedtuple("Usage", "total used free")


def texts(first: int, last: int) -> Pool:
    return Pool.from_samples([Sample(f"u{n}", None, (Text(f"a red bus number {n}"),)) for n in range(first, last)], name="words")


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(2**30, 2**30 - free, free))


def test_an_index_is_left_as_it_was_when_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dp.index("words", texts(0, 5), tmp_path / "index", kind="lexical", progress=False).close()
    with dp.open_index(tmp_path / "index") as opened:
        with monkeypatch.context() as patch:
            full(patch, 2**20)
            for change in (lambda: opened.add(texts(5, 9), progress=False), lambda: opened.remove(["u0"]), opened.compact):
                with pytest.raises(
                    DiskFull, match=r"is full: 1 MiB are free and .* are needed; what was stored before is kept"
                ) as caught:
                    change()
                assert "\n" not in str(caught.value)
            assert {hit.uid for hit in opened.search_text("bus", 9)} == {f"u{n}" for n in range(5)}
        assert opened.add(texts(5, 9), progress=False) == 4
        assert opened.remove(["u0"]) == 1
    with dp.open_index(tmp_path / "index") as opened:
        assert opened.uids() == [f"u{n}" for n in range(1, 9)]


def test_a_build_that_found_no_room_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = disk.size_of, 0

    def later(items: object) -> int:
        nonlocal asked
        asked += 1
        return real(items) if asked < 2 else 2**60  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(edge, "size_of", later)
        with pytest.raises(DiskFull):
            dp.index("words", texts(0, 600), tmp_path / "index", kind="lexical", progress=False)
    assert not (tmp_path / "index").exists()
    assert (tmp_path / ".index.building/index.json").is_file()
    with dp.index("words", texts(0, 600), tmp_path / "index", kind="lexical", progress=False) as made:
        assert len(made) == 600
    assert sorted(os.listdir(tmp_path)) == ["index"]


def test_half_of_a_term_does_not_stay_in_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = lexicon.TermVocabulary(tmp_path)
    words.learn(["red", "bus"])
    with monkeypatch.context() as patch:

        def fail(handle: int) -> None:
            os.truncate(tmp_path / "words.txt", (tmp_path / "words.txt").stat().st_size - 2)
            raise OSError(28, "No space left on device")

        patch.setattr(lexicon.os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            words.learn(["green", "tree"])
    words.learn(["tall"])
    assert lexicon.TermVocabulary(tmp_path).terms() == ["red", "bus", "tall"]


@pytest.mark.slow
def test_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """In a file system of its own in memory, with another program's files that take the rest."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here")
    script = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_full_disk import texts
        import diptych as dp
        from diptych.cli import main
        top = Path({str(tmp_path)!r})
        dp.index("words", texts(0, 300), top / "index", kind="lexical", progress=False).close()
        (top / "more.jsonl").write_text("")
        spare = top / "another.bin"
        usage = os.statvfs(top)
        with spare.open("wb") as file:
            file.write(bytes(usage.f_bavail * usage.f_frsize - 200_000))
        with dp.open_index(top / "index") as opened:
            try:
                opened.add(texts(300, 2000), progress=False)
            except Exception as error:
                print("LINE", type(error).__name__, str(error).count(chr(10)), flush=True)
        spare.unlink()
        with dp.open_index(top / "index") as opened:
            print("COUNT", len(opened), len(opened.search_text("bus", 3)), flush=True)
            opened.add(texts(300, 2000), progress=False)
            print("COUNT", len(opened), flush=True)
        """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    shell = f"cp {tmp_path}/script.py /dev/shm/script-$$.py && mount -t tmpfs -o size=64m none {tmp_path} && "
    shell += f"{sys.executable} /dev/shm/script-$$.py; code=$?; rm -f /dev/shm/script-$$.py; exit $code"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["LINE DiskFull 0", "COUNT 300 3", "COUNT 2000"]


# ---------------------------------------------------------------- disks in memory


def test_holes_of_chunk_files_are_filled_or_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = tmp_path / "segments" / "chunk_0.mmap"
    chunk.parent.mkdir()
    with chunk.open("wb") as file:
        file.write(b"kept")
        file.truncate(2**20)
    assert disk.chunk_room(tmp_path) == disk.CHUNK
    with monkeypatch.context() as patch:
        full(patch, 2**18)
        with pytest.raises(
            DiskFull, match=r"memory disk of .* is too small: 0 MiB are free and 1 are needed to open the index"
        ) as caught:
            disk.fill_holes(tmp_path)
    assert "\n" not in str(caught.value)
    assert chunk.stat().st_blocks * 512 < 2**19
    disk.fill_holes(tmp_path)
    assert chunk.stat().st_blocks * 512 >= 2**20
    assert chunk.read_bytes() == b"kept" + bytes(2**20 - 4)


def test_a_folder_is_known_to_be_in_memory() -> None:
    if not Path("/dev/shm").is_mount() or "tmpfs" not in Path("/proc/mounts").read_text():
        pytest.skip("no tmpfs here")
    assert disk.in_memory(Path("/dev/shm"))
    assert not disk.in_memory(Path("/proc"))
    assert not disk.in_memory(Path("/nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 24, 32, 48])
def test_a_dense_index_on_a_small_memory_disk_is_refused_in_a_line(size: int, tmp_path: Path) -> None:
    """It ended in SIGBUS when its first chunk file was loaded again."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    script = f"""
        import os, sys
        from pathlib import Path
        sys.path[:0] = [{str(Path(__file__).parents[1] / "index")!r}, {str(Path(__file__).parent)!r}]
        from conftest import Named
        from test_full_disk import texts
        from diptych.core.errors import RunError
        from diptych.index.kinds.dense import DenseIndex
        top = Path({str(tmp_path)!r})

        def attempt(work):
            try:
                work()
            except RunError as error:
                print("LINE", type(error).__name__, str(error).count(chr(10)), flush=True)

        def build(name):
            with DenseIndex.build(Named(), texts(0, 300), top / name, what="texts", progress=False) as made:
                print("COUNT", len(made), len(made.search_text("bus", 3)), flush=True)

        attempt(lambda: build("index"))
        os.system(f"mount -o remount,size=140m {{top}}")
        build("index")
        os.system(f"cp -r --sparse=always {{top}}/index {{top}}/copy && rm -r {{top}}/index")
        usage = os.statvfs(top)
        (top / "another.bin").write_bytes(bytes(usage.f_bavail * usage.f_frsize - 20 * 2**20))
        attempt(lambda: DenseIndex.open(top / "copy", Named()))
        (top / "another.bin").unlink()
        with DenseIndex.open(top / "copy", Named()) as opened:
            print("COUNT", len(opened), len(opened.search_text("bus", 3)), flush=True)
        """
    program = Path(tmp_path.parent, f"script-{size}.py")
    program.write_text(textwrap.dedent(script))
    shell = f"mount -t tmpfs -o size={size}m none {tmp_path} && {sys.executable} {program}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["LINE DiskFull 0", "COUNT 300 3", "LINE DiskFull 0", "COUNT 300 3"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "lexical"])
def test_a_search_needs_no_free_disk(kind: str, tmp_path: Path) -> None:
    """The engine writes some files when it opens; on a disk without a free byte a temporary copy elsewhere is searched."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    script = f"""
        import os, sys
        from pathlib import Path
        sys.path[:0] = [{str(Path(__file__).parents[1] / "index")!r}, {str(Path(__file__).parent)!r}]
        from conftest import Named
        from test_full_disk import texts
        import diptych as dp
        from diptych.core.errors import RunError
        from diptych.index.kinds.dense import DenseIndex
        top, kind = Path({str(tmp_path)!r}), {kind!r}
        model = Named() if kind == "dense" else "words"
        if kind == "dense":
            DenseIndex.build(model, texts(0, 300), top / "index", what="texts", progress=False).close()
        else:
            dp.index(model, texts(0, 300), top / "index", kind=kind, progress=False).close()
        spare = top / "another.bin"
        with spare.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        for _ in range(2):
            with dp.open_index(top / "index", model=model) as opened:
                print("COUNT", len(opened), len(opened.search_text("bus", 3)), flush=True)
                try:
                    opened.remove(["u1"])
                except RunError as error:
                    print("LINE", type(error).__name__, str(error).count(chr(10)), flush=True)
        spare.unlink()
        with dp.open_index(top / "index", model=model) as opened:
            print("COUNT", opened.remove(["u1"]), len(opened), flush=True)
        """
    program = Path(tmp_path.parent, f"search-{kind}.py")
    program.write_text(textwrap.dedent(script))
    shell = f"mount -t tmpfs -o size=200m none {tmp_path} && {sys.executable} {program}"
    left = set(Path(tempfile.gettempdir()).glob("diptych-index-*"))
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*["COUNT 300 3", "LINE DiskFull 0"] * 2, "COUNT 1 299"]
    assert set(Path(tempfile.gettempdir()).glob("diptych-index-*")) == left
