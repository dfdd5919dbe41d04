"""List the layers of any network: `python -m invariance.layers model=timm model.name=resnet18`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-layers`."""
    command("layers", "invariance.experiments.layers:layers")


if __name__ == "__main__":
    main()
