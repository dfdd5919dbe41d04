"""Training networks, finetuning them by the joint loss, and what a trained network is to those who measure it."""
