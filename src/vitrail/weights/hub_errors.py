"""What went wrong between us and the Hugging Face hub, and what to do next. Free of torch."""

from __future__ import annotations

from pathlib import Path

from vitrail.download import explain_storage
from vitrail.errors import WeightsError, did_you_mean
from vitrail.weights.catalog import CATALOG

PREFIX = "hf-hub:"


def endpoint() -> str:
    """The hub's address (HF_ENDPOINT)."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def is_unreachable(error: Exception) -> bool:
    """Whether it was the network or the hub's machines, not the question."""
    from huggingface_hub.errors import HFValidationError

    status = _status(error)
    return not isinstance(error, HFValidationError) and (status is None or status >= 500 or status == 429)


def explain(error: Exception, repository: str, revision: str, purpose: str) -> WeightsError:
    """What happened between us and the hub, and what to do next."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, OSError) and error.filename is not None:  # of the disk, not of the network
        return explain_storage(error, Path(error.filename))
    page, log_in = f"{endpoint()}/{repository}", "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return WeightsError(f"'{repository}': not the name of a repository ({error})")
    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"{repository}: a gated repository, its authors want to be asked. Open {page} in a browser, accept the"
            f" conditions, then {log_in} of that account."
        )
    if isinstance(error, RevisionNotFoundError):
        return WeightsError(f"{repository}: it has no revision '{revision}' ({page}/commits)")
    status = _status(error)
    if isinstance(error, RepositoryNotFoundError) and purpose == "read":
        return WeightsError(
            f"{repository}: there is no such repository on {endpoint()}, or it is private.{_near(repository)} For a"
            f" private one, {log_in}."
        )
    if status in (401, 403):
        return WeightsError(f"{repository}: the hub refuses that it be {purpose} ({status}): check the token, {log_in}")
    if status is not None:
        advice = "try again later" if is_unreachable(error) else "is it the address of a hub (HF_ENDPOINT)?"
        return WeightsError(f"{repository}: {endpoint()} answered {status}; {advice} ({_first_line(error)})")
    unreachable = f"{endpoint()} cannot be reached ({_first_line(error)})"
    ask = "Is there a network, and does a proxy need HTTPS_PROXY?"
    if purpose == "written":
        return WeightsError(f"{repository}: {unreachable}. {ask}")
    return WeightsError(
        f"{repository}: {unreachable}, and the cache does not hold it. {ask} Without a network, give the path of"
        " weights that are on this machine."
    )


def _near(repository: str) -> str:
    known = [entry.source.removeprefix(PREFIX) for entry in CATALOG.values() if entry.source.startswith(PREFIX)]
    return did_you_mean(repository, known) or did_you_mean(repository.rpartition("/")[2], CATALOG)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
