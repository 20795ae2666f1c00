"""What the pages say is what the code does."""

import re
from pathlib import Path

from torchann.verification import CHECKS

ROOT = Path(__file__).parent.parent


def test_every_check_is_documented():
    documented = re.findall(
        r"`([a-z-]+)`", "".join(re.findall(r"^\| (.*?) \|", (ROOT / "docs/verify.md").read_text(), re.M))
    )
    assert documented == list(CHECKS)


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_python_in_the_pages_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in (ROOT / "README.md", ROOT / "docs/verify.md"):
        scope = {}
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            exec(compile(block, page.name, "exec"), scope)
