// SPDX-License-Identifier: Apache-2.0

#include "core/doc.h"

struct doc *doc_ref(struct doc *doc)
{
    /* Who adds a reference has one already: nothing has to be ordered against it. */
    __atomic_fetch_add(&doc->refs, 1, __ATOMIC_RELAXED);
    return doc;
}

struct doc *doc_unref(struct doc *doc)
{
    /* What another thread read before it let go must not move behind our free(). */
    if (doc && __atomic_sub_fetch(&doc->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(doc);
    return NULL;
}
