"""What a study will take (Sec. 5 at scale): `python -m invariance.plan data=rvl_cdip gpus=8`."""

from invariance.cli.command import command


def main() -> None:
    """The command `invariance-plan`."""
    command("plan", "invariance.experiments.plan:plan")


if __name__ == "__main__":
    main()
