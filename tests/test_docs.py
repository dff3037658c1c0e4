"""The documentation is true: commands can be typed, Python runs, links lead somewhere, names and flags exist."""

import functools
import importlib
import inspect
import pkgutil
import re
import runpy
import shlex

import pytest
from absl import flags

import kdjax
from kdjax import config as configs
from kdjax import methods
from kdjax.attacks import catalogue
from kdjax.data import transforms, views
from kdjax.ensembles import pools
from kdjax.models.create import all_names
from kdjax.recipes import comparisons, layers
from kdjax.spec import Family
from tests.experiments.scripts import ROOT, SCRIPTS, module

README, INDEX, LIBRARY = ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "library.md"
ADDING = ROOT / "docs" / "adding.md"
"""Its code lies in other files, where `test_adding` puts it."""
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(f for f in (ROOT / "docs").rglob("*.md") if not {"_made", "_build"} & set(f.parts)),
]
TEXTS = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").rglob("*.md"))]
EVERYWHERE = {"help", "helpfull", "smoke", "flagfile", "undefok"}
"""Flags that no Config has and every experiment knows."""
OTHERS = {"amend", "audit", "check", "durations", "run", "spec"}
"""Flags of other programs."""


def shown(file):
    return str(file.relative_to(ROOT))


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def quoted(text):
    """What stands between backticks outside blocks of code."""
    return re.findall(r"`([^`]+)`", prose(text))


def commands(text):
    """The argument lists of all `python -m experiments.NAME ...`, in code blocks, indented or between backticks."""
    lines = re.sub(r"\\\n\s*", "", text)
    inline = [code for code in quoted(lines) if code.startswith("python -m experiments.")]
    indented = re.findall(r"^    (.*python -m experiments.*)$", lines, re.MULTILINE)
    for line in [line for block in blocks(lines, "sh") for line in block.splitlines()] + inline + indented:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if "-m" in words and words[words.index("-m") + 1].startswith("experiments."):
                at = words.index("-m") + 1
                yield words[at].removeprefix("experiments."), words[at + 1 :]


def typed(text):
    """Those that are whole: not the form of a command, as `python -m experiments.NAME`."""
    return [(name, given) for name, given in commands(text) if "..." not in given and name != "NAME"]


def config(name, arguments):
    kind, values = module(name).Config, flags.FlagValues()
    flags.DEFINE_flag(flags.BooleanFlag("help", False, ""), values)
    configs.define_flags(kind, values)
    assert values(["program", *arguments]) == ["program"], f"{name}: not flags alone"
    return configs.from_flags(kind, values)


@pytest.mark.parametrize("file", [*PAGES, *SCRIPTS.values()], ids=shown)
def test_every_command_has_flags_that_exist_and_a_folder_of_its_own(file, tmp_path, monkeypatch):
    found = typed(prose(file.read_text()) if file == ADDING else file.read_text())
    assert found or file in PAGES, f"{shown(file)} shows no command"
    made = [config(*one) for one in found]
    monkeypatch.chdir(tmp_path)
    for one in made:
        configs.claim(one, one.workdir)


def test_every_experiment_is_on_the_page_of_experiments():
    text = (ROOT / "docs" / "experiments.md").read_text()
    beside = set(re.search(r"`python -m experiments\.benchmarks\.\w+`, and (.*?) beside it", text).group(1).split(", "))
    named = {name for name, _ in typed(text)} | {f"benchmarks.{name.strip('`')}" for name in beside}
    assert named == SCRIPTS.keys()


def anchors(text):
    """The headings of a page as GitHub links to them."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def broken(file):
    """The relative links of a page that lead nowhere."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(file.read_text())):
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if target.startswith("https://"):
            continue
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            wrong.append(target)
    return wrong


def test_every_link_leads_somewhere():
    assert {shown(file): wrong for file in TEXTS if (wrong := broken(file))} == {}


def test_the_rule_for_links_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: `code`\n[a](#a-heading-code) [b](#b) [c](other.md) [d](page.md#a) [e](https://x.org/)"
    )
    assert broken(page) == ["#b", "other.md", "page.md#a"]


def test_every_page_is_reached_from_the_index():
    reached, ahead = set(), [INDEX]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        links = [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+\.md)", prose(page.read_text()))]
        ahead += [link for link in links if link not in reached]
    assert reached >= set(PAGES)


@functools.cache
def known_flags():
    known = EVERYWHERE | OTHERS
    for name in SCRIPTS:
        values = flags.FlagValues()
        configs.define_flags(module(name).Config, values)
        known |= set(values)
    return known


def test_flags_that_are_written_about_exist():
    written = {shown(f): set(re.findall(r"--(\w+)", " ".join(quoted(f.read_text())))) for f in TEXTS}
    assert {file: unknown for file, found in written.items() if (unknown := found - known_flags())} == {}


def test_files_and_names_that_are_written_about_exist():
    path = r"(?:kdjax|experiments|docs|tests|launch|\.github)/[\w./-]*"
    wrong = []
    for file in TEXTS:
        for code in quoted(file.read_text()):
            if re.fullmatch(path, code) and not (ROOT / code).exists():
                wrong.append((shown(file), code))
            if dotted := re.match(r"kdjax(\.\w+)+", code):
                try:
                    pkgutil.resolve_name(dotted.group())
                except (ImportError, AttributeError):
                    wrong.append((shown(file), dotted.group()))
    for file in SCRIPTS.values():
        pages = re.findall(r"docs/[\w/]+\.md", file.read_text())
        wrong += [(shown(file), page) for page in pages if not (ROOT / page).exists()]
    assert wrong == []


TYPED = {
    "distillation.md": [comparisons.names(), methods.FAMILY, layers.MAPS, views.AUGMENTATIONS],
    "robust.md": [comparisons.TEMPERATURES, methods.ROBUST],
    "several_teachers.md": [pools.POOLS, pools.GATES],
    "domains.md": [transforms.TRANSFORMS],
    "attacks.md": [catalogue.ATTACKS, catalogue.OBJECTIVES],
    "networks.md": [all_names()],
}
"""What can be typed in an expression, by the page that lists it."""


@pytest.mark.parametrize("page", TYPED)
def test_every_name_that_can_be_typed_is_on_its_page(page):
    words = set(re.findall(r"\w+", " ".join(quoted((ROOT / "docs" / page).read_text()))))
    names = {n.rpartition(".")[2] for one in TYPED[page] for n in (one.names() if isinstance(one, Family) else one)}
    assert names
    assert names - words == set()


def test_many_names_can_be_typed():
    assert sum(len(one.names() if isinstance(one, Family) else one) for all in TYPED.values() for one in all) > 150


CELL = "{code-cell} python"


def test_blocks_of_code_say_what_they_are():
    fences = {shown(f): re.findall(r"^```(.*)$", f.read_text(), re.MULTILINE) for f in PAGES}
    assert {name for found in fences.values() for name in found[::2]} <= {"sh", "python", "text", CELL}
    # Cells of notebooks run when the site is built.
    assert all("notebooks/" in file for file, found in fences.items() if CELL in found)
    assert {name for found in fences.values() for name in found[1::2]} <= {""}


def test_the_readme_is_short_and_shows_the_library_s_first_program():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert blocks(text, "python") == blocks(LIBRARY.read_text(), "python")[:1]
    assert len(blocks(text, "python")[0].splitlines()) <= 10
    assert (ROOT / "docs" / "results" / "distill" / "table.md").read_text().strip() in text


TIMED = ROOT / "docs" / "benchmarks.md"
"""Its tables are of seconds, each with its command and commit."""
MEASURED = r"[*+-]*\d+\.\d+( ?%)?( ± .*| \[.*)?\**"
"""A cell that holds a measured number."""
MARKED = "<!-- (?:filed results|rows): written by"


def test_no_table_of_results_stands_in_prose():
    """They are written from filed runs; the README's is that of its run."""
    filed = (ROOT / "docs" / "results" / "distill" / "table.md").read_text().strip()
    pasted = []
    for file in [f for f in PAGES if f != TIMED and f.name != "table.md"]:
        text = file.read_text()
        text = re.split(MARKED, prose(text.replace(filed, "") if file == README else text))[0]
        cells = [cell.strip() for row in re.findall(r"^ *\|(.*)\|", text, re.MULTILINE) for cell in row.split("|")]
        pasted += [(shown(file), cell) for cell in cells if re.fullmatch(MEASURED, cell)]
    assert pasted == []


@pytest.mark.parametrize(
    "file", [f for f in PAGES if f not in (README, ADDING) and blocks(f.read_text(), "python")], ids=shown
)
def test_the_python_of_a_page_runs_from_top_to_bottom(file):
    names = {}
    for block in blocks(file.read_text(), "python"):
        exec(block, names)
    if file == LIBRARY:
        assert names["found"].queries.shape == (4,)
        assert names["metrics"].keys() >= {"loss", "distillation"}


def test_every_public_name_is_on_a_page_of_the_reference():
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    found = {
        f"{m}.{name}": getattr(importlib.import_module(m), name)
        for m in conf["public_modules"]()
        for name in conf["public_names"](m)
    }
    # Sphinx leaves out what has no docstring.
    missing = [name for name, value in found.items() if not value.__doc__ and "<locals>" not in value.__qualname__]
    for folder in kdjax.FOLDERS:
        for name, value in vars(importlib.import_module(f"kdjax.{folder}")).items():
            public = not name.startswith("_") and getattr(value, "__module__", "").startswith("kdjax.")
            public &= inspect.isfunction(value) or inspect.isclass(value)
            if public and f"{value.__module__}.{value.__qualname__}" not in found:
                missing.append(f"{folder}.{name}")
    assert missing == []


def test_the_reference_shows_examples_as_they_are():
    lines = ["Of a*b and c_.", "", ">>> a(", "...     2)", "2*response.kl_", "3*labels_", "", "Then a*b."]
    runpy.run_path(str(ROOT / "docs" / "conf.py"))["literal"](None, "", "", None, None, lines)
    assert lines == [
        r"Of a\*b and c\_.",
        *lines[1:2],
        ">>> a(",
        "...     2)",
        "2*response.kl_",
        "3*labels_",
        "",
        r"Then a\*b.",
    ]
