"""The command ``mice-st verify``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mice_st.loading import resolve_model

if TYPE_CHECKING:
    from mice_st.hub.verification import Verification


@dataclass
class VerifyOptions:
    """Check that a model is what was published: every file, every tensor, every score.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("model",)

    model: str = field(
        metadata={"help": "Folder, name of a released model, or Hub id, with @revision if wanted.", "metavar": "MODEL"}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the model's code even where it is not that of the installed mice-st."}
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)


def run_verify(options: VerifyOptions) -> int:
    """Verify and print.

    Returns:
        The exit status: 1 if there is a problem.
    """
    import transformers

    from mice_st.hub.push import verify_repository
    from mice_st.hub.verification import verify_folder

    transformers.utils.logging.disable_progress_bar()
    if Path(options.model).is_dir():
        found = verify_folder(Path(options.model), trust_remote_code=options.trust_remote_code)
    else:
        repo, _, revision = options.model.partition("@")
        found = verify_repository(repo, revision or None, trust_remote_code=options.trust_remote_code)
    print_verification(found)
    return 0 if found.ok else 1


def print_verification(found: Verification) -> None:
    """Differences by door, and problems."""
    for door, difference in found.differences.items():
        print(f"{door}: largest difference of {len(found.record.logits)} scores {difference:.1e}")
    for problem in found.problems:
        print(f"problem: {problem}")
    if found.ok:
        print(f"verified: {len(found.record.files)} files and {len(found.record.tensors)} tensors are as recorded")
