// SPDX-License-Identifier: Apache-2.0

#include "core/clock.h"

#include <assert.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>

#include "core/option.h"

#define STEP_MIN_NS     (1 * (int64_t)NS_PER_MS)

/* Both clocks are read within this, or the reading is no good: being scheduled away in between
 * would look like a step. */
#define SAMPLE_GOOD_NS  (50 * NS_PER_US)
#define SAMPLE_WORST_NS (500 * NS_PER_US)
#define SAMPLE_TRIES    8

uint64_t clock_now_ns(int clockid)
{
    struct timespec now;

    clock_gettime(clockid, &now);
    return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static clockid_t base_of(const struct wall_clock *clock)
{
    return clock->base ? clock->base : CLOCK_BOOTTIME;
}

void clock_update(struct wall_clock *clock)
{
    uint64_t best_width = UINT64_MAX, best_boot = 0;
    int64_t best_offset = 0;

    for (unsigned i = 0; i < SAMPLE_TRIES && best_width > SAMPLE_GOOD_NS; i++) {
        uint64_t before = clock_now_ns(base_of(clock));
        uint64_t real = clock_now_ns(CLOCK_REALTIME);
        uint64_t width = clock_now_ns(base_of(clock)) - before;

        if (width < best_width) {
            best_width = width;
            best_boot = before + width / 2;
            best_offset = (int64_t)(real - best_boot);
        }
    }
    if (best_width <= SAMPLE_WORST_NS || clock->n_steps == 0)
        clock_update_with(clock, best_boot, best_offset);
}

void clock_stepped(struct wall_clock *clock)
{
    clock->checked_boot_ns = MAX(clock->checked_boot_ns, clock_now_ns(base_of(clock)));
    clock_update(clock);
}

int clock_watch_fd(void)
{
    const struct itimerspec never = {.it_value.tv_sec = INT32_MAX};
    _close_fd_ int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);

    if (fd < 0 ||
        timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0)
        return -errno;
    return TAKE_FD(fd);
}

bool clock_was_set(int fd)
{
    uint64_t expired;

    return fd >= 0 && read(fd, &expired, sizeof(expired)) < 0 && errno == ECANCELED;
}

void clock_update_with(struct wall_clock *clock, uint64_t boot_ns, int64_t offset_ns)
{
    struct clock_offset step = {.since_boot_ns = boot_ns, .offset_ns = offset_ns};

    if (clock->n_steps > 0) {
        struct clock_offset *last = &clock->steps[clock->n_steps - 1];
        int64_t change = offset_ns - last->offset_ns;

        if (boot_ns < clock->checked_boot_ns)
            return;
        if (change >= -STEP_MIN_NS && change <= STEP_MIN_NS) {
            last->offset_ns = offset_ns;
            clock->checked_boot_ns = boot_ns;
            return;
        }
        /* Somewhere between the last look and this one. Events are converted as soon as they are
         * read, after a look: one that is converted now is rather from after the step. */
        step.since_boot_ns = clock->checked_boot_ns + 1;
        if (clock->n_steps == CLOCK_STEPS_MAX) {
            clock->n_steps--;
            memmove(clock->steps, clock->steps + 1, clock->n_steps * sizeof(clock->steps[0]));
        }
    }
    clock->steps[clock->n_steps++] = step;
    clock->checked_boot_ns = boot_ns;
}

/** Whole seconds: the two are read one after the other. */
static int64_t read_tai(void)
{
    int64_t real = (int64_t)clock_now_ns(CLOCK_REALTIME);
    int64_t distance = (int64_t)clock_now_ns(CLOCK_TAI) - real + (int64_t)NS_PER_SEC / 2;

    return distance - distance % (int64_t)NS_PER_SEC;
}

void clock_tell(const struct wall_clock *clock, volatile struct wire_clock *live)
{
    const struct clock_offset *newest;
    volatile struct wire_clock_step *told;
    int64_t change;

    assert(clock->base == CLOCK_MONOTONIC && clock->n_steps > 0);
    newest = &clock->steps[clock->n_steps - 1];
    told = &live->steps[(live->n - 1) % WIRE_CLOCK_STEPS];
    change = newest->offset_ns - told->offset_ns;
    if (live->n > 0 && change >= -STEP_MIN_NS && change <= STEP_MIN_NS) {
        told->offset_ns = newest->offset_ns;
    } else {
        told = &live->steps[live->n % WIRE_CLOCK_STEPS];
        told->since_ns = newest->since_boot_ns;
        told->offset_ns = newest->offset_ns;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        live->n = live->n + 1;
    }
    live->offset_ns = newest->offset_ns;
    live->tai_ns = read_tai();
}

uint64_t clock_realtime(const struct wall_clock *clock, uint64_t boot_ns)
{
    unsigned i = clock->n_steps;

    assert(i > 0);
    /* What is older than all we know gets the oldest offset. */
    do
        i--;
    while (i > 0 && clock->steps[i].since_boot_ns > boot_ns);
    return boot_ns + (uint64_t)clock->steps[i].offset_ns;
}

static void local_time(uint64_t realtime_ns, struct tm *ret)
{
    time_t seconds = (time_t)(realtime_ns / NS_PER_SEC);

    localtime_r(&seconds, ret);
}

/* `n` digits and what stands behind them. By hand: this is done twice for every record. */
static char *put(char *p, uint64_t value, unsigned n, char then)
{
    for (unsigned i = n; i-- > 0; value /= 10)
        p[i] = (char)('0' + value % 10);
    p[n] = then;
    return p + n + 1;
}

static char *put_date_time(char *p, const struct tm *t, char between, char then)
{
    p = put(p, (uint64_t)t->tm_year + 1900, 4, '-');
    p = put(p, (uint64_t)t->tm_mon + 1, 2, '-');
    p = put(p, (uint64_t)t->tm_mday, 2, between);
    p = put(p, (uint64_t)t->tm_hour, 2, ':');
    p = put(p, (uint64_t)t->tm_min, 2, ':');
    return put(p, (uint64_t)t->tm_sec, 2, then);
}

static unsigned offset_minutes(const struct tm *t)
{
    return (unsigned)labs(t->tm_gmtoff) / 60;
}

static char offset_sign(const struct tm *t)
{
    return t->tm_gmtoff < 0 ? '-' : '+';
}

void clock_format_ms(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX])
{
    struct tm t;
    char *p;

    local_time(realtime_ns, &t);
    p = put_date_time(ret, &t, ' ', '.');
    p = put(p, realtime_ns % NS_PER_SEC / NS_PER_MS, 3, ' ');
    *p++ = offset_sign(&t);
    put(p, offset_minutes(&t) / 60 * 100 + offset_minutes(&t) % 60, 4, '\0');
}

void clock_format_rfc3339(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX])
{
    struct tm t;
    char *p;

    local_time(realtime_ns, &t);
    p = put_date_time(ret, &t, 'T', '.');
    p = put(p, realtime_ns % NS_PER_SEC, 9, offset_sign(&t));
    p = put(p, offset_minutes(&t) / 60, 2, ':');
    put(p, offset_minutes(&t) % 60, 2, '\0');
}

void clock_format_s(uint64_t realtime_ns, char ret[CLOCK_TEXT_MAX])
{
    struct tm t;

    local_time(realtime_ns, &t);
    put_date_time(ret, &t, ' ', '\0');
}

/* Exactly `n` digits; moves on only if they are there and within bounds. */
static bool take_digits(const char **p, unsigned n, int min, int max, int *ret)
{
    int value = 0;

    for (unsigned i = 0; i < n; i++) {
        char c = (*p)[i];

        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (c - '0');
    }
    if (value < min || value > max)
        return false;
    *p += n;
    *ret = value;
    return true;
}

static bool take_char(const char **p, char c)
{
    if (**p != c)
        return false;
    (*p)++;
    return true;
}

static bool take_date(const char **p, struct tm *t)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *from = *p;
    int year, month, day, longest;

    if (!take_digits(&from, 4, 1970, 2500, &year) || !take_char(&from, '-') ||
        !take_digits(&from, 2, 1, 12, &month) || !take_char(&from, '-') ||
        !take_digits(&from, 2, 1, 31, &day))
        return false;
    longest = days[month - 1];
    if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
        longest = 29;
    if (day > longest)
        return false;
    t->tm_year = year - 1900;
    t->tm_mon = month - 1;
    t->tm_mday = day;
    *p = from;
    return true;
}

/* `16:05[:16[.251]]`; a second of 60 is a leap second, which counts as the next minute's first. */
static bool take_time(const char **p, struct tm *t, uint64_t *ret_ns)
{
    t->tm_sec = 0;
    if (!take_digits(p, 2, 0, 23, &t->tm_hour) || !take_char(p, ':') ||
        !take_digits(p, 2, 0, 59, &t->tm_min))
        return false;
    if (!take_char(p, ':'))
        return true;
    if (!take_digits(p, 2, 0, 60, &t->tm_sec))
        return false;
    if (take_char(p, '.')) {
        uint64_t unit = NS_PER_SEC / 10;
        int digit;

        if (!take_digits(p, 1, 0, 9, &digit))
            return false;
        do {
            *ret_ns += (uint64_t)digit * unit;
            unit /= 10;
        } while (take_digits(p, 1, 0, 9, &digit));
    }
    return true;
}

/* `Z`, `+08:00`, `+0800` */
static bool take_zone(const char **p, long *ret_seconds)
{
    int hours, minutes, sign = 1;

    if (take_char(p, 'Z')) {
        *ret_seconds = 0;
        return true;
    }
    if (take_char(p, '-'))
        sign = -1;
    else if (!take_char(p, '+'))
        return false;
    if (!take_digits(p, 2, 0, 23, &hours))
        return false;
    take_char(p, ':');
    if (!take_digits(p, 2, 0, 59, &minutes))
        return false;
    *ret_seconds = sign * (hours * 3600L + minutes * 60L);
    return true;
}

static int parse_point(const char *p, uint64_t now_realtime_ns, uint64_t *ret_realtime_ns)
{
    bool has_date, has_time, has_zone = false;
    uint64_t ns = 0;
    long zone = 0;
    struct tm t;
    time_t seconds;

    local_time(now_realtime_ns, &t);
    t.tm_hour = t.tm_min = t.tm_sec = 0;
    t.tm_isdst = -1;

    has_date = take_date(&p, &t);
    has_time = !has_date || take_char(&p, 'T') || take_char(&p, ' ');
    if (has_time && !take_time(&p, &t, &ns))
        return -EINVAL;
    if (has_date && has_time && *p) {
        take_char(&p, ' ');
        has_zone = take_zone(&p, &zone);
        if (!has_zone)
            return -EINVAL;
    }
    if (*p)
        return -EINVAL;

    seconds = has_zone ? timegm(&t) - zone : mktime(&t);
    if (seconds < 0)
        return -EINVAL;
    *ret_realtime_ns = (uint64_t)seconds * NS_PER_SEC + ns;
    return 0;
}

int clock_parse(const char *text, uint64_t now_realtime_ns, uint64_t *ret_realtime_ns)
{
    uint64_t ago;

    if (strcmp(text, "now") == 0) {
        *ret_realtime_ns = now_realtime_ns;
        return 0;
    }
    if (parse_point(text, now_realtime_ns, ret_realtime_ns) == 0)
        return 0;
    if (parse_duration(text, &ago) < 0)
        return -EINVAL;
    *ret_realtime_ns = now_realtime_ns - MIN(ago, now_realtime_ns);
    return 0;
}
