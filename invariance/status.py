"""How far all sweeps and runs are: `python -m invariance.status`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-status`."""
    command("status", "invariance.experiments.status:status")


if __name__ == "__main__":
    main()
