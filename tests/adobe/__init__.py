"""One emulated Adobe for all tests: in this process or served, and a line to it that records and breaks."""
