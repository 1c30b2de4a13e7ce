"""The command ``mice-st bench``: measure, write the files asked for, print the targets."""

from __future__ import annotations

from pathlib import Path

from mice_st.commands.checks import existing_files
from mice_st.research.benchmark.options import BenchOptions


def run_bench(options: BenchOptions) -> None:
    """Run the benchmark that ``options`` describe.

    Raises:
        ImportError: If the picture needs matplotlib and it is missing; before anything is measured.
        OSError: If a file cannot be written; its folder is made before anything is measured.
    """
    import transformers

    from mice_st.files import write_json
    from mice_st.research.benchmark.report import require_matplotlib
    from mice_st.research.benchmark.runner import run_benchmark

    transformers.utils.logging.disable_progress_bar()
    if options.picture:
        require_matplotlib()
    for name in (options.output, options.markdown, options.picture):
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
    report = run_benchmark(options)
    if options.output:
        write_json(Path(options.output), report.to_dict())
    if options.markdown:
        Path(options.markdown).write_text(report.to_markdown(), encoding="utf-8")
    if options.picture:
        report.save_picture(Path(options.picture))
    print(report.targets_to_markdown() if options.quick else report.to_markdown())
    written = [name for name in (options.output, options.markdown, options.picture) if name]
    if written:
        print(f"\nWritten: {', '.join(written)}")


def existing_reports(options: BenchOptions) -> str | None:
    """Name the first of the files that is there."""
    return existing_files(options.output, options.markdown, options.picture)
