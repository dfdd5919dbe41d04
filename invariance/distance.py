"""Measure how far apart the representations of networks are (Sec. 5.3, 6.2, B.3): `python -m invariance.distance`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-distance`."""
    command("distance", "invariance.experiments.distance:distance")


if __name__ == "__main__":
    main()
