"""What the Hub refuses, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

# HTTPError is that of whichever HTTP library this version of huggingface_hub uses.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def explain_hub_errors(repo: str) -> Iterator[None]:
    """Turn huggingface_hub's errors over this repository into ``OSError`` with one clear line.

    Args:
        repo: Hub id, and revision if any, as the message is to name it.

    Raises:
        PermissionError: If the repository is gated, or the token may not do it.
        FileNotFoundError: If the repository, the revision or a file does not exist.
        FileExistsError: If somebody else has changed the branch meanwhile.
        ConnectionError: If the Hub cannot be reached, or breaks off.
    """
    try:
        yield
    except GatedRepoError as error:
        raise PermissionError(f"{repo}: is gated; ask for access on its page, then {LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo}: there is no such repository, or it is private and your token may not see it; {LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo}: there is no such revision") from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repo}: {constants.ENDPOINT} cannot be reached, and the cache does not hold it"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{repo}: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PermissionError(f"{repo}: the Hub does not accept your token; {LOG_IN}") from error
        if status == 403:
            raise PermissionError(f"{repo}: your token has no permission to write there") from error
        if status == 412:
            raise FileExistsError(
                f"{repo}: somebody has pushed meanwhile, nothing was changed; look at what is there and push again"
            ) from error
        raise
    except HTTPError as error:
        raise ConnectionError(f"{repo}: {constants.ENDPOINT} cannot be reached, or broke off: {error}") from error
