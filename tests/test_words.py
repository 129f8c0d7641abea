"""Names and prose use the words of the field; words private to this code base do not return."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path
    for part in ("*.md", "*.toml", "fcn_jax", "experiments", "tests")
    for path in ([*ROOT.glob(part)] if "*" in part else [*(ROOT / part).rglob("*")])
    if path.suffix in {".py", ".md", ".toml", ".html"} and path != Path(__file__)
)

PRIVATE = {
    "door": "command",
    "doors": "commands",
    "canvas": "padded batch",
    "canvases": "padded batches",
    "anew": "again, from scratch",
    "afresh": "again, from scratch",
    "gone on with": "resumed",
    "go on with": "resume",
    "goes on with": "resumes",
    "judge": "evaluate",
    "judges": "evaluates",
    "judged": "evaluated",
    "judging": "evaluating",
    "outvoted": "",
    "set aside": "quarantined",
    "squeezed": "resized",
    "rival": "baseline implementation",
    "rivals": "baseline implementations",
    "campaign": "sweep",
    "campaigns": "sweeps",
    "unheard": "",
    "deaf": "suppressed",
}
"""Word -> what the field says."""

WORDS = re.compile(
    rf"(?<![A-Za-z])({'|'.join(sorted(PRIVATE, key=len, reverse=True))})(?![A-Za-z])", re.IGNORECASE
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_private_word(path):
    found = [
        f"{number}: {match[1]!r}: say {PRIVATE[match[1].lower()] or 'something plainer'}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    assert not found


def test_the_search_finds_words_inside_names():
    assert WORDS.search("def _open_door(canvas_size):")
    assert not WORDS.search("outdoors, adjudged")
