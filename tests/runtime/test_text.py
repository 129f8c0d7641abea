import pytest

from fcn_jax.runtime import text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.5"])
def test_what_is_no_score_is_a_dash(value):
    assert text.number(value) == "\N{EN DASH}"


def test_numbers_have_fixed_digits():
    assert text.number(0.12345) == "0.1235"
    assert text.number(1, 2) == "1.00"


def test_plain_removes_what_could_steer_a_terminal_or_a_line():
    assert text.plain("a\x1b[31m\nb\u202ec\udce9") == "a\ufffd[31m\ufffdb\ufffdc\ufffd"
    assert text.plain("chair", 4) == "cha…"
    assert text.plain("chair", 5) == "chair"


def test_flatten_names_nested_entries_with_dots():
    tree = {
        "optim": {"lr": 1e-4, "wd": None},
        "size": (224, 224),
        "ratio": (0.75, 4 / 3),
        "on": [],
        "empty": {},
    }
    assert text.flatten(tree) == [
        ("optim.lr", "0.0001"),
        ("optim.wd", "\N{EN DASH}"),
        ("size", "224, 224"),
        ("ratio", "0.75, 1.33333"),
        ("on", "none"),
        ("empty", "{}"),
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (1.26, "1.3 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (None, "\u2013"),
    ],
)  # fmt: skip
def test_duration(seconds, words):
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.0512, -0.01, 0.1), ["+0.0512", "-0.0100", "+0.1000"]),
        ((-0.000031, 0.0002), ["-0.000031", "+0.000200"]),
        ((-2e-9, 0.1), ["-2.0e-09", "+1.0e-01"]),
        ((0.0, 0.0), ["0", "0"]),
    ],
)
def test_signed_numbers_have_digits_enough(values, texts):
    assert text.signed_numbers(*values) == texts


def test_counts_have_their_plural():
    words = [text.count(1, "image"), text.count(1200, "image"), text.count(2, "class")]
    assert words == ["1 image", "1,200 images", "2 classes"]


def test_amounts():
    assert [text.amount(n) for n in (0, 999, 1000, 999_900, 4_200_000, 8_589_934_592)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "999.9 kB",
        "4.2 MB",
        "8.6 GB",
    ]
