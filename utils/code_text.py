"""Digests the code that a command runs, without running it, for the stamps of once.py.

That code is a script of steps/, utils/ or local/, or `python3 -m MODULE`; the scripts and modules of svq that it names;
and the modules that these import, at their top or in a function. Of a Python file the syntax tree counts, without
docstrings. Of a bash script the lines count, without comments and without the options at the top, whose values a stamp
holds anyway. Dispatchers, and the scripts that read options and stamps, do not count: they say how work is done, not what.

The digest of a file is kept in utils/__pycache__ (for one run of run.sh, where that cannot be written), and used as long
as the size and times of the file are the same.
"""

import os
import sys
import time

from stamps import RACY_NS, blake2b

HOW = {"utils/" + name for name in ("parse_options.sh", "step.sh", "stages.sh", "once.py", "run.py", "slurm.py", "setup.sh")}
_HEADER = "svq code 1 of Python %d.%d" % sys.version_info[:2]
_MODULE = r"\bsvq(?:\.\w+)+"
_SCRIPT = r"\b(?:steps|utils|local)/[\w/.-]*\w\.(?:sh|py)\b"
_OPTION = r"[a-z][a-z0-9_]*="


class Code:
    """The code below the folder `root`; reads a file once."""

    def __init__(self, root):
        self.root, self.states, self.known, self.new = root, {}, {}, False
        for top in ("svq", "steps", "utils", "local"):
            self._list(top)
        self.kept_in = [os.path.join(root, "utils", "__pycache__", "svq.code")]
        if os.environ.get("SVQ_MISSING"):
            self.kept_in.append(os.path.join(os.path.dirname(os.environ["SVQ_MISSING"]), "code"))
        # Which file a module's name means depends on the files that exist.
        names = "\n".join(sorted(self.states)).encode("utf-8", "surrogateescape")
        reader = self.states.get("utils/code_text.py", ())
        self.header = "%s, %s, %s" % (_HEADER, blake2b(names, digest_size=8).hexdigest(), _words(reader))
        self._take_kept()

    def digest(self, command):
        """Digests the code that a command runs; "" where it runs none of this repository."""
        files = self._reached(self._first(command))
        if not files:
            return ""
        text = "".join("%s %s\n" % (name, self.known[name][1]) for name in sorted(files))
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def keep(self):
        """Keeps the digests of files, if any is new."""
        lines = [self.header] + ["\t".join((name, state, digest, *refers)) for name, (state, digest, refers)
                             in self.known.items() if name in self.states]
        for path in self.kept_in if self.new else []:
            temporary = "%s.tmp%d" % (path, os.getpid())
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    file.write("\n".join(lines) + "\n")
                os.replace(temporary, path)
            except OSError:
                continue
            return

    def _list(self, folder):
        try:
            entries = list(os.scandir(os.path.join(self.root, folder)))
        except OSError:
            return
        for entry in entries:
            name = "%s/%s" % (folder, entry.name)
            if entry.name.endswith((".py", ".sh")):
                found = entry.stat()
                self.states[name] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
                self._list(name)

    def _take_kept(self):
        for path in self.kept_in:
            try:
                with open(path, encoding="utf-8") as file:
                    lines = file.read().split("\n")
            except OSError:
                continue
            if lines[0] != self.header:
                continue
            for line in lines[1:-1]:
                name, state, digest, *refers = line.split("\t")
                if name in self.states and state == _words(self.states[name]):
                    self.known[name] = (state, digest, refers)
            return

    def _first(self, command):
        """Finds the files that a command line names; the search begins with them."""
        if command[:2] == ["python3", "-m"]:
            return self._files_of(command[2], "")
        words = command[1:2] if command[0] in ("bash", "python3") else command[:1]
        return [name for word in words if (name := self._name_of(word)) in self.states]

    def _name_of(self, path):
        """Gives the path of a script from the root; steps/ of a recipe is a link."""
        real = os.path.realpath(path)
        return real[len(self.root) + 1:] if real.startswith(self.root + "/") else ""

    def _reached(self, names):
        found, queue = set(), list(names)
        while queue:
            name = queue.pop()
            if name in found or name in HOW:
                continue
            found.add(name)
            if name not in self.known:
                self._read(name)
            queue += self.known[name][2]
        return found

    def _files_of(self, module, importer):
        """Finds the files that an import of a module runs: files of svq, or in the folder of the importing script, or above."""
        parts, files = module.split("."), []
        below = [""]
        if importer.startswith(("local/", "utils/")):
            below += [importer[:i + 1] for i, letter in enumerate(importer) if letter == "/"]
        for folder in below:
            for i in range(1, len(parts) + 1):
                stem = folder + "/".join(parts[:i])
                files += [name for name in (stem + ".py", stem + "/__init__.py") if name in self.states]
        return files

    def _read(self, name):
        state = self.states[name]
        with open(os.path.join(self.root, name), "rb") as file:
            content = file.read()
        text, refers = _of_python(content, name) if name.endswith(".py") else _of_bash(content)
        refers = sorted({file for word in refers for file in (self._files_of(word, name) if "/" not in word else [word])
                         if file in self.states} - {name})
        fresh = max(state[1], state[2]) > time.time_ns() - RACY_NS
        self.known[name] = ("" if fresh else _words(state), blake2b(text, digest_size=16).hexdigest(), refers)
        self.new = True


def _words(state):
    return " ".join(map(str, state))


def _of_python(content, name):
    """Gives the text that counts of the Python file `name`, and the names of modules that it may import."""
    import ast
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return content, []
    refers = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(
                body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
            del body[0]
    for node in _nodes(ast, tree):
        if isinstance(node, ast.Import):
            refers.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = name.split("/")[:-node.level] if node.level else []
            refers.update(".".join([*within, *filter(None, [node.module]), alias.name]) for alias in node.names)
    return ast.dump(tree).encode("utf-8", "surrogatepass"), refers


def _nodes(ast, tree):
    """Yields all nodes but those of a module's __getattr__, which imports a module only when its name is asked for, and
    those of an `if TYPE_CHECKING:`, which never runs."""
    for node in tree.body:
        never = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not never and not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__"):
            yield from ast.walk(node)


def _of_bash(content):
    """Gives the text that counts of a script, and the scripts and modules that it names."""
    import re
    lines = [line.rstrip() for line in content.decode("utf-8", "replace").split("\n")]
    top = next((i for i, line in enumerate(lines) if line.startswith(". ") and "parse_options.sh" in line), 0)
    kept = [line for i, line in enumerate(lines) if line and not line.lstrip().startswith("#") and not (
        i < top and re.match(_OPTION, line))]
    text = "\n".join(re.sub(r"\s{2,}# [^\"']*$", "", line) for line in kept)
    return text.encode("utf-8"), {*re.findall(_MODULE, text), *re.findall(_SCRIPT, text)}
