# What programs for Linux guests are built with: no C library, and the same compiler and linker give the same
# bytes (see BUILT-WITH).
MACHINE = x86_64
CROSS = $(if $(filter $(MACHINE),$(shell uname -m)),,$(MACHINE)-linux-gnu-)
CC = $(CROSS)gcc

CFLAGS = -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident \
	-fno-tree-loop-distribute-patterns -ffunction-sections -fdata-sections -mgeneral-regs-only
LDFLAGS = -nostdlib -static -no-pie -s -Wl,--build-id=none -Wl,--gc-sections \
	-Wl,-z,noseparate-code -Wl,-z,noexecstack

.DEFAULT_GOAL = $(OUT)

# The tools the committed binaries were built with; another version may give other bytes.
tools:
	@$(CC) --version | head -n 1
	@$(CROSS)ld --version | head -n 1

.PHONY: tools
