"""Host names, address classes, resolving and dialling."""
