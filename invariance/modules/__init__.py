"""Lightning modules: the training of a network and the fitting of maps."""

import logging
import warnings


def quieten_lightning() -> None:
    """Keep Lightning's advertisements and its advice that does not hold here out of what a user reads."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # prepared data seldom need any
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that continues is just that
    warnings.filterwarnings("ignore", message=".*srun.*is available on your system")  # a network trains in one process
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # every rank validates on everything
    warnings.filterwarnings("ignore", message="The `srun` command is available.*")  # the launchers' business
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
