"""The emulator on a port of this machine: server, steering, demo."""
