"""The downloader against a server on this machine that can misbehave."""

import errno
import hashlib
import http.server
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fcn_jax.runtime import download, files
from fcn_jax.types import InputError

BODY = bytes(range(256)) * 400
KEPT = 3 * 2**14  # of 60000 bytes, in whole chunks
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/good serves BODY with Range; the other paths each go wrong in one way."""

    server: "Server"  # type: ignore[assignment]

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        body, status, kind, cut = BODY, 200, "application/x-tar", None
        wanted = self.headers.get("Range")
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/html":
            body, kind = b"<html>log in to the network first</html>", "text/html"
        elif self.path == "/wrong":
            body = BODY[:-1] + b"x"
        elif self.path == "/cut":
            cut = 60_000
        elif self.path == "/silent":
            self.server.stop.wait(5)
            return
        if wanted and self.path in ("/good", "/cut"):
            body, status = BODY[int(wanted.removeprefix("bytes=").rstrip("-")) :], 206
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut] if self.path != "/endless" else BODY + b"more")
        self.close_connection = True

    def log_message(self, format, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.stop = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def dead_url():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/file"


def fetch(folder, *mirrors, timeout=(2.0, 2.0)):
    artifact = download.Artifact("a.tar", len(BODY), SHA, mirrors)
    return download.fetch(artifact, folder, False, timeout)


def test_mirrors_are_tried_in_order_until_one_works(server, tmp_path):
    path = fetch(
        tmp_path / "new", dead_url(), server.url + "/missing", server.url + "/good", "http://never"
    )
    assert path == tmp_path / "new" / "a.tar"
    assert path.read_bytes() == BODY
    assert [p for p, _ in server.requests] == ["/missing", "/good"]
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "a.tar"]


def test_file_that_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(BODY)
    assert fetch(tmp_path, server.url + "/good").read_bytes() == BODY
    assert server.requests == []


def test_damaged_file_is_replaced(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(BODY[::-1])
    assert fetch(tmp_path, server.url + "/good").read_bytes() == BODY


def test_a_cut_body_is_resumed_where_it_ended(server, tmp_path):
    with pytest.raises(InputError, match="60000 bytes read"):
        fetch(tmp_path, server.url + "/cut")
    assert (tmp_path / "a.tar.part").stat().st_size == KEPT
    assert not (tmp_path / "a.tar").exists()
    assert fetch(tmp_path, server.url + "/good").read_bytes() == BODY
    assert server.requests == [("/cut", None), ("/good", f"bytes={KEPT}-")]


def test_a_second_mirror_goes_on_from_the_first(server, tmp_path):
    assert fetch(tmp_path, server.url + "/cut", server.url + "/good").read_bytes() == BODY
    assert server.requests[1] == ("/good", f"bytes={KEPT}-")


def test_a_server_without_range_starts_over(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"z" * 1000)
    with pytest.raises(InputError, match="wrong file"):
        fetch(tmp_path, server.url + "/wrong")  # answers 200 with the whole body
    assert not (tmp_path / "a.tar.part").exists()


def test_page_of_a_firewall_is_not_taken_for_the_file(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(BODY[:1000])
    with pytest.raises(InputError, match="offers 40 bytes of text/html, expected"):
        fetch(tmp_path, server.url + "/html")
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:1000]  # what was there is not lost


def test_wrong_content_is_thrown_away(server, tmp_path):
    with pytest.raises(InputError, match="wrong file: 102400 bytes, sha256"):
        fetch(tmp_path, server.url + "/wrong")
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    with pytest.raises(InputError, match="sends more than 102400 bytes"):
        fetch(tmp_path, server.url + "/endless")


def test_silent_server_is_left_after_the_timeout(server, tmp_path):
    start = time.monotonic()
    path = fetch(tmp_path, server.url + "/silent", server.url + "/good", timeout=(1.0, 0.2))
    assert path.read_bytes() == BODY
    assert time.monotonic() - start < 3


def test_one_error_names_every_mirror_and_the_place_for_the_file(server, tmp_path):
    dead = dead_url()
    urls = [dead, server.url + "/missing", server.url + "/html", server.url + "/silent"]
    with pytest.raises(InputError) as info:
        fetch(tmp_path, *urls, timeout=(1.0, 0.2))
    message = str(info.value)
    assert "\n" not in message
    assert f"{dead}: no connection" in message
    assert "/missing: HTTP status 404" in message
    assert "/silent: no answer in time" in message
    assert message.endswith(f"({len(BODY)} bytes, sha256 {SHA}) and put it into {tmp_path}")


def test_a_full_disk_is_said_once_and_not_of_every_mirror(server, tmp_path, monkeypatch):
    (tmp_path / "a.tar.part").write_bytes(BODY[:KEPT])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_download", full)
    with pytest.raises(
        InputError, match=r"too full \(.* free, a.tar needs 102.4 kB\): make room"
    ) as e:
        fetch(tmp_path, server.url + "/good", server.url + "/good")
    assert "/good" not in str(e.value)
    monkeypatch.undo()
    fetch(tmp_path, server.url + "/good")
    assert server.requests == [("/good", f"bytes={KEPT}-")]


def test_room_is_asked_for_what_is_lacking_only(server, tmp_path, monkeypatch):
    (tmp_path / "a.tar.part").write_bytes(BODY[:KEPT])
    monkeypatch.setattr(files, "free", lambda _: len(BODY) - KEPT - 1)
    with pytest.raises(InputError, match="too full"):
        fetch(tmp_path, server.url + "/good")
    assert server.requests == []
    monkeypatch.setattr(files, "free", lambda _: len(BODY) - KEPT)
    assert fetch(tmp_path, server.url + "/good").read_bytes() == BODY


def test_two_at_once_download_once(server, tmp_path, capfd):
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(fetch, tmp_path, server.url + "/good") for _ in range(2)]
    assert {f.result().read_bytes() for f in made} == {BODY}
    assert server.requests == [("/good", None)]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        fetch(tmp_path / "file" / "below")
