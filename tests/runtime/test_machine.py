"""What may be used of the machine."""

import os

import pytest

from fcn_jax.runtime import machine


def test_cores_that_a_scheduler_withholds_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert machine.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/job/step\n", {"job/memory.max": "500\n", "job/step/memory.max": "max\n"}, [500]),
        ("0::/\n", {"memory.max": "700"}, [700]),
        (
            "5:cpu:/a\n4:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "300", "memory/memory.limit_in_bytes": "900"},
            [300, 900],
        ),
        ("0::/elsewhere\n", {}, []),
        (None, {}, []),
    ],
)
def test_limits_of_control_groups(groups, files, limits, tmp_path):
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(machine.memory_limits(tmp_path / "cgroup", tmp_path / "sys")) == limits


def test_a_containers_limit_counts(monkeypatch):
    monkeypatch.setattr(machine, "memory_limits", lambda: [1000])
    assert machine.available_memory() == 1000
