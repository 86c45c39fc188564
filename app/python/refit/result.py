"""Results of `refit run --json`, as tables."""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

from refit.errors import UsageError


def read_result(path: str | os.PathLike[str]) -> Any:
    """Reads a result of `refit run --json`: a row per refit that it has the time of, which are those after the warm-up
    and, with a warm-up, the first one.

    Returns a pandas.DataFrame where pandas is installed, else a list of dicts; concatenate those of several files to
    compare runs. Columns are called as in the CSV of `refit run --csv` (docs/output.md): case, model, executor, bulk,
    train, gen, train_ranks, gen_ranks, train_precision, gen_precision, refit, warmup, weight_sync_seconds, payload_bytes,
    wire_bytes, algbw_gb_per_s, trainer, engine; besides, status and the run's bound_seconds. What a run did not reach is
    None. A run without refits has no rows.

    Errors: UsageError, a file that is no such result; OSError.
    """
    rows = _rows(_load(os.fspath(path)))
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return rows
    return pandas.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = [
    "case", "status", "model", "executor", "bulk", "trainer", "train", "train_ranks", "train_precision", "engine", "gen", "gen_ranks",
    "gen_precision", "refit", "warmup", "weight_sync_seconds", "payload_bytes", "wire_bytes", "algbw_gb_per_s", "bound_seconds",
]  # fmt: skip


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            result: Any = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON ({error}): give a file of refit run --json") from None
    schema = result.get("schema") if isinstance(result, dict) else None
    if not isinstance(result, dict) or schema != "refit.result":
        said = f"has the schema {schema!r}" if schema else "has no schema"
        raise UsageError(f"{path} {said}, not 'refit.result': give a file of refit run --json")
    if result.get("schema_version") != 1:
        raise UsageError(f"{path} has version {result.get('schema_version')!r} of refit.result: this refit reads version 1")
    return result


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    def value(*keys: str) -> Any:
        part: Any = result
        for key in keys:
            part = part.get(key) if isinstance(part, dict) else None
        return part

    payload = value("payload", "total_bytes")
    run = {
        "case": value("case", "name"),
        "status": value("status"),
        "model": value("model", "family"),
        "executor": value("settings", "executor"),
        "bulk": value("settings", "bulk"),
        "trainer": value("train", "trainer"),
        "train": value("train", "layout"),
        "train_ranks": value("train", "ranks"),
        "train_precision": value("train", "precision"),
        "engine": value("gen", "engine"),
        "gen": value("gen", "layout"),
        "gen_ranks": value("gen", "ranks"),
        "gen_precision": value("gen", "precision"),
        "payload_bytes": payload,
        "wire_bytes": value("wire", "bytes"),
        "bound_seconds": value("bound", "seconds"),
    }
    warmup = value("settings", "warmup") or 0
    first = value("weight_sync", "first")
    refits = [(1, first, True)] if warmup and first is not None else []
    refits += [(warmup + 1 + i, seconds, False) for i, seconds in enumerate(value("weight_sync", "samples") or [])]
    rows = []
    for number, seconds, is_warmup in refits:
        refit = {
            "refit": number,
            "warmup": is_warmup,
            "weight_sync_seconds": seconds,
            "algbw_gb_per_s": payload / seconds / 1e9 if payload and seconds else None,
        }
        rows.append({column: (run | refit)[column] for column in _COLUMNS})
    return rows
