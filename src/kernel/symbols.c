// SPDX-License-Identifier: Apache-2.0

#include "kernel/symbols.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/text.h"

#define CHUNK_BYTES        65536
#define ADDRESS_BYTES      19  /* `ffffffff81000000 T `, which stands before a name */
#define NAME_MAX_BYTES     511 /* the kernel's KSYM_NAME_LEN, without its NUL */
#define SYMBOLS_MAX        2000000
#define POOL_MAX_BYTES     (UINT32_C(64) << 20)
#define MODULES_MAX        UINT16_MAX
#define SIZE_MAX_BYTES     (UINT32_C(1024) << 10) /* no function is longer */
#define ALONE_MAX_BYTES    (UINT32_C(64) << 10)   /* nor one that is the last of its module */

#define REFRESH_MIN_NS     (5 * NS_PER_SEC)
#define REFRESH_MAX_NS     (60 * NS_PER_SEC)
#define REFRESH_MODULES_NS (30 * NS_PER_SEC)

/* Something at an address. Only functions have names; of the rest we only need where it begins. */
struct entry {
    uint64_t start;
    uint32_t name; /* offset into the pool, behind its module's index (2 bytes); 0: none */
    uint32_t size;
};

struct table {
    struct entry *entries; /* owned; by start, then as in the file: the kernel's preference */
    size_t n, cap;
    char *pool; /* owned */
    size_t pool_len, pool_cap;
    char **modules; /* owned, as are its strings */
    size_t n_modules;
    size_t n_lines; /* that were symbols, at whatever address */
    bool cut;       /* more than we keep */
};

struct symbols {
    unsigned n_refs;
    pthread_mutex_t lock; /* of `table`, `missing` and `module_met` */
    int fd;               /* owned */
    struct table table;
    enum symbols_state state;
    char reason[768];
    uint64_t read_ns;  /* CLOCK_BOOTTIME */
    uint64_t pause_ns; /* until the table may be read again for an address that is missing */
    uint64_t missing;  /* an address that no symbol covered; 0: none was met */
    bool module_met;
};

/* --- reading */

static void table_done(struct table *t)
{
    for (size_t i = 0; i < t->n_modules; i++)
        free(t->modules[i]);
    free(t->modules);
    free(t->entries);
    free(t->pool);
    *t = (struct table){0};
}

/* Doubles an array until it holds `need` items. */
static int grow(void **array, size_t *cap, size_t need, size_t item_bytes)
{
    size_t wanted = MAX(*cap, (size_t)4096);
    void *grown;

    if (need <= *cap)
        return 0;
    while (wanted < need)
        wanted *= 2;
    grown = realloc(*array, wanted * item_bytes);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *cap = wanted;
    return 0;
}

static int module_index(struct table *t, const char *name, size_t len, uint16_t *ret)
{
    char **modules;

    /* The file is grouped by module, so it is nearly always the last one. */
    for (size_t i = t->n_modules; i-- > 0;)
        if (strlen(t->modules[i]) == len && memcmp(t->modules[i], name, len) == 0) {
            *ret = (uint16_t)i;
            return 0;
        }

    if (t->n_modules == MODULES_MAX)
        return -E2BIG;
    modules = realloc(t->modules, (t->n_modules + 1) * sizeof(*modules));
    if (!modules)
        return -ENOMEM;
    t->modules = modules;
    modules[t->n_modules] = strndup(name, len);
    if (!modules[t->n_modules])
        return -ENOMEM;
    *ret = (uint16_t)t->n_modules++;
    return 0;
}

static bool begins_with(const char *s, size_t len, const char *prefix)
{
    return len >= strlen(prefix) && memcmp(s, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *s, size_t len, const char *suffix)
{
    return len >= strlen(suffix) && memcmp(s + len - strlen(suffix), suffix, strlen(suffix)) == 0;
}

/* Marks of the linker script, and the padding before functions: ends, but no functions. */
static bool is_mark(const char *name, size_t len)
{
    static const char *const marks[] = {"_text",      "_stext",     "_etext",
                                        "_sinittext", "_einittext", "_end"};

    for (size_t i = 0; i < ARRAY_SIZE(marks); i++)
        if (len == strlen(marks[i]) && memcmp(name, marks[i], len) == 0)
            return true;
    return begins_with(name, len, "__pfx_") || begins_with(name, len, "__cfi_") ||
           (begins_with(name, len, "__") &&
            (ends_with(name, len, "_text_start") || ends_with(name, len, "_text_end")));
}

static int add_name(struct table *t, const char *name, size_t len, uint16_t module, uint32_t *ret)
{
    size_t at = MAX(t->pool_len, sizeof(module)) + sizeof(module);
    int r;

    if (at + len + 1 > POOL_MAX_BYTES)
        return -E2BIG;
    r = grow((void **)&t->pool, &t->pool_cap, at + len + 1, 1);
    if (r < 0)
        return r;
    memcpy(t->pool + at - sizeof(module), &module, sizeof(module));
    memcpy(t->pool + at, name, len);
    t->pool[at + len] = '\0';
    t->pool_len = at + len + 1;
    *ret = (uint32_t)at;
    return 0;
}

static const char *word_end(const char *s, const char *end)
{
    for (; s < end; s++)
        if (*s <= ' ' || *s >= 0x7f)
            break;
    return s;
}

/* `ffffffffc0f3bed0 t xfs_file_read	[xfs]`; what is not of that form is passed over. */
static int add_line(struct table *t, const char *line, size_t len)
{
    const char *end = line + len, *s = line, *name, *name_end, *module = "kernel", *module_end;
    uint64_t start = 0;
    uint16_t index;
    uint32_t at = 0;
    char type;
    int r;

    for (; s < end && s - line <= 16; s++) {
        unsigned digit;

        if (*s >= '0' && *s <= '9')
            digit = (unsigned)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            digit = (unsigned)(*s - 'a') + 10;
        else
            break;
        start = start << 4 | digit;
    }
    if (s == line || s - line > 16 || end - s < 4 || s[0] != ' ' || s[2] != ' ')
        return 0;
    type = s[1];
    name = s + 3;
    name_end = word_end(name, end);
    if (name_end == name || name_end - name > NAME_MAX_BYTES)
        return 0;
    module_end = module + strlen(module);
    if (name_end < end) {
        if ((*name_end != '\t' && *name_end != ' ') || end - name_end < 4 || name_end[1] != '[')
            return 0;
        module = name_end + 2;
        module_end = word_end(module, end) - 1;
        if (module_end <= module || *module_end != ']' || module_end - module > NAME_MAX_BYTES)
            return 0;
    }

    t->n_lines++;
    if (start == 0)
        return 0;
    if (strchr("tTwWi", type) && !is_mark(name, (size_t)(name_end - name))) {
        r = module_index(t, module, (size_t)(module_end - module), &index);
        if (r == 0)
            r = add_name(t, name, (size_t)(name_end - name), index, &at);
        if (r < 0)
            return r;
    }
    if (t->n == SYMBOLS_MAX)
        return -E2BIG;
    r = grow((void **)&t->entries, &t->cap, t->n + 1, sizeof(*t->entries));
    if (r < 0)
        return r;
    t->entries[t->n++] = (struct entry){.start = start, .name = at};
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return (x->name > y->name) - (x->name < y->name);
}

static uint16_t entry_module(const struct table *t, const struct entry *e)
{
    uint16_t module;

    memcpy(&module, t->pool + e->name - sizeof(module), sizeof(module));
    return module;
}

/* How far an entry reaches. Programs of BPF come and go between each other. */
static uint32_t entry_size(const struct table *t, const struct entry *e, const struct entry *next)
{
    const char *module = t->modules[entry_module(t, e)];
    bool alone = !next || strcmp(module, "bpf") == 0 ||
                 (next->name && strcmp(module, t->modules[entry_module(t, next)]) != 0);

    return (uint32_t)MIN(next ? next->start - e->start : UINT64_MAX,
                         (uint64_t)(alone ? ALONE_MAX_BYTES : SIZE_MAX_BYTES));
}

/* Sorts, measures the functions, and throws away all that only told where they end. */
static void table_finish(struct table *t)
{
    const struct entry *next = NULL;
    size_t kept = 0;
    void *smaller;

    if (t->n == 0)
        return;
    qsort(t->entries, t->n, sizeof(*t->entries), compare_entries);

    for (size_t i = t->n; i-- > 0;) {
        struct entry *e = &t->entries[i];

        if (i + 1 < t->n && e[1].start != e->start)
            next = e + 1;
        if (e->name)
            e->size = entry_size(t, e, next);
    }
    for (size_t i = 0; i < t->n; i++) {
        const struct entry *e = &t->entries[i], *last = kept ? &t->entries[kept - 1] : NULL;

        if (!e->name || (last && last->start == e->start &&
                         strcmp(t->pool + last->name, t->pool + e->name) == 0))
            continue;
        t->entries[kept++] = *e;
    }
    t->n = kept;

    smaller = realloc(t->entries, MAX(kept, (size_t)1) * sizeof(*t->entries));
    if (smaller) {
        t->entries = smaller;
        t->cap = kept;
    }
    if (t->pool_len > 0) {
        smaller = realloc(t->pool, t->pool_len);
        if (smaller) {
            t->pool = smaller;
            t->pool_cap = t->pool_len;
        }
    }
}

/* Takes all whole lines out of a buffer, returns how many bytes that were. */
static int add_lines(struct table *t, const char *buffer, size_t len, bool skip_first,
                     size_t *ret_used)
{
    size_t used = 0;
    int r;

    for (;;) {
        const char *line = buffer + used, *newline = memchr(line, '\n', len - used);

        if (!newline)
            break;
        if (!skip_first) {
            r = add_line(t, line, (size_t)(newline - line));
            if (r < 0)
                return r;
        }
        skip_first = false;
        used += (size_t)(newline - line) + 1;
    }
    *ret_used = used;
    return 0;
}

/*
 * Read with pread(2): the file's position is shared with whoever opened it for us. On failure the
 * table holds nothing. -E2BIG is not one: then it is cut.
 */
static int table_read(int fd, struct table *ret)
{
    _cleanup_(table_done) struct table t = {0};
    _free_ char *buffer = malloc(CHUNK_BYTES);
    size_t len = 0, used;
    bool skip = false; /* in the middle of a line that is longer than the buffer */
    off_t at = 0;
    uint16_t kernel;
    int r;

    if (!buffer)
        return -ENOMEM;
    r = module_index(&t, "kernel", strlen("kernel"), &kernel);
    if (r < 0)
        return r;

    for (;;) {
        ssize_t got = pread(fd, buffer + len, CHUNK_BYTES - len, at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        at += got;
        len += (size_t)got;
        r = add_lines(&t, buffer, len, skip, &used);
        if (r == -E2BIG) {
            t.cut = true;
            break;
        }
        if (r < 0)
            return r;
        if (used > 0)
            skip = false;
        len -= used;
        memmove(buffer, buffer + used, len);
        if (len == CHUNK_BYTES) {
            skip = true;
            len = 0;
        }
    }
    table_finish(&t);
    *ret = t;
    t = (struct table){0};
    return 0;
}

int symbols_address(const char *path, const char *name, uint64_t *ret)
{
    FILE *file = fopen(path, "re");
    _free_ char *line = NULL;
    size_t size = 0, len = strlen(name);
    int r = -ENOENT;
    ssize_t got;

    if (!file)
        return -errno;
    while (r < 0 && (got = getline(&line, &size, file)) > 0) {
        if ((size_t)got != ADDRESS_BYTES + len + 1 || line[got - 1] != '\n' ||
            memcmp(line + ADDRESS_BYTES, name, len) != 0)
            continue;
        *ret = strtoull(line, NULL, 16);
        r = *ret ? 0 : -ENOENT;
    }
    fclose(file);
    return r;
}

/* --- the table and its state */

static enum symbols_state table_state(const struct table *t, int r)
{
    if (r < 0 || t->n_lines == 0)
        return SYMBOLS_MISSING;
    return t->n == 0 ? SYMBOLS_HIDDEN : SYMBOLS_OK;
}

static void set_reason(struct symbols *s, int r)
{
    static const char go_on[] = "stacks are recorded as bare addresses, those of the "
                                "agent's own program among them, and filter rules that name a "
                                "function (place=) take nothing out, so more is recorded";

    s->reason[0] = '\0';
    if (s->state == SYMBOLS_HIDDEN)
        snprintf(s->reason, sizeof(s->reason),
                 "/proc/kallsyms shows only zeros instead of addresses; %s. Set "
                 "/proc/sys/kernel/kptr_restrict to 0 or 1, start the agent as root (CAP_SYSLOG is "
                 "needed when it opens the file), and see whether /sys/kernel/security/lockdown "
                 "says [confidentiality]",
                 go_on);
    else if (s->state == SYMBOLS_MISSING && r < 0)
        snprintf(s->reason, sizeof(s->reason),
                 "/proc/kallsyms could not be read: %s; %s. Start the agent as root, with /proc of "
                 "the host mounted, on a kernel with CONFIG_KALLSYMS",
                 strerror(-r), go_on);
    else if (s->state == SYMBOLS_MISSING)
        snprintf(s->reason, sizeof(s->reason),
                 "/proc/kallsyms holds no symbols; %s. The kernel needs CONFIG_KALLSYMS", go_on);
    else if (s->table.cut)
        snprintf(s->reason, sizeof(s->reason),
                 "/proc/kallsyms holds more symbols than the %zu that were kept; addresses of the "
                 "others are recorded bare",
                 s->table.n);
}

int symbols_new(int fd, struct symbols **ret)
{
    _close_fd_ int owned_fd = fd;
    struct symbols *s;
    int r;

    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    r = table_read(fd, &s->table);
    if (r == -ENOMEM) {
        free(s);
        return r;
    }
    s->state = table_state(&s->table, r);
    set_reason(s, r);
    pthread_mutex_init(&s->lock, NULL);
    s->n_refs = 1;
    s->read_ns = clock_now_ns(CLOCK_BOOTTIME);
    s->pause_ns = REFRESH_MIN_NS;
    s->fd = TAKE_FD(owned_fd);
    *ret = s;
    return 0;
}

struct symbols *symbols_ref(struct symbols *s)
{
    __atomic_add_fetch(&s->n_refs, 1, __ATOMIC_RELAXED);
    return s;
}

struct symbols *symbols_free(struct symbols *s)
{
    if (!s || __atomic_sub_fetch(&s->n_refs, 1, __ATOMIC_ACQ_REL) > 0)
        return NULL;
    pthread_mutex_destroy(&s->lock);
    table_done(&s->table);
    fd_close(s->fd);
    free(s);
    return NULL;
}

enum symbols_state symbols_state(const struct symbols *s)
{
    return s->state;
}

const char *symbols_reason(const struct symbols *s)
{
    return s->reason;
}

size_t symbols_count(const struct symbols *s)
{
    return s->table.n;
}

int symbols_refresh(struct symbols *s, uint64_t now_ns)
{
    uint64_t age = now_ns > s->read_ns ? now_ns - s->read_ns : 0, missing;
    struct table table = {0}, before;
    struct symbol found;
    bool due;
    int r;

    pthread_mutex_lock(&s->lock);
    due = (s->missing && age >= s->pause_ns) || (s->module_met && age >= REFRESH_MODULES_NS);
    /* Whether addresses are shown was decided when the file was opened. */
    due = due && s->state == SYMBOLS_OK;
    if (due)
        s->module_met = false;
    pthread_mutex_unlock(&s->lock);
    if (!due)
        return 0;

    s->read_ns = now_ns;
    r = table_read(s->fd, &table);
    if (table_state(&table, r) != SYMBOLS_OK) {
        table_done(&table);
        s->pause_ns = REFRESH_MAX_NS;
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    before = s->table;
    s->table = table;
    missing = s->missing;
    s->missing = 0;
    pthread_mutex_unlock(&s->lock);
    table_done(&before);
    set_reason(s, 0);

    /* What nothing covers now either must not make us read the whole table again and again. */
    if (missing && symbols_find(s, missing, &found) < 0)
        s->pause_ns = MIN(2 * s->pause_ns, REFRESH_MAX_NS);
    else
        s->pause_ns = REFRESH_MIN_NS;
    return 1;
}

/* --- looking up */

/* Index of the first entry that starts behind `addr`. */
static size_t first_behind(const struct table *t, uint64_t addr)
{
    size_t low = 0, high = t->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (t->entries[middle].start <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct symbol entry_symbol(const struct table *t, const struct entry *e)
{
    return (struct symbol){
        .start = e->start,
        .size = e->size,
        .name = t->pool + e->name,
        .module = t->modules[entry_module(t, e)],
    };
}

int symbols_find(const struct symbols *s, uint64_t addr, struct symbol *ret)
{
    const struct table *t = &s->table;
    size_t behind = first_behind(t, addr);
    const struct entry *e;

    if (behind == 0)
        return -ENOENT;
    e = &t->entries[behind - 1];
    if (addr - e->start >= e->size)
        return -ENOENT;
    /* Of several names of one address the first: the kernel's own choice. */
    *ret = entry_symbol(t, &t->entries[first_behind(t, e->start - 1)]);
    return 0;
}

/* Whether `symbol` is the function `name`, or what the compiler has made of it. */
static bool name_matches(const char *symbol, const char *name, size_t name_len)
{
    return strncmp(symbol, name, name_len) == 0 &&
           (symbol[name_len] == '\0' || symbol[name_len] == '.');
}

size_t symbols_by_name(const struct symbols *s, const char *name, struct symbol *ret, size_t max)
{
    const struct table *t = &s->table;
    size_t n = 0, len = strlen(name);

    if (len == 0)
        return 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct entry *e = &t->entries[i];

        if (!name_matches(t->pool + e->name, name, len))
            continue;
        if (n < max)
            ret[n] = entry_symbol(t, e);
        n++;
    }
    return n;
}

/* As symbols_find(), and remembers what asks for the table to be read again. */
static int find_and_note(struct symbols *s, uint64_t addr, struct symbol *ret)
{
    int r = symbols_find(s, addr, ret);

    if (r < 0 && addr != 0)
        s->missing = addr;
    else if (r == 0 && strcmp(ret->module, "kernel") != 0)
        s->module_met = true;
    return r;
}

/* Entries from interrupts and exceptions: the frame below is the interrupted instruction itself.
 * Of what is called like them, asm_call_* changes the stack (x86, before 5.12), and *_handler is
 * what an entry calls (arm64). `name` ends with NUL or a slash. */
static bool is_interrupt_entry(const char *name)
{
    static const char *const begins[] = {
        "asm_",                                         /* x86 */
        "el1h_64_", "el1t_64_", "el0t_64_", "el0t_32_", /* arm64 */
        "el1_irq",  "el1_sync", "el0_irq",  "el0_sync", /* arm64, before 5.14 */
    };
    size_t len = strcspn(name, "/");

    if (strncmp(name, "asm_call_", 9) == 0 || memmem(name, len, "_handler", 8))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(begins); i++)
        if (strncmp(name, begins[i], strlen(begins[i])) == 0)
            return true;
    return false;
}

const char *symbols_text_interrupted(const char *text)
{
    const char *line = text, *rest;

    while (*line) {
        rest = strchrnul(line, '\n');
        rest += *rest == '\n';
        if (is_interrupt_entry(line))
            return rest;
        line = rest;
    }
    return text;
}

/*
 * The symbol of a frame. All but the innermost are return addresses: they point behind the call,
 * which may have been the last instruction of its function (panic(), do_exit()), so the byte before
 * is looked up. Not so where the frame was interrupted: that may be a first instruction.
 * `above` is the symbol of the frame above, without a name if it is not known.
 */
static int frame_find(struct symbols *s, uint64_t addr, bool innermost, const struct symbol *above,
                      struct symbol *ret)
{
    bool exact = innermost || (above->name && is_interrupt_entry(above->name));

    if (!exact && addr > 0 && symbols_find(s, addr - 1, ret) == 0)
        addr--;
    return find_and_note(s, addr, ret);
}

/* --- stacks */

enum frame_kind { FRAME_OTHER, FRAME_PROGRAM, FRAME_MACHINERY };

/* What lies between the place of a hook and our program. */
static enum frame_kind frame_kind(const struct symbol *symbol)
{
    static const struct {
        const char *prefix;
        const char *module; /* the kernel has functions of such names too */
        enum frame_kind kind;
    } rows[] = {
        {"bpf_prog_", "bpf", FRAME_PROGRAM},
        {"bpf_trampoline_", "bpf", FRAME_MACHINERY},
        {"__bpf_prog_run", "kernel", FRAME_PROGRAM}, /* the interpreter */
        {"___bpf_prog_run", "kernel", FRAME_PROGRAM},
        {"bpf_get_stack", "kernel", FRAME_PROGRAM},
        {"bpf_dispatcher_nop_func", "kernel", FRAME_MACHINERY},
        {"bpf_trace_run", "kernel", FRAME_MACHINERY},
        {"__bpf_trace_", NULL, FRAME_MACHINERY}, /* modules have tracepoints too */
        {"__traceiter_", NULL, FRAME_MACHINERY},
        {"perf_trace_", NULL, FRAME_MACHINERY},
        {"perf_call_bpf_enter", "kernel", FRAME_MACHINERY},
        {"trace_call_bpf", "kernel", FRAME_MACHINERY},
    };

    if (!symbol->name)
        return FRAME_PROGRAM; /* maybe one of ours, loaded after the table was read */
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strncmp(symbol->name, rows[i].prefix, strlen(rows[i].prefix)) == 0 &&
            (!rows[i].module || strcmp(symbol->module, rows[i].module) == 0))
            return rows[i].kind;
    return FRAME_OTHER;
}

/*
 * How many frames at the top are the hook's own. Programs count only if machinery called them: one
 * that was interrupted, or that lies deeper, is somebody else's and maybe the culprit.
 */
static size_t machinery_frames(struct symbols *s, const uint64_t *addrs, size_t n)
{
    struct symbol symbol = {0}, found;
    size_t own = 0;

    for (size_t i = 0; i < n; i++) {
        enum frame_kind kind;

        symbol = frame_find(s, addrs[i], i == 0, &symbol, &found) == 0 ? found : (struct symbol){0};
        kind = frame_kind(&symbol);
        if (kind == FRAME_OTHER)
            break;
        if (kind == FRAME_MACHINERY)
            own = i + 1;
    }
    return own;
}

/* Without frames no table is needed. */
static void lock_for(struct symbols *s, size_t n)
{
    if (n > 0)
        pthread_mutex_lock(&s->lock);
}

static void unlock_for(struct symbols *s, size_t n)
{
    if (n > 0)
        pthread_mutex_unlock(&s->lock);
}

char *symbols_stack_text(struct symbols *s, const uint64_t *addrs, size_t n)
{
    struct text text = {0};
    struct symbol symbol = {0}, found;
    size_t own;

    lock_for(s, n);
    own = machinery_frames(s, addrs, n);
    text_adds(&text, "");
    for (size_t i = own; i < n; i++) {
        const char *separator = i > own ? "\n" : "";

        if (frame_find(s, addrs[i], i == 0, &symbol, &found) == 0) {
            symbol = found;
            text_addf(&text, "%s%s/%016llx [%s]", separator, symbol.name,
                      (unsigned long long)symbol.start, symbol.module);
        } else {
            symbol = (struct symbol){0};
            text_addf(&text, "%s%016llx", separator, (unsigned long long)addrs[i]);
        }
    }
    unlock_for(s, n);
    if (text.failed)
        text_done(&text);
    else if (!text.data)
        return strdup("");
    return text.data;
}

char *symbols_place_text(struct symbols *s, uint64_t addr)
{
    struct text text = {0};
    struct symbol symbol;

    pthread_mutex_lock(&s->lock);
    if (find_and_note(s, addr, &symbol) == 0)
        text_addf(&text, "%s+0x%llx", symbol.name, (unsigned long long)(addr - symbol.start));
    else
        text_addf(&text, "0x%llx", (unsigned long long)addr);
    pthread_mutex_unlock(&s->lock);
    if (text.failed)
        text_done(&text);
    return text.data;
}

bool symbols_stack_has(struct symbols *s, const uint64_t *addrs, size_t n, const char *name)
{
    struct symbol symbol = {0}, found;
    size_t len = strlen(name);
    bool has = false;

    lock_for(s, n);
    for (size_t i = 0; i < n && !has; i++) {
        symbol = frame_find(s, addrs[i], i == 0, &symbol, &found) == 0 ? found : (struct symbol){0};
        has = symbol.name && name_matches(symbol.name, name, len);
    }
    unlock_for(s, n);
    return has;
}
