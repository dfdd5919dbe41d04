"""What is a network invariant to, and what does it merely keep track of?

Tensmeyer & Martinez, "Improving Invariance and Equivariance Properties of Convolutional Neural Networks" (2016), as a
pipeline: prepare, train, measure, report.
"""

__version__ = "0.2.0.dev0"
