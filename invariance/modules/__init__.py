"""Lightning modules: the training of a network and the fitting of maps."""
