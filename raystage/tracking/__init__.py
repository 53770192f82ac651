"""The record of a run: JSON lines in its folder, followed into MLflow and the terminal. Importing this needs neither."""

from raystage.tracking.follower import Follower
from raystage.tracking.records import JsonlWriter, Record, RunRecords, read_records
from raystage.tracking.sink import Sink, SinkError

__all__ = ["Follower", "JsonlWriter", "Record", "RunRecords", "Sink", "SinkError", "read_records"]
