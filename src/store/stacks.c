// SPDX-License-Identifier: Apache-2.0
#include "store/stacks.h"

#include <string.h>

#define CACHED_TEXT_MAX (16 * 1024) /* the cache stays under 4 MiB */

/** FNV-1a. */
static uint64_t hash_of(const char *text, size_t len)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int find_or_add(struct schema *s, uint64_t hash, const char *text, size_t len, int64_t *ret)
{
    sqlite3_stmt *find, *add;
    int r = schema_statement(s, STATEMENT_FIND_STACK, &find);

    if (r == SQLITE_OK)
        r = schema_statement(s, STATEMENT_ADD_STACK, &add);
    if (r != SQLITE_OK)
        return r;

    sqlite3_bind_int64(find, 1, (int64_t)hash);
    sqlite3_bind_text64(find, 2, text, len, SQLITE_STATIC, SQLITE_UTF8);
    r = sqlite3_step(find);
    if (r == SQLITE_ROW)
        *ret = sqlite3_column_int64(find, 0);
    sqlite3_reset(find);
    sqlite3_clear_bindings(find);
    if (r != SQLITE_DONE)
        return r == SQLITE_ROW ? SQLITE_OK : r;

    sqlite3_bind_int64(add, 1, (int64_t)hash);
    sqlite3_bind_text64(add, 2, text, len, SQLITE_STATIC, SQLITE_UTF8);
    r = schema_run(s, STATEMENT_ADD_STACK);
    sqlite3_clear_bindings(add);
    if (r == SQLITE_OK)
        *ret = sqlite3_last_insert_rowid(s->db);
    return r;
}

int stacks_id(struct stacks *stacks, struct schema *s, const char *text, size_t len, int64_t *ret)
{
    uint64_t hash = hash_of(text, len);
    typeof(&stacks->cached[0]) slot = &stacks->cached[hash % STACKS_CACHED];
    char *copy;
    int r;

    if (slot->id && slot->hash == hash && slot->len == len && memcmp(slot->text, text, len) == 0) {
        *ret = slot->id;
        return SQLITE_OK;
    }
    r = find_or_add(s, hash, text, len, ret);
    if (r != SQLITE_OK || len > CACHED_TEXT_MAX)
        return r;

    copy = malloc(len);
    if (copy) {
        memcpy(copy, text, len);
        free(slot->text);
        slot->hash = hash;
        slot->id = *ret;
        slot->text = copy;
        slot->len = len;
    }
    return SQLITE_OK;
}

static void count(struct stacks *stacks, int64_t id, int delta)
{
    size_t at = (size_t)id % STACKS_COUNTED;

    while (stacks->counted[at].id && stacks->counted[at].id != id)
        at = (at + 1) % STACKS_COUNTED;
    stacks->n_counted += stacks->counted[at].id == 0;
    stacks->counted[at].id = id;
    stacks->counted[at].delta += delta;
}

int stacks_use(struct stacks *stacks, const char *column, int delta)
{
    while (column && *column) {
        int64_t id = strtoll(column, NULL, 10);
        const char *comma = strchr(column, ',');

        if (id <= 0 || stacks->n_counted >= STACKS_COUNTED - 1)
            return SQLITE_CORRUPT;
        count(stacks, id, delta);
        column = comma ? comma + 1 : NULL;
    }
    return SQLITE_OK;
}

static void forget(struct stacks *stacks, int64_t id)
{
    for (size_t i = 0; i < STACKS_CACHED; i++) {
        if (stacks->cached[i].id == id)
            stacks->cached[i].id = 0;
    }
}

static int write_count(struct stacks *stacks, struct schema *s, int64_t id, int64_t delta)
{
    sqlite3_stmt *statement;
    int r = schema_statement(s, STATEMENT_COUNT_STACK, &statement);

    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, delta);
    r = schema_run(s, STATEMENT_COUNT_STACK);
    if (r != SQLITE_OK || delta > 0)
        return r;

    r = schema_statement(s, STATEMENT_DROP_STACK, &statement);
    if (r != SQLITE_OK)
        return r;
    sqlite3_bind_int64(statement, 1, id);
    r = schema_run(s, STATEMENT_DROP_STACK);
    if (r == SQLITE_OK && sqlite3_changes(s->db) > 0)
        forget(stacks, id);
    return r;
}

int stacks_flush(struct stacks *stacks, struct schema *s)
{
    for (size_t i = 0; stacks->n_counted && i < STACKS_COUNTED; i++) {
        int r;

        if (!stacks->counted[i].id)
            continue;
        r = write_count(stacks, s, stacks->counted[i].id, stacks->counted[i].delta);
        if (r != SQLITE_OK)
            return r;
    }
    memset(stacks->counted, 0, sizeof(stacks->counted));
    stacks->n_counted = 0;
    return SQLITE_OK;
}

int stacks_make_room(struct stacks *stacks, struct schema *s)
{
    return stacks->n_counted < STACKS_COUNTED / 2 ? SQLITE_OK : stacks_flush(stacks, s);
}

void stacks_reset(struct stacks *stacks)
{
    for (size_t i = 0; i < STACKS_CACHED; i++)
        free(stacks->cached[i].text);
    memset(stacks, 0, sizeof(*stacks));
}
