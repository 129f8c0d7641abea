"""Training and segmenting from Python: the same pages, and results that show themselves."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fcn_jax import config as configs
from fcn_jax.analysis import notebook
from fcn_jax.models import MODELS
from tests import fakes


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", fakes.TINY)
        folder = tmp_path_factory.mktemp("runs") / "run"
        quiet = configs.Runtime(show=False)
        yield notebook.train(fakes.config(), fakes.dataset(), folder, quiet, command="again")


def test_training_from_python_writes_the_page_of_the_command(result):
    page = (result.folder / "report.html").read_text()
    assert "<pre>again</pre>" in page
    assert 'id="live"' not in page  # finished
    assert "8 train, 5 val" in page
    assert "mask over it" in page
    assert 'href="./metrics.jsonl"' in page


def test_a_page_of_the_run_while_it_went_on_is_replaced(result):
    """Its thread may write one after the result, and the process be killed before the last."""
    path = result.folder / "report.html"
    page = path.read_text()
    path.write_text('<p id="live" data-state="running">')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", fakes.TINY)
        quiet = configs.Runtime(show=False)
        notebook.train(fakes.config(), fakes.dataset(), result.folder, quiet, command="again")
    assert 'id="live"' not in path.read_text()
    assert path.read_text().count("<section") == page.count("<section")


def test_a_result_is_a_dict_that_shows_scores_and_curves(result):
    assert set(result) >= {"val", "trivial", "seconds"}
    html = result._repr_html_()
    assert f"<tr><th>mIoU</th><td>{result['val']['miou']:.4f}</td>" in html
    assert "data:image/png;base64," in html
    loss = result.curves().axes[0].get_lines()[0]
    assert list(loss.get_xdata()) == [1, 2, 3]
    assert [t.get_text() for t in result.confusion().axes[0].get_xticklabels()] == [
        "background", "left", "right",
    ]  # fmt: skip
    assert result.gallery().size[0] > 1000


@pytest.fixture
def made():
    image = np.full((60, 100, 3), 90, np.uint8)
    mask = np.zeros((60, 100), np.uint8)
    mask[:15] = 2
    palette = np.array([[0, 0, 0], [0, 255, 0], [200, 0, 0]], np.uint8)
    return notebook.Segmentation(image, mask, fakes.CLASSES, palette)


def test_a_segmentation_shows_image_and_mask_with_a_legend(made):
    with Image.open(BytesIO(made._repr_png_())) as shown:
        pixels = np.asarray(shown)
    assert pixels.shape[1] == 200
    assert (pixels[:60, :100] == 90).all()
    assert tuple(pixels[5, 150]) == (156, 36, 36)  # 0.4 * 90 + 0.6 * (200, 0, 0)
    assert (pixels[60:] == (200, 0, 0)).all(axis=-1).sum() > 100  # the swatch


def test_a_segmentation_is_printed_in_one_line(made):
    assert repr(made) == "Segmentation(60x100: background 75.0 %, right 25.0 %)"


def test_areas_are_fractions_largest_first(made):
    assert list(made.areas().items()) == [("background", 0.75), ("right", 0.25)]


def test_segment_predicts(tmp_path):
    network = fakes.checkpoint()
    image = fakes.example(0).image
    made = notebook.segment(network, image)
    np.testing.assert_array_equal(made.mask, notebook.predict.predict(network, image))
    assert made.class_names == fakes.CLASSES
