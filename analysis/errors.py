"""The one error that a user of the analysis is meant to read."""


class AnalysisError(ValueError):
    """The input is wrong. The message is one line: the file or option, what is wrong, a remedy."""
