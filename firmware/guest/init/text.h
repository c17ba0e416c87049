/* Strings, small files and messages: the few helpers both halves of init share. */
#pragma once

#include "sys.h"

void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
size_t strlen(const char *text);
bool equal(const char *a, const char *b);
bool starts(const char *text, const char *prefix);
const char *last_slash(const char *path); /* the last '/' or NULL */
const char *next_part(const char *path);  /* behind the next '/' or NULL */

/* Write up to *room* - 1 characters of the pieces (ended by NULL) and a NUL; returns *buffer*. */
char *join(char *buffer, size_t room, ...);
char *decimal(char *buffer, unsigned long value); /* *buffer* holds 24 bytes */
bool number(const char *text, int *value);	  /* the whole of *text* in decimal */

/* The file's text, NUL-terminated, cut at *room* - 1; its length, or a negative errno. */
long read_file(const char *path, char *buffer, size_t room);
void write_all(int fd, const char *data, size_t size);

/* Call *visit* with each name in a directory until it returns false; 0 or a negative errno. */
long each_entry(const char *directory, bool (*visit)(const char *name, void *context), void *context);
/* The same without the names that begin with a dot. */
void each_name(const char *directory, bool (*visit)(const char *name, void *context), void *context);

/* Where complaints go instead of the console: a command's own standard error. */
extern int complain_to;

/* One line on the console that begins with "pyvmm-init: "; pieces end with NULL. */
void complain(const char *piece, ...);
/* The same with what a failed call returned: "...: no such file or directory (error 2)". */
void complain_errno(const char *what, const char *name, long result);

/* The next line or word of a text being walked: NUL-terminated in place, or NULL. */
char *next_line(char **walk);
char *next_word(char **walk);
