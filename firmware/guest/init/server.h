/* The exec protocol's guest half on one channel. */
#pragma once

/* Serve *path* for ever; returns only when the channel failed for good. */
void serve(const char *path);
