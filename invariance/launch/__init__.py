"""The jobs of a sweep, side by side on a machine or on a cluster."""
