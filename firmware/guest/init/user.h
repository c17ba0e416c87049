/* Users and groups of the guest, from its /etc/passwd and /etc/group. */
#pragma once

#include "sys.h"

enum { GROUPS_MAX = 256 };

struct user {
	uint32_t uid, gid;
	uint32_t groups[GROUPS_MAX];
	unsigned group_count;
	const char *name, *home; /* home: "/" for a number that /etc/passwd does not have */
};

/* Find *wanted*, a name or a number. NULL, or a sentence that says why not. */
const char *user_find(const char *wanted, struct user *user);

/* Become that user, with the terminal or pipes that are descriptors 0 to 2; 0 or a negative errno. */
long user_become(const struct user *user);
