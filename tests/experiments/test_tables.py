"""The README's numbers come from result files, all of them."""

from experiments import tables


def test_the_readme_agrees_with_the_result_files():
    assert tables.main(["--check"]) == 0


def test_every_table_is_in_the_readme():
    text = tables.README.read_text()
    assert {name for _, name, _ in tables.MARKED.findall(text)} == set(tables.TABLES)


def test_a_changed_number_is_noticed():
    text = tables.README.read_text()
    marked = tables.MARKED.search(text)
    changed = text[: marked.end(1)] + "| 0.9999 |\n" + text[marked.start(3) :]
    assert tables.rendered(changed) == text
