"""The page of a run that goes on: from its folder alone, in a thread, at a bounded cost."""

import errno
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from fcn_jax import config as configs
from fcn_jax.analysis import live_report, run_report
from fcn_jax.models import MODELS
from fcn_jax.report import pages
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, loop, run_dir
from tests import fakes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run's folder: what is there while another one goes on is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", fakes.TINY)
        folder = tmp_path_factory.mktemp("runs") / "run"
        loop.train(fakes.config(), fakes.dataset(), folder, configs.Runtime(show=False))
        yield folder


@pytest.fixture
def live(trained):
    watched = live_report.LiveReport(fakes.dataset(), "python -m something")
    run = SimpleNamespace(config=fakes.config(epochs=9), folder=trained, parameters=1234)
    watched.on_start(cast(Any, run))
    watched.wait()
    yield watched
    watched.wait()


def page(folder):
    return (folder / "report.html").read_text()


def refreshed(live, best=True):
    live._last = -1e9  # due, however short the test was so far
    live.on_epoch({"epoch": 1}, best)
    live.wait()


def test_the_first_page_shows_settings_and_training_images(trained, live):
    source = page(trained)
    assert pages.is_live(source)
    assert 'data-state="running"' in source
    assert "1,234" in source
    assert "mask over it" in source
    assert "8 train, 5 val" in source


def test_an_epoch_refreshes_page_curves_and_gallery(trained, live):
    for name in ("curves.png", "gallery.png"):
        (trained / name).unlink(missing_ok=True)
    refreshed(live)
    source = page(trained)
    assert source.count('"zoom"') >= 5 * live_report.PANELS
    history = run_dir.read_metrics(trained)
    best = max(history, key=lambda row: row["val"]["miou"])
    assert f"{best['val']['miou']:.4f}" in source
    assert "3 of 9" in source
    with Image.open(trained / "gallery.png") as image:
        assert image.height > live_report.PANELS * 100
    with Image.open(trained / "curves.png") as image:
        assert image.width == 1300
    assert live.cost > 0


def test_the_page_shows_what_the_finished_one_will(tmp_path, monkeypatch):
    """The constant prediction; accuracy and Dice of each class, from the best epoch's counts."""
    monkeypatch.setitem(MODELS, "tiny", fakes.TINY)
    live = live_report.LiveReport(fakes.dataset())
    monkeypatch.setattr(live, "interval", lambda: 0.0)
    written = []
    write = pages.write_report
    monkeypatch.setattr(
        pages, "write_report", lambda data, path: (written.append(data), write(data, path))
    )
    on_epoch = live.on_epoch
    monkeypatch.setattr(live, "on_epoch", lambda *a: (live.wait(), on_epoch(*a), live.wait()))
    quiet = configs.Runtime(show=False)
    result = loop.train(fakes.config(epochs=2), fakes.dataset(), tmp_path, quiet, [live])
    last, saved = written[-1], evaluate.load(tmp_path)[0]
    for key in ("trivial", "trivial_name", "perfect", "best_epoch"):
        assert last["result"][key] == result[key]
    assert last["confusion"].tolist() == saved["confusion"]
    assert last["result"]["val"] == result["val"]


def test_programs_are_run_by_the_thread_that_trains(tmp_path, monkeypatch):
    """None runs beside a step on several devices of a CPU, see `LiveReport`."""
    monkeypatch.setitem(MODELS, "tiny", fakes.TINY)
    threads = []

    def noting(function):
        def noted(*args):
            threads.append(threading.current_thread())
            return function(*args)

        return noted

    for name in ("page_data", "panels_of"):
        monkeypatch.setattr(run_report, name, noting(getattr(run_report, name)))
    live = live_report.LiveReport(fakes.dataset())
    monkeypatch.setattr(live, "interval", lambda: 0.0)
    on_epoch = live.on_epoch
    monkeypatch.setattr(live, "on_epoch", lambda *a: (live.wait(), on_epoch(*a)))
    config, quiet = fakes.config(epochs=3), configs.Runtime(show=False)
    loop.train(config, fakes.dataset(), tmp_path, quiet, [live])
    live.wait()
    assert len(threads) >= 3
    assert {*threads} == {threading.main_thread()}


def test_training_does_not_wait_for_the_page(live, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(run_report, "write_images", lambda *_, **__: release.wait(10))
    live._last = -1e9
    began = time.monotonic()
    live.on_epoch({"epoch": 1}, False)
    live.on_epoch({"epoch": 1}, False)  # while the first is being made: no second one beside it
    assert time.monotonic() - began < 0.5
    assert threading.active_count() >= 2
    release.set()
    live.wait()
    assert live.refreshes == 1


def test_a_refresh_is_due_only_where_it_stays_below_its_share_of_the_time(live):
    live.cost = 0.3
    assert live.interval() == pytest.approx(0.3 / 0.02)
    live._last = time.monotonic() - 14
    live.on_epoch({"epoch": 1}, True)
    live.wait()
    assert live.refreshes == 0
    live._last = time.monotonic() - 16
    live.on_epoch({"epoch": 1}, False)
    live.wait()
    assert live.refreshes == 1
    live.cost, live._began = 0.01, time.monotonic() - 36_000
    assert live.interval() == 60  # of a long run at most every minute


def test_a_stopped_run_says_so_and_nothing_is_written_later(trained, live):
    live.on_end(None)
    assert 'data-state="stopped"' in page(trained)
    before = page(trained)
    refreshed(live)
    assert page(trained) == before


def test_a_finished_run_is_left_to_its_own_page(trained, live):
    dataset = fakes.dataset()
    live.on_end({"val": {}})
    run_report.render(trained, dataset, "")
    refreshed(live)
    assert 'id="live"' not in page(trained)
    assert not pages.is_live(page(trained))


def test_a_page_that_cannot_be_written_does_not_end_the_run(trained, live, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError("no room")

    def full_disk(*_, **__):
        raise files.refused(trained, OSError(errno.ENOSPC, "")) from OSError(errno.ENOSPC, "")

    monkeypatch.setattr(run_report, "write_images", full)
    refreshed(live)
    assert "could not be refreshed: no room" in caplog.text
    caplog.clear()
    monkeypatch.setattr(run_report, "write_images", full_disk)
    refreshed(live)
    assert not caplog.text  # the next checkpoint says it, in one line
    monkeypatch.undo()
    refreshed(live)
    assert live.refreshes == 1


WRITER = """
import sys, pathlib, types
from fcn_jax.analysis import run_report
from fcn_jax.report import pages
from tests.report.conftest import CONFUSION, NAMES, PALETTE, make_panel, make_result, make_rows
folder, panels = pathlib.Path(sys.argv[1]), [make_panel()] * 3
dataset = types.SimpleNamespace(class_names=NAMES, palette=PALETTE)
data = dict(class_names=NAMES, palette=PALETTE, result=make_result(), history=make_rows(),
            confusion=CONFUSION, panels=panels)
while True:
    pages.write_report(data, folder / "report.html")
    run_report.write_images(folder, make_result(), panels, dataset, dpi=60)
    print("written", flush=True)
"""


@pytest.mark.slow
def test_a_kill_while_files_are_written_leaves_them_whole(tmp_path):
    for moment in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=os.getcwd()
        )
        with child:
            assert child.stdout
            assert child.stdout.readline() == b"written\n"
            time.sleep(0.07 * moment)
            child.kill()
        assert page(tmp_path).endswith("</html>\n") or page(tmp_path).endswith("</html>")
        for name in ("gallery.png", "curves.png"):
            with Image.open(tmp_path / name) as image:
                image.load()
