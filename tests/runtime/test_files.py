"""Files whole or not at all, one writer at a time, and what is said where there is no room."""

import errno
import logging
import os
import threading

import filelock
import pytest

from fcn_jax.runtime import files
from fcn_jax.types import InputError


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_file_is_replaced_in_one_piece(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with files.replacing(path) as part:
        part.write_text("new, but not yet")
        assert path.read_text() == "old"
    assert path.read_text() == "new, but not yet"
    files.write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "link").symlink_to("a.txt")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_what_is_no_regular_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no regular file"):
        files.write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    name = "m" * 255
    files.write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"
    with pytest.raises(InputError, match="File name too long"):
        files.write_text(tmp_path / (name + "m"), "new")


@pytest.mark.parametrize(
    "error", [_error(errno.ENOSPC), ValueError("no JSON"), KeyboardInterrupt()]
)
def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = InputError if isinstance(error, OSError) else type(error)

    def write():
        with files.replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(expected):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is too full (7.0 kB free, it needs 3 bytes): make room, then"),
        (errno.EDQUOT, "the disk is too full (7.0 kB free, it needs 3 bytes): make room, then"),
        (errno.EACCES, "cannot be written (Permission denied): fix that or choose another"),
        (errno.EROFS, "cannot be written (Read-only file system): fix that or choose"),
    ],
)
@pytest.mark.parametrize("write", ["write_bytes", "write_text"])
def test_what_is_said_of_a_failed_write(tmp_path, monkeypatch, write, number, words):
    def fail(*_):
        raise _error(number)

    monkeypatch.setattr(files, "free", lambda _: 7000)
    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(InputError) as caught:
        getattr(files, write)(tmp_path / "a", "abc" if write == "write_text" else b"abc")
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: {words}")
    assert "\n" not in str(caught.value)


def test_room_is_required(tmp_path):
    files.require(tmp_path, files.free(tmp_path) // 2, "a save")
    with pytest.raises(InputError, match=r"a save needs \d+\.\d [MG]B\): make room"):
        files.require(tmp_path, 10 * files.free(tmp_path), "a save")
    assert files.free(tmp_path / "not" / "yet") > 0


def test_folders_that_cannot_be_made(tmp_path, monkeypatch):
    files.make_folder(tmp_path / "a/b")
    files.make_folder(tmp_path / "a/b")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be made \(Not a directory\): use --out"):
        files.make_folder(tmp_path / "file/below", "use --out")

    def full(*_, **__):
        raise _error(errno.ENOSPC)

    monkeypatch.setattr(files.Path, "mkdir", full)
    with pytest.raises(InputError, match="too full"):
        files.make_folder(tmp_path / "c")


def test_a_full_disk_is_recognised_behind_other_errors():
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = _error(errno.ENOSPC)
    assert files.is_full(wrapped)
    assert files.is_full(ValueError("RESOURCE_EXHAUSTED: No space left on device"))
    assert not files.is_full(_error(errno.EACCES))
    assert not files.is_full(ValueError("shapes differ"))


def test_the_second_waits_and_says_why(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    order = []

    def second():
        with files.alone(tmp_path / ".lock", "preparing x"):
            order.append("second")

    with files.alone(tmp_path / ".lock", "preparing x"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert caplog.messages == ["another process is preparing x: waiting for it"]


def test_a_lock_that_cannot_be_made(tmp_path, monkeypatch):
    def full(*_, **__):
        raise _error(errno.ENOSPC)

    monkeypatch.setattr(filelock.FileLock, "acquire", full)
    with (
        pytest.raises(InputError, match="too full"),
        files.alone(tmp_path / ".lock", "preparing"),
    ):
        pass


def test_a_path_that_is_no_utf8_is_refused(tmp_path):
    files.require_utf8(tmp_path / "Übung 1")
    with pytest.raises(InputError, match=r"w\\xfc/run: the path is no UTF-8: choose another"):
        files.require_utf8(tmp_path / os.fsdecode(b"w\xfc") / "run")
