"""README and docs: every link, script, worker, option, system, row and path that they name exists."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from svq.__main__ import COMMANDS as SVQ
from svq.names import Names
from svq.rows import row_names

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "utils"))
import declared  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
RECIPES = sorted(path.parent for path in ROOT.glob("egs/*/run.sh"))
RESULTS = ROOT / "egs" / "speechocean762" / "RESULTS.md"
# Programs of the system that commands may begin with.
PROGRAMS = {"bash", "cd", "cp", "export", "git", "npm", "pip", "svq", "."}
# What stands in the pages and is made by whoever reads them.
MADE_BY_READERS = ("egs/mine", "local/prepare_data.sh", "conf/slurm.conf")
IMPORTED = {"speechbrain_ecapa"}  # networks of examples that are made elsewhere
FOLDERS = ("egs", "local", "steps", "utils", "svq", "conf", "tests", "docs")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def split_line(line: str) -> list[list[str]]:
    """The commands of one line of shell, as words; comments are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set(";&|"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def commands_of(page: Path) -> list[tuple[list[str], str]]:
    """(words, recipe) of every command in a page's sh blocks; recipe: the folder in egs/ that a cd led to, or ""."""
    found = []
    for block in fenced(page, "sh"):
        recipe = ""
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for words in split_line(line):
                while words and re.match(r"[A-Za-z_]\w*=", words[0]):  # SVQ_FORCE=1 steps/...
                    words = words[1:]
                if words[:1] == ["cd"]:
                    recipe = words[1].removeprefix("egs/")
                if words[:1] == ["export"] and "=slurm.py " in words[1]:  # export train_cmd="slurm.py --mem 4G"
                    words = ("utils/" + words[1].partition("=")[2]).split()
                if words:
                    found.append((words, recipe))
    return found


COMMANDS = [(page, *command) for page in PAGES for command in commands_of(page)]


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """(script or svq.bin.NAME or program, what follows) of a command."""
    if words[0] == "bash" and len(words) > 1:
        words = words[1:]
    if words[0].startswith("python"):
        words = words[2:] if words[1] == "-m" else words[1:]
    if words[0] == "svq" and words[1] in SVQ:
        words = ["svq.bin." + SVQ[words[1]][0], *words[2:]]
    return words[0], words[1:]


def options_of(words: list[str]) -> set[str]:
    """The options among the words, as --some-option, up to `--`."""
    words = words[: words.index("--")] if "--" in words else words
    return {word.partition("=")[0].replace("_", "-") for word in words if re.match(r"--[a-z]", word)}


def value_of(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1] if option in words else ""


@functools.cache
def shell_options(script: Path) -> frozenset[str]:
    """The variables that stand above parse_options.sh, as options, and what the workers take that it forwards to."""
    head = re.split(r"^\. .*parse_options\.sh", script.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    names = re.findall(r"^([a-z][a-z0-9_]*)=", head, re.MULTILINE)
    for _, _, options in declared.of_folder(str(script.parent)).get(str(script), ()):
        names += options
    return frozenset(["--help", *("--" + name.replace("_", "-") for name in names)])


# One process asks all workers for their help, those with verbs for that of the verb, too.
ASK = """
import contextlib, importlib, io, json, sys
told = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    sys.argv = [words[0], *words[1:], "--help"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            importlib.import_module(f"svq.bin.{words[0]}").main()
        except SystemExit:
            pass
    told[" ".join(words)] = out.getvalue()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def worker_help() -> dict[str, str]:
    asked = []
    for _, words, _ in COMMANDS:
        program, rest = program_of(words)
        if program.startswith("svq.bin."):
            worker = program.removeprefix("svq.bin.")
            asked += [[worker], [worker, rest[0]]] if rest and re.fullmatch("[a-z][a-z-]*", rest[0]) else [[worker]]
    asked = [words for words in sorted(set(map(tuple, asked))) if (ROOT / "svq" / "bin" / f"{words[0]}.py").is_file()]
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(asked)], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_options(recipe: str) -> set[str]:
    """Options of a recipe's run.sh; of any recipe's where none is named."""
    folders = [ROOT / "egs" / recipe] if (ROOT / "egs" / recipe / "run.sh").is_file() and recipe else RECIPES
    return set().union(*(shell_options(folder / "run.sh") for folder in folders))


def has(option: str, text: str) -> bool:
    """Whether the text names this very option."""
    return re.search(rf"{re.escape(option)}(?![\w-])", text) is not None


def wrong_options(program: str, rest: list[str], recipe: str, worker_help: dict[str, str]) -> set[str]:
    """Options of a command that its program does not have."""
    given = options_of(rest)
    if program.startswith("svq.bin."):
        worker = program.removeprefix("svq.bin.")
        text = worker_help.get(worker, "") + worker_help.get(" ".join([worker, *rest[:1]]), "")
        return {option for option in given if not has(option, text)}
    if program == "run.sh":
        return given - run_options(recipe)
    path = ROOT / program
    if program == "local/table.sh":
        return given - run_options(recipe) - {"--help"}
    if program == "tests/run.sh":  # which hands all but those in its head to pytest
        return {option for option in given if not has(option, path.read_text())}
    if program == "utils/submit.sh":  # its own up to the recipe, then those of the recipe's run.sh
        at = next(i for i, word in enumerate(rest) if word.startswith("egs/"))
        return options_of(rest[:at]) - shell_options(path) | options_of(rest[at:]) - run_options(rest[at][4:])
    if path.suffix == ".sh":
        return given - shell_options(path)
    return {option for option in given if not has(option, path.read_text())}


def test_every_script_and_worker_in_commands_exists():
    missing = []
    for page, words, _ in COMMANDS:
        program, _ = program_of(words)
        if program.startswith("svq."):
            there = (ROOT / (program.replace(".", "/") + ".py")).is_file()
        else:
            there = program in PROGRAMS or program == "run.sh" or (ROOT / program).is_file()
        if not there:
            missing.append(f"{name_of(page)}: {' '.join(words)}")
    assert not missing, "\n".join(missing)
    assert len(COMMANDS) > 100  # the pages are read at all


def test_every_option_in_commands_exists(worker_help):
    wrong = []
    for page, words, recipe in COMMANDS:
        program, rest = program_of(words)
        if program in PROGRAMS or not (program.startswith("svq.") or program == "run.sh" or (ROOT / program).is_file()):
            continue
        for option in sorted(wrong_options(program, rest, recipe, worker_help)):
            wrong.append(f"{name_of(page)}: {option} of {program}")
    assert not wrong, "\n".join(wrong)


def rows(table: str) -> frozenset[str]:
    """The rows of the shared table and of the recipes' own."""
    return frozenset().union(*(row_names([path]) for path in [ROOT / "conf" / table, *ROOT.glob(f"egs/*/conf/{table}")]))


def test_every_system_and_row_in_commands_exists():
    names = Names(rows("quant.yaml"), rows("distill.yaml"))
    wrong = []
    for page, words, _ in COMMANDS:
        systems = value_of("--systems", words).split()
        systems += [rung for ladder in value_of("--ladders", words).split() for rung in ladder.split(":")]
        if words[0] == "local/table.sh" and len(words) > 2 and " " in words[2]:
            systems += words[2].split()
        models = {word.partition("=")[0] for word in value_of("--models", words).split()}
        for system in map(names.parse, systems):
            network = system.net if system.row else system.stem
            known = network in {*IMPORTED, *models} or network.startswith("student") or any(ROOT.glob(f"egs/*/conf/{network}.yaml"))
            if not known:
                wrong.append(f"{name_of(page)}: {system.name} is no system")
        asked = [row for option in ("--analysis-rows", "--search-row") for row in value_of(option, words).split()]
        asked += [word.rpartition(":")[2] for word in words if re.fullmatch(r"conf/\w+\.yaml:[\w.+-]+", word)]
        wrong += [f"{name_of(page)}: there is no row {row}" for row in asked if row not in names.quant | names.distill]
    assert not wrong, "\n".join(wrong)


def test_every_table_in_commands_exists():
    told = (ROOT / "local" / "table.sh").read_text()
    for page, words, _ in COMMANDS:
        if words[0] == "local/table.sh" and len(words) > 2 and " " not in words[2]:
            assert re.search(rf"^#   {words[1]} ", told, re.MULTILINE), f"{name_of(page)}: {words[1]}"


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists():
            wrong.append(f"{target}: there is no such file")
        elif anchor and anchor not in slugs(path):
            wrong.append(f"{target}: there is no such heading")
    assert not wrong, "\n".join(wrong)


def looks_like_a_path(word: str) -> bool:
    """Whether a word in backticks names a file or folder of the repository."""
    first = word.split("/")[0]
    if "/" not in word or first not in FOLDERS or not re.fullmatch(r"[\w./-]+", word):
        return False
    made = re.search(r"/(exp|data|corpus|debug)(/|$)", word) or re.search(r"\b[A-Z]{3,}\b(?!\.md)", word)
    return not made and not word.startswith(MADE_BY_READERS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_backticks_exist(page):
    words = [word for quoted in re.findall(r"`([^`\n]+)`", prose(page)) for word in quoted.split()]
    missing = []
    for word in filter(looks_like_a_path, words):
        there = (ROOT / word).exists() or (word.startswith("conf/") and any(ROOT.glob(f"egs/*/{word}")))
        if not there:
            missing.append(word)
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_workers_in_prose_exist(page):
    for name in re.findall(r"svq\.bin\.([a-z_]+)", prose(page)):
        assert (ROOT / "svq" / "bin" / f"{name}.py").is_file(), name


def exported(module: str) -> set[str]:
    """Names that a module of svq defines or imports, read without importing it."""
    path = ROOT / module.replace(".", "/")
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


# docs/adding.md shows files to write; tests/test_docs_adding.py writes and runs them.
WITH_PYTHON = [page for page in PAGES if fenced(page, "python") and page.name != "adding.md"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_compile_and_import_what_exists(page):
    for block in fenced(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "svq":
                wanted = {alias.name for alias in node.names}
                assert wanted <= exported(node.module), f"{node.module}: {sorted(wanted - exported(node.module))}"


def test_every_command_of_svq_exists():
    """Those that are run, and those that the text names."""
    named = {words[1] for _, words, _ in COMMANDS if words[0] == "svq" and not words[1].startswith("-")}
    for page in PAGES:
        named.update(re.findall(r"`svq ([a-z_-]+)", prose(page)))
    assert "verify" in named and named <= SVQ.keys()


def test_every_extra_of_the_package_exists():
    project = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([a-z]+) = \[", project, re.MULTILINE))
    named = {extra for page in PAGES for found in re.findall(r"\bsvq\[([a-z,]+)\]", page.read_text()) for extra in found.split(",")}
    assert "train" in named and named <= extras


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_readme_figures_are_those_of_the_results():
    told = RESULTS.read_text()
    row = r"^\| `[^|]*` \| ([\d.]+ MB) \| ([\d.]+) \| ([\d.]+ to [\d.]+) \|"
    table = re.findall(row, (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(table) == 6
    for size, eer, interval in table:
        assert f"| {size} | {eer} |" in told and f"| {eer} | {interval} |" in told, (size, eer, interval)
