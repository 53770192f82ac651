"""When a stage ends: pure functions on recorded losses; no clock, no rank, no input or output."""
