"""The pages agree with the code: their Python runs, their links lead somewhere, and the site builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import frames
from torchann.verification import CHECKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Blocks of Python. One after the line `<!-- fragment -->` is not run, as it does not run by itself. What one after the
# line `<!-- prints -->` prints stands in the block of text behind it.
PYTHON = re.compile(r"(?:<!-- (fragment|prints) -->\n)?^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.M | re.S)


def python_in(page):
    """Each block, and what it should print; None if it may print anything."""
    found = PYTHON.findall(page.read_text(encoding="utf-8"))
    return [(code, text if mark == "prints" else None) for mark, code, text in found if mark != "fragment"]


def test_every_check_is_documented():
    documented = re.findall(
        r"`([a-z-]+)`", "".join(re.findall(r"^\| (.*?) \|", (DOCS / "verify.md").read_text(encoding="utf-8"), re.M))
    )
    assert documented == list(CHECKS)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in (ROOT / "README.md", *PAGES) if python_in(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_in_the_page_runs(page, tmp_path, monkeypatch, capsys):
    """The page's blocks run one after the other, in one namespace; then the tests that they define."""
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block, printed in python_in(page):
        capsys.readouterr()
        exec(compile(block, page.name, "exec"), scope)
        if printed is not None:
            assert capsys.readouterr().out == printed
    for name in [name for name in scope if name.startswith("test_")]:
        scope[name]()


@pytest.fixture(scope="module")
def hooks():
    for module in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'torchann[docs]'")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["torchann.formulas:no_such", "torchann.no_such:delta", "torchann.activations:TABLE.no"]
)
def test_a_quote_of_code_that_is_gone_fails_the_build(hooks, name):
    assert "def delta(grad_output" in hooks.source("torchann.formulas:delta")
    with pytest.raises(LookupError, match=name.split(":")[0]):
        hooks.source(name)


@pytest.fixture(scope="module")
def site(hooks, tmp_path_factory):
    """The folder of the site, built by `mkdocs build --strict`."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    """No scripts, styles, fonts or images; links that a reader may follow are allowed."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed|use|image)\b[^>]*?\b(?:src|href)=\"?(https?:)?//"
    )
    linked = re.compile(
        r"<link\b(?=[^>]*\brel=\"?(?:stylesheet|preload|preconnect|icon|prefetch))[^>]*?href=\"?(https?:)?//"
    )
    imported = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"]?)(?:https?:)?//")
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for file in (*pages, *site.rglob("*.css")):
        text = file.read_text(encoding="utf-8")
        for pattern in (loads, linked, imported):
            assert not (found := pattern.search(text)), f"{file.relative_to(site)}: {found[0]}"


@pytest.mark.slow
def test_formulas_sources_and_numbers_stand_on_the_page(site):
    page = (site / "derivation" / "index.html").read_text(encoding="utf-8")
    assert page.count("<math") > 50
    assert page.count('<figure class="drawing">') == 3
    assert "arithmatex" not in page
    for name in ("derivation", "write-your-own", "differential-equations", "saturation", "tensorboard"):
        assert "{{" not in (site / name / "index.html").read_text(encoding="utf-8")
    curves = (site / "differential-equations" / "index.html").read_text(encoding="utf-8")
    assert curves.count('<figure class="chart">') == 3
    assert (
        'href="../../training/"'
        in (site / "api" / "training" / "index.html").read_text(encoding="utf-8").split("<article")[1]
    )
    plain = re.sub(r"<.*?>", "", page)
    assert "def weight_gradient(delta: Tensor, x: Tensor) -&gt; Tensor:" in plain
    assert "Case 1, layers.1: 1 neuron" in plain


def test_how_a_step_runs_is_what_the_profiler_sees():
    """The numbered files in CONTRIBUTING are those that a training step enters, in that order."""
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How a step runs")[2].partition("\n## ")[0]
    )
    files = re.findall(r"^\d+\. `([\w/.]+)`:", section, re.M)
    rows, sizes = frames.STEPS["small"]
    assert files == frames.step(rows, sizes).files
    assert section.count("\n") <= 40
