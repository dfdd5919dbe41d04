"""The former place of what is in `moments`, `cka`, `procrustes` and `r2`."""

from invariance.measures.cka import linear_cka
from invariance.measures.moments import Centred, centred, cross_product
from invariance.measures.procrustes import procrustes_distance
from invariance.measures.r2 import Regression

__all__ = ["Centred", "Regression", "centred", "cross_product", "linear_cka", "procrustes_distance"]
