"""A matrix file: which cases are run, with which options. Nothing is run or written here.

    name = "l0"                            # of the matrix; its results lie in build/matrix/l0 unless --output says otherwise
    description = "One sentence."
    timeout_seconds = 120                  # of one case, from start to end
    files = ["../cases/small/*.toml"]      # cases: globs, relative to the matrix file
    options = ["--steps", "2"]             # of `refit run`, for every case

    [[variant]]                            # every case is run once per variant (without any: once)
    name = "golden"
    options = ["--executor", "golden"]

    [[case]]                               # a case of its own
    file = "../cases/small/x.toml"
    name = "x"                             # default: the file's name
    options = ["--precision", "fp8"]
    full = { file = "../cases/published/x.toml", options = [] }   # --full: what replaces `file` and `options`

A run is called NAME or NAME-VARIANT. Of two options with the same name the later one holds, in this order: the matrix's, the
variant's, the case's, the command line's.
"""

import difflib
import glob
import os
import re
import tomllib
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # names are folders too
TOP_KEYS = {"name": str, "description": str, "timeout_seconds": (int, float), "files": list, "options": list,
            "variant": list, "case": list}  # fmt: skip
VARIANT_KEYS = {"name": str, "options": list}
CASE_KEYS = {"file": str, "name": str, "options": list, "full": dict}
FULL_KEYS = {"file": str, "options": list}
KINDS = {str: "text", (int, float): "a number", list: "a list", dict: "a table"}
DEFAULT_TIMEOUT_SECONDS = 300


class Mistake(Exception):
    """All that is wrong with a matrix file or a command line, one line each."""


@dataclass(frozen=True)
class Case:
    """One run: a case file and the options that it is run with."""

    name: str
    file: str
    options: tuple
    base: str = ""  # the name without its variant: cases that share it are shown side by side
    variant: str = ""


@dataclass(frozen=True)
class Matrix:
    name: str
    description: str
    file: str
    timeout_seconds: float
    cases: tuple


def read(file, full=False, extra=()):
    """The matrix of a file. `full`: the real size where a case names one; `extra`: options for every case."""
    return _Reader(file, full, tuple(extra)).matrix()


def merge(*option_lists):
    """One list of options in which the last of each name remains; `--set KEY=VALUE` goes by KEY."""
    last = {}
    for options in option_lists:
        for words in _split(options):
            name, _, value = words[0].partition("=")
            if name == "--set" and (value or len(words) > 1):
                name += " " + (value or words[1]).partition("=")[0]
            last.pop(name, None)
            last[name] = words
    return tuple(word for words in last.values() for word in words)


def _split(options):
    """[[option, its values...], ...]"""
    groups = []
    for word in options:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


class _Reader:
    """Reads one file; what is wrong is collected, so that all of it is said at once."""

    def __init__(self, file, full, extra):
        self.file, self.full, self.extra = file, full, extra
        self.folder = os.path.dirname(file)
        self.mistakes = []

    def matrix(self):
        try:
            if os.path.exists(self.file) and not os.path.isfile(self.file):
                raise Mistake(f"{self.file}: no regular file; give the path of a matrix file, e.g. inputs/matrix/l0.toml")
            with open(self.file, "rb") as stream:
                top = tomllib.load(stream)
        except RecursionError:
            raise Mistake(f"{self.file}: nested too deeply to be a matrix file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Mistake(f"{self.file}: {getattr(error, 'strerror', None) or error}") from None
        except RecursionError:
            raise Mistake(f"{self.file}: is nested too deeply") from None
        top = self.table(top, TOP_KEYS, "")
        default = os.path.splitext(os.path.basename(self.file))[0]
        name = self.name(top.get("name", default), "name")
        timeout = top.get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS)
        if not 0 < timeout <= 86400 * 30:
            self.wrong("timeout_seconds", f"{timeout}: a number of seconds above 0 and up to 30 days is expected")
        cases = self.cases(top)
        if not cases and not self.mistakes:
            self.wrong("", "no case: name some with `files` or [[case]]")
        self.unique(cases)
        if self.mistakes:
            raise Mistake("\n".join(self.mistakes))
        return Matrix(name, top.get("description", ""), self.file, float(timeout), tuple(cases))

    def cases(self, top):
        common = self.options(top, "")
        variants = self.variants(top)
        result = []
        for name, file, options in [*self.globbed(top), *self.listed(top)]:
            for variant, variant_options in variants:
                whole = merge(common, variant_options, options, self.extra)
                result.append(Case(f"{name}-{variant}" if variant else name, file, whole, name, variant))
        return result

    def variants(self, top):
        """[(name, options)]; one without a name where the file has none."""
        found = []
        for where, table in self.tables(top, "variant", VARIANT_KEYS):
            found.append((self.name(table.get("name"), f"{where}name"), self.options(table, where)))
        return found or [("", ())]

    def globbed(self, top):
        for number, pattern in enumerate(self.texts(top.get("files", []), "files")):
            files = sorted(glob.glob(os.path.join(self.folder, pattern), recursive=True))
            if not files:
                self.wrong(f"files[{number}]", f"no file matches {pattern!r} (relative to {self.folder or '.'})")
            for file in files:
                if not os.path.isfile(file):
                    self.wrong(f"files[{number}]", f"{file}: no regular file")
                    continue
                yield self.name(_stem(file), f"files[{number}]"), os.path.normpath(file), ()

    def listed(self, top):
        for where, table in self.tables(top, "case", CASE_KEYS):
            full = self.table(table.get("full", {}), FULL_KEYS, f"{where}full.")
            if "file" not in table:
                self.wrong(f"{where}file", "missing: the case file to run")
                continue
            name = self.name(table.get("name", _stem(table["file"])), f"{where}name")
            chosen = {**table, **full} if self.full else table
            yield name, self.existing(chosen["file"], f"{where}file"), self.options(chosen, where)

    def existing(self, file, where):
        path = os.path.normpath(os.path.join(self.folder, file))
        if not os.path.isfile(path):
            self.wrong(where, f"no such file: {path}")
        return path

    def unique(self, cases):
        seen = set()
        for case in cases:
            if case.name in seen:
                self.wrong("", f"two cases are called {case.name}: give one of them a `name`")
            seen.add(case.name)

    def tables(self, top, key, keys):
        """(where, table) of every [[key]]."""
        for number, value in enumerate(top.get(key, [])):
            where = f"{key}[{number}]."
            if isinstance(value, dict):
                yield where, self.table(value, keys, where)
            else:
                self.wrong(where[:-1], f"{value!r}: a table is expected ([[{key}]])")

    def table(self, table, keys, where):
        """The table without what is wrong in it."""
        right = {}
        for key, value in table.items():
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                self.wrong(
                    where + key, f"unknown key; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(keys)}"
                )
            elif not isinstance(value, keys[key]) or isinstance(value, bool):
                self.wrong(where + key, f"{value!r}: {KINDS[keys[key]]} is expected")
            else:
                right[key] = value
        return right

    def options(self, table, where):
        return self.texts(table.get("options", []), f"{where}options")

    def texts(self, values, where):
        wrong = [value for value in values if not isinstance(value, str)]
        for value in wrong:
            self.wrong(where, f"{value!r}: text is expected")
        return () if wrong else tuple(values)

    def name(self, name, where):
        if name is None or not NAME.fullmatch(name):
            said = "missing" if name is None else repr(name)
            self.wrong(where, f"{said}: a name of letters, digits and . _ + - is expected; it becomes a folder")
        return name or ""

    def wrong(self, where, what):
        self.mistakes.append(f"{self.file}: {where}: {what}" if where else f"{self.file}: {what}")


def _stem(file):
    return os.path.splitext(os.path.basename(file))[0]
