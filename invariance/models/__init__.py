"""Networks, and φ and C of any of them."""
