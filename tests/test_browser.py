"""TensorBoard's pages after `train.py`, in a real browser."""

import pytest

pytest.importorskip("playwright", reason="no Playwright here: pip install 'torchann[browser]'")

from docs import screenshots

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.find_browser() is None, reason="no Chromium here"),
]

FIGURES = [
    f"monitor/{name}/layers.{layer}" for name in ("mean_delta", "saturated", "dead", "update_ratio") for layer in (0, 1)
]
DISTRIBUTIONS = [f"monitor/{name}/layers.{layer}" for name in ("o", "delta", "weights") for layer in (0, 1)]
PICTURES = {
    "digits": ["network/weights", "network/error", "neurons/error", "neurons/saturation", "first_layer", "confusion"],
    "moons": [
        "network/weights",
        "network/error",
        "neurons/error",
        "neurons/saturation",
        "decision_surface",
        "confusion",
    ],
}


@pytest.fixture(scope="module", params=PICTURES)
def data(request):
    return request.param


@pytest.fixture(scope="module")
def address(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(data)
    screenshots.train(folder, data, "--epochs", "20")
    with screenshots.serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def page():
    with screenshots.browsing() as page:
        yield page


@pytest.mark.parametrize(
    "tag", [*FIGURES, "monitor/error", "monitor/disagreement_with_autograd", "loss/train", "accuracy/test"]
)
def test_scalars(page, address, tag):
    screenshots.show(page, address, "scalars", f"^{tag}$")
    card = page.locator("tf-scalar-card").filter(has_text=f"tag: {tag}").first
    card.locator("path[d^=M]").first.wait_for(state="attached")  # a line


def test_pictures(page, address, data):
    screenshots.show(page, address, "images")
    for name in PICTURES[data]:
        page.get_by_text(f"tag: monitor/{name}", exact=True).wait_for()
    pictures = page.locator("tf-image-loader img")
    pictures.nth(len(PICTURES[data]) - 1).wait_for(state="attached")  # pictures appear after the names of their tags
    assert pictures.count() == len(PICTURES[data])
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        size = picture.evaluate("async img => { await img.decode(); return [img.naturalWidth, img.naturalHeight] }")
        assert min(size) > 300


@pytest.mark.parametrize("tag", DISTRIBUTIONS)
def test_histograms(page, address, tag):
    screenshots.show(page, address, "histograms", f"^{tag}$")
    page.get_by_text(tag, exact=True).first.wait_for()
    page.locator("vz-histogram-timeseries path").first.wait_for(state="attached")


def test_text(page, address):
    screenshots.show(page, address, "text", "worked_example")
    page.get_by_text("monitor/worked_example/text_summary", exact=True).first.wait_for()
    for heading in ("Forward, layers.0", "Error", "Case 1, layers.1", "Case 2, layers.0", "Update of layers.0"):
        page.locator("strong").filter(has_text=heading).first.wait_for()


def test_custom_scalars(page, address):
    screenshots.show(page, address, "custom_scalars")
    for title in ("mean |δ| by layer", "saturated neurons by layer", "neurons without gradient by layer"):
        page.get_by_text(title, exact=True).first.wait_for()
    page.get_by_text("Matches (2)", exact=True).nth(3).wait_for()  # two layers on each of four charts
