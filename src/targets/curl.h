// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * libcurl, loaded when something is to be uploaded: with the thirty libraries that come with it, it
 * costs each process some megabytes, and the privileged one should not have them at all.
 */

#include <curl/curl.h>

#define CURL_FUNCTIONS(F)                                                                          \
    F(global_init)                                                                                 \
    F(easy_init)                                                                                   \
    F(easy_cleanup)                                                                                \
    F(easy_reset)                                                                                  \
    F(easy_setopt)                                                                                 \
    F(easy_getinfo)                                                                                \
    F(easy_strerror)                                                                               \
    F(multi_init)                                                                                  \
    F(multi_cleanup)                                                                               \
    F(multi_add_handle)                                                                            \
    F(multi_remove_handle)                                                                         \
    F(multi_perform)                                                                               \
    F(multi_poll)                                                                                  \
    F(multi_wakeup)                                                                                \
    F(multi_info_read)                                                                             \
    F(slist_append)                                                                                \
    F(slist_free_all)

#define CURL_POINTER(name) typeof(curl_##name) *name;
struct curl {
    CURL_FUNCTIONS(CURL_POINTER)
};
#undef CURL_POINTER

/** Stays loaded. -ELIBACC: `error` says why not, and what to do. */
int curl_load(struct curl *ret, char *error, size_t error_size);
