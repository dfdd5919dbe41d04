"""Which solvers go with which maps. Apart from their schemas, which take pydantic: every command line asks here."""

SOLVERS_OF: dict[str, tuple[str, ...]] = {
    "identity": (),
    "residual": ("online_sgd", "ridge"),
    "linear": ("online_sgd", "ridge"),
    "mlp": ("minibatch_sgd",),
}
"""Names of the solvers that can fit each kind of map."""
