"""The README and the pages: links lead somewhere, code blocks run, examples in docstrings hold.

A fenced block whose opening line ends in `test` is executed, in the order of its page and in a
folder of the page's own: "```python test" in one namespace, "```bash test" by bash. What is not
marked needs a download, a GPU or hours. It is parsed, and its commands and flags must exist.
"""

import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import fcn_jax
from fcn_jax import losses, metrics, optim

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("experiments/docs/*.md")])
BLOCK = re.compile(r"^```(\w+)( test)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)[^)\s]*\)")


def page_id(path):
    return path.name


def blocks(page, *languages):
    """(language, is it executed, code) of each fenced block."""
    found = [(m[1], bool(m[2]), m[3]) for m in BLOCK.finditer(page.read_text())]
    return [block for block in found if block[0] in languages]


def run(argv, folder, **options):
    """Run a command with this tree first on the path; its output, or what went wrong."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(
        argv, cwd=folder, env=env, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files(page):
    missing = [x for x in LINK.findall(page.read_text()) if not (page.parent / x).exists()]
    assert not missing


def test_every_page_is_linked_from_the_readme():
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    pages = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("experiments/docs/*.md")}
    assert pages <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_blocks_parse(page, tmp_path):
    for language, _, code in blocks(page, "python", "bash"):
        if language == "python":
            compile(code, str(page), "exec")
        else:
            run(["bash", "-n", "-c", code], tmp_path)


def commands():
    """Every `python -m experiments.X ...` of the pages, without what is a placeholder."""
    lines = {
        line.split("#")[0].strip()
        for page in PAGES
        for _, _, code in blocks(page, "bash")
        for line in code.replace("\\\n", " ").splitlines()
        if "python -m experiments." in line
    }
    return sorted(line[line.index("python -m experiments.") :] for line in lines)


@pytest.mark.slow
def test_commands_and_flags_exist():
    """The names in the pages' commands are those that the commands have."""
    helps: dict[str, str] = {}
    unknown = []
    for line in commands():
        module = line.split()[2]
        if module not in helps:
            helps[module] = run([sys.executable, "-m", module, "--help"], ROOT)
        flags = re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", line)
        unknown += [(line, f) for f in flags if not re.search(rf"{f}\b", helps[module])]
    assert not unknown


EXECUTED = [page for page in PAGES if any(b[1] for b in blocks(page, "python", "bash"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=page_id)
def test_marked_blocks_run(page, tmp_path, data_dir):
    (tmp_path / "data").symlink_to(data_dir)
    script = [
        "import os",
        "os.environ.setdefault('JAX_PLATFORMS', 'cpu')",
        "import subprocess",
    ]
    for language, executed, code in blocks(page, "python", "bash"):
        if executed and language == "python":
            script.append(code)
        elif executed:
            script.append(f"subprocess.run(['bash', '-euc', {code!r}], check=True)")
    (tmp_path / "page.py").write_text("\n".join(script))
    run([sys.executable, "page.py"], tmp_path, timeout=300)


MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in ROOT.glob("fcn_jax/**/*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_hold(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


PUBLIC = {
    "fcn_jax.losses": ("softmax_cross_entropy", "class_weights"),
    "fcn_jax.metrics": ("confusion_matrix", "summarize", "paper_iou"),
    "fcn_jax.optim": ("make_optimizer", "cosine_annealing"),
}

ON_PAGES = {"train", "load_checkpoint", "load_dataset", "load_torch_weights"}
"""Public functions whose examples need files: pages, the notebook and `to_torch` show them."""


def test_every_public_function_has_an_example():
    public = [getattr(fcn_jax, name) for name in fcn_jax.__all__ if name not in ON_PAGES]
    functions = [f for f in public if inspect.isfunction(f)]
    for module in (losses, metrics, optim):
        functions += [getattr(module, name) for name in PUBLIC[module.__name__]]
    assert len(functions) > 8
    assert not [f.__name__ for f in functions if not re.search(">>>|Examples::", f.__doc__ or "")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", sorted(ROOT.glob("experiments/docs/*.ipynb")), ids=lambda p: p.name
)
def test_notebooks_run(notebook, tmp_path, data_dir):
    (tmp_path / "data").symlink_to(data_dir)
    made = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in made.cells), "clear its outputs first"
    script = tmp_path / "notebook.py"
    script.write_text(
        "import nbformat, nbclient, json, sys\n"
        f"book = nbformat.read({str(notebook)!r}, as_version=4)\n"
        "where = {'metadata': {'path': '.'}}\n"
        "nbclient.NotebookClient(book, timeout=300, resources=where).execute()\n"
        "print(json.dumps([len(c.get('outputs', [])) for c in book.cells]))\n"
    )
    outputs = json.loads(run([sys.executable, str(script)], tmp_path, timeout=400).splitlines()[-1])
    assert sum(outputs) > 0
