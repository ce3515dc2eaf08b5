"""KHO536 to KHO539: the names that systemd keeps of its file descriptors."""

from collections.abc import Iterator

from kho_inspect.model.faults import FaultKind
from kho_inspect.rules.base import ERROR, WARNING, Need, Observation, Subject
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Catalogue, Rule

CATALOGUE = Catalogue((Need.FDT, Need.ABI, Need.TRUSTED, Need.SESSIONS), subject=Subject.LUO)
rule = CATALOGUE.rule

_LOST = "look at the unit's FileDescriptorStoreMax= and at what it stored before the kexec"
_ODD = "compare with systemctl show -p NFileDescriptorStore of the old system"


def _observed(case: Case, rule: Rule) -> Iterator[Observation]:
    for trouble in case.handover.names.troubles:
        if trouble.kind in rule.faults:
            yield Observation(trouble.message, None, trouble.path, cause=trouble.path[:2])


@rule("KHO536", ERROR, _LOST, FaultKind.FD_TOKEN_MISSING)
def token_missing(case: Case) -> Iterator[Observation]:
    """A session has every token that systemd's mapping names.

    Matters: the unit does not get this file descriptor back.
    Causes: a file that could not be preserved; a list of files cut short.
    Enforced by: no kernel checks this (7.1 to 7.3.4): tokens are userspace's, here systemd's (261).
    """
    return _observed(case, token_missing)


@rule("KHO537", WARNING, _ODD, FaultKind.FD_TOKEN_UNNAMED)
def token_unnamed(case: Case) -> Iterator[Observation]:
    """Systemd's mapping names every token of its session but 0.

    Matters: no unit gets this file, and its memory is freed once the session is finished.
    Causes: a mapping older than the session; a token overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): tokens are userspace's, here systemd's (261).
    """
    return _observed(case, token_unnamed)


@rule("KHO538", WARNING, _ODD, FaultKind.FD_MAPPING)
def mapping_unreadable(case: Case) -> Iterator[Observation]:
    """Token 0 of session systemd is JSON of a known version with well-formed entries.

    Matters: which unit owns which file is not known, to systemd too.
    Causes: content overwritten, or not in the dump; another version of systemd.
    Enforced by: no kernel checks this (7.1 to 7.3.4): it is a file like others, of systemd (261).
    """
    return _observed(case, mapping_unreadable)


@rule("KHO539", ERROR, _LOST, FaultKind.FD_SESSION_MISSING)
def session_missing(case: Case) -> Iterator[Observation]:
    """LUO has every session that systemd's mapping names.

    Matters: the unit does not get its session back, nor any file in it.
    Causes: a session that could not be preserved; a session's name overwritten.
    Enforced by: no kernel checks this (7.1 to 7.3.4): names are userspace's, here systemd's (261).
    """
    return _observed(case, session_missing)
