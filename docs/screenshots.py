"""Screenshots of TensorBoard, as a person sees it after two runs of train.py: python docs/screenshots.py

Needs the extra `browser`, and Chromium. They are written to docs/images/.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Without a sandbox, which root may not have; and nothing is looked up on the network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
SECOND = 1_000
PATIENCE = 60 * SECOND  # that a page may take
RUNS = "runs"
MORE = ("--monitor-every", "50", "--monitor-budget", "0.5")  # curves of a run of seconds with more than a few points
SHOWN = {"images": "network|neurons|first|decision", "custom_scalars": None, "text": "worked"}  # pages, and their tags


def main() -> None:
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        train(folder, "digits", *MORE)
        train(folder, "moons", "--hidden", "16,16", "--activation", "tanh", "--lr", "0.02", *MORE)
        with serving(folder) as address, browsing() as page:
            for name, tags in SHOWN.items():
                show(page, address, name, tags)
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(SECOND)  # until what was loaded is drawn
                page.screenshot(path=images / f"tensorboard-{name}.png")


def train(folder: str | Path, data: str, *options: str) -> None:
    """A run below `folder`/runs."""
    command = [sys.executable, ROOT / "train.py", "--data", data, "--logdir", RUNS, "--name", data, *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def serving(folder: str | Path) -> Iterator[str]:
    """TensorBoard of `folder`/runs on a free port of 127.0.0.1; gives its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", RUNS, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            yield next(word for line in server.stderr for word in line.split() if word.startswith("http://127"))
        finally:
            server.kill()  # it has nothing to lose, and does not always hear a request to end


@contextmanager
def browsing() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.set_default_timeout(PATIENCE)
        try:
            yield page
        finally:
            browser.close()


def show(page: Page, address: str, name: str, tags: str | None = None) -> None:
    """One of TensorBoard's pages; of its tags those that match the regular expression."""
    page.goto("about:blank")  # a change of the part behind # alone loads nothing
    page.goto(f"{address}#{name}" + (f"&tagFilter={tags}" if tags else ""))


if __name__ == "__main__":
    main()
