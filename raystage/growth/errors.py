"""What growth refuses."""


class GrowthError(ValueError):
    """A growth that cannot be done, and the nearest one that can; one line, and nothing has been changed."""
