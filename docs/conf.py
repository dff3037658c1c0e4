"""The documentation site: the pages of this folder, and a reference made of docstrings."""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kdjax

HERE = Path(__file__).parent
project, author, copyright = "kdjax", "The kdjax authors", "The kdjax authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "kdjax"
html_context = {"default_mode": "auto"}  # else the theme complains in the console
html_static_path = ["static"]
html_css_files = ["narrow.css"]
exclude_patterns = ["_build"]
suppress_warnings = ["toc.not_included"]  # tables of results, to which their pages link
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
# Notebooks train the same network for several seeds: it is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE / "_build" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
viewcode_follow_imported_members = False  # else its index links to a page of builtins, which is none
napoleon_use_ivar = True

# Pages outside of this folder, and what they are called as pages of the site.
OUTSIDE = {"README.md": "readme", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
MADE = HERE / "_made"  # nothing in it is written by hand
PARTS = {
    "To use it": ("_made/readme", "quickstart", "experiments", "which", "library", "coming_from"),
    "Guides": (
        "distillation",
        "several_teachers",
        "domains",
        "attacks",
        "audit",
        "robust",
        "sweeps",
        "networks",
        "data",
        "devices",
        "faults",
    ),
    "To see it": (
        "notebooks/why_the_student_lost",
        "notebooks/hinton",
        "notebooks/article",
        "notebooks/two_faces",
    ),
    "To trust it": (
        "results/README",
        "results/leaderboard",
        "results/CONTRIBUTING",
        "benchmarks",
    ),
    "To change it": ("architecture", "adding", "_made/contributing", "_made/changelog", "_made/reference/index"),
}


def public_modules() -> list[str]:
    """Every module of the library that defines something for others."""
    names = [m.name for m in pkgutil.walk_packages(kdjax.__path__, "kdjax.") if "._" not in m.name]
    return [name for name in names if public_names(name)]


def public_names(module: str) -> list[str]:
    """The functions and classes that a module defines for others."""
    return [
        name
        for name, value in vars(importlib.import_module(module)).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module
        and (inspect.isfunction(value) or inspect.isclass(value))
    ]


def write_pages(app: Any) -> None:
    """One page of the reference for each folder of the library, and the pages that lie outside of this folder."""
    pages: dict[str, list[str]] = {}
    for module in public_modules():
        parts = module.split(".")
        pages.setdefault(parts[1] if len(parts) > 2 else "kdjax", []).append(module)
    for page, modules in pages.items():
        parts = [f"## {m}\n\n```{{eval-rst}}\n.. automodule:: {m}\n   :members:\n```\n" for m in modules]
        write(MADE / "reference" / f"{page}.md", f"# {page}\n\n" + "\n".join(parts))
    write(MADE / "reference" / "index.md", f"# Reference\n\nMade of the docstrings.\n\n{toctree(sorted(pages))}")
    for name, page in OUTSIDE.items():
        text = (HERE.parent / name).read_text()
        write(MADE / f"{page}.md", linked(text.replace("](docs/", "](../"), MADE, ""))


def write(file: Path, text: str) -> None:
    """A page that did not change keeps its time, and is not rendered again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def linked(text: str, folder: Path, up: str) -> str:
    """The text of a page with links to pages outside of this folder (`up` leads there) made links to their copies."""
    for name, page in OUTSIDE.items():
        text = text.replace(f"]({up}{name}", f"]({os.path.relpath(MADE / page, folder)}.md")
    return text


def toctree(pages: Iterable[str], *options: str) -> str:
    """A table of contents, as MyST writes it."""
    return "```{toctree}\n" + "".join(f"{line}\n" for line in (*options, "", *pages)) + "```\n"


def read(app: Any, page: str, content: list[str]) -> None:
    """Of every page its links; of the first one also what the side bar holds."""
    if not page.startswith("_made/"):
        content[0] = linked(content[0], (HERE / page).parent, "../" * (page.count("/") + 1))
    if page == "index":
        content[0] += "".join("\n" + toctree(pages, ":hidden:", f":caption: {part}") for part, pages in PARTS.items())


def literal(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: in the rest, no character marks anything up."""
    block = r"(?<=\n\n) {4}(?! *>>>).*(?:\n {4}.*)*"
    spans = re.split(rf"({block}|`[^`]*`|^ *>>>.*(?:\n *\S.*)*)", "\n".join(lines), flags=re.MULTILINE)
    spans[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", span) for span in spans[::2]]
    for number in range(1, len(spans), 2):
        if spans[number].startswith("`"):
            spans[number] = f"`{spans[number]}`"
        elif spans[number].startswith("    ") and not spans[number].lstrip().startswith((">>>", "...")):
            spans[number] = "::\n\n" + spans[number]  # code, not a quotation
    for number in range(2, len(spans), 2):
        if spans[number][:1].isalnum():  # `ShapeDtypeStruct`s
            spans[number] = "\\ " + spans[number]
    lines[:] = "".join(spans).split("\n")


def is_field(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples are told in their class's own words."""
    return True if type(value).__name__ == "_tuplegetter" else None


def offer(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Beside a notebook's page lies its .ipynb, which the theme then has a button for, and which Colab opens."""
    notebook = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
    if page.startswith("notebooks/") and notebook.exists():
        there = Path(app.outdir) / "_sources" / f"{page}.ipynb"
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(notebook.read_bytes())
        context["ipynb_source"] = f"{page}.ipynb"


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("html-page-context", offer, priority=100)  # before the theme's
    app.connect("builder-inited", write_pages)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", literal, priority=100)  # before Napoleon's
    app.connect("autodoc-skip-member", is_field)
