"""What MkDocs calls while it builds the site, so that nothing on a page is copied by hand.

    {{ source("torchann.formulas:delta") }}     the lines that compute it, with comments, from the module's file
    {{ readme("Ten lines of use") }}            a section of README.md, without its heading
    {{ options() }}                             the fields of torchann.training.Config
    {{ drawing("neuron") }}                     an SVG of `drawings.py`
    {{ worked("Case 1") }}                      numbers of the 3-4-1 network, by torchann.tracing (`worked_example.py`)
    {{ saturation("by layer") }}                what the experiment of `saturation.py` found
    {{ equation("solution") }}                  the curves of `equations.py`
    {{ monitor("network/error") }}              what `Monitor` draws of the network in `monitor_pictures.py`

Formulas between dollars become MathML, which browsers draw without a script. A name that is gone, or a macro that is
not known, ends the build.
"""

from __future__ import annotations

import ast
import html
import importlib.util
import re
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULTS = ROOT / "benchmarks" / "results"


def load(name):
    """A script beside this one; MkDocs loads its hooks by path, not as a package."""
    path = DOCS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"torchann_docs_{name}", path)
    loaded, as_of = LOADED.get(name, (None, None))
    if as_of == path.stat().st_mtime_ns:
        return loaded
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    LOADED[name] = module, path.stat().st_mtime_ns
    return module


# --- What MkDocs calls ------------------------------------------------------------------------------------------------


def on_config(config):
    """The scripts anew where they have changed, so that `mkdocs serve` shows it."""
    if str(DOCS) not in sys.path:  # the scripts import `charts`
        sys.path.append(str(DOCS))
    for macro, script in SCRIPTS.items():
        MACROS[macro] = load(script).macro
    config.watch += [str(ROOT / "torchann"), str(ROOT / "README.md"), str(RESULTS)]
    return config


def on_files(files, config):
    """The benchmarks' results stand outside `docs/`; they become pages of the site."""
    for path in sorted(RESULTS.glob("*.*")):
        if path.suffix in (".md", ".png", ".svg") and "-rough" not in path.name:
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    try:
        markdown = re.sub(r"^( *)\{\{ (\w+)\((.*?)\) \}\}$", indented, markdown, flags=re.M)
        markdown = re.sub(r"\{\{ (\w+)\((.*?)\) \}\}", lambda found: expand(found[1], found[2]), markdown)
    except LookupError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
    folder = (DOCS / page.file.src_uri).parent
    return re.sub(r"\[([^]]+)\]\((\.\./[^)]+)\)", lambda link: outside(link, folder), markdown)


def on_page_content(content, page, config, files):
    def as_mathml(match):
        is_block, latex = match[1] == "div", html.unescape(match[2])
        mathml = convert(latex, display="block" if is_block else "inline")
        if unknown := re.search(r"\\[A-Za-z]+|<mi>&</mi>", mathml):
            raise PluginError(f"{page.file.src_uri}: {unknown[0]} is not known in {latex}")
        return f'<div class="formula">{tidy(mathml)}</div>' if is_block else tidy(mathml)

    return re.sub(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', as_mathml, content, flags=re.S)


# --- Formulas and links -----------------------------------------------------------------------------------------------


def tidy(mathml):
    """Angle brackets are operators, a bar over a letter is as wide as the letter, and primes keep their size."""
    mathml = re.sub(
        r"<msup>(<mi>.</mi>)<mi>(&#x0203[23];)</mi></msup>", r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', mathml
    )
    mathml = re.sub(r"<mi>(&#x027E[89];)</mi>", r"<mo>\1</mo>", mathml)
    return mathml.replace('<mo stretchy="true">&#x000AF;</mo>', '<mo stretchy="false">&#x000AF;</mo>')


def outside(link, folder):
    """A link out of `docs/`: to a result's page; else, as the site does not carry the code, its text alone."""
    target = (folder / link[2]).resolve()
    if target.is_relative_to(DOCS):
        return link[0]
    if target.parent == RESULTS:
        up = "../" * len(folder.relative_to(DOCS).parts)
        return f"[{link[1]}]({up}results/{target.name})"
    return link[1]


# --- Macros -----------------------------------------------------------------------------------------------------------


def indented(match):
    """A macro on a line of its own, which may stand in a list or a note."""
    return textwrap.indent(expand(match[2], match[3]), match[1])


def expand(name, arguments):
    if name not in MACROS:
        raise LookupError(f"{{{{ {name}(…) }}}}: no such macro; known: {', '.join(MACROS)}")
    return MACROS[name](*ast.literal_eval(f"({arguments},)") if arguments else ())


def source(*names):
    """`package.module:name`; a dot behind a name leads into a class, or to the row of a table."""
    quotes = []
    for name in names:
        module, _, path = name.partition(":")
        file = ROOT / (module.replace(".", "/") + ".py")
        if not file.exists():
            raise LookupError(f"source({name!r}): there is no {module}")
        text = file.read_text(encoding="utf-8")
        node = ast.parse(text)
        for part in path.split("."):
            node = next((child for child in ast.walk(node) if is_called(child, part)), None)
            if node is None:
                raise LookupError(f"source({name!r}): {module} has no {part}")
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        quotes.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]).rstrip(","))
    code = "\n\n".join(textwrap.dedent(quote) for quote in quotes)
    title = ", ".join(dict.fromkeys(name.partition(":")[0].replace(".", "/") + ".py" for name in names))
    return f'```python title="{title}"\n{code}\n```'


def is_called(node, name):
    """Whether that is the definition of the name: a function, a class, a variable, or a call that begins with it."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return (
        isinstance(node, ast.Call)
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == name
    )


def readme(heading):
    """With links as they are seen from `docs/`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        raise LookupError(f"readme({heading!r}): README.md has no such section")
    return re.sub(r"\]\((?!https?:|#)(?:docs/)?([^)]+)\)", from_docs, found[1].strip())


def from_docs(match):
    target = match[1]
    return f"]({target})" if (DOCS / target.partition("#")[0]).exists() else f"](../{target})"


def options():
    """A row for each field of `Config`, with the help that `train.py --help` shows."""
    from torchann.training.config import Config

    head = "| option | default | what it is | what it may be |\n|---|---|---|---|\n"
    rows = (
        (f"`{f.name}`", f"`{f.default!r}`", f.metadata["help"], f.metadata["kind"].expected) for f in fields(Config)
    )
    return head + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


MACROS = {"source": source, "readme": readme, "options": options}
SCRIPTS = {
    "drawing": "drawings", "worked": "worked_example", "saturation": "saturation", "monitor": "monitor_pictures",
    "equation": "equations",
}  # fmt: skip
LOADED = {}
