"""Publish a model folder: build, verify, one commit, verify what arrived, tag."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, snapshot_download
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.sources import load_collection
from mice_st.evaluation.score_scale import judged_lists, lower_score_scale, score_lists
from mice_st.files import read_json, write_json
from mice_st.hub.card import Card, render_card
from mice_st.hub.card_facts import read_card_facts
from mice_st.hub.errors import LOG_IN, explain_hub_errors
from mice_st.hub.files import LOADED, VERIFICATION_FILE, HubFile, copy_hub_files, describe_files, kind_of
from mice_st.hub.verification import Verification, verify_folder, write_record

FIRST_VERSION = "1.0.0"
DEV_DATA = "python-docs:test"  # at hand wherever Python is


@dataclass(frozen=True)
class HubFolder:
    """A folder as it goes to the Hub.

    Attributes:
        folder: Where it lies.
        tag: The tag that its card pins.
        files: All its files.
        left_out: Files of the model folder that do not go to the Hub.
        card: The card.
    """

    folder: Path
    tag: str
    files: list[HubFile]
    left_out: list[str]
    card: Card


@dataclass(frozen=True)
class Published:
    """What a push left on the Hub.

    Attributes:
        commit: The commit's hash.
        url: Its page.
        deleted: Files of an earlier version that the commit removed.
        verification: Of the commit, loaded from the Hub into an empty cache.
    """

    commit: str
    url: str
    deleted: list[str]
    verification: Verification


def build_hub_folder(
    model: Path, output: Path, repo: str, tag: str | None = None, dev_data: Sequence[str] = (DEV_DATA,)
) -> HubFolder:
    """Copy what goes to the Hub, verify it in a fresh process, and write its card.

    A ``verification.json`` that the model folder has is what the scores must be. Where it has none, ``score_scale`` is
    lowered until the logits of the dev data lie within [-8, 8], and the scores are recorded.

    Args:
        model: The model folder.
        output: Empty folder to build in.
        repo: Hub id.
        tag: The version's tag; by default ``v`` and the version of ``card.yaml``, or of a first version.
        dev_data: Collections by name, ``FOLDER:SPLIT`` or ``python-docs:SPLIT``; none leaves the scale as it is.

    Raises:
        FileNotFoundError: If the model folder lacks files.
        ValueError: If the repository's name is none, the card's facts are not sound, or the folder does not verify.
    """
    validate_repo_id(repo)
    if "/" not in repo:
        raise ValueError(f"repo: {repo!r} has no owner; expected organisation/name or user/name")
    tag = tag or f"v{read_card_facts(model).version or FIRST_VERSION}"
    left_out = copy_hub_files(model, output)
    if (output / VERIFICATION_FILE).is_file():
        found = verify_folder(output, trust_remote_code=True)  # the user's own folder
        if not found.ok:
            raise ValueError(
                f"{model}: does not verify: {'; '.join(found.problems)}. If the model was meant to change, delete its "
                f"{VERIFICATION_FILE}: a new one is then recorded"
            )
        record = found.record
    else:
        if dev_data:
            _fit_score_scale(output, dev_data)
        record = write_record(output)
    card = render_card(model, repo, tag, record)
    card.write(output)
    return HubFolder(output, tag, describe_files(output), left_out, card)


def _fit_score_scale(folder: Path, dev_data: Sequence[str]) -> None:
    """Write the scale into the folder's config."""
    model = MiceCrossEncoder(str(folder))
    lists = (item for source in dev_data for item in judged_lists(load_collection(source, "test")))
    scale = lower_score_scale(model, score_lists(model, lists))
    config = read_json(folder / "config.json")
    if scale != config.get("score_scale", 1.0):
        write_json(folder / "config.json", config | {"score_scale": scale})


def publish(
    built: HubFolder,
    repo: str,
    *,
    branch: str = "main",
    parent: str | None = None,
    private: bool = False,
    collection: str | None = None,
) -> Published:
    """Push a built folder as one commit, verify it from the Hub, and tag it.

    Args:
        built: The folder.
        repo: Hub id; made where there is none.
        branch: Branch to commit to; made from ``main`` where there is none.
        parent: Commit that the branch must stand at; by default the one it stands at now.
        private: Make a new repository private.
        collection: Slug of a collection to add the model to.

    Raises:
        OSError: If the Hub refuses; see ``explain_hub_errors``.
        FileExistsError: If the tag exists, or somebody else has pushed since ``parent``. Nothing was changed.
        ValueError: If what arrived does not verify. The commit stays, without the tag.
    """
    require_token(repo)
    api = HfApi()
    with explain_hub_errors(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        refs = api.list_repo_refs(repo)
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        if built.tag in [ref.name for ref in refs.tags]:
            raise FileExistsError(
                f"{repo}: the tag {built.tag} exists; name the new version with --tag, or as version in card.yaml"
            )
        if branch not in heads:
            api.create_branch(repo, branch=branch)
        parent = parent or heads.get(branch, heads["main"])
        there = api.list_repo_files(repo, revision=branch)
        paths = [file.path for file in built.files]
        deleted = [path for path in there if kind_of(path) is not None and path not in paths]
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(path, built.folder / path) for path in paths]
            + [CommitOperationDelete(path) for path in deleted],
            commit_message=f"Publish {built.tag}",
            revision=branch,
            parent_commit=parent,
        )
        with tempfile.TemporaryDirectory() as cache:
            verification = verify_repository(repo, commit.oid, trust_remote_code=True, cache=cache)
        if not verification.ok:
            raise ValueError(
                f"{repo}@{commit.oid}: does not verify, so it got no tag: {'; '.join(verification.problems)}"
            )
        api.create_tag(repo, tag=built.tag, revision=commit.oid)
        if collection is not None:
            api.add_collection_item(collection, repo, "model", exists_ok=True)
    return Published(commit.oid, commit.commit_url, deleted, verification)


def require_token(repo: str) -> None:
    """Refuse to start on what can only fail at its end.

    Raises:
        PermissionError: If huggingface_hub finds no token in any of its places.
    """
    if get_token() is None:
        raise PermissionError(f"{repo}: there is no token; {LOG_IN}")


def push_checkpoint(checkpoint: Path, repo: str, message: str) -> None:
    """Push the model of a training checkpoint as one commit; its optimizer and other state stay here.

    Args:
        checkpoint: Folder of the checkpoint.
        repo: Hub id of an existing repository.
        message: Of the commit.

    Raises:
        OSError: If the Hub refuses; see ``explain_hub_errors``. The checkpoint stays where it is.
    """
    patterns = [pattern for kind in LOADED.values() for pattern in kind]
    with explain_hub_errors(repo):
        HfApi().upload_folder(
            repo_id=repo,
            folder_path=checkpoint,
            commit_message=message,
            allow_patterns=patterns,
        )


def verify_repository(
    repo: str, revision: str | None, *, trust_remote_code: bool, cache: str | None = None
) -> Verification:
    """Verify a model on the Hub, as downloaded now or lying in the cache.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for ``main``.
        trust_remote_code: Run code that is not that of the installed mice-st.
        cache: Folder to download to; the user's own cache where it is left out.

    Raises:
        OSError: If the Hub refuses; see ``explain_hub_errors``.
    """
    with explain_hub_errors(repo if revision is None else f"{repo}@{revision}"):
        snapshot = Path(snapshot_download(repo, revision=revision, cache_dir=cache))
    commit = snapshot.name  # the cache names its folders by commit
    return verify_folder(
        snapshot, trust_remote_code=trust_remote_code, source=repo, revision=commit, cache=snapshot.parents[2]
    )
