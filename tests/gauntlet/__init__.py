"""What found faults, as a command: see __main__.py."""
