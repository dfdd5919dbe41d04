"""Decode a data set once (Sec. 5.5): `python -m invariance.prepare data=digits`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-prepare`."""
    command("prepare", "invariance.experiments.prepare:prepare")


if __name__ == "__main__":
    main()
