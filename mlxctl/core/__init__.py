"""The vocabulary: pure types and functions from data to data. Opens no file, socket, process or clock."""
