"""The command line: one command a verb; nothing else."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raystage import __version__, cluster_commands, study_command
from raystage.config import Config, ConfigError, load
from raystage.config.grow import Grow, read_target
from raystage.config.reference import key_list
from raystage.config.replay import Replay, read_pacing
from raystage.config.search import Search, read_search
from raystage.quiet import quiet_environment
from raystage.runtime.engine import EngineError
from raystage.runtime.secrets_file import load_secrets
from raystage.terminal import fail, say, terminal, trouble_of_system

if TYPE_CHECKING:
    from raystage.runtime.driver import Outcome

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, like tune_configs/quickstart.yaml")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="overrides of single keys")]
RunDir = Annotated[
    str, typer.Argument(metavar="RUN", help="run folder, like runs/quickstart, or its URI, like s3://bucket/runs/quickstart")
]
RunAction = Literal["raise", "grow", "pause", "resume", "stop"]
ChangeOption = Literal["length", "batch", "depth", "width"]
DeviceOption = Literal["auto", "cpu", "cuda", "xla"]
PrecisionOption = Literal["float32", "bf16"]
ModelArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="run folder or its URI, raystage checkpoint, or Hugging Face folder")]
CheckpointOption = Annotated[
    str | None, typer.Option(help="name of a checkpoint, pinned ones included, or best: of the lowest validation loss; default: the newest")
]
EngineOption = Annotated[str | None, typer.Option("--engine", help="ray or local, instead of runtime.engine")]
ProfileOption = Annotated[bool, typer.Option("--profile", help="where the time of a few steps of each stage goes: RUN/profile")]

_PROFILED_STEPS = 3


def main() -> None:
    """Entry point: exit code 2 for a mistake of the user, 1 for a run that failed, each with one line."""
    quiet_environment()
    try:
        load_secrets()
        app()
    except ConfigError as error:
        fail(str(error), 2)
    except EngineError as error:
        fail(str(error), 1)
    except OSError as error:
        if (line := trouble_of_system(error)) is None:
            raise
        fail(line, 2)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="show the version")] = False) -> None:
    """Elastic pretraining of GPT models on Ray: sequence length, depth, width and batch grow as the loss slope says."""
    if version:
        say(__version__)
        raise typer.Exit


@app.command(epilog=key_list(Config), short_help="train a run, or go on with it")
def train(config: ConfigPath, overrides: Overrides = None, engine: EngineOption = None, profile: ProfileOption = False) -> None:
    """Train, or go on with, the run that CONFIG names."""
    profiled = [f"runtime.profile_steps={_PROFILED_STEPS}"] if profile else []
    settings = load(config, [*_with_engine(overrides, engine), *profiled])
    if settings.runtime.engine == "local":
        _train_local(settings)
    else:
        _train_on_ray(settings)


@app.command(epilog=key_list(Search), short_help="search the pacing of a run")
def tune(
    search: Annotated[Path, typer.Argument(metavar="SEARCH", help="YAML file, like tune_configs/search/quickstart.yaml")],
    overrides: Overrides = None,
) -> None:
    """Search the pacing of a run, or go on with the search that SEARCH names; leaves best.yaml, which train takes."""
    settings, space, base = read_search(search, overrides or ())
    from raystage.tracking.progress_bars import progress_bars
    from raystage.tuning.search import run_search
    from raystage.tuning.trial_table import TrialView

    with progress_bars(terminal) as progress, TrialView(terminal) as view:
        found = run_search(settings, space, base, progress, say, view.show)
    say(f"search: {found.summary}")
    if found.best is not None:
        say(f"best:   {found.best} ({', '.join(f'{key}={value}' for key, value in found.summary.chosen or ())})")
    say(f"report: {found.page}")
    if not found.finished:
        say("stopped before its end; the same command goes on")
    elif found.best is None:
        fail("every point was rejected, or failed; the report says why: widen the space, or loosen constraints", 1)


@app.command(short_help="turn text into packed rows")
def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Turn CONFIG's sources into packed rows; a second call finds them there."""
    settings = load(config, overrides or ())
    from raystage.runtime.driver import prepare_corpus
    from raystage.tracking.progress_bars import progress_bars

    with progress_bars(terminal) as progress:
        corpus = prepare_corpus(settings, progress, say)
    say(
        f"{corpus.n_train_tokens:,} training and {corpus.n_validation_tokens:,} validation tokens of "
        f"{corpus.vocab_size:,} entries in {corpus.folder}"
    )


@app.command(short_help="show stages, memory and compute; train nothing")
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    measure: Annotated[bool, typer.Option("--measure", help="run one micro-batch of every stage on this machine, for the time")] = False,
) -> None:
    """Show the stages expected, their parameters, their memory, and their share of tokens, compute and time; train nothing."""
    from raystage.runtime.plan_table import plan_table

    terminal.print(plan_table(load(config, overrides or ()), measure))


@app.command(short_help="a page of one run, or of several")
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="one run folder or its URI, or several to compare")],
    out: Annotated[Path | None, typer.Option(help="folder for the page; default: RUN/report, or 'report' for several")] = None,
    baseline: Annotated[str | None, typer.Option(help="name of the run that the others are measured against; default: the first")] = None,
) -> None:
    """Build the page, the picture and the data of one run, or of several side by side against a baseline."""
    from raystage.report.build import build_report
    from raystage.runtime.view import view_records
    from raystage.tracking.progress_bars import progress_bars

    with progress_bars(terminal) as progress:
        folders = [view_records(run, progress) for run in runs]
    beside = len(runs) == 1 and folders[0] == Path(runs[0])
    say(f"report: {build_report(folders, out or (folders[0] / 'report' if beside else Path('report')), baseline)}")


@app.command(short_help="a checkpoint as a Hugging Face folder")
def export(
    run: RunDir,
    target: Annotated[Path, typer.Argument(help="new folder")],
    checkpoint: CheckpointOption = None,
) -> None:
    """Write a checkpoint of RUN as a Hugging Face folder that AutoModelForCausalLM loads."""
    from raystage.runtime.export import export as write
    from raystage.runtime.model_source import find_model
    from raystage.tracking.progress_bars import progress_bars

    with progress_bars(terminal) as progress:
        found = find_model(run, checkpoint, progress)
    if found.stored is None:
        raise ConfigError(f"{run}: is a Hugging Face folder already; give a run")
    say(f"model: {write(found.stored, found.tokenizer(), target)} ({found.name})")


@app.command(epilog=key_list(Grow), short_help="grow a model by hand")
def grow(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="run folder, raystage checkpoint, or Hugging Face folder")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="new folder")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="growth.KEY=VALUE...", help="like growth.width=2 growth.depth=9")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show sizes and memory; write nothing")] = False,
) -> None:
    """Grow the model in SRC, and the optimizer's state of a checkpoint, into DST; the function stays, and that is checked."""
    wanted = read_target(overrides or ())
    from raystage.runtime.grow import write_grown
    from raystage.runtime.grow_plan import plan_growth
    from raystage.runtime.grow_table import grow_table

    plan = plan_growth(source, target, wanted, verify=not dry_run)
    if dry_run:
        terminal.print(grow_table(plan))
    else:
        say(write_grown(plan, target))


@app.command(short_help="perplexity, LAMBADA, loss by position")
def evaluate(
    source: ModelArgument,
    checkpoint: CheckpointOption = None,
    text: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="perplexity of a text file; once or several times")] = None,
    lambada: Annotated[Path | None, typer.Option(metavar="FILE", help="LAMBADA: JSON lines with a passage under 'text'")] = None,
    validation: Annotated[bool, typer.Option("--validation", help="loss on the run's held-out rows; the default")] = False,
    positions: Annotated[bool, typer.Option("--positions", help="loss by position of each --text, too")] = False,
    words: Annotated[int | None, typer.Option(min=1, help="[words] of the --text; default: split by white space")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="[tokens] of a window; default: the model's context")] = None,
    stride: Annotated[int | None, typer.Option(help="[tokens] scored in each window but the first; default: the context")] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="[tokens] of one forward pass")] = 4096,
    device: Annotated[DeviceOption, typer.Option(help="auto: cuda where there is one")] = "auto",
    precision: Annotated[PrecisionOption, typer.Option(help="bf16: autocast; weights and losses stay float32")] = "float32",
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="all results, for programs")] = None,
    mlflow: Annotated[bool | None, typer.Option("--mlflow/--no-mlflow", help="default: where the run has an MLflow run")] = None,
) -> None:
    """Measure a model: perplexity on text, LAMBADA, loss by position on a run's held-out rows; saved in RUN/evaluations."""
    from raystage.runtime.evaluate import Request, evaluate_model
    from raystage.runtime.evaluation_record import conventions, evaluation_table, publish, save_json
    from raystage.runtime.model_source import find_model
    from raystage.tracking.progress_bars import progress_bars

    request = Request(tuple(text or ()), lambada, validation, positions, words, context, stride, batch_tokens, device, precision)
    with progress_bars(terminal) as progress:
        found = find_model(source, checkpoint, progress)
        tree = evaluate_model(found, request, progress)
    terminal.print(evaluation_table(tree))
    for line in [*conventions(tree), *publish(tree, found, source, mlflow)]:
        say(line)
    if as_json is not None:
        save_json(tree, as_json)


@app.command(short_help="text from a model")
def generate(
    source: ModelArgument,
    checkpoint: CheckpointOption = None,
    prompt: Annotated[str, typer.Option(help="text to go on from, '-': standard input; empty: the start of a document")] = "",
    prompt_file: Annotated[Path | None, typer.Option(metavar="FILE", help="text to go on from, instead of --prompt")] = None,
    samples: Annotated[int, typer.Option(min=1, help="[texts] to write, side by side")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="[tokens] to write")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0: greedy")] = 0.7,
    top_k: Annotated[int, typer.Option(min=0, help="[entries] sampled from; 0: all")] = 50,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="probability mass sampled from")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="of the sampling")] = 0,
    device: Annotated[DeviceOption, typer.Option(help="auto: cuda where there is one")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="prompt, settings and text of each sample, for programs")] = False,
) -> None:
    """Write text with a trained model, to the end of its document or of the tokens."""
    from raystage.evaluation.generation import Generator, Sampling
    from raystage.runtime.model_source import find_finished, pick
    from raystage.tracking.progress_bars import progress_bars

    start = _prompt(prompt, prompt_file)
    with progress_bars(terminal) as progress:
        found = find_finished(source, checkpoint, progress)
    generator = Generator(found.open(pick(device), "float32"))
    written = generator.samples(start, samples, tokens, Sampling(temperature, top_k, top_p, seed))
    if as_json:
        print(json.dumps([dataclasses.asdict(sample) for sample in written], indent=2))
        return
    for number, sample in enumerate(written, start=1):
        if samples > 1:
            print(f"--- sample {number} of {samples}")
        print(sample.prompt + sample.text)


@app.command(epilog=key_list(Replay), short_help="a curve through the controller")
def replay(
    curve: Annotated[Path, typer.Argument(metavar="CURVE", help="CSV file (step, loss; tokens, seconds, lr), metrics.jsonl or run folder")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[pacing.KEY=VALUE]...", help="pacing.thresholds.depth=-0.06")] = None,
    parameters: Annotated[float | None, typer.Option(min=1, help="that multiply per token, of the model of CURVE")] = None,
    batch_tokens: Annotated[float | None, typer.Option(min=1, help="[tokens] of a step, where the file has no tokens")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="rule, threshold, step, tokens, slope and more, for programs")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="picture of the curve with its triggers")] = None,
    fit: Annotated[Path | None, typer.Option(metavar="CURVE", help="of a larger model: where does growing save most?")] = None,
    parameters_large: Annotated[float | None, typer.Option(min=1, help="that multiply per token, of the model of --fit")] = None,
) -> None:
    """Show where each rule would have fired on a recorded loss curve; of a run folder also whether it decides the same again."""
    pacing = read_pacing(overrides or ())
    from raystage.runtime.replay_command import Question, answer_fit, answer_replay

    question = Question(curve, parameters, batch_tokens, plot)
    answer = answer_replay(question, pacing) if fit is None else answer_fit(question, fit, parameters_large)
    if as_json:
        print(json.dumps(answer.tree, indent=2))
    else:
        terminal.print(answer.table)
    if answer.comparison is not None and answer.comparison.difference is not None:
        fail(str(answer.comparison), 1)
    if answer.comparison is not None and not as_json:
        say(str(answer.comparison))


@app.command(short_help="list runs; decide by hand")
def runs(
    action: Annotated[RunAction | None, typer.Argument(help="what to do; none: list the runs")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="run to do it to")] = None,
    what: Annotated[ChangeOption | None, typer.Option(help="length or batch (raise), depth or width (grow); default: what is next")] = None,
    storage: Annotated[str, typer.Option(help="folder of run folders, or its URI")] = "runs",
) -> None:
    """List runs, or decide by hand: raise, grow (the plan's next change, now), pause and resume (pacing), stop (with a checkpoint).

    A decision by hand takes effect at the run's next check, on all workers, and is recorded like any other.
    """
    if action is None:
        from raystage.runtime.view import list_runs

        terminal.print(list_runs(storage))
        return
    from raystage.runtime.remote_commands import ask_anywhere

    say(ask_anywhere(storage, action, name, what))


@app.command(short_help="send to MLflow what it lacks")
def sync(
    run: RunDir,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[tracking.KEY=VALUE]...", help="tracking.mlflow_uri=...")] = None,
) -> None:
    """Send to MLflow what it does not have of RUN: it was away, or the run was trained without it. Nothing is sent twice."""
    from raystage.runtime.sync import sync as send

    send(run, overrides or (), say)


app.command(short_help="send a run to a Ray cluster as a job")(cluster_commands.submit)
app.command(short_help="jobs of a cluster: list, follow, stop")(cluster_commands.jobs)
app.command(short_help="is this machine, or cluster, fit?")(cluster_commands.doctor)
app.command(short_help="run a study of several arms", epilog=study_command.KEYS)(study_command.reproduce)


def _train_on_ray(settings: Config) -> None:
    from raystage.runtime.driver import train as run
    from raystage.runtime.ray_engine import RayEngine
    from raystage.tracking.progress_bars import progress_bars

    with progress_bars(terminal) as progress:
        _finish(run(settings, lambda: RayEngine(settings), progress, say))


def _train_local(settings: Config) -> None:
    from raystage.runtime.driver import train as run
    from raystage.runtime.local import LocalEngine
    from raystage.tracking.progress_bars import progress_bars

    try:
        engine = LocalEngine(settings.runtime)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if engine.ranks.is_first:
        try:
            with progress_bars(terminal) as progress:
                _finish(run(settings, lambda: engine, progress, say))
        finally:
            engine.dismiss()
    else:
        engine.follow()


def _finish(outcome: "Outcome") -> None:
    if outcome.products is None:
        say(f"stopped with a checkpoint; the same command goes on, past training.stop_at with a larger one ({outcome.folder.path})")
        return
    facts = outcome.products.sample_facts or {}
    if "share_of_python" in facts:
        shares = f"{facts['share_of_python']:.0%} of {facts['lines']} generated lines pass Python's tokenize"
        say(f"sample: {shares} (held-out lines: {facts['share_of_python_held_out']:.0%})")
    say(f"model:  {outcome.products.model}")
    say(f"report: {outcome.products.page}")


def _prompt(text: str, file: Path | None) -> str:
    if file is not None and text:
        raise ConfigError("--prompt and --prompt-file: give one of them")
    if file is None:
        return sys.stdin.read() if text == "-" else text
    from raystage.data.files import open_text

    with open_text(file) as content:
        return content.read()


def _with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    return [*(overrides or ()), *([f"runtime.engine={engine}"] if engine else [])]
