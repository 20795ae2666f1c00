"""The node in C++ passes the tests of the Python path: they stand here a second time, with the node enabled."""

from importlib import import_module

import pytest
from test_native import needs_a_compiler

from torchann import native

SHARED = ["test_functional", "test_modules", "test_article", "test_module_transforms", "test_transforms"]
# Of these the node in C++ takes none: they would only run the Python path again.
LEFT_OUT = {"test_functional": "own", "test_transforms": "compile"}

for module in map(import_module, SHARED):
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    twice = {name for name in found.keys() & globals().keys() if name.lower().startswith("test")}
    assert not twice, f"{module.__name__}: expected tests of other names than in the files before it, got {twice}"
    globals().update(found)

pytestmark = [pytest.mark.slow, needs_a_compiler]


@pytest.fixture(scope="module", autouse=True)
def enabled():
    native.enable()
    yield
    native.disable()


@pytest.fixture(autouse=True)
def skip_what_is_left_out(request):
    part = LEFT_OUT.get(request.function.__module__)
    if part and part in request.node.name:
        pytest.skip("takes the Python path in any case")
