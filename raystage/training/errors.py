"""What ends a run, or refuses to begin one. The driver answers them without importing what trains."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


class TrainingError(RuntimeError):
    """Training cannot go on, on any rank; the message says what to do next."""


class FencedError(RuntimeError):
    """A later attempt at the same run has taken over; raised on rank 0."""


class RehearsalError(ValueError):
    """A stage does not fit into memory, whatever the micro-batch; the message says what to lower."""
