"""The executable from outside: exit codes and one-line messages of every command that needs no MPI, and of bad input."""

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

REFIT = ""


class Cli(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="refit-cli-")
        self.addCleanup(shutil.rmtree, self.work)

    def path(self, name):
        return os.path.join(self.work, name)

    def run_refit(self, *arguments, environment=None):
        return subprocess.run([REFIT, *arguments], cwd=self.work, capture_output=True, text=True,
                              env={**os.environ, **(environment or {})})

    def succeed(self, *arguments, **options):
        result = self.run_refit(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def refuse(self, code, *arguments, part, lines=1, **options):
        """Exit code and stderr of a refused call: `lines` lines, each an error of refit, one with `part`."""
        result = self.run_refit(*arguments, **options)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        found = result.stderr.splitlines()
        self.assertEqual(len(found), lines, result.stderr)
        for line in found:
            self.assertTrue(line.startswith("refit: error: "), line)
        self.assertIn(part, result.stderr)

    def case(self, text):
        with open(self.path("case.toml"), "w") as file:
            file.write(text)
        return "case.toml"


class HelpAndVersion(Cli):
    COMMANDS = ["run", "plan", "probe", "inspect", "synth", "convert", "compare", "list", "completion", "manual"]

    def test_help_lists_the_commands(self):
        text = self.succeed("--help")
        for command in self.COMMANDS:
            self.assertIn("\n  " + command, text)

    def test_every_command_has_help(self):
        for command in self.COMMANDS:
            text = self.succeed(command, "--help")
            self.assertIn("Usage:", text)
            self.assertNotRegex(text, r"[\x00-\x08]", f"{command} --help has control characters")

    def test_help_of_run_names_units_and_defaults(self):
        text = self.succeed("run", "--help")
        self.assertIn("refit.chunk_bytes", text)
        self.assertIn('[bytes] (default "64MiB")', text)
        self.assertIn("[seconds] (default 60)", text)

    def test_version_names_everything_linked(self):
        text = self.succeed("--version")
        for name in ["refit", "compiler", "mpi", "kokkos", "hdf5", "fmt", "spdlog", "cli11", "toml++", "nlohmann_json",
                     "xxhash"]:
            self.assertRegex(text, r"(?m)^%s .*\d+\.\d+" % name.replace("+", r"\+"))
        self.assertRegex(text, r"(?m)^commit ([0-9a-f]{12}(-dirty)?|unknown)$")


class CommandLine(Cli):
    def test_mistakes_are_one_line_and_exit_code_2(self):
        self.refuse(2, part="a command is required")
        self.refuse(2, "frobnicate", part="frobnicate")
        self.refuse(2, "run", "--frobnicate", part="--frobnicate")
        self.refuse(2, "inspect", part="CHECKPOINT")
        self.refuse(2, "run", "--set", "steps", part="needs KEY=VALUE")
        self.refuse(2, "run", "--steps", "1", "--steps", "2", part="--steps")
        self.refuse(2, "synth", "qwen3-4b-small", "out", "--seed", "-1", part="--seed")
        self.refuse(2, "synth", "qwen3-4b-small", "out", "--seed", str(2**63), part="--seed")
        for seconds in ("nan", "inf", "-nan"):
            self.refuse(2, "probe", "--seconds", seconds, part="--seconds")
        self.refuse(2, "diagnose", "--gen-dump", "x", "--set", "run.steps=2", part="run.steps: means nothing for a diagnosis")
        self.refuse(2, "synth", "qwen3-4b-small", "out", "--max-shard-size", "big", part="--max-shard-size")
        self.refuse(2, "synth", "qwen3-4b-small", "out", "--tied-lm-head", "--format", "zip", part="--format")
        self.refuse(2, "list", "bug", part="did you mean bugs?")
        self.refuse(2, "list", "models", "--inputs", "/nowhere", part="/nowhere: no such folder")
        self.refuse(2, "list", "models", part="$REFIT_INPUTS", environment={"REFIT_INPUTS": "/nowhere"})
        self.refuse(2, "run", "--model", "qwen3-5b-small", "--train", "TP1", "--gen", "TP1", part="did you mean qwen3-")

    def test_bad_cases_are_refused(self):
        model = ["--model", "qwen3-4b-small"]
        layouts = ["--train", "TP2", "--gen", "TP2"]
        self.refuse(2, "run", "nowhere.toml", part="nowhere.toml: no such file")
        self.refuse(2, "run", *model, part="--gen TP4", lines=2)
        self.refuse(2, "plan", *layouts, part="a model is required")
        self.refuse(2, "plan", *model, *layouts, "--set", "refit.bulc=ffn", part="did you mean refit.bulk?")
        self.refuse(2, "plan", *model, *layouts, "--hardware", "nothing", part="--hardware: nothing")
        self.refuse(2, "digests", "--help", part="digests: no such command")
        self.refuse(2, "plan", *model, *layouts, "--csv", "plan.csv", part="--csv")
        self.refuse(2, "plan", *model, *layouts, "--set", 'model.skip=["mtp.*"]', part="without model.checkpoint")
        self.refuse(2, "plan", *model, *layouts, "--set", "output.dump_gen=plan", part="output.dump_gen: means nothing for a plan")
        self.refuse(2, "plan", *model, *layouts, "--precision", "fp8:bf16", part="fp8 -> bf16")
        self.refuse(77, "run", *model, *layouts, "--device", "cuda", part="no CUDA")
        self.refuse(77, "run", *model, *layouts, "--executor", "m2n", part="no NCCL M2N")
        self.refuse(2, "plan", *model, "--train", "TP2xEP2", "--gen", "TP2", part="without experts", lines=2)

    def test_injections_are_named_with_their_place(self):
        layouts = '[model]\nconfig = "%s"\n[train]\nlayout = "TP2"\n[gen]\nlayout = "TP2"\n[run]\n' % self.path("made/config.json")
        self.succeed("synth", "qwen3-0.6b-small", "made", "--layers", "1")
        self.refuse(2, "plan", self.case(layouts + 'inject = ["odd"]\n'), part='case.toml:8:1: run.inject: unknown name "odd"')
        self.refuse(2, "plan", self.case(layouts + 'inject = ["B3-single-expert-mesh"]\n'), part="case.toml:8:1: run.inject: B3-single")

    def test_keys_do_not_nest_without_bound(self):
        for text in (".".join(["a"] * 50000) + " = 1\n", "[" + ".".join(["a"] * 50000) + "]\n",
                     "x = {" + ".".join(["a"] * 50000) + " = 1}\n"):  # fmt: skip
            self.refuse(2, "plan", self.case("\n" + text), part="case.toml:2: a key has more than 64 parts")
        text = 'description = "' + "." * 100 + '"  # ' + "." * 100 + "\nname = '''\n" + "." * 100 + "'''\n"
        self.refuse(2, "plan", self.case(text), part="is required", lines=2)
        self.refuse(2, "plan", "--set", "name={" + ".".join(["a"] * 50000) + "=1}", part="is required", lines=2)

    def test_help_lists_the_keys_of_the_command(self):
        self.assertIn("run.steps", self.succeed("run", "--help"))
        for word in ("run.steps", "--steps", "expect.kl_max", "bug.id"):
            self.assertNotIn(word, self.succeed("plan", "--help"))
        self.assertIn("refit.bulk", self.succeed("plan", "--help"))
        self.assertNotIn("refit.bulk", self.succeed("diagnose", "--help"))

    def test_a_full_stdout_is_an_error(self):
        self.succeed("synth", "qwen3-0.6b-small", "a", "--layers", "1")
        for arguments in (("compare", "a", "a"), ("plan", "--model", "qwen3-4b-small", "--train", "TP2", "--gen", "TP2")):
            with open("/dev/full", "w") as full:
                ended = subprocess.run([REFIT, *arguments], cwd=self.work, stdout=full, stderr=subprocess.PIPE, text=True)
            self.assertEqual(ended.returncode, 3, ended.stderr)
            self.assertIn("cannot write to stdout", ended.stderr)

    def test_all_mistakes_of_a_case_file_are_reported(self):
        case = self.case('[train]\nlayout = "TP0"\n[refit]\nbulc = "ffn"\nstreams = "2"\n')
        self.refuse(2, "plan", case, part="case.toml:4:1: unknown key refit.bulc; did you mean refit.bulk?", lines=3)
        self.refuse(2, "plan", case, part="case.toml:2:1: train.layout", lines=3)

    def test_an_expected_mistake_is_a_success(self):
        text = ('[model]\nconfig = "c.json"\n[train]\nlayout = "TP2"\n[gen]\nlayout = "TP2xCP2"\n'
                '[expect]\noutcome = "error"\nmessage = "%s"\n')
        self.assertIn("as expected", self.succeed("run", self.case(text % "have no CP and ETP")))
        self.refuse(2, "run", self.case(text % "something else"), part="have no CP and ETP")


class Lists(Cli):
    def test_lists(self):
        models = self.succeed("list", "models")
        self.assertRegex(models, r"(?m)^qwen3-4b +\S")
        cases = self.succeed("list", "cases")
        self.assertRegex(cases, r"(?m)^published/qwen3-4b-dp8-to-tp8-ffn.toml +qwen3-4b +DP8 +TP8 +16  DP8 -> TP8$")
        listed = json.loads(self.succeed("list", "cases", "--json"))
        self.assertIn({"case": "published/qwen3-4b-dp8-to-tp8-ffn.toml", "model": "qwen3-4b", "train": "DP8", "gen": "TP8",
                       "ranks": 16, "description": "DP8 -> TP8"}, listed)  # fmt: skip
        executors = self.succeed("list", "executors").splitlines()
        self.assertEqual([line.split()[0] for line in executors], ["golden", "p2p", "direct", "m2n"])
        self.assertRegex(self.succeed("list", "trainers"), r"(?m)^megatron +Megatron-Core")
        self.assertRegex(self.succeed("list", "engines"), r"(?m)^vllm +vLLM")
        self.assertRegex(self.succeed("list", "engines"), r"(?m)^sglang +SGLang")
        self.refuse(2, "list", "engine", part="did you mean engines?")
        self.assertRegex(self.succeed("list", "families"), r"(?m)^qwen2 +qwen2\b.* Qwen2ForCausalLM\b")
        self.assertRegex(self.succeed("list", "hardware"), r"(?m)^h200-nvlink +8 x H200")
        self.assertRegex(self.succeed("list", "matrices"), r"(?m)^l0 +bf16: 4B")
        self.assertRegex(self.succeed("list", "bugs"), r"(?m)^B3-single-expert-mesh +B3 +mismatch +\S")
        self.assertRegex(self.succeed("list", "injections"), r"(?m)^swap-gate-up +\S")

    def test_what_is_listed_is_a_name(self):
        for name in ("B3-single-expert-mesh", "published/qwen3-4b-dp8-to-tp8-ffn.toml", "qwen3-4b-dp8-to-tp8-ffn"):
            self.assertIn("payload", self.succeed("plan", name))
        self.assertIn("payload", self.succeed("plan", "--set", "model.config=qwen3-4b-small", "--train", "TP2", "--gen", "TP2"))
        self.refuse(2, "plan", "B3-single-expert-mesk", part="did you mean B3-single-expert-mesh?")

    def test_a_folder_is_its_config(self):
        os.makedirs(self.path("folder"))
        self.succeed("synth", "qwen3-0.6b-small", "made", "--layers", "1")
        os.rename(self.path("made/config.json"), self.path("folder/config.json"))
        layouts = '[train]\nlayout = "TP2"\n[gen]\nlayout = "TP2"\n'
        self.assertIn("payload", self.succeed("plan", self.case('[model]\nconfig = "folder"\n' + layouts)))

    def test_other_inputs(self):
        os.makedirs(self.path("inputs/cases"))
        with open(self.path("inputs/cases/a.toml"), "w") as file:
            file.write('description = "Mine."\n')
        expected = "case    model  train  gen  ranks  description\na.toml  -      -      -    -      Mine.\n"
        self.assertEqual(self.succeed("list", "cases", "--inputs", "inputs"), expected)
        self.assertEqual(self.succeed("list", "cases", environment={"REFIT_INPUTS": "inputs"}), expected)


class Checkpoints(Cli):
    def synth(self, name, *options):
        return self.succeed("synth", "qwen3-0.6b-small", name, "--layers", "2", *options)

    def test_inspect_of_a_name_a_config_and_a_checkpoint(self):
        text = self.succeed("inspect", "qwen3-4b")
        self.assertIn("without lm_head.weight:  398 tensors, 4,022,468,096 parameters, 8,044,936,192 bytes", text)
        self.assertIn("with lm_head.weight:     399 tensors, 4,411,424,256 parameters, 8,822,848,512 bytes", text)
        self.synth("s")
        text = self.succeed("inspect", "s")
        self.assertIn("s: safetensors", text)
        self.assertLess(text.index("without lm_head.weight:"), text.index("model.embed_tokens.weight"), "the summary is not first")
        self.succeed("inspect", "s", "--json", "inspect.json")
        with open(self.path("inspect.json")) as file:
            document = json.load(file)
        self.assertEqual((document["family"], document["totals"][0]["of"]), ("qwen3", "without lm_head.weight"))
        self.assertEqual(len(document["tensors"]), document["totals"][0]["tensors"])
        self.refuse(2, "inspect", "s", "--json", "inspect.json", part="inspect.json")
        self.assertIn("tied: lm_head.weight is absent", text)
        self.synth("t", "--tied-lm-head")
        self.assertIn("tied: lm_head.weight is present", self.succeed("inspect", "t"))
        self.assertIn("no weights", self.succeed("inspect", "s/config.json"))

    def test_what_is_not_read_is_said(self):
        self.synth("s")
        shutil.copy(self.path("s/model.safetensors"), self.path("s/consolidated.safetensors"))
        shutil.copy(self.path("s/model.safetensors"), self.path("s/adapter_model.safetensors"))
        with open(self.path("s/config.json")) as file:
            config = json.load(file)
        config["torch_dtype"] = "float32"
        with open(self.path("s/config.json"), "w") as file:
            json.dump(config, file)
        text = self.succeed("inspect", "s")
        self.assertIn("model.safetensors is read; adapter_model.safetensors, consolidated.safetensors in the folder are "
                      "not: nothing names them (--adapters FOLDER reads an adapter)", text)  # fmt: skip
        self.assertIn("config.json says F32, but most of the tensors are BF16, as which they are read", text)
        os.mkdir(self.path("old"))
        shutil.copy(self.path("s/config.json"), self.path("old/config.json"))
        open(self.path("old/pytorch_model.bin"), "w").close()
        self.refuse(2, "inspect", "old", part="there are pytorch_model.bin, which refit does not read")

    def test_a_model_by_name_in_a_case_file(self):
        text = '[model]\nconfig = "%s"\n[train]\nlayout = "TP2"\n[gen]\nlayout = "TP1"\n'
        self.assertIn("qwen3, 46 tensors", self.succeed("plan", self.case(text % "qwen3-0.6b-small")))
        self.refuse(2, "plan", self.case(text % "qwen3-0.6b-smal"), part="qwen3-0.6b-smal")

    def test_inspect_names_what_is_wrong(self):
        self.refuse(2, "inspect", "nowhere", part="nowhere: no such file")
        self.synth("s")
        with open(self.path("s/config.json")) as file:
            config = json.load(file)
        config["num_hidden_layers"] = 3
        with open(self.path("s/config.json"), "w") as file:
            json.dump(config, file)
        result = self.run_refit("inspect", "s")
        self.assertEqual(result.returncode, 2)
        self.assertIn("model.layers.2.input_layernorm.weight", result.stderr)

    def test_inspect_names_unknown_tensors(self):
        self.synth("s")
        header_bytes, payload = self.read_safetensors("s/model.safetensors")
        header = json.loads(header_bytes)
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        header["extra.weight"] = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [end, end + 8]}
        self.write_safetensors("s/model.safetensors", json.dumps(header).encode(), payload + bytes(8))
        self.assertIn("unknown: extra.weight [2, 2]", self.succeed("inspect", "s"))

    def test_a_truncated_checkpoint_is_refused(self):
        self.synth("s")
        size = os.path.getsize(self.path("s/model.safetensors"))
        os.truncate(self.path("s/model.safetensors"), size - 1)
        result = self.run_refit("inspect", "s")
        self.assertEqual(result.returncode, 2)
        self.assertIn("model.safetensors", result.stderr)

    def test_synth_convert_compare(self):
        self.synth("a")
        self.synth("b", "--format", "hdf5", "--max-shard-size", "100KiB")
        self.assertIn("equal:", self.succeed("compare", "a", "b"))
        self.succeed("convert", "b", "c")
        with open(self.path("a/model.safetensors"), "rb") as a, open(self.path("c/model.safetensors"), "rb") as c:
            self.assertEqual(a.read(), c.read())

    def test_compare_finds_a_difference(self):
        self.synth("a")
        self.synth("b", "--seed", "2")
        result = self.run_refit("compare", "a", "b")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "")
        self.assertIn("model.embed_tokens.weight: ", result.stdout)
        self.assertRegex(result.stdout, r"different: \d+ tensors of \d+ compared")
        self.refuse(2, "compare", "a", "nowhere", part="nowhere")

    def test_existing_output_is_kept_without_force(self):
        self.synth("a")
        self.refuse(2, "synth", "qwen3-0.6b-small", "a", "--layers", "2", part="--force")
        self.synth("a", "--force")
        self.succeed("convert", "a", "b", "--max-shard-size", "200KiB")
        self.refuse(2, "convert", "a", "b", part="--force")
        self.refuse(2, "convert", "a", "a", "--force", part="the folder of the checkpoint that is read")
        self.refuse(2, "synth", "qwen3-0.6b-small", "b", "--layers", "2", part="--force")  # HDF5 is there
        self.refuse(2, "synth", "qwen3-30b-a3b-small", "x", "--tied-lm-head", part="not tied")

    def read_safetensors(self, name):
        with open(self.path(name), "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            return file.read(size), file.read()

    def write_safetensors(self, name, header, payload):
        with open(self.path(name), "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + payload)


class Plans(Cli):
    def test_plan_of_nccl_m2n(self):
        """TP8 with 4 KV heads in two engines: k and v have no mesh of two axes; experts are one tensor each."""
        text = self.succeed("plan", "--model", "qwen3-30b-a3b", "--layers", "2", "--train", "EP2", "--gen", "TP8xDP2",
                            "--executor", "m2n", "--json", "plan.json")  # fmt: skip
        # Of each layer: q, o, two norms of heads, two of the layer, router, three of experts. Embedding, norm, head.
        self.assertRegex(text, r"(?m)^# m2n +[0-9.]+ GB by 23 operations; [0-9.]+ MB of 4 tensors by p2p$")
        self.assertIn("model.layers.0.self_attn.k_proj.weight and 3 more: gen ranks have its 4 parts", re.sub(r"\n#\s+", " ", text))
        with open(self.path("plan.json"), encoding="utf-8") as file:
            plan = json.load(file)
        m2n = plan["m2n"]
        self.assertEqual((m2n["operations"], [len(one["tensors"]) for one in m2n["leftovers"]]), (23, [4]))
        # k and v are [512, 2048] in bf16; each gen rank gets a quarter, of each of 2 layers.
        self.assertEqual(m2n["p2p_bytes"], 2 * 2 * 16 * (512 // 4) * 2048 * 2)
        self.assertEqual(m2n["bytes"] + m2n["p2p_bytes"], plan["wire"]["bytes"])

    def test_plan_of_a_published_row(self):
        inputs = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../inputs")
        case = os.path.join(inputs, "cases/published/qwen3-4b-dp8-to-tp8-ffn.toml")
        text = self.succeed("plan", case, "--hardware", "h100-50gbps", "--json", "plan.json")
        self.assertIn("xfer_frac=66.9%", text)
        with open(self.path("plan.json")) as file:
            bound = json.load(file)["bound"]["seconds"]
        self.assertAlmostEqual(bound, 0.0201, places=4)
        self.refuse(1, "plan", case, "--set", "expect.bulk_fraction=0.5", part="expect.bulk_fraction")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--refit", required=True)
    arguments, rest = parser.parse_known_args()
    REFIT = os.path.abspath(arguments.refit)
    unittest.main(argv=[sys.argv[0], *rest])
