"""Gather all finished runs into tables, figures and one page: `python -m invariance.report`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-report`."""
    command("report", "invariance.experiments.report:report")


if __name__ == "__main__":
    main()
