"""Two processes at one folder, a replacement that is killed, modes of what is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from diptych.core.disk import files
from diptych.core.disk.exchange import exchange
from diptych.core.disk.files import atomic_folder, publish, restore, umask, write_atomic
from diptych.core.disk.lock import Lock, exclusive
from diptych.core.errors import RunError
from diptych.core.run_folder import RunFolder


def python(script: str, **options: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


# ---------------------------------------------------------------- locks


def test_a_lock_keeps_others_out_until_its_holder_is_gone(tmp_path: Path) -> None:
    hold = f"""
        import sys, time
        from pathlib import Path
        from diptych.core.run_folder import RunFolder
        with RunFolder(Path({str(tmp_path / "run")!r})).locked():
            print("held", flush=True)
            time.sleep(600)
        """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(hold)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=r"run is being trained in another process: let it end") as caught,
            RunFolder(tmp_path / "run").locked(),
        ):
            pass
        assert "\n" not in str(caught.value)
        with RunFolder(tmp_path / "run").locked(False):  # another rank of the same run
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with RunFolder(tmp_path / "run").locked():
        pass
    assert list((tmp_path / "run").iterdir()) == []
    with RunFolder(tmp_path / "fresh").locked():
        pass
    assert not (tmp_path / "fresh").exists()


def test_a_child_does_not_hold_what_its_killed_parent_held(tmp_path: Path) -> None:
    """Loader workers are forked, and live on for some seconds."""
    done = python(
        f"""
        import os, signal, time
        from pathlib import Path
        from diptych.core.disk.lock import Lock
        lock = Lock.take(Path({str(tmp_path / "lock")!r}))
        if os.fork() == 0:
            os.close(1), os.close(2)
            time.sleep(20)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert done.returncode == -signal.SIGKILL
    lock = Lock.take(tmp_path / "lock")
    assert lock is not None
    lock.close()


def test_of_many_that_come_at_once_one_is_let_in(tmp_path: Path) -> None:
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def enter() -> None:
        nonlocal inside, most, refused
        for _ in range(50):
            try:
                with exclusive(tmp_path, ".lock", "something is done"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except RunError:
                with guard:
                    refused += 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_lock_can_be_written_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Lock, "take", refuse)
    with exclusive(tmp_path, ".lock", "something is done"):
        pass


def test_a_folder_with_the_name_of_a_lock_and_a_full_disk_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").mkdir()
    folder = r"/\.lock is a folder \(expected a lock, which is a file\): move it away"
    with pytest.raises(RunError, match=folder), RunFolder(tmp_path).locked():
        pass

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Lock, "take", full)
    line = r"the disk of .* is full: make room and run the same again"
    with pytest.raises(RunError, match=line), exclusive(tmp_path, ".other", "something is done"):
        pass


# ---------------------------------------------------------------- replaced in one step


def folder_of(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "a").write_text(content)
    return path


def test_a_reader_finds_the_old_or_the_new_at_every_moment(tmp_path: Path) -> None:
    path, stop, wrong = folder_of(tmp_path / "it", "0"), threading.Event(), list[str]()

    def look() -> None:
        while not stop.is_set():
            try:
                (path / "a").read_text()
            except OSError as error:
                wrong.append(str(error))

    if not exchange(folder_of(tmp_path / "x", "x"), folder_of(tmp_path / "y", "y")):
        pytest.skip("this file system cannot exchange two names")
    reader = threading.Thread(target=look)
    reader.start()
    for number in range(40):
        with atomic_folder(path) as work:
            (work / "a").write_text(str(number))
    stop.set()
    reader.join()
    assert not wrong
    assert sorted(os.listdir(tmp_path)) == ["it", "x", "y"]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_kill_in_a_replacement_leaves_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool, at: int
) -> None:
    path = folder_of(tmp_path / "it", "old")
    calls = 0
    real_replace, real_exchange = os.replace, files.exchange

    def killed(*paths: Path) -> None:
        nonlocal calls
        if calls == at:
            raise Killed
        calls += 1
        real_replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("diptych.core.disk.files.os.replace", killed)
        patch.setattr("diptych.core.disk.files.exchange", real_exchange if can_exchange else lambda *_: False)
        with suppress(Killed):
            publish(folder_of(tmp_path / "work", "new"), path)
    restore(path)
    assert (path / "a").read_text() in ("old", "new")
    work = folder_of(tmp_path / "next", "next")
    publish(work, path)
    assert (path / "a").read_text() == "next"
    assert not list(tmp_path.glob(".it.old.*"))


def test_what_killed_processes_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SWEPT_AFTER", -1.0)
    left = folder_of(tmp_path / ".it.0badf00d", "half")
    other = folder_of(tmp_path / ".it.building", "a build")
    with atomic_folder(tmp_path / "it") as work:
        assert not left.exists()
        assert other.exists()
        with atomic_folder(tmp_path / "it") as second:  # one that somebody is at stays
            assert work.is_dir()
            (second / "a").write_text("second")
        (work / "a").write_text("first")
    assert (tmp_path / "it/a").read_text() == "first"
    shutil.rmtree(other)
    assert sorted(os.listdir(tmp_path)) == ["it"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    folder_of(tmp_path / "far", "old")
    (tmp_path / "it").symlink_to(tmp_path / "far")
    publish(folder_of(tmp_path / "work", "new"), tmp_path / "it")
    assert (tmp_path / "it").is_symlink()
    assert (tmp_path / "far/a").read_text() == "new"


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_everything_has_the_modes_that_the_umask_gives(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    """Weights among them, which a library writes for its owner alone."""
    done = python(
        f"""
        import os
        os.umask({mask})
        import numpy as np
        from pathlib import Path
        from safetensors.numpy import save_file
        from diptych.core.disk.files import atomic_folder, write_atomic
        from diptych.data.shards.write import ShardWriter
        top = Path({str(tmp_path)!r})
        with atomic_folder(top / "model") as work:
            save_file({{"a": np.zeros(3)}}, work / "model.safetensors")
            os.chmod(work / "model.safetensors", 0o600)
            (work / "inner").mkdir(mode=0o700)
            (work / "inner/config.json").write_text("x")
        write_atomic(top / "file.json", "x")
        with ShardWriter(top / "shard.tar") as writer:
            writer.add("a.txt", b"x")
        """
    )
    assert done.returncode == 0, done.stderr
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "file.json": file,
        "shard.tar": file,
        "model": folder,
        "model/inner": folder,
        "model/inner/config.json": file,
        "model/model.safetensors": file,
    }


def test_the_umask_is_read_and_not_changed(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert umask() == 0o027
        write_atomic(tmp_path / "a", "x")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
