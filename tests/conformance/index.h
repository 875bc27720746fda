/*
 * index.h - two hash tables of the checker: from a text to a number, and from three numbers to a small
 * zeroed piece of memory. Single-threaded.
 */
#ifndef INDEX_H
#define INDEX_H

#include <stddef.h>
#include <stdint.h>

#define INDEX_NONE SIZE_MAX

typedef struct text_index text_index;
typedef struct key_index key_index;

/* For at most n texts, which stay where they are. */
text_index *text_index_new(size_t n);
void text_index_free(text_index *t);
void text_index_add(text_index *t, const char *text, size_t value);
size_t text_index_find(const text_index *t, const char *text);

key_index *key_index_new(void);
void key_index_free(key_index *k);
/* The memory of a key, made at its first use; it never moves. */
void *key_index_at(key_index *k, uint32_t a, uint32_t b, uint32_t c, size_t size);

#endif
