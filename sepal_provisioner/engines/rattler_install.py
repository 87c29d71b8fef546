"""The half of the rattler engine that needs py-rattler imported: solving, downloading and linking."""

from __future__ import annotations

import shutil
import threading

from rattler import Gateway, RepoDataRecord, install, solve
from rattler.channel import Channel
from rattler.exceptions import FetchRepoDataError, GatewayError, InvalidMatchSpecError, SolverError
from rattler.install import InstallerReporter
from rattler.match_spec import MatchSpec
from rattler.networking import Client
from rattler.virtual_package import VirtualPackage, VirtualPackageOverrides

from ..catalog import text_without_credentials
from ..errors import DownloadError, SolveError
from ..mirrors import DEFAULTS
from ..progress import Phase, Reporter
from .channels import Request
from .job import Job, chain, explain
from .rattler_locked import find_locked
from .solution import Solution


async def create_prefix(job: Job, request: Request) -> None:
    """Raises SolveError, DownloadError or BuildError."""
    client = Client.default_client()
    records = await _records(job, request, client)
    job.log(f"# {'locked' if job.file.lock else 'solved'}: {len(records)} packages")
    for record in sorted(records, key=lambda record: record.name.normalized):
        job.log(f"  {text_without_credentials(record.url)}")
    # The shared cache tells packages of the same name apart by sha256 alone: with md5 it may give what it had before.
    shared = not job.file.lock or all(record.sha256 for record in records)
    cache = job.cache / "rattler" / "pkgs" if shared else job.prefix / ".sepal" / "pkgs"
    progress = _Installation(job.reporter, records)  # type: ignore[abstract]  # its defaults are empty, not abstract
    try:
        await install(
            records,
            job.prefix,
            cache_dir=cache,
            execute_link_scripts=True,
            client=client,
            reporter=progress,
        )
    except Exception as error:  # noqa: BLE001 - py-rattler raises several unrelated classes here
        raise explain("py-rattler could not install the packages.", chain(error)) from None
    if not shared:
        shutil.rmtree(cache, ignore_errors=True)


async def solve_prefix(job: Job, request: Request) -> Solution:
    """What `create_prefix` would install. Raises what it raises."""
    records = await _records(job, request, Client.default_client())
    names = sorted(f"{record.name.normalized} {record.version}" for record in records)
    return Solution(conda=tuple(names), size=sum(record.size or 0 for record in records))


async def _records(job: Job, request: Request, client: Client) -> list[RepoDataRecord]:
    """The packages to install, from the lock or the solver."""
    gateway = Gateway(cache_dir=job.cache / "rattler" / "repodata", client=client)
    job.reporter.phase(Phase.SOLVE)
    return await (find_locked(job, job.file.lock, gateway) if job.file.lock else _solved(job, request, gateway))


async def _solved(job: Job, request: Request, gateway: Gateway) -> list[RepoDataRecord]:
    try:
        return await solve(
            sources=[Channel(url) for name in request.channels for url in _urls(name)],
            # Strict parsing refuses `gdal=3.8.*`, which conda and its users write every day.
            specs=[MatchSpec(spec, strict=False) for spec in request.specs],
            gateway=gateway,
            virtual_packages=VirtualPackage.detect(VirtualPackageOverrides.from_env()),
        )
    except InvalidMatchSpecError as error:
        raise SolveError(f"{job.file.path} has a match spec that can't be read.", detail=str(error)) from None
    except SolverError as error:
        raise SolveError(
            f"No set of packages satisfies {job.file.path}. Relax one of the specs named below.",
            detail=str(error),
        ) from None
    except (GatewayError, FetchRepoDataError) as error:
        raise explain(
            "A channel can't be read. Check the network and the channel's name, or set c.Sepal.channel_mirrors.",
            chain(error),
            DownloadError,
        ) from None


def _urls(channel: str) -> tuple[str, ...]:
    """To py-rattler, "defaults" would be a channel of that name."""
    return DEFAULTS if channel == "defaults" else (channel,)


class _Installation(InstallerReporter):
    """py-rattler's callbacks, which come on other threads, as our progress. An exception here would be swallowed."""

    def __init__(self, reporter: Reporter, records: list[RepoDataRecord]) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()
        self._sizes = {record.name.normalized: record.size or 0 for record in records}
        self._total = len(records)
        self._cached = self._linked = 0
        self._names: dict[int, str] = {}
        self._bytes: dict[int, int] = {}

    def on_transaction_start(self, total_operations: int) -> None:
        self._reporter.phase(Phase.DOWNLOAD, self._total)
        self._reporter.update(bytes_total=sum(self._sizes.values()))

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        return self._token(package_name)

    def on_download_start(self, cache_entry: int) -> int:
        return cache_entry

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
        with self._lock:
            self._bytes[download_idx] = progress
            done = sum(self._bytes.values())
        self._reporter.update(bytes_done=done, item=self._names.get(download_idx, ""))

    def on_populate_cache_complete(self, cache_entry: int) -> None:
        name = self._names.get(cache_entry, "")
        with self._lock:
            self._cached += 1
            self._bytes[cache_entry] = self._sizes.get(name, 0)  # nothing reports bytes for `file://` and the cache
            done, size = self._cached, sum(self._bytes.values())
        if done < self._total:
            self._reporter.update(done=done, bytes_done=size, item=name)
        else:
            self._reporter.phase(Phase.LINK, self._total)

    def on_link_start(self, operation: int, package_name: str) -> int:
        return self._token(package_name)

    def on_link_complete(self, index: int) -> None:
        with self._lock:
            self._linked += 1
            done = self._linked
        if self._reporter.progress.phase is Phase.LINK:
            self._reporter.update(done=done, item=self._names.get(index, ""))

    def _token(self, name: str) -> int:
        with self._lock:
            token = len(self._names)
            self._names[token] = name
            return token
