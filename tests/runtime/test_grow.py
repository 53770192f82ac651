"""`raystage grow`: every family from a folder to a larger one that says the same, training states, refusals, whole or nothing."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from raystage.cli import app
from raystage.config import Config, ConfigError, dump
from raystage.config.grow import read_target
from raystage.runtime.grow import write_grown
from raystage.runtime.grow_plan import plan_growth
from raystage.runtime.grow_table import grow_table
from raystage.tracking.records import RunRecords
from raystage.training.checkpoint_files import load_tensors
from raystage.training.errors import CheckpointError
from raystage.training.manifest import read_manifest
from raystage.training.start import find_checkpoint
from tests.training.made_run import configure, losses, train_here

LLAMA_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rms_norm_eps": 1e-5,
}


def gpt2(tied: bool = True, **sizes: Any) -> Any:
    kwargs = {"vocab_size": 64, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 6, "bos_token_id": 0, "eos_token_id": 0, **sizes}
    return GPT2LMHeadModel(GPT2Config(**kwargs, tie_word_embeddings=tied))


def llama(tied: bool = True, **sizes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA_SIZES, **sizes}, tie_word_embeddings=tied))


def qwen3(tied: bool = True, **sizes: Any) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**{**LLAMA_SIZES, **sizes}, tie_word_embeddings=tied))


FAMILIES: dict[str, Any] = {"gpt2": gpt2, "llama": llama, "qwen3": qwen3}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def shaken(model: Any) -> Any:
    """Norms and biases off their ones and zeros."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return model


def saved(model: Any, folder: Path, **options: Any) -> Path:
    shaken(model).save_pretrained(folder, **options)
    return folder


def grow_to(source: Path, destination: Path, *overrides: str) -> str:
    return write_grown(plan_growth(source, destination, read_target(overrides), verify=True), destination)


def same_words(small: Path, large: Path, tolerance: float) -> Any:
    """Both folders as AutoModelForCausalLM loads them, in float32, on tokens of the test's own; returns the large model."""
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (small, large))
    tokens = torch.randint(0, 64, (3, 32))
    with torch.no_grad():
        a, b = before(tokens).logits, after(tokens).logits
        assert after.generate(tokens[:, :4], max_new_tokens=3, do_sample=False).shape[1] > 4
    assert float((a - b).abs().max() / a.abs().max()) < tolerance
    return after


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overrides", [["growth.width=2"], ["growth.width=4/3"], ["growth.width=5/3", "growth.depth=5"]], ids=str)
def test_every_family_grows_and_says_the_same(tmp_path: Path, family: str, tied: bool, overrides: list[str]) -> None:
    if family == "llama" and overrides[0] == "growth.width=4/3":
        overrides = ["growth.width=4/3", "growth.placement=interleave", "growth.new_layers=fresh", "growth.depth=3"]
    source = saved(FAMILIES[family](tied), tmp_path / "small")
    line = grow_to(source, tmp_path / "large", *overrides)
    assert "logits differ by" in line
    grown = same_words(source, tmp_path / "large", 1e-5)
    assert grown.config.hidden_size > 24
    assert grown.config.tie_word_embeddings == tied
    assert (grown.get_output_embeddings().weight is grown.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [0, 1])
def test_depth_from_no_layer_and_from_one(tmp_path: Path, family: str, layers: int) -> None:
    key = "n_layer" if family == "gpt2" else "num_hidden_layers"
    source = saved(FAMILIES[family](True, **{key: layers}), tmp_path / "small")
    grow_to(source, tmp_path / "large", "growth.depth=4")
    assert same_words(source, tmp_path / "large", 1e-6).config.num_hidden_layers == 4


def test_half_precision_shards_and_what_lies_beside(tmp_path: Path) -> None:
    model = qwen3(False).to(torch.bfloat16)
    model.config.my_note = "kept"
    source = saved(model, tmp_path / "small", max_shard_size="8KB")
    assert len(list(source.glob("model-*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "README.md", "optimizer.pt"):
        (source / name).write_text(name)
    grow_to(source, tmp_path / "large", "growth.width=2", "growth.d_ff=80")
    large = tmp_path / "large"
    assert {t.dtype for t in load_file(large / "model.safetensors").values()} == {torch.bfloat16}
    assert {path.name for path in large.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "merges.txt")
    }
    config = json.loads((large / "config.json").read_text())
    assert (config["my_note"], config["intermediate_size"], config["rms_norm_eps"]) == ("kept", 80, 1e-5)
    assert str(tmp_path) not in json.dumps(config)
    same_words(source, large, 1e-2)
    grow_to(source, tmp_path / "wide", "growth.width=2", "growth.dtype=float32")
    same_words(source, tmp_path / "wide", 1e-5)


def test_a_hub_checkpoint_without_prefix_and_with_buffers(tmp_path: Path) -> None:
    source = saved(gpt2(), tmp_path / "small")
    bare = {name.removeprefix("transformer."): t for name, t in load_file(source / "model.safetensors").items()}
    head, mask = bare["wte.weight"].clone(), torch.ones(32, 32).tril()
    save_file(
        {**bare, "lm_head.weight": head, "h.0.attn.bias": mask, "h.1.attn.masked_bias": torch.tensor(-1e4)}, source / "model.safetensors"
    )
    grow_to(source, tmp_path / "large", "growth.width=1.5")
    same_words(source, tmp_path / "large", 1e-5)
    save_file({**bare, "lm_head.weight": head + 1}, source / "model.safetensors")
    assert "differs from the embedding" in refusal(source, tmp_path / "other", "growth.width=2")


def test_changes_that_do_not_preserve_are_said_so(tmp_path: Path) -> None:
    source = saved(llama(), tmp_path / "small")
    line = grow_to(source, tmp_path / "copies", "growth.depth=4", "growth.new_layers=copy")
    assert "does not preserve" in line
    line = grow_to(source, tmp_path / "longer", "growth.context_length=64", "growth.rope_theta=1e6")
    assert "does not preserve" in line
    config = json.loads((tmp_path / "longer" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["rope_parameters"]["rope_theta"]) == (64, 1e6)
    longer = grow_to(saved(gpt2(), tmp_path / "gpt2"), tmp_path / "gpt2-longer", "growth.context_length=48")
    assert "allowed 1e-05" in longer
    same_words(tmp_path / "gpt2", tmp_path / "gpt2-longer", 1e-6)


# -- refusals


def refusal(source: Path, destination: Path, *overrides: str) -> str:
    """The one line of the refusal, by the dry run too where it needs no values; nothing is left behind."""
    beside = set(destination.parent.iterdir())
    messages = []
    with pytest.raises(ConfigError) as caught:
        grow_to(source, destination, *overrides)
    messages.append(str(caught.value))
    with contextlib.suppress(ConfigError):
        plan_growth(source, destination, read_target(overrides), verify=False)
        messages.append("the dry run takes it")
    assert set(destination.parent.iterdir()) == beside
    assert "\n" not in messages[0]
    return " | ".join(messages)


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("gpt2", [], "nothing to grow: give growth.width"),
        ("gpt2", ["growth.dtype=bfloat16"], "nothing to grow"),
        ("gpt2", ["growth.depth=1"], "n_layer 2 -> 1: growth never makes a model smaller"),
        ("gpt2", ["growth.d_model=12"], "never makes a model smaller"),
        ("gpt2", ["growth.width=1.1"], "nearest that work: 7/6"),
        ("gpt2", ["growth.d_model=26"], "nearest that work: d_model 28"),
        ("gpt2", ["growth.rope_theta=1e5"], "learned positions"),
        ("llama", ["growth.n_head=7"], "nearest that work: n_head 12"),
        ("qwen3", ["growth.n_head=8"], "nearest that work: n_head 9"),
        ("qwen3", ["growth.n_kv_head=4"], "n_head 6 with n_kv_head 4"),
        ("gpt2", ["growth.wdith=2"], "no such key; did you mean growth.width?"),
        ("gpt2", ["growth.width=0.5"], "growth.width=0.5: must be a number at least 1"),
        ("gpt2", ["growth.width=.inf"], "growth.width=Infinity: must be a number"),
        ("gpt2", ["growth.duration=long"], "growth.duration='long': must be a positive number and"),
        ("gpt2", ["growth.dtype=int8"], "must be one of source, float32"),
    ],
)
def test_impossible_targets_are_one_line_with_the_remedy(tmp_path: Path, family: str, overrides: list[str], message: str) -> None:
    found = refusal(saved(FAMILIES[family](), tmp_path / "small"), tmp_path / "large", *overrides)
    assert message in found
    assert "the dry run takes it" not in found


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def edit_tensors(folder: Path, more: dict[str, torch.Tensor], without: str = "") -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(without, None)
    save_file({**tensors, **more}, folder / "model.safetensors")


def test_damaged_and_foreign_sources(tmp_path: Path) -> None:
    good = saved(gpt2(), tmp_path / "good")

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    def refused(folder: Path) -> str:
        found = refusal(folder, tmp_path / "large", "growth.width=2")
        assert "the dry run takes it" not in found
        return found

    edit_config(unknown := broken("unknown"), model_type="bert")
    assert "model_type 'bert': growth knows gpt2, llama, qwen3" in refused(unknown)
    edit_config(quantized := broken("quantized"), quantization_config={"quant_method": "fp8"})
    assert "quantized weights" in refused(quantized)
    edit_config(crossed := broken("crossed"), add_cross_attention=True)
    assert "add_cross_attention" in refused(crossed)
    edit_config(typed := broken("typed"), n_embd="wide")
    assert "not a gpt2 configuration" in refused(typed)
    edit_config(split := broken("split"), n_head=5)
    assert "divisible" in refused(split)
    edit_config(shaped := broken("shaped"), n_inner=100)
    assert "transformer.h.0.mlp.c_fc.weight has shape (24, 96), its config.json says (24, 100)" in refused(shaped)
    edit_tensors(missing := broken("missing"), {}, without="transformer.h.1.ln_2.weight")
    assert "lacks transformer.h.1.ln_2.weight" in refused(missing)
    edit_tensors(extra := broken("extra"), {"score.weight": torch.ones(2, 24)})
    assert "holds score.weight, which its config.json knows nothing of" in refused(extra)
    coarse = load_file(good / "model.safetensors")["transformer.wpe.weight"].to(torch.float8_e4m3fn)
    edit_tensors(float8 := broken("float8"), {"transformer.wpe.weight": coarse})
    assert "transformer.wpe.weight is stored as F8_E4M3" in refused(float8)
    (pickled := broken("pickled")).joinpath("model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "a pickle (pytorch_model.bin)" in refused(pickled)
    (torn := broken("torn")).joinpath("model.safetensors").write_bytes(b"\0" * 40)
    assert "cannot be read" in refused(torn)
    (bare := broken("bare")).joinpath("config.json").unlink()
    assert "needs its config.json" in refused(bare)
    sharded = saved(gpt2(), tmp_path / "sharded", max_shard_size="20KB")
    lost = sorted(sharded.glob("model-*.safetensors"))[0]
    lost.unlink()
    assert f"{lost.name}: missing, though model.safetensors.index.json names it" in refused(sharded)
    assert "no such folder" in refused(tmp_path / "nowhere")
    edit_tensors(numbers := broken("numbers"), {"transformer.wpe.weight": torch.full((32, 24), torch.nan)})
    assert "are no numbers" in refusal(numbers, tmp_path / "large", "growth.width=2")


def test_what_the_gate_refuses_leaves_nothing(tmp_path: Path) -> None:
    source = saved(gpt2().to(torch.bfloat16), tmp_path / "small")
    found = refusal(source, tmp_path / "large", "growth.width=2", "growth.noise_scale=300")
    assert "above 1e-02 for bfloat16 weights, so nothing is written; try growth.dtype=float32 or growth.noise_scale=60" in found


def test_the_destination_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(gpt2(), tmp_path / "small")
    (tmp_path / "there").mkdir()
    assert "exists; name a new folder" in refusal(source, tmp_path / "there", "growth.width=2")

    def full_disk(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raystage.runtime.grow.shutil.copyfile", full_disk)
    assert "No space left on device; nothing was written" in refusal(source, tmp_path / "large", "growth.width=2")
    monkeypatch.undo()
    (tmp_path / ".large.partial").mkdir()
    (tmp_path / ".large.partial" / "leftover").touch()
    grow_to(source, tmp_path / "large", "growth.width=2")
    assert not (tmp_path / ".large.partial").exists()
    assert not (tmp_path / "large" / "leftover").exists()


# -- the command


def run_command(arguments: Sequence[str]) -> None:
    app(["grow", *arguments], standalone_mode=False)


def test_a_dry_run_shows_sizes_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(llama(False), tmp_path / "small")
    plan = plan_growth(source, tmp_path / "large", read_target(["growth.width=2", "growth.depth=3"]), verify=False)
    with (console := Console(width=120)).capture() as capture:
        console.print(grow_table(plan))
    text = capture.get()
    line = grow_to(source, tmp_path / "large", "growth.width=2", "growth.depth=3")
    n_parameters = AutoModelForCausalLM.from_pretrained(tmp_path / "large").num_parameters()
    assert f"{n_parameters / 1e3:.3g}k" in text
    assert f"(3 x 48, {n_parameters / 1e3:.3g}k)" in line
    assert "kept, to 1e-05 of the logits" in text
    run_command([str(source), str(tmp_path / "dry"), "growth.width=2", "--dry-run"])
    assert not (tmp_path / "dry").exists()
    run_command([str(source), str(tmp_path / "made"), "growth.width=2"])
    assert (tmp_path / "made" / "model.safetensors").is_file()


# -- training states

SMALL = [
    *("pacing.rule=slope", "pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null"),
    *("model.n_layer=1", "model.d_model=16", "model.n_head=2", "training.duration=20 steps", "growth.rewarm_steps=4"),
]
LARGE = [*SMALL, "model.n_layer=3", "model.d_model=32", "model.n_head=4"]
GROWTH = ["growth.width=2", "growth.depth=3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of ten steps out of twenty."""
    folder = tmp_path_factory.mktemp("state")
    config = configure(folder, ["name=source", *SMALL, "training.duration=10 steps"])
    train_here(config)
    (folder / "runs" / "source" / "config.yaml").write_text(dump(config))
    return folder / "runs" / "source"


def going_on(run: Path, grown: Path, *more: str) -> Config:
    return configure(run.parent.parent, [f"name=on-{grown.name}", *LARGE, f"init_from.path={grown}", *more])


def test_training_goes_on_from_a_grown_checkpoint(run: Path, tmp_path: Path) -> None:
    grow_to(run, tmp_path / "grown", *GROWTH, "growth.duration=20 steps")
    before = read_manifest(find_checkpoint(run) / "manifest.json")
    after = read_manifest(tmp_path / "grown" / "manifest.json")
    counters = after.counters
    assert (counters.step, counters.place, counters.grown_at_step) == (10, before.counters.place, 10)
    # both double once, depth by 3/2 more
    assert counters.effective_tokens == pytest.approx(before.counters.effective_tokens * 0.40 * 0.70**0.58496, rel=1e-4)
    assert counters.lr_shift == pytest.approx(0.5 - 0.5 * 0.40 * 0.70**0.58496, rel=1e-4)
    (record,) = after.decisions
    assert (record["kind"], record["trigger"], record["outcome"]) == ("grow_both", "manual", "applied")
    assert record["probe_after"] == pytest.approx(record["probe_before"], rel=1e-6)
    assert (after.pinned, after.controller.watermark, after.controller.bins) == (False, 10, ())
    old, new = load_tensors(find_checkpoint(run)), load_tensors(tmp_path / "grown")
    moment = new.states["transformer.h.0.attn.c_proj.weight"]["exp_avg"]
    assert torch.allclose(moment[:16, :16], old.states["transformer.h.0.attn.c_proj.weight"]["exp_avg"] / 2)
    assert "transformer.h.1.ln_1.weight" not in new.states
    records = train_here(going_on(run, tmp_path / "grown", "init_from.what=state"))
    assert [step for step, _ in losses(records)] == list(range(11, 21))
    rates = [record["lr"] for record in records.train]
    assert rates[:5] == pytest.approx([5e-3 / 4, 5e-3 / 2, 5e-3 * 3 / 4, 5e-3, 5e-3])
    last = losses(RunRecords.load(run))[-1][1]
    assert losses(records)[0][1] == pytest.approx(last, rel=0.05)


def test_weights_alone_go_on_too_and_a_reset_leaves_no_moments(run: Path, tmp_path: Path) -> None:
    grow_to(find_checkpoint(run), tmp_path / "reset", *GROWTH, "growth.optimizer=reset")
    assert load_tensors(tmp_path / "reset").states == {}
    assert losses(train_here(going_on(run, tmp_path / "reset", "init_from.what=state", "training.duration=12 steps")))[0][0] == 11
    assert losses(train_here(going_on(run, tmp_path / "reset", "name=weights", "training.duration=2 steps")))[0][0] == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_grown_folder_gives_its_weights_to_a_run(run: Path, tmp_path: Path, family: str) -> None:
    sizes = {
        "vocab_size": 320,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
    }
    model = gpt2(vocab_size=320, n_embd=16, n_head=2, n_layer=1) if family == "gpt2" else llama(False, **sizes, num_hidden_layers=1)
    grow_to(saved(model, tmp_path / family), tmp_path / f"grown-{family}", *GROWTH)
    tied = ["model.tie_embeddings=false", "model.d_ff=128"] if family == "llama" else []
    config = going_on(run, tmp_path / f"grown-{family}", f"model.family={family}", *tied, "training.duration=2 steps")
    assert len(losses(train_here(config))) == 2


def test_a_longer_context_leaves_the_state_behind(run: Path, tmp_path: Path) -> None:
    line = grow_to(run, tmp_path / "longer", "growth.context_length=64", *GROWTH)
    assert "go on with init_from.what=weights" in line
    longer = ["model.context_length=64", "training.duration=2 steps"]
    with pytest.raises(CheckpointError, match=r"init_from\.what=weights takes weights alone"):
        train_here(going_on(run, tmp_path / "longer", "init_from.what=state", *longer))
    assert len(losses(train_here(going_on(run, tmp_path / "longer", "name=longer-weights", *longer)))) == 2


def test_checkpoints_that_cannot_be_grown(run: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(run)
    alone = Path(shutil.copytree(checkpoint, tmp_path / "alone"))
    assert "growth.duration='2e9 tokens'" in refusal(alone, tmp_path / "grown", *GROWTH)
    assert "training goes on in float32" in refusal(checkpoint, tmp_path / "grown", *GROWTH, "growth.dtype=bfloat16")
    states = load_file(alone / "optimizer.safetensors")
    save_file(states, alone / "optimizer.safetensors", metadata={"optimizer": "Lion"})
    given = [*GROWTH, "growth.duration=20 steps"]
    assert "another checksum" in refusal(alone, tmp_path / "grown", *given)
    manifest = json.loads((alone / "manifest.json").read_text())
    (alone / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))
    assert "optimizer Lion: what its state means is unknown" in refusal(alone, tmp_path / "grown", *given)
    grow_to(alone, tmp_path / "without", *given, "growth.optimizer=reset")
    assert load_tensors(tmp_path / "without").states == {}
