"""Published weights: the table, the cache, and what is said without a network."""

import functools
import hashlib
import http.server
import threading

import pytest

from fcn_jax.types import InputError
from fcn_jax.weights import torchvision


@pytest.fixture
def published(monkeypatch):
    """A file of our own in the table, whose name has the digits of its content."""
    body = b"some weights"
    name = f"tiny-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(torchvision.FILES, "tiny", {"V1": name, "V2": "tiny-00000000.pth"})
    monkeypatch.setattr(torchvision, "URL", "http://127.0.0.1:9/")  # nothing listens there
    return name, body


def test_a_right_file_in_the_cache_needs_no_network(published, tmp_path):
    name, body = published
    (tmp_path / name).write_bytes(body)
    assert torchvision.pretrained("tiny", tmp_path, progress=False) == tmp_path / name


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    """Serves a folder with the published file, and a wrong one for V2."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / published[0]).write_bytes(published[1])
    (tmp_path / "served" / "tiny-00000000.pth").write_bytes(published[1])

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(torchvision, "URL", f"http://127.0.0.1:{server.server_port}/")
        yield
        server.shutdown()
        thread.join()


def test_the_digits_in_the_name_decide(server, published, tmp_path):
    path = torchvision.pretrained("tiny", tmp_path / "cache", progress=False)
    assert path == tmp_path / "cache" / published[0]
    assert path.read_bytes() == published[1]
    with pytest.raises(InputError, match="wrong file: 12 bytes"):
        torchvision.pretrained("tiny", tmp_path / "cache", "V2", progress=False)
    assert not (tmp_path / "cache" / "tiny-00000000.pth").exists()


@pytest.mark.parametrize("present", [False, True])
def test_offline_the_line_says_what_to_get_and_where_to_put_it(published, tmp_path, present):
    name, _ = published
    if present:
        (tmp_path / name).write_bytes(b"other weights")
    with pytest.raises(InputError) as error:
        torchvision.pretrained("tiny", tmp_path, progress=False)
    line = str(error.value)
    assert "\n" not in line
    for word in (f"http://127.0.0.1:9/{name}", str(tmp_path), name[5:13], "path of the file"):
        assert word in line
    assert ("checksum is wrong" in line) == present


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("vgg", None, "'vgg'.*resnet18.*fcn_resnet50"),
        ("resnet50", "IMAGENET1K_V3", "'IMAGENET1K_V3'.*IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_unknown_names(tmp_path, name, weights, words):
    with pytest.raises(InputError, match=words):
        torchvision.pretrained(name, tmp_path, weights)


def test_the_table_is_torchvisions():
    pytest.importorskip("torch")
    from tests.models.torch_reference import torchvision_models

    models = torchvision_models()
    for name, files in torchvision.FILES.items():
        for weights, filename in files.items():
            theirs = models.get_model_weights(name)[weights]
            assert theirs.url == torchvision.URL + filename or theirs.url.endswith("/" + filename)
