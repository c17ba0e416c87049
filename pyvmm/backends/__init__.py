"""What stands behind a device on the host: the terminal, a pty, a socket, a file."""
