"""The small programs that the training interpreter runs.

Only modules in this package may import torch and accelerate. Importing the package itself imports neither, so
the interface can name these programs without paying for them.
"""
