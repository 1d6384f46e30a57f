"""Policy files: load with marks, validate all at once, compile to an immutable `Snapshot`."""
