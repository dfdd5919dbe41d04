"""Measure invariance and equivariance (Sec. 5.2, 6.1): `python -m invariance.measure networks=rotation_20`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-measure`."""
    command("measure", "invariance.experiments.measure:measure")


if __name__ == "__main__":
    main()
