"""A lock for py-rattler: the record of each package, from its channel's index or from the package itself."""

from __future__ import annotations

from urllib.parse import unquote

from rattler import Gateway, RepoDataRecord
from rattler.channel import Channel
from rattler.exceptions import FetchRepoDataError, GatewayError
from rattler.match_spec import MatchSpec
from rattler.platform import Subdir

from ..errors import DownloadError
from ..lockfile import Lock, LockedPackage
from ..mirrors import channel_of, public_url
from .job import Job, chain, explain
from .locked import check_files, refuse, targets


async def find_locked(job: Job, lock: Lock, gateway: Gateway) -> list[RepoDataRecord]:
    """The records to install, in the lock's order and with its hashes, which the download is checked against.

    Nothing is solved. A package that its channel's index does not list, or lists with other hashes, is still taken by
    its URL (conda-forge withdraws broken ones, and an index may be an old copy). Raises SolveError and DownloadError.
    """
    found = targets(job, lock)
    check_files(job, lock)
    channels = dict.fromkeys(channel_of(url) for _, url in found)
    try:
        answers = await gateway.query(
            [Channel(url) for url in channels],
            [Subdir(lock.platform), Subdir("noarch")],
            [package.name for package in lock.conda],
            recursive=False,
        )
    except (GatewayError, FetchRepoDataError) as error:
        raise explain(
            "A channel of the lock can't be read. Check the network, or set c.Sepal.channel_mirrors.",
            chain(error),
            DownloadError,
        ) from None
    listed = {_key(record.url): record for records in answers for record in records}
    records: list[RepoDataRecord] = []
    faults: list[str] = []
    for package, url in found:
        record = listed.get(_key(url))
        if record is None or _faults(package, record):  # withdrawn, or the index is an old copy
            try:
                record = await _by_url(package, url, gateway)
            except (GatewayError, FetchRepoDataError, LookupError) as error:
                faults.append(f"{package.file} can't be had from {channel_of(package.url)}: {chain(error)}")
                continue
            faults += _faults(package, record)
        # What the index leaves open, the lock decides: the installer then checks the download against it.
        record.md5 = bytes.fromhex(package.md5) if package.md5 else record.md5
        record.sha256 = bytes.fromhex(package.sha256) if package.sha256 else record.sha256
        records.append(record)
    refuse(faults)
    return records


async def _by_url(package: LockedPackage, url: str, gateway: Gateway) -> RepoDataRecord:
    """A package's record from its own metadata. Raises LookupError and GatewayError."""
    anchor = package.md5 or f"sha256:{package.sha256}"
    answers = await gateway.query(
        [], [Subdir(package.subdir)], [MatchSpec.from_url(f"{url}#{anchor}")], recursive=False
    )
    for records in answers:
        for record in records:
            record.channel = channel_of(url)
            return record
    raise LookupError("neither its index nor its folder has it")


def _faults(package: LockedPackage, record: RepoDataRecord) -> list[str]:
    """In what a record is not the locked package."""
    faults = []
    held = (record.name.normalized, str(record.version), str(record.build))
    if held != (package.name, package.version, package.build):
        faults.append(f"{package.file} differs: it calls itself {' '.join(held)}")
    for name, wanted, digest in (("md5", package.md5, record.md5), ("sha256", package.sha256, record.sha256)):
        if wanted and digest and digest.hex() != wanted:
            faults.append(f"{package.file} differs: the {name} in its channel is {digest.hex()}")
    return faults


def _key(url: str) -> str:
    return unquote(public_url(url))
