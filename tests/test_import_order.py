"""The modules of torchann import one another in one order: without a circle, and only from modules above.

Every import counts: at the top of a module, inside a function, and under TYPE_CHECKING.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import torchann

ORDER = (  # from top to bottom; a module imports only from its own entry or from those above
    "console",
    "activations",
    "formulas",
    "sweeps",
    "jets",
    "transforms",
    "fast",
    "functions",
    "native",
    "functional",
    "modules",
    "conversion",
    "dynamo",
    "input_derivatives",
    "backpropagation",
    "tracing",
    "monitor",
    "verification",
    "testing",
    "training",
    "torchann",  # the package's own __init__
    "__main__",
)

ALONE = {  # packages that import nothing else of torchann, except the modules listed here
    "torchann.verification": {"torchann.transforms"},  # the only module with private names of PyTorch
    "torchann.training.data": {"torchann.training.files"},
}


# --- Who imports whom -------------------------------------------------------------------------------------------------


def sources_in(folder):
    """The source of each module in a package's folder, by the module's name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def graph_of(sources):
    """The modules that each module imports."""
    return {name: set(imports(name, source, sources)) for name, source in sources.items()}


def imports(name, source, known):
    """The known modules that a module imports, and their parent packages, whose `__init__` Python runs first.

    Packages that contain the module itself don't count: their `__init__` has begun to run before it.
    """
    for imported in imported_names(name, ast.parse(source)):
        module = next((each for each in (imported, parent(imported)) if each in known), None)
        if module is None:
            assert not f"{imported}.".startswith("torchann."), f"{name} imports {imported}, which is no module"
            continue
        yield module
        while (module := parent(module)) and not f"{name}.".startswith(f"{module}.") and module in known:
            yield module


def imported_names(name, tree):
    """`a.b` for `import a.b`, `a.b.c` for `from a.b import c`; here c may be a module, or a name in one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: line {node.lineno}: expected an import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parent(module):
    return module.rpartition(".")[0]


# --- The rules --------------------------------------------------------------------------------------------------------


def circle_in(graph):
    """A circle of imports as text, "a imports b imports a"; None if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " imports ".join(reversed(error.args[1]))
    return None


def line_of(module):
    """The name in `ORDER` that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def from_below(graph):
    """The imports against the order, each as a sentence."""
    lines = {module: ORDER.index(line_of(module)) for module in graph}
    return [
        f"{module} imports {imported}, which stands below it"
        for module in graph
        for imported in sorted(graph[module])
        if lines[imported] > lines[module]
    ]


def from_outside(graph, package, allowed=frozenset()):
    """The imports of a package's modules from elsewhere in torchann, each as a sentence."""
    return [
        f"{module} imports {imported}, which is not of {package}"
        for module in graph
        for imported in sorted(graph[module] - allowed)
        if f"{module}.".startswith(f"{package}.") and not f"{imported}.".startswith(f"{package}.")
    ]


# --- torchann follows the rules ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    return graph_of(sources_in(Path(torchann.__file__).parent))


def test_each_module_has_an_entry_in_the_order(graph):
    assert {line_of(module) for module in graph} == set(ORDER)


def test_no_circle_of_imports(graph):
    assert circle_in(graph) is None


def test_no_module_imports_from_below(graph):
    assert from_below(graph) == []


@pytest.mark.parametrize("package", ALONE)
def test_a_package_stands_alone(graph, package):
    assert any(module.startswith(package) for module in graph)
    assert from_outside(graph, package, ALONE[package]) == []


# --- Violations are found ---------------------------------------------------------------------------------------------


def made_up(**sources):
    """The graph of made-up sources, by module; `fast__fused` is the module torchann.fast.fused."""
    return graph_of({f"torchann.{name.replace('__', '.')}": source for name, source in sources.items()})


@pytest.mark.parametrize(
    ("sources", "of"),
    [
        ({"sweeps": "from torchann import formulas", "formulas": "from torchann.sweeps import f"}, {"sweeps", "formulas"}),
        ({"sweeps": "import torchann.formulas", "formulas": "def f():\n    import torchann.sweeps"}, {"sweeps", "formulas"}),
        ({"sweeps": "import torchann.formulas as f", "formulas": "if TYPE_CHECKING:\n    from torchann import sweeps"}, {"sweeps", "formulas"}),
        ({"sweeps": "import torchann.formulas", "formulas": "import torchann.fast", "fast": "import torchann.sweeps"}, {"sweeps", "formulas", "fast"}),
        ({"fast": "from torchann.fast import fused", "fast__fused": "from torchann.fast import choose"}, {"fast", "fast.fused"}),
        ({"fast": "import torchann.functions", "fast__fused": "", "functions": "import torchann.fast.fused"}, {"fast", "functions"}),
    ],
)  # fmt: skip
def test_a_circle_is_found(sources, of):
    graph = made_up(**sources)
    named = circle_in(graph).split(" imports ")
    assert set(named) == {f"torchann.{name}" for name in of}
    assert named[0] == named[-1]
    assert all(imported in graph[module] for module, imported in pairwise(named))


@pytest.mark.parametrize(
    "sources",
    [
        {"fast": "from torchann.fast import fused", "fast__fused": "from torchann.fast import onednn", "fast__onednn": ""},
        {"fast": "from torchann.fast.fused import f", "fast__fused": "from torchann.formulas import f", "formulas": "import torch"},
    ],
)  # fmt: skip
def test_a_module_may_import_another_of_its_package(sources):
    assert circle_in(made_up(**sources)) is None


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"sweeps": "from torchann import transforms", "transforms": ""}, ["torchann.sweeps imports torchann.transforms"]),
        ({"fast__fused": "import torchann.functions", "functions": ""}, ["torchann.fast.fused imports torchann.functions"]),
        ({"console": "import torchann.formulas", "formulas": ""}, ["torchann.console imports torchann.formulas"]),
        ({"fast__fused": "import torchann.sweeps, torchann.transforms", "sweeps": "", "transforms": ""}, []),
        ({"training__step": "from torchann.training import loop", "training__loop": "", "training": ""}, []),
    ],
)  # fmt: skip
def test_an_import_from_below_is_found(sources, expected):
    assert from_below(made_up(**sources)) == [f"{each}, which stands below it" for each in expected]


def test_the_package_itself_stands_below_its_modules():
    graph = graph_of({"torchann": "from torchann import modules", "torchann.modules": "from torchann import MLP"})
    assert from_below(graph) == ["torchann.modules imports torchann, which stands below it"]


def test_an_import_from_outside_is_found():
    graph = made_up(verification__cases="import torchann.modules, torchann.verification.runs", verification__runs="import torchann.transforms", modules="", transforms="")  # fmt: skip
    assert from_outside(graph, "torchann.verification", {"torchann.transforms"}) == [
        "torchann.verification.cases imports torchann.modules, which is not of torchann.verification"
    ]


@pytest.mark.parametrize("source", ["from torchann.gone import f", "import torchann.gone", "from . import formulas"])
def test_an_import_that_cannot_be_resolved_fails(source):
    with pytest.raises(AssertionError, match=r"no module|full name"):
        made_up(sweeps=source, formulas="")
