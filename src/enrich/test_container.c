// SPDX-License-Identifier: Apache-2.0

#include "enrich/container.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
/* after the four above */
#include <cmocka.h>

#define ID    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static void finds_ids(void **state)
{
    static const struct {
        const char *path, *id;
    } table[] = {
        {"/docker/" ID, ID},
        {"/system.slice/docker-" ID ".scope", ID},
        {"/kubepods/burstable/pod123/" ID, ID},
        {"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" ID ".scope", ID},
        {"/machine.slice/libpod-" ID ".scope/container", ID},
        {"/docker/" OTHER "/docker/" ID, ID}, /* a container in a container: the inner one */
        {"/", NULL},
        {"", NULL},
        {"/user.slice/user-0.slice/session-1.scope", NULL},
        {"/docker/0123456789ab", NULL}, /* too short */
        {"/docker/" ID "0", NULL},      /* too long */
        {"/docker/" ID "0123456789", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        char id[CONTAINER_ID_LEN + 1] = "";
        bool found = container_from_cgroup(table[i].path, id);

        if (found != (table[i].id != NULL))
            fail_msg("%s: %sfound", table[i].path, found ? "" : "not ");
        if (found)
            assert_string_equal(id, table[i].id);
    }
}

static void finds_units(void **state)
{
    static const struct {
        const char *path, *unit;
    } table[] = {
        {"/system.slice/shop.service", "shop.service"},
        {"/system.slice/shop.service/worker", "shop.service"},
        {"/user.slice/user-0.slice/session-1.scope", "session-1.scope"},
        {"/kubepods.slice/x", "kubepods.slice"},
        {"/docker/x", ""},
        {"/", ""},
        {"", ""},
    };
    char unit[32];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        unit[0] = 'x';
        unit_from_cgroup(table[i].path, unit, sizeof(unit));
        assert_string_equal(unit, table[i].unit);
    }
    unit_from_cgroup("/system.slice/shop.service", unit, 5); /* half a name is none */
    assert_string_equal(unit, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finds_ids), cmocka_unit_test(finds_units)};

    return cmocka_run_group_tests_name("container", tests, NULL, NULL);
}
