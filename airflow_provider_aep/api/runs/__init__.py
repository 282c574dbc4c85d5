"""Which flow run a task waits for, and one poll for every wait of a process."""
