"""Does a grown model learn as fast as a from-scratch one at the same loss? `make bench-growth-dynamics`.

Small models saturate at a constant rate, grow to twice the width or depth, and train on; `--tiny` only shows that every part runs.
Finished runs are kept in the folder, and a second call goes on with the rest. Runs share out the cores, one thread each.
"""

import argparse
import concurrent.futures
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from raystage.studies.dynamics import Comparison, compare
from raystage.studies.equal_loss import Curve
from tests.bench.dynamics_arms import KINDS, TINY, VARIANTS, Arm, Settings, first_arms, grown_arms
from tests.bench.dynamics_plot import save_overlay
from tests.bench.dynamics_run import curve_of, prepared, run_arm

FOLDER = Path(".raystage/bench/growth_dynamics")
TOLERANCE = 0.15


def main() -> None:
    """Runs what is missing, prints the table, writes overlay.png."""
    parser = argparse.ArgumentParser(prog="growth_dynamics", description="slopes of grown and of from-scratch models at equal loss")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes, and figures that mean nothing")
    settings, folder = (TINY, FOLDER / "tiny") if parser.parse_args().tiny else (Settings(), FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    prepared(settings)
    for arms in (first_arms(settings), grown_arms(settings)):
        _run(arms, settings, folder)
    curves = {arm: curve for arm in first_arms(settings) + grown_arms(settings) if (curve := curve_of(arm, settings, folder))}
    comparisons = {arm: found for arm in grown_arms(settings) if (found := _compare(arm, curves, settings))}
    _print(comparisons, settings)
    save_overlay(curves, comparisons, folder / "overlay.png")
    print(f"curves laid over each other: {folder / 'overlay.png'}")


def _run(arms: Sequence[Arm], settings: Settings, folder: Path) -> None:
    missing = [arm for arm in arms if curve_of(arm, settings, folder) is None]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(n_cores(), mp_context=spawn) as pool:
        runs = [pool.submit(run_arm, arm, settings, folder) for arm in missing]
        for number, run in enumerate(concurrent.futures.as_completed(runs), start=1):
            print(f"{run.result()}: done, {number} of {len(missing)}", flush=True)


def _compare(arm: Arm, curves: Mapping[Arm, Curve], settings: Settings) -> Comparison | None:
    begin_steps = settings.source_steps + settings.rewarm_steps
    return compare(curves[arm], curves[Arm(arm.seed)], begin_steps * settings.batch_tokens, settings.window_steps * settings.batch_tokens)


def _print(comparisons: Mapping[Arm, Comparison], settings: Settings) -> None:
    print(f"{pick_device('cpu').name}, one thread a run, torch {torch.__version__}; grown slope / from-scratch slope at equal loss")
    print(f"{'':<24}  {'each seed':<20}  mean  {'lowest to highest':<17}  slope, target's slope, at loss (means)")
    for kind in KINDS:
        for variant in VARIANTS:
            found = [comparisons.get(Arm(seed, kind, variant)) for seed in range(settings.seeds)]
            print(f"{f'2x {kind}, {variant}':<24}  {_line(found)}{_verdict(found) if variant == 'full' else ''}")


def _line(found: Sequence[Comparison | None]) -> str:
    each = " ".join(f"{comparison.ratio:.2f}" if comparison else "none" for comparison in found)
    known = [comparison for comparison in found if comparison]
    if not known:
        return f"{each:<20}  the target has no window around this loss"
    ratios = [comparison.ratio for comparison in known]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    slopes = f"{_mean(known, 'grown_slope'):.4f}, {_mean(known, 'target_slope'):.4f}, at {_mean(known, 'loss'):.3f}"
    return f"{each:<20}  {statistics.fmean(ratios):>4.2f}  {spread:<17}  {slopes}"


def _verdict(found: Sequence[Comparison | None]) -> str:
    ratios = [comparison.ratio for comparison in found if comparison]
    if len(ratios) < len(found) or abs(statistics.fmean(ratios) - 1) > TOLERANCE:
        word = "missed"
    else:
        word = "met" if all(abs(ratio - 1) <= TOLERANCE for ratio in ratios) else "met by the mean, not by every seed"
    return f"; goal 1 +- {TOLERANCE}: {word}"


def _mean(comparisons: Sequence[Comparison], key: str) -> float:
    return statistics.fmean(getattr(comparison, key) for comparison in comparisons)


if __name__ == "__main__":
    main()
