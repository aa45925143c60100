// SPDX-License-Identifier: Apache-2.0
#include "targets/curl.h"

#include <dlfcn.h>
#include <stdio.h>

#include "core/base.h"

/** The same library, with OpenSSL or with GnuTLS. */
static const char *const libraries[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

static void *find(void *library, const char *name, const char **missing)
{
    void *function = dlsym(library, name);

    if (!function)
        *missing = name;
    return function;
}

int curl_load(struct curl *ret, char *error, size_t error_size)
{
    const char *missing = NULL;
    struct curl curl;
    void *library = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(libraries) && !library; i++)
        library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(error, error_size,
                 "libcurl.so.4 cannot be loaded; install libcurl 7.87 or later (Debian: libcurl4)");
        return -ELIBACC;
    }
#define CURL_FIND(name) curl.name = (typeof(curl.name))find(library, "curl_" #name, &missing);
    CURL_FUNCTIONS(CURL_FIND)
#undef CURL_FIND
    if (missing) {
        snprintf(error, error_size, "libcurl.so.4 is too old, it has no %s; install 7.87 or later",
                 missing);
        return -ELIBACC;
    }
    *ret = curl;
    return 0;
}
