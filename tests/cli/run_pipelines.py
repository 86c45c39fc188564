"""Megatron-Core's virtual stages and pipeline layouts end to end: each executor, dumps of several model chunks and who reads
them, and what is refused.

    run_pipelines.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import check_result  # noqa: E402

import safetensors  # noqa: E402

# Rank 0 of a stage has the embedding in both chunks, the other one a chunk without layers.
LAYOUT = "deepseek-v3-pipeline-layout-to-tp4"
CHUNKS = {f"train-rank-{rank:05}{chunk}.safetensors" for rank in range(4) for chunk in ("", ".chunk1")}
QWEN3 = ("--model", "qwen3-4b-small", "--train", "PP2", "--gen", "TP1")
VIRTUAL = (*QWEN3, "--set", "train.virtual_stages=2")


def case(suite, name):
    return os.path.join(suite.args.inputs, "cases", "small", f"{name}.toml")


def executors(suite):
    """Each executor leaves the same weights, which are what the train side's chunks say."""
    for executor in ("golden", "p2p", "direct"):
        dumps = ("--dump-train", f"{executor}.train", "--dump-gen", f"{executor}.gen")
        ways = ("--executor", executor, "--steps", 1, "--warmup", 0, "--json", f"{executor}.json", "--force")
        ended = suite.run(8, "run", case(suite, LAYOUT), *ways, *dumps)
        if not suite.check_code(ended, 0, executor):
            continue
        check_result(suite, ended, suite.result(f"{executor}.json", ended), "all", executor, refits=1)
        found = set(os.listdir(suite.path(f"{executor}.train")))
        suite.check(found == CHUNKS, f"{executor}: dumps {sorted(found)}")
        for side in ("train", "gen"):
            ended = suite.run(0, "compare", f"golden.{side}", f"{executor}.{side}")
            suite.check_code(ended, 0, f"compare golden.{side} {executor}.{side}")
    ended = suite.run(0, "diagnose", "--gen-dump", "p2p.gen", "--train-dump", "p2p.train")
    suite.check_code(ended, 0, "diagnosis of several chunks")


def dumped_chunks(suite):
    """A chunk's file has the chunk's parameters, numbered from 0."""
    name = "decoder.layers.{}.self_attention.linear_proj.weight"
    wanted = {"train-rank-00000": (3, 1), "train-rank-00000.chunk1": (1, 2), "train-rank-00002": (3, 0),
              "train-rank-00002.chunk1": (0, 0)}  # fmt: skip
    for file, (layers, embeddings) in wanted.items():
        names = safetensors.read(suite.path("p2p.train", f"{file}.safetensors")).keys()
        found = [i for i in range(9) if name.format(i) in names]
        suite.check(found == list(range(layers)), f"{file}: layers {found}")
        suite.check(("embedding.word_embeddings.weight" in names) == (embeddings > 0), f"{file}: {sorted(names)}")


def older_chunks(suite):
    """A run without virtual stages leaves no chunk of an earlier one beside its own dumps; a chunk alone is missing one."""
    for settings, chunks in ((VIRTUAL, 2), (QWEN3, 1)):
        ended = suite.run(3, "run", *settings, "--steps", 1, "--warmup", 0, "--dump-train", "older", "--force")
        suite.check_code(ended, 0, " ".join(settings))
        suite.check(len(os.listdir(suite.path("older"))) == 2 * chunks, f"{os.listdir(suite.path('older'))}", ended)


def bugs(suite):
    """A layer taken for another is recognised from several chunks, and its bug named."""
    for bug, setting in (("B60-lost-pipeline-layout", "train.pipeline_layout=Et|tttL"), ("B61-offset-without-chunk", "train.virtual_stages=2")):
        lie = (*QWEN3, "--set", setting, "--inject", bug, "--steps", 1, "--warmup", 0, "--force")
        ended = suite.run(3, "run", *lie, "--dump-train", f"{bug}.train", "--dump-gen", f"{bug}.gen")
        suite.check_code(ended, 1, bug)
        ended = suite.run(0, "diagnose", "--gen-dump", f"{bug}.gen", "--train-dump", f"{bug}.train", "--json", "found.json", "--force")
        suite.check_code(ended, 1, f"diagnosis of {bug}")
        found = [entry["name"] for entry in suite.result("found.json", ended)["bugs"]]
        suite.check(found == [bug], f"{bug} is named {found}", ended)
        ended = suite.run(3, "run", *QWEN3, "--inject", bug, "--steps", 1, "--warmup", 0)
        suite.check_code(ended, 2, f"{bug} without effect")
        suite.check("changes nothing in this job: it needs" in ended.err, f"{bug}: not said", ended)


def missing_chunks(suite):
    """Dumps that do not fit each other, or the layout that is said, are mistakes."""
    dumps = ("--gen-dump", "B61-offset-without-chunk.gen", "--train-dump", "B61-offset-without-chunk.train")
    for settings in (("train.virtual_stages=1",), ("train.virtual_stages=1", "train.pipeline_layout=Et|tttL")):
        ended = suite.run(0, "diagnose", *dumps, *(word for setting in settings for word in ("--set", setting)))
        suite.check_code(ended, 2, f"diagnosis with {settings}")
        suite.check("virtual_stages" in ended.err, f"{settings}: not said", ended)
    os.remove(suite.path("B61-offset-without-chunk.train", "train-rank-00001.chunk1.safetensors"))
    ended = suite.run(0, "diagnose", *dumps)
    suite.check_code(ended, 2, "a chunk is missing")
    suite.check("train-rank-00001.chunk1.safetensors (or .h5) is missing" in ended.err, "not said", ended)


def explained(suite):
    """A plan says which chunk has a layer."""
    ended = suite.run(0, "plan", *VIRTUAL, "--explain", "model.layers.2.mlp.down_proj.weight")
    suite.check_code(ended, 0, "--explain")
    suite.check("chunk 1: decoder.layers.0.mlp.linear_fc2.weight" in ended.out, "no chunk", ended)


def refused(suite):
    """In words, by every command, before anything runs."""
    for train, setting, word in (
        ("PP2", "train.virtual_stages=3", "virtual_stages 3 does not divide the layers of each PP rank, 2, 2; legal: 1, 2 [L4]"),
        ("TP1", "train.virtual_stages=2", "legal: virtual_stages 1, or PP > 1"),
        ("PP2", "train.pipeline_layout=Et|(t*3L", 'character 4, "(", opens a bracket that is not closed'),
        ("PP2", "train.pipeline_layout=Et|t*1000000000L", "has more than 65536 layers and sections"),
        ("PP2", "train.pipeline_layout=Et|ttL", "has 3 decoder layers (t), the model 4 [L4]"),
        ("PP2", "train.pipeline_layout=Et|tttmL", "the trainer builds 0; legal: none"),
    ):
        ended = suite.run(0, "plan", "--model", "qwen3-4b-small", "--train", train, "--gen", "TP1", "--set", setting)
        suite.check_code(ended, 2, f"{train} {setting}")
        suite.check(word in ended.err, f"{train} {setting}: not said: {word}", ended)


Suite(__doc__).main(executors, dumped_chunks, older_chunks, bugs, missing_chunks, explained, refused)
