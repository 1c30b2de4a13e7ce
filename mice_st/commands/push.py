"""The command ``mice-st push``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mice_st.commands.checks import existing_folder
from mice_st.commands.verify import print_verification
from mice_st.loading import resolve_model

if TYPE_CHECKING:
    from mice_st.hub.push import HubFolder


@dataclass
class PushOptions:
    """Publish a model folder on the Hub.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
    """

    model: str = field(
        metadata={
            "help": "Folder of a MICE model, with card.yaml where there is something to say; or a released model's name.",
            "metavar": "MODEL",
        }
    )
    repo: str = field(metadata={"help": "Hub id, organisation/name; a new repository is made where there is none."})
    tag: str | None = field(
        default=None, metadata={"help": "Tag of this version (default: v and the version in card.yaml, or v1.0.0)."}
    )
    branch: str = field(default="main", metadata={"help": "Branch to commit to; a new one is made from main."})
    parent: str | None = field(
        default=None, metadata={"help": "Commit that the branch must stand at (default: the one it stands at now)."}
    )
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    collection: str | None = field(default=None, metadata={"help": "Slug of a collection to add the model to."})
    dev_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Collections whose logits score_scale is to bring within [-8, 8], where the folder has no "
            "verification.json yet (default: python-docs:test).",
            "metavar": "FOLDER:SPLIT",
        },
    )
    keep_score_scale: bool = field(default=False, metadata={"help": "Leave score_scale as it is, whatever the logits."})
    dry_run: bool = field(
        default=False, metadata={"help": "Build, verify and list the files; nothing leaves the machine."}
    )
    output: str | None = field(
        default=None, metadata={"help": "Folder that keeps what was built.", "metavar": "FOLDER"}
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)


def run_push(options: PushOptions) -> None:
    """Build, push, verify, tag, and print each."""
    import transformers

    from mice_st.hub.push import DEV_DATA, build_hub_folder, publish, require_token

    transformers.utils.logging.disable_progress_bar()
    if existing := existing_folder(options):
        raise FileExistsError(f"output: {existing}, which would be published; give another output")
    if not options.dry_run:
        require_token(options.repo)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(options.output or temporary)
        built = build_hub_folder(
            Path(options.model),
            output,
            options.repo,
            options.tag,
            () if options.keep_score_scale else options.dev_data or (DEV_DATA,),
        )
        _print_folder(built)
        if options.dry_run:
            print(f"dry run: nothing was pushed to {options.repo}")
            return
        published = publish(
            built,
            options.repo,
            branch=options.branch,
            parent=options.parent,
            private=options.private,
            collection=options.collection,
        )
    for path in published.deleted:
        print(f"deleted, of an earlier version: {path}")
    print_verification(published.verification)
    print(f"{published.url}\ntag {built.tag}; to pin this commit:")
    print(
        f'  CrossEncoder("{options.repo}", revision="{published.commit}", '
        f'model_kwargs={{"code_revision": "{published.commit}"}}, trust_remote_code=True)'
    )


def _print_folder(built: HubFolder) -> None:
    for file in built.files:
        print(f"{file.size:>12,}  {file.sha256}  {file.path}")
    for path in built.left_out:
        print(f"left out: {path}")
    for figure in built.card.missing:
        print(f"not on the card: {figure}")
