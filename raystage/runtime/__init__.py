"""Where a run runs: its folder, the driver, and the engines (this process, or Ray Train workers)."""
