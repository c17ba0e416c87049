/* The device file behind a channel: a serial port or a port of a virtio console. */
#pragma once

#include "sys.h"

/*
 * Open *path* for reading and writing without blocking, waiting until it exists; a serial port
 * (*tty*) is set to raw 8-bit mode. SIGIO comes when the host connects to a virtio port.
 */
int channel_open(const char *path, bool *tty);

/*
 * "/dev/virtio-ports/NAME|OTHER": the port if the kernel finds it within a second, which it only
 * waits for when it drives a virtio console; else the other. A path without a bar is itself.
 */
char *channel_choose(char *paths);
