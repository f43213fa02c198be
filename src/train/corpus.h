/* Text as one long row of tokens: every byte is a token, documents are parted
 * by one more.
 *
 * A document is a file. Files of 1 MiB and more are memory-mapped, smaller ones
 * are copied into one buffer, so that thousands of them cost neither a
 * descriptor nor a mapping each (Linux allows a process 65,530 of those).
 *
 * A mapped file must not be truncated while the corpus is open: as with any
 * mapping, touching what is gone raises SIGBUS. Replacing it by rename is safe,
 * appending to it changes nothing. */
#ifndef TSR_TRAIN_CORPUS_H
#define TSR_TRAIN_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

#define TSR_CORPUS_SEPARATOR 256 /* the token between two documents */
#define TSR_CORPUS_VOCAB 257     /* bytes and the separator */

typedef struct tsr_corpus tsr_corpus; /* immutable after open; thread-safe */

/* Opens files and folders, in the order given.
 *
 * paths  regular files, or folders that are read whole, recursively; a folder's
 *        entries are taken in bytewise order of their names. Within folders,
 *        symbolic links, anything that is neither file nor folder, empty files
 *        and files that contain a NUL byte (no text) are skipped and counted. A
 *        path given here may be a symbolic link.
 * Cost:   every byte is read once; the bytes of small files stay on the heap.
 * Errors: INVALID_ARGUMENT (no paths; neither a file nor a folder); NOT_FOUND;
 *         INVALID_DATA (a file in `paths` is empty or contains a NUL byte, a
 *         folder in `paths` holds no text); IO (unreadable, within folders
 *         too); OUT_OF_MEMORY. Each names the path. */
tsr_status tsr_corpus_open(const char *const *paths, size_t path_count,
                           tsr_corpus **out_corpus);
void tsr_corpus_release(tsr_corpus *corpus); /* takes NULL */

/* Bytes of all documents and the separators between them; at least 1. */
int64_t tsr_corpus_tokens(const tsr_corpus *corpus);
size_t tsr_corpus_documents(const tsr_corpus *corpus);
size_t tsr_corpus_skipped(const tsr_corpus *corpus); /* within folders */

/* Of the lengths and bytes (XXH3) of all documents in their order: equal where
 * the tokens are. Cost: every byte is read. */
uint64_t tsr_corpus_hash(const tsr_corpus *corpus);

/* Whether `path` is one of the corpus's files, under whatever name; false where
 * there is no such file. */
bool tsr_corpus_has_file(const tsr_corpus *corpus, const char *path);

/* out[i] = token begin + i of the corpus.
 *
 * begin, count  within [0, tsr_corpus_tokens(corpus)]: anything else is a bug
 *               of the caller
 * out           (count) written
 * Cost: a binary search over the documents, then runs of bytes. */
void tsr_corpus_read(const tsr_corpus *corpus, int64_t begin, size_t count,
                     int32_t *out);

#endif
