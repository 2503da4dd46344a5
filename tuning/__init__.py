"""Hyperparameter studies of vision and classical models on Ray Tune."""

__version__ = "0.1.0"
