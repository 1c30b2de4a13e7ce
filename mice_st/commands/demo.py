"""``mice-st demo``: the released model on real documents (``demo_released``), or a model of the demo's own (``demo_training``).

Nothing is downloaded: the released model lies in the repository, the collection is the installed Python's own documentation,
the bi-encoder comes in a wheel. Every figure is measured in the run that prints it.
"""

from __future__ import annotations

from pathlib import Path

from mice_st.commands.demo_options import DemoOptions
from mice_st.evaluation.quiet import errors_only


@errors_only()
def run_demo(options: DemoOptions) -> None:
    """Run the demo and print its table; see ``DemoOptions``."""
    import transformers

    from mice_st.commands.demo_released import show_released_model
    from mice_st.commands.demo_training import show_training

    transformers.utils.logging.disable_progress_bar()
    Path(options.output).mkdir(parents=True, exist_ok=True)
    (show_training if options.train else show_released_model)(options)
