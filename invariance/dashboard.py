"""The project's workspace and report in Weights & Biases: `python -m invariance.dashboard`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-dashboard`."""
    command("dashboard", "invariance.experiments.dashboard:dashboard")


if __name__ == "__main__":
    main()
