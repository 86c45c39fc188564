"""The documents that can be compared: results, sweeps, matrices and probes, as refit and scripts/matrix.py write them.

Nothing is taken for granted about what stands in them: a part that is missing or of a wrong type counts as not there.
"""

import json
import math
import sys
from dataclasses import dataclass

KINDS = {"refit.result": "a run", "refit.sweep": "a sweep", "refit.matrix": "a matrix", "refit.probe": "a probe"}
VERSION = 1
LARGEST_BYTES = 1 << 30


class Mistake(Exception):
    """A file that cannot be compared; says why."""


@dataclass
class Document:
    file: str
    schema: str
    content: dict
    cases: dict  # name -> refit.result, {} where a case did not get that far; of a run or a probe the one name ""

    @property
    def first(self):
        """A result that says where all of them ran."""
        return next((result for result in self.cases.values() if part(result, "environment")), {})


def read(file):
    """Mistake: no such file, no JSON, or no document of a kind that is known."""
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.loads(stream.read(LARGEST_BYTES), parse_constant=lambda _: None)
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Mistake(f"{file}: no JSON: {error}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, str) or schema not in KINDS:
        known = ", ".join(KINDS)
        raise Mistake(f"{file}: its schema is {json.dumps(schema)}; what can be compared is {known}")
    if content.get("schema_version") != VERSION:
        raise Mistake(f"{file}: {schema} version {json.dumps(content.get('schema_version'))}; version {VERSION} is known here")
    document = Document(file, schema, content, dict(_cases(schema, content)))
    if not document.cases:
        raise Mistake(f"{file}: {KINDS[schema]} without a case: nothing has run")
    return document


def _cases(schema, content):
    if schema == "refit.sweep":
        for one in each(content, "combinations"):
            values = part(one, "values")
            yield " ".join(f"{key}={value}" for key, value in values.items()), part(one, "result")
    elif schema == "refit.matrix":
        for one in each(content, "cases"):
            yield str(one.get("name", "")), part(one, "result")
    else:
        yield "", content


def value(document, *path):
    """What stands there; None: nothing does."""
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def part(document, *path):
    """The object that stands there; {}: none does."""
    found = value(document, *path)
    return found if isinstance(found, dict) else {}


def each(document, *path):
    """The objects of the list that stands there."""
    found = value(document, *path)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def is_number(found):
    """Is it one that floating point has? An integer of JSON may be larger than any."""
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    return math.isfinite(found) if isinstance(found, float) else abs(found) <= sys.float_info.max


def number(document, *path):
    """The number that stands there; None: none does."""
    found = value(document, *path)
    return found if is_number(found) else None


def numbers(document, *path):
    found = value(document, *path)
    return [one for one in found if is_number(one)] if isinstance(found, list) else []
