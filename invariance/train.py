"""Train a network under one family of transformations (Sec. 5): `python -m invariance.train -m transform=rotation`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-train`."""
    command("train", "invariance.experiments.train:train")


if __name__ == "__main__":
    main()
