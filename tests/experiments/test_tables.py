"""The numbers of the README and the pages come from result files, all of them."""

import json
from pathlib import Path

from experiments import tables
from fcn_jax.runtime.text import DASH


def text():
    return "\n".join(path.read_text() for path in tables.PAGES)


def test_the_pages_agree_with_the_result_files():
    assert tables.main(["--check"]) == 0


def test_every_table_is_on_a_page():
    assert {name for _, name, _ in tables.MARKED.findall(text())} == set(tables.TABLES)


def test_every_result_file_is_used(monkeypatch):
    read, real = set(), Path.read_text

    def noted(path, *args, **kwargs):
        read.add(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", noted)
    for make in tables.TABLES.values():
        make()
    assert {path.name for path in tables.RESULTS.glob("*.json")} <= read


def test_a_changed_number_is_noticed():
    page = text()
    marked = tables.MARKED.search(page)
    assert marked
    changed = page[: marked.end(1)] + "| 0.9999 |\n" + page[marked.start(3) :]
    assert tables.rendered(changed) == page


def _several(tmp_path, monkeypatch):
    """A table.json of two runs, in the place of the result files."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    about = {"device": "cpu", "cores": 2, "jax": "1", "flax": "2"}
    row = {"sd": None, "paper": None, "trivial": 0.03, "perfect": 1.0, "collapsed": 0}
    metrics = {
        name: [{**row, "name": "a", "mean": 0.25}, {**row, "name": "b", "mean": 0.5, "sd": 0.01}]
        for name in ("miou", "pixel_accuracy", "paper_iou", "paper_iou_batch16")
    }
    metrics["paper_pixel_accuracy"] = [{**r, "paper": 0.7} for r in metrics["miou"]]
    metrics["paper_iou"][0] |= {"collapsed": 1, "paper": 0.05}
    data = {
        "command": "python -m it --epochs 3",
        "best_of_epochs": {"a": {"paper_iou_batch16": [0.3, 0.5], "paper_pixel_accuracy": [0.8]}},
        "metrics": metrics,
        "pairs": [{"a": "b", "b": "a", "difference": 0.25, "low": -0.001, "high": 0.41, "p": 0.1}],
        "runs": [{"seeds": "4", "epochs": "3", "time": "1 min", "rate": "9.0"}] * 2,
        "results": {
            "a": [{"dataset": "towns", "seed": 4, "environment": about, "seconds": 60.0}],
            "b": [{"dataset": "towns", "seed": 5, "environment": about, "seconds": 65.0}],
        },
    }
    (tmp_path / "x.json").write_text(json.dumps(data))


def test_the_papers_table_by_hand(tmp_path, monkeypatch):
    _several(tmp_path, monkeypatch)
    lines = tables.paper_table("x").splitlines()
    assert lines[2] == (
        "| a (collapsed) | 0.0500 | 0.2500 | 0.4000 | 0.2500 | 0.2500 "
        "| 0.7000 | 0.2500 | 0.8000 | 4 | 3 |"
    )
    assert lines[3].startswith(f"| b | {DASH} | 0.5000 ± 0.0100 |  |")
    assert "| 0.7000 |" in lines[3]
    assert lines[4] == "| baseline (not run) | 0.0550 |  |  |  |  | 0.7040 |  |  |  |  |"
    assert lines[11] == "| all-background |  | 0.0300 |  | 0.0300 | 0.0300 |  | 0.0300 |  |  |  |"
    assert lines[12] == "| perfect |  | 1.0000 |  | 1.0000 | 1.0000 |  | 1.0000 |  |  |  |"
    assert lines[14] == (
        "towns (val), seed 4, 5; 2 runs in 2 min 5 s on cpu, 2 cores; jax 1, flax 2:"
    )
    assert lines[17] == "python -m it --epochs 3"


def test_before_there_are_runs_the_papers_table_has_its_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.paper_table("x").splitlines()
    assert lines[2] == "| baseline | 0.0550 |  |  |  | 0.7040 |  |  |  |"
    assert (len(lines), lines[-1]) == (11, "Not run yet.")


def test_result_files_name_no_folder_of_a_machine():
    for path in tables.RESULTS.glob("*.json"):
        data = json.loads(path.read_text())
        made = data.get("command", "") if isinstance(data, dict) else ""
        assert not [word for word in made.split() if Path(word).is_absolute()], path
