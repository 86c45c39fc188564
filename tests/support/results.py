"""What every good `--json` result of `refit run` has in common, whatever was run; parts of dumps."""

import os
import shutil


def check_result(suite, ended, result, policy, where, refits):
    """Right data in every refit, and numbers that fit one another. Each refit is measured: no warm-up."""
    suite.check(result["schema"] == "refit.result" and result["schema_version"] == 1, f"{where}: schema", ended)
    suite.check(result["status"] == "passed" and result["exit_code"] == 0, f"{where}: status {result['status']}", ended)
    found = result["verification"]
    for name, expected in {"refits": refits, "tensors_wrong": 0, "elements_wrong": 0, "wrong": []}.items():
        suite.check(found[name] == expected, f"{where}: verification.{name} is {found[name]}", ended)
    suite.check(found["elements"] > 0 and found["kl"]["max"] == 0, f"{where}: KL {found['kl']}", ended)
    suite.check(found["fingerprint_train"] == found["fingerprint_gen"], f"{where}: fingerprints differ", ended)
    suite.check(len(result["weight_sync"]["samples"]) == refits, f"{where}: {result['weight_sync']}", ended)
    check_host_seconds(suite, ended, result, where)
    check_payload(suite, ended, result, policy, where)


def check_host_seconds(suite, ended, result, where):
    """Only direct tells when it has enqueued its copies, which is before they are done."""
    direct = result["settings"]["executor"] == "direct"
    samples = result.get("host_seconds", {}).get("samples", [])
    suite.check(len(samples) == (len(result["weight_sync"]["samples"]) if direct else 0), f"{where}: {samples}", ended)
    for host, whole in zip(samples, result["weight_sync"]["samples"]):
        suite.check(0 < host < whole, f"{where}: host_seconds {host}, weight_sync {whole}", ended)


def check_payload(suite, ended, result, policy, where):
    payload, wire = result["payload"], result["wire"]
    total = payload["bulk_bytes"] + payload["misc_bytes"]
    stored = total + payload["from_checkpoint_bytes"]  # what gen has besides was loaded once
    right = payload["total_bytes"] == total and result["model"]["bytes"] == stored
    suite.check(right, f"{where}: payload {payload}", ended)
    suite.check(abs(payload["bulk_fraction"] - payload["bulk_bytes"] / total) < 1e-9, f"{where}: {payload}", ended)
    suite.check((payload["misc_bytes"] == 0) == (policy == "all"), f"{where}: misc {payload}", ended)
    suite.check(wire["bytes"] + wire["self_bytes"] >= total, f"{where}: wire {wire}", ended)
    suite.check((wire["copies"] + wire["self_copies"] > 0) == (payload["bulk_bytes"] > 0), f"{where}: copies {wire}, {payload}", ended)


def dump_of_engine(suite, dump, first, ranks):
    """The files of one engine, as a dump of its own."""
    folder = f"{dump}-from-{first}"
    shutil.rmtree(suite.path(folder), ignore_errors=True)
    os.makedirs(suite.path(folder))
    for rank in range(ranks):
        shutil.copy(suite.path(dump, f"gen-rank-{first + rank:05}.safetensors"),
                    suite.path(folder, f"gen-rank-{rank:05}.safetensors"))  # fmt: skip
    return folder


def without_hosts(wire):
    """A result's wire as a plan without hardware has it, which knows no hosts."""
    return {name: value for name, value in wire.items() if name not in ("between_hosts_bytes", "within_hosts_bytes")}
