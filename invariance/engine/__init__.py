"""What measuring is made of: representations, streamed or stored, the grids they are taken under, fits of maps."""
