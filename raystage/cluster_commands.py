"""The commands that look after Ray clusters and their jobs; nothing else."""

import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE
from rich.table import Table

from raystage.config import ConfigError, from_tree, load
from raystage.config.search import read_search
from raystage.terminal import fail, say, terminal

AddressOption = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="dashboard of the cluster, like http://127.0.0.1:8265")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="also to another machine without token authentication")]
JobAction = Literal["list", "follow", "stop"]
_HERE = "http://127.0.0.1:8265"


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="as for train, or with --tune as for tune")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="overrides of single keys")] = None,
    address: AddressOption = _HERE,
    tune: Annotated[bool, typer.Option("--tune", help="CONFIG is a search")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="do not follow the log")] = False,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="relative files that are left out of the job")] = None,
    secrets_file: Annotated[str | None, typer.Option(metavar="PATH", help="file on the nodes with lines NAME=value")] = None,
    code: Annotated[bool, typer.Option("--code", help="take this raystage along, where the nodes have another or none")] = False,
    insecure: InsecureOption = False,
) -> None:
    """Train, or search with --tune, as a job of a Ray cluster, and follow its log; Ctrl-C leaves it running."""
    from raystage.runtime.job_package import package_of
    from raystage.runtime.jobs import connect
    from raystage.runtime.jobs import submit as send

    if tune:
        search, _, base = read_search(config, overrides or ())
        package, name = package_of(base, exclude or (), config, overrides or (), has_secrets=bool(secrets_file)), search.name
    else:
        settings = load(config, overrides or ())
        package, name = package_of(settings, exclude or (), has_secrets=bool(secrets_file)), settings.name
    client = connect(address, insecure)
    say(f"package: {package.n_bytes / 1000:,.1f} kB: {', '.join([*package.texts, *package.files])}")
    if package.left_out:
        say(f"left out, and not read by the job: {', '.join(package.left_out)}")
    job_id = send(client, package, name, secrets_file, code)
    say(f"job: {job_id}")
    if not detach:
        _follow(client, job_id, address)


def jobs(
    action: Annotated[JobAction, typer.Argument(help="list them, follow the log of one, or stop it with a checkpoint")] = "list",
    job_id: Annotated[str | None, typer.Argument(metavar="JOB", help="of follow and stop")] = None,
    address: AddressOption = _HERE,
    insecure: InsecureOption = False,
) -> None:
    """Jobs that raystage has submitted to a Ray cluster."""
    from raystage.runtime.jobs import connect, jobs_of, status_of, stop

    if action != "list" and job_id is None:
        raise ConfigError(f"jobs {action}: needs the name of a job; 'raystage jobs list' has them")
    client = connect(address, insecure)
    if action == "list" or job_id is None:
        terminal.print(_table(jobs_of(client)))
        return
    status_of(client, job_id)
    if action == "follow":
        _follow(client, job_id, address)
    else:
        say(f"job {job_id}: {stop(client, job_id, say)}; the same submission goes on from its checkpoint")


def doctor(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="YAML file, as for train; default: the defaults")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="overrides of single keys")] = None,
    address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="of a Ray cluster, instead of runtime.address")] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="[s] for every node to answer each question")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="the findings, for programs")] = False,
) -> None:
    """Look whether this machine, or every node of a cluster, is fit for the run of CONFIG; nothing is started there, or left behind."""
    words = [*([config] if config else []), *(overrides or ()), *([f"runtime.address={address}"] if address is not None else [])]
    settings = load(words[0], words[1:]) if words and "=" not in words[0] else from_tree({}, words)
    from raystage.runtime.doctor import examine
    from raystage.runtime.doctor_table import show

    if n_problems := show(examine(settings, timeout), terminal, as_json):
        fail(f"doctor: {n_problems} problem{'s' * (n_problems > 1)}", 1)


def _follow(client: Any, job_id: str, address: str) -> None:
    """Exit code 1 where the job failed; Ctrl-C leaves it running."""
    from raystage.runtime.jobs import follow

    try:
        status = follow(client, job_id, _write)
    except KeyboardInterrupt:
        say(f"left; the job goes on: raystage jobs follow {job_id} --address {address}, or jobs stop")
        return
    say(f"job {job_id}: {status}")
    if status == "FAILED":
        sys.exit(1)


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table("job", "run", "status", "began", box=SIMPLE)
    for row in rows:
        began = datetime.datetime.fromtimestamp(int(row["began"])).astimezone()
        table.add_row(row["job"], row["run"], row["status"], f"{began:%Y-%m-%d %H:%M:%S}")
    return table


def _write(text: str) -> None:
    """As it comes from the job, whose lines are plain."""
    sys.stdout.write(text)
    sys.stdout.flush()
