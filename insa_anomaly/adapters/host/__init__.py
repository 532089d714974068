"""The machine: pipes between processes, shared memory, systemd."""
