"""`refit digest`: what the weight checkers of real engines said of the same checkpoints, an oracle of its own, dumps that are right and wrong.

    run_digest.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import hashlib
import json
import os
import random
import shutil
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

# Answers of vLLM's and SGLang's own weight checkers, by scripts/integration/digest_engines.py.
RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "digests.tar.xz")
FORMS = ("refit", "vllm", "sglang", "sglang-cpu")
MASK = (1 << 64) - 1


def settings(*keys):
    return [word for key in keys for word in ("--set", key)]


def write_json(suite, name, document):
    with open(suite.path(name), "w", encoding="utf-8") as file:
        json.dump(document, file)
    return suite.path(name)


def synth(suite, model, name, *options):
    suite.check_code(suite.run(0, "synth", model, name, "--force", *options), 0, f"synth {name}")
    return name


def digest(suite, code, what, *arguments):
    ended = suite.run(0, "digest", *arguments)
    suite.check_code(ended, code, what)
    return ended


def recorded(suite):
    """Three families in bf16 and FP8 at TP1, TP2 and TP4, as vLLM 0.33.0 and SGLang 0.5.23 digest what they hold."""
    with tarfile.open(RECORD) as archive:
        record = {name[: -len(".json")]: json.load(archive.extractfile(name)) for name in archive.getnames()}
    configs, cases = record.pop("configs"), {name: answers for name, answers in record.items() if "-TP" in name}
    suite.check(len(cases) == 18, f"{len(cases)} recorded cases")
    for model, config in configs.items():
        os.makedirs(suite.path(f"{model}-config"), exist_ok=True)
        write_json(suite, f"{model}-config/config.json", config)
        for precision in ("bf16", "fp8"):
            synth(suite, f"{model}-config", f"{model}-{precision}", *(("--quantisation", "fp8") if precision == "fp8" else ()))
    for name, answers in cases.items():
        model, precision, layout = name.split("-")
        of = (f"{model}-{precision}", "--gen", layout, "--precision", precision)
        for kind, answer in answers.items():
            # vLLM digests W_UK_T and W_UV; how it makes them of FP8 has no rule.
            of_vllm = settings("gen.derived=true") if (model, precision) == ("deepseek_v3", "bf16") else ()
            engine = of_vllm if kind == "vllm" else settings("gen.engine=sglang")
            path = write_json(suite, "answer.json", answer)
            ended = digest(suite, 0, f"{name} of {kind}", *of, *engine, "--from-engine", path)
            checksums = [answer["checksums"]] if kind == "vllm" else [rank["checksums"] for rank in answer["ranks"]]
            known = [key for of_rank in checksums for key in of_rank if precision == "bf16" or not key.endswith((".W_UK_T", ".W_UV"))]
            compared = len(known)
            equal = f"equal: {compared} parameters of the answer" in ended.out
            suite.check(equal, f"{name} of {kind}: not all {compared} checksums were compared", ended)
        # SGLang's checksum of all parameters together, on both devices.
        digest(suite, 0, name, *of, *settings("gen.engine=sglang"), "--json", "digest.json", "--force")
        for key, kind in (("sglang_per_gpu_checksum", "sglang"), ("sglang_cpu_per_gpu_checksum", "sglang-cpu")):
            found = [rank[key] for rank in suite.result("digest.json")["ranks"]]
            suite.check(found == [rank["per_gpu_checksum"] for rank in answers[kind]["ranks"]], f"{name}: {key}: {found}")


def wrong_answers(suite):
    """One digit of one checksum, a checksum too few, a rank too few, another rank's checksums, and one checksum too many."""
    with tarfile.open(RECORD) as archive:
        record = {kind: json.load(archive.extractfile("qwen3_moe-bf16-TP2.json"))[kind] for kind in ("vllm", "sglang", "sglang-cpu")}
        config = json.load(archive.extractfile("configs.json"))["qwen3_moe"]
    os.makedirs(suite.path("wrong-config"), exist_ok=True)
    write_json(suite, "wrong-config/config.json", config)
    synth(suite, "wrong-config", "wrong")
    name = "model.layers.0.self_attn.qkv_proj.weight"

    def check(code, kind, answer, text):
        engine = () if kind == "vllm" else settings("gen.engine=sglang")
        path = write_json(suite, "wrong.json", answer)
        ended = digest(suite, code, f"{kind}: {text}", "wrong", "--gen", "TP2", *engine, "--from-engine", path)
        suite.check(text in ended.out, f"{kind}: no '{text}'", ended)

    for kind in record:

        def checksums_of(answer, rank, kind=kind):
            return answer["checksums"] if kind == "vllm" else answer["ranks"][rank]["checksums"]

        def key(rank, kind=kind):
            return f"dp0:pp0:pcp0:tp{rank}:{name}" if kind == "vllm" else name

        answer = json.loads(json.dumps(record[kind]))
        old = checksums_of(answer, 1)[key(1)]
        checksums_of(answer, 1)[key(1)] = ("0" if old[0] != "0" else "1") + old[1:]
        check(1, kind, answer, f"gen rank 1: {name}: {'vllm' if kind == 'vllm' else 'sglang'}: {checksums_of(answer, 1)[key(1)]}")
        del checksums_of(answer, 1)[key(1)]
        check(1, kind, answer, f"gen rank 1: {name}: is not in the answer")
        answer = json.loads(json.dumps(record[kind]))
        checksums_of(answer, 0)[key(0).replace("qkv_proj", "other")] = old
        check(0, kind, answer, "gen rank 0: 1 checksums are of no parameter of the layout")
        a, b = checksums_of(answer, 0), checksums_of(answer, 1)
        a[key(0)], b[key(1)] = b[key(1)], a[key(0)]
        check(1, kind, answer, f"gen rank 0: {name}: ")
        if kind == "vllm":
            answer["checksums"] = {key: value for key, value in answer["checksums"].items() if ":tp1:" not in key}
        else:
            del answer["ranks"][1]
        check(1, kind, answer, "gen rank 1: model.embed_tokens.weight: no answer of this rank")

    # Digits count in either case; names are printed without what a terminal obeys, and not at any length.
    answer = json.loads(json.dumps(record["vllm"]))
    answer["checksums"] = {key: value.upper() for key, value in answer["checksums"].items()}
    check(0, "vllm", answer, "equal: ")
    answer["checksums"]["dp0:pp0:pcp0:tp0:" + "\x1b[31m" + 1000 * "x"] = "0"
    answer["checksums"][f"dp0:pp0:pcp0:tp0:{name}"] = "\x1b[31m" + 1000 * "x"
    ended = digest(suite, 1, "escapes", "wrong", "--gen", "TP2", "--from-engine", write_json(suite, "wrong.json", answer))
    suite.check("\x1b" not in ended.out and 300 * "x" not in ended.out and "?[31mxxx" in ended.out, "escapes", ended)

    # What is no whole answer is refused before anything is digested.
    def refused(kind, text, of, *words):
        engine = () if kind == "vllm" else settings("gen.engine=sglang")
        with open(suite.path("wrong.json"), "w", encoding="utf-8") as file:
            file.write(of)
        ended = digest(suite, 2, f"{kind}: {text}", "wrong", "--gen", "TP2", *engine, "--from-engine", "wrong.json", *words)
        suite.check(text in ended.err, f"{kind}: no '{text}'", ended)

    answer = json.loads(json.dumps(record["sglang"]))
    answer["ranks"].append(dict(answer["ranks"][0], checksums={}))
    refused("sglang", "has 2 entries or more of rank pp=0 tp=0, of which gen.layout TP2 has 1", json.dumps(answer))
    answer = {"success": False, "message": "rank 1 is \x1b[31m dead", **record["sglang"]}
    refused("sglang", "the engine's weight checker failed: rank 1 is ?[31m dead; ask it again", json.dumps(answer))
    check(0, "sglang", {"success": True, "message": "Success.", **record["sglang"]}, "equal: ")
    text = json.dumps(record["vllm"])
    twice = f'"dp0:pp0:pcp0:tp0:{name}": "0", "dp0:pp0:pcp0:tp0:{name}": '
    refused("vllm", f"has dp0:pp0:pcp0:tp0:{name} twice", text.replace(f'"dp0:pp0:pcp0:tp0:{name}": ', twice))

    # One of SGLang's two forms is enough, if it is the engine's; the other one alone finds everything wrong.
    refused("sglang", "needs sglang (of an engine on GPUs) or sglang-cpu", json.dumps(record["sglang"]), "--forms", "refit,vllm")
    refused("vllm", "needs vllm among --forms", text, "--forms", "sglang")
    for kind, form, code in (("sglang", "sglang", 0), ("sglang-cpu", "sglang-cpu", 0), ("sglang", "sglang-cpu", 1)):
        path = write_json(suite, "wrong.json", record[kind])
        words = ("wrong", "--gen", "TP2", *settings("gen.engine=sglang"), "--forms", form, "--from-engine", path)
        ended = digest(suite, code, f"{kind} by {form}", *words)
        suite.check(code == 0 or f"compared in form {form} alone" in ended.out, f"{kind} by {form}", ended)


def splitmix64(value):
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def fingerprint(name, tensor):
    """kernels/kernels.hpp, row_key and column_key, of a whole tensor."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    key = splitmix64(key)
    columns = tensor.shape[-1] if tensor.shape else 1
    elements = 1
    for extent in tensor.shape:
        elements *= extent
    size = len(tensor.data) // elements
    bits = [int.from_bytes(tensor.data[i : i + size], "little") + 1 for i in range(0, len(tensor.data), size)]
    sums = []
    for k in (0, 1):
        of_column = [splitmix64((key + 0xD1342543DE82EF95 * (2 * k + 2) + splitmix64(~j & MASK)) & MASK) | 1 for j in range(columns)]
        total = 0
        for row in range(elements // columns):
            of_row = splitmix64((key + 0x632BE59BD9B4E019 * (2 * k + 1) + splitmix64(row)) & MASK)
            total += of_row * sum(map(int.__mul__, bits[row * columns : (row + 1) * columns], of_column))
        sums.append(total & MASK)
    return f"{sums[1]:016x}{sums[0]:016x}"


def oracle(suite):
    """Every parameter of a refit's dump, by an implementation of its own; the size of chunks changes nothing."""
    synth(suite, "qwen3-30b-a3b-small", "moe", "--layers", 1)
    for precision, seen in (("bf16", set()), ("bf16:fp8", {"F8_E4M3", "F32"})):
        options = ("--gen", "TP2", "--precision", precision)
        job = ("run", "--checkpoint", "moe", "--train", "TP1", *options, "--steps", 1, "--warmup", 0, *settings("run.update=none"))
        suite.check_code(suite.run(3, *job, "--dump-gen", "moe-gen", "--force"), 0, "run")
        digest(suite, 0, "moe", "moe", *options, "--json", "moe.json", "--force", "--chunk-bytes", 5000)
        document = suite.result("moe.json")
        dtypes = set()
        for rank in document["ranks"]:
            dump = safetensors.read(suite.path("moe-gen", f"gen-rank-{rank['rank']:05}.safetensors"))
            suite.check({row["name"] for row in rank["parameters"]} == set(dump), f"names of {rank['rank']}")
            for row in rank["parameters"]:
                tensor = dump[row["name"]]
                dtypes.add(tensor.dtype)
                what = f"{precision}, gen rank {rank['rank']}: {row['name']}"
                suite.check((row["dtype"], tuple(row["shape"])) == (tensor.dtype, tensor.shape), f"{what}: {row}")
                suite.check(row["vllm"] == hashlib.sha256(tensor.data).hexdigest(), f"{what}: vllm {row['vllm']}")
                if len(tensor.data) < 300_000:
                    suite.check(row["refit"] == fingerprint(row["name"], tensor), f"{what}: refit {row['refit']}")
        suite.check(seen <= dtypes, f"dtypes {dtypes}")
        for chunk in ("40", "777", "64MiB"):
            digest(suite, 0, chunk, "moe", *options, "--json", "again.json", "--force", "--chunk-bytes", chunk)
            suite.check(suite.result("again.json")["ranks"] == document["ranks"], f"chunks of {chunk} bytes change digests")


# Name of a model, layers, gen, ranks, options of synth, options of both.
RIGHT = (
    ("qwen3-30b-a3b-small", 2, "TP4xDP2", 8, (), ()),
    ("qwen3-30b-a3b-small", 2, "TP2xDP2xEP4", 4, (), settings("gen.data_parallel=internal")),
    ("qwen3-30b-a3b-small", 2, "TP2+TP1xDP2", 4, (), ()),
    ("smollm2-135m-small", 0, "TP1xPP2", 2, (), ()),  # tied
    ("qwen3-next-80b-a3b-small", 0, "TP2", 2, (), ()),  # float32 parameters, conversions
    ("gpt-oss-20b-small", 2, "TP2", 2, (), ()),  # interleaved, transposed experts
    ("deepseek-v3-small", 2, "TP2", 2, (), settings("gen.derived=true")),  # W_UK_T, W_UV
    ("deepseek-v3-small", 2, "TP2", 2, (), settings("gen.derived=true", "gen.engine=sglang")),
    ("qwen3-30b-a3b-small", 2, "TP2", 2, (), ("--precision", "bf16:fp8", *settings("gen.engine=sglang"))),
    ("qwen3-30b-a3b-small", 2, "TP2", 2, (), ("--precision", "bf16:fp32")),
    ("qwen3-30b-a3b-small", 2, "TP2", 2, ("--quantisation", "mxfp8"), ("--precision", "mxfp8")),  # repeated scales
    ("qwen3-30b-a3b-small", 2, "TP2", 2, (), ("--precision", "bf16:mxfp8")),
    ("qwen3-30b-a3b-small", 2, "TP2", 2, (), ("--precision", "bf16:nvfp4")),  # scales that several weights share
    ("qwen3-30b-a3b-small", 2, "TP2", 2, ("--quantisation", "fp8"), ("--precision", "bf16")),  # dequantised
    ("qwen3-30b-a3b-small", 2, "TP2", 2, ("--quantisation", "nvfp4"), ("--precision", "nvfp4", *settings("gen.derived=true"))),
    ("qwen3-8b-small", 2, "TP2", 2, ("--quantisation", "fp8_tensor"), ("--precision", "fp8_tensor", *settings("gen.derived=true"))),
    ("qwen3-8b-small", 2, "TP2", 2, ("--quantisation", "fp8_channel"), ("--precision", "fp8_channel", *settings("gen.derived=true"))),
    ("qwen3-8b-small", 2, "TP2", 2, ("--format", "hdf5"), ()),
    ("qwen3-8b-small", 2, "TP2", 2, ("--max-shard-size", "1MB"), ()),
)


def right_dumps(suite):
    """What refits of many kinds left on gen ranks, by the options that the dump has recorded."""
    for model, layers, gen, ranks, of_checkpoint, options in RIGHT:
        what = f"{model} {gen} {' '.join(map(str, (*of_checkpoint, *options)))}"
        shutil.rmtree(suite.path("right"), ignore_errors=True)
        shutil.rmtree(suite.path("right-gen"), ignore_errors=True)
        synth(suite, model, "right", "--layers", layers, *of_checkpoint)
        job = ("run", "--checkpoint", "right", "--train", "TP1", "--gen", gen, *options, "--steps", 1, "--warmup", 0)
        train = 2 if "PP2" in gen else 1
        if train == 2:
            job = tuple("TP1xPP2" if word == "TP1" else word for word in job)
        ended = suite.run(train + ranks, *job, *settings("run.update=none"), "--dump-gen", "right-gen", "--force")
        suite.check_code(ended, 0, what)
        ended = digest(suite, 0, what, "right", "--from-dump", "right-gen", "--chunk-bytes", 4099, "--json", "right.json", "--force")
        document = suite.result("right.json", ended)
        stored = sum(len(rank["parameters"]) for rank in document["ranks"])
        suite.check(document["status"] == "equal" and len(document["ranks"]) == ranks, f"{what}: {document['status']}", ended)
        suite.check(document["checks"][0]["parameters"] == stored > 0, f"{what}: {document['checks']}")


def wrong_dumps(suite):
    """A moved, swapped or shifted element, row or rank changes every form, and the message names it."""
    synth(suite, "qwen3-4b-small", "dense", "--layers", 2)
    job = ("run", "--checkpoint", "dense", "--train", "TP1", "--gen", "TP2", "--steps", 1, "--warmup", 0, *settings("run.update=none"))
    suite.check_code(suite.run(3, *job, "--dump-gen", "dense-gen", "--force"), 0, "run")
    name = "model.layers.1.mlp.gate_up_proj.weight"
    file = suite.path("dense-gen", "gen-rank-00001.safetensors")
    right = safetensors.read(file)
    rows, columns = right[name].shape
    row = 2 * columns
    generator = random.Random(3)

    def changed(change):
        data = bytearray(right[name].data)
        change(data)
        return bytes(data)

    def swap(data, a, b, count=2):
        data[a : a + count], data[b : b + count] = data[b : b + count], data[a : a + count]

    def different(count):
        """Two places in one block of `count` bytes that hold different elements."""
        while True:
            base = generator.randrange(0, (len(right[name].data) - count) // 2) * 2
            a, b = sorted(generator.sample(range(0, count, 2), 2))
            a, b = base + a, base + b
            if right[name].data[a : a + 2] != right[name].data[b : b + 2]:
                return a, b

    changes = {
        "a flipped bit": lambda data: data.__setitem__(77, data[77] ^ 1),
        "two neighbours swapped": lambda data: swap(data, *different(4)),
        "two elements swapped in a block of 64": lambda data: swap(data, *different(64)),
        "two words swapped": lambda data: swap(data, 4 * 11, 4 * 29, 4),
        "two rows swapped": lambda data: swap(data, 3 * row, 5 * row, row),
        "gate and up swapped": lambda data: swap(data, 0, len(data) // 2, len(data) // 2),
        "shifted by an element": lambda data: data.__setitem__(slice(None), data[-2:] + data[:-2]),
        "shifted by a row": lambda data: data.__setitem__(slice(None), data[-row:] + data[:-row]),
        "a row moved": lambda data: data.__setitem__(slice(None), data[row : 9 * row] + data[:row] + data[9 * row :]),
    }
    options = ("dense", "--gen", "TP2", "--from-dump", "dense-gen")
    for what, change in changes.items():
        data = changed(change)
        suite.check(data != right[name].data, f"{what} changes nothing")
        safetensors.write(file, {**right, name: safetensors.Tensor("BF16", (rows, columns), data)})
        for form in FORMS:
            ended = digest(suite, 1, f"{what}, {form}", *options, "--forms", form)
            suite.check("wrong: 1 of " in ended.out and f"gen rank 1: {name}: {form}: " in ended.out, f"{what}, {form}", ended)
    for what, tensors, text in (
        ("missing", {key: tensor for key, tensor in right.items() if key != name}, "is not in the dump"),
        ("of another shape", {**right, name: safetensors.Tensor("BF16", (rows // 2, 2 * columns), right[name].data)}, "has shape"),
        ("of another dtype", {**right, name: safetensors.Tensor("F16", (rows, columns), right[name].data)}, "is F16, not BF16"),
        ("transposed", {**right, name: safetensors.Tensor("BF16", (columns, rows), right[name].data)}, "is stored transposed"),
    ):
        safetensors.write(file, tensors)
        ended = digest(suite, 1, what, *options)
        suite.check("wrong: 1 of " in ended.out and f"gen rank 1: {name}: {text}" in ended.out, what, ended)
    safetensors.write(file, {**right, "model.other": safetensors.Tensor("F32", (1,), bytes(4))})
    ended = digest(suite, 0, "one more", *options)
    suite.check("gen rank 1: 1 parameters of the dump are not in the layout and not compared, e.g. model.other" in ended.out, "extra", ended)
    of_checkpoint = {key.replace("gate_up_proj", "q_proj").replace("qkv_proj", "q_proj"): tensor for key, tensor in right.items()}
    for rank in ("0", "1"):
        safetensors.write(suite.path("dense-gen", f"gen-rank-0000{rank}.safetensors"), of_checkpoint)
    ended = digest(suite, 1, "a checkpoint's names", *options)
    looks = [line for line in ended.out.splitlines() if "this looks like a Hugging Face checkpoint's tensors" in line]
    suite.check(looks and not any("--" in line for line in looks), "a hint names options of refit diagnose", ended)
    suite.check_code(suite.run(3, *job, "--dump-gen", "dense-gen", "--force"), 0, "run")
    digest(suite, 0, "right again", *options)
    other = suite.path("dense-gen", "gen-rank-00000.safetensors")
    os.rename(file, file + ".kept")
    os.rename(other, file)
    os.rename(file + ".kept", other)
    ended = digest(suite, 1, "ranks exchanged", *options, "--json", "wrong.json", "--force")
    document = suite.result("wrong.json", ended)
    wrong = {(entry["gen_rank"], entry["parameter"]) for entry in document["checks"][0]["wrong"]}
    replicated = "model.layers.0.input_layernorm.weight"
    suite.check(document["status"] == "wrong" and (0, name) in wrong and (1, name) in wrong, f"{wrong}", ended)
    suite.check((0, replicated) not in wrong, "a norm is on all ranks")
    # Weights that a run has changed are not the checkpoint's; its dump says that it has.
    changed = [word for word in job if word not in settings("run.update=none")]
    suite.check_code(suite.run(3, *changed, "--dump-gen", "changed-gen", "--force"), 0, "run")
    ended = digest(suite, 1, "changed weights", "dense", "--from-dump", "changed-gen")
    suite.check('changed-gen is of a run with run.update = "perturb"' in ended.out, "no word of run.update", ended)


def printed(suite):
    """Lists fit a terminal; a checkpoint of one file may be given by it; what is not digested is said."""
    synth(suite, "qwen3-30b-a3b-small", "moe", "--layers", 1)
    ended = digest(suite, 0, "a folder", "moe", "--gen", "TP2")
    widest = max(map(len, ended.out.splitlines()))
    suite.check(widest <= 120, f"{widest} columns", ended)
    rows = sum(line.startswith("rank ") for line in ended.out.splitlines())
    for form in FORMS:
        suite.check(ended.out.count(f"  {form} ") == rows > 20, f"digests in form {form}", ended)
    of_file = digest(suite, 0, "a file", os.path.join("moe", "model.safetensors"), "--gen", "TP2")
    suite.check(of_file.out.replace("model.safetensors", "") == ended.out, "a file gives other digests", of_file)
    synth(suite, "qwen3-30b-a3b-small", "cut", "--layers", 1, "--max-shard-size", "500KB")
    shard = next(name for name in sorted(os.listdir(suite.path("cut"))) if name.endswith(".safetensors"))
    ended = digest(suite, 2, "a shard", os.path.join("cut", shard), "--gen", "TP2")
    suite.check("give the folder, cut" in ended.err, "a shard", ended)
    words = ("qwen3-4b-small", "--gen", "TP1", "--precision", "fp8", *settings("gen.kv_cache_dtype=fp8"))
    ended = digest(suite, 0, "FP8 cache", *words)
    suite.check("e.g. model.layers.0.self_attn.attn._q_scale, are no parameters and are not digested" in ended.out, "no word of _q_scale", ended)
    synth(suite, "deepseek-v3-small", "latent", "--layers", 1, "--quantisation", "fp8")
    ended = digest(suite, 0, "latent attention in FP8", "latent", "--gen", "TP1", "--precision", "fp8")
    suite.check("W_UK_T and W_UV of vLLM" in ended.out and "is not digested" in ended.out, "no word of W_UK_T", ended)


def mistakes(suite):
    """Exit code 2 and a message that says what to do."""
    synth(suite, "qwen3-4b-small", "plain", "--layers", 1)
    synth(suite, "smollm2-135m-small", "tied", "--layers", 1, "--tied-lm-head")
    digest(suite, 0, "tied and equal", "tied", "--gen", "TP1")
    with open(suite.path("tied", "model.safetensors"), "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        begin = json.loads(file.read(length))["lm_head.weight"]["data_offsets"][0]
        file.seek(8 + length + begin + 1)
        file.write(b"\x11")
    write_json(suite, "empty.json", {})
    write_json(suite, "list.json", [])
    write_json(suite, "numbers.json", {"checksums": {"dp0:pp0:pcp0:tp0:model.norm.weight": 3}})
    write_json(suite, "ranks.json", {"ranks": [{"checksums": {}}]})
    with open(suite.path("text.json"), "w", encoding="utf-8") as file:
        file.write("no JSON")
    os.makedirs(suite.path("no-dump"), exist_ok=True)
    for words, text in (
        (("plain",), "--gen is required"),
        (("nowhere", "--gen", "TP1"), "nowhere"),
        (("plain", "--gen", "TP3"), "3"),
        (("plain", "--gen", "TP1", "--forms", "md5"), "--forms md5: needs some of refit, vllm, sglang, sglang-cpu"),
        (("plain", "--gen", "TP1", "--chunk-bytes", "0"), "--chunk-bytes 0: needs bytes above 0"),
        (("plain", "--gen", "TP1", "--set", "run.steps=3"), "means nothing for a digest"),
        (("plain", "--gen", "TP1", "--from-dump", "no-dump"), "no gen dumps"),
        (("plain", "--gen", "TP1", "--precision", "fp8"), "set train.precision = bf16"),
        (("tied", "--gen", "TP1"), "lm_head.weight differs from model.embed_tokens.weight"),
        (("plain", "--gen", "TP1", "--from-engine", "nowhere.json"), "nowhere.json: there is no such file"),
        (("plain", "--gen", "TP1", "--from-engine", "text.json"), "text.json: is not valid JSON"),
        (("plain", "--gen", "TP1", "--from-engine", "empty.json"), "is no answer of a weight checker"),
        (("plain", "--gen", "TP1", "--from-engine", "list.json"), "is no answer of a weight checker"),
        (("plain", "--gen", "TP1", "--from-engine", "numbers.json"), "is no answer of a weight checker"),
        (("plain", "--gen", "TP1", "--from-engine", "ranks.json"), "is no answer of a weight checker"),
        (("plain", "--gen", "TP1+TP1", "--from-engine", "empty.json"), "give that engine alone"),
        (("tied", "--gen", "TP1", "--from-engine", "empty.json"), "is no answer of a weight checker"),  # before any weight is read
    ):
        ended = digest(suite, 2, " ".join(words), *words)
        suite.check(text in ended.err, f"{' '.join(words)}: no '{text}'", ended)


Suite(__doc__).main(recorded, wrong_answers, oracle, right_dumps, wrong_dumps, printed, mistakes)
