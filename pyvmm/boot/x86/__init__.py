"""What boots on x86-64: kernels of every format, firmware, the tables below 1 MiB."""
