import re
import shutil
import subprocess

import pytest

from fcn_jax.runtime import source


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_checkout_has_a_commit_and_says_when_it_was_changed(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = source.versions(tmp_path)["commit"]
    assert re.fullmatch("[0-9a-f]{12}", commit)
    (tmp_path / "file").write_text("two")
    assert source.versions(tmp_path)["commit"] == f"{commit}-dirty"


def test_an_installed_package_inside_another_repository_has_no_commit(tmp_path):
    git(tmp_path, "init", "--quiet")
    installed = tmp_path / "venv/lib"
    installed.mkdir(parents=True)
    assert "commit" not in source.versions(installed)


def test_without_git_there_is_no_commit_and_no_error(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert "commit" not in source.versions(tmp_path)
