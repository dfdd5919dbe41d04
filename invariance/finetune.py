"""Raise equivariance with the joint loss (Sec. 5.4, 6.3): `python -m invariance.finetune networks=rotation_20`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-finetune`."""
    command("finetune", "invariance.experiments.finetune:finetune")


if __name__ == "__main__":
    main()
