/* A command run for the host: its request, its process, its pipes or pseudo-terminal. */
#pragma once

#include "sys.h"

enum {
	REQUEST_PTY = 1,      /* flag: a pseudo-terminal instead of three pipes */
	REQUEST_RECORDS = 10, /* where they begin */
	EXIT_REFUSED = 125,  /* the request itself was wrong, or the guest has no room */
	EXIT_CANNOT = 126,   /* found, but cannot be run */
	EXIT_NOT_FOUND = 127,
};

struct command {
	int pid;	/* also its session and process group; 0: none */
	bool exited;
	int wait_status;
	bool pty;
	int in, out, err; /* our ends, non-blocking; with a pty in == out; -1: closed */
	uint32_t window;  /* bytes of output the host takes before it grants more */
};

/* The environment that commands and shells inherit; *own* is PID 1's, ended by NULL. */
void command_environment(char **own);
char **command_environ(void);

/*
 * Start what *request* (*size* bytes, writable, one spare byte behind) asks for.
 * NULL, or a sentence that says why not.
 */
const char *command_start(struct command *command, uint8_t *request, size_t size);

void command_close(int *fd);
void command_resize(int terminal, uint16_t rows, uint16_t cols);

/* End every process of *count* sessions: SIGHUP, after half a second SIGKILL. */
void sessions_end(const int *ids, unsigned count);
