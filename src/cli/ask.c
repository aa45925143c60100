// SPDX-License-Identifier: Apache-2.0

#include "cli/ask.h"

#include <stdio.h>

#include "agent/status_socket.h"
#include "core/text.h"
#include "store/store.h"

#define PATIENCE_S 5 /* on a machine that has no time */

int ask_agent(const char *store, json_t **ret)
{
    _cleanup_(text_done) struct text answer = {};
    _close_fd_ int fd = status_socket_connect(store, PATIENCE_S);
    json_t *status;
    char buffer[4096];
    ssize_t n;

    if (fd < 0)
        return fd;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0)
        text_add(&answer, buffer, (size_t)n);
    status = answer.failed || !answer.data ? NULL : json_loads(answer.data, 0, NULL);
    if (!status)
        return -EBADMSG;
    *ret = status;
    return 0;
}

int ask_last_known(const char *store, char *error, size_t error_size, json_t **ret)
{
    struct store_reader *reader;
    _free_ char *text = NULL;
    json_t *status;
    int r = store_reader_open(store, error, error_size, &reader);

    if (r < 0)
        return r;
    r = store_reader_meta(reader, "status", &text);
    store_reader_close(reader);
    status = r < 0 ? NULL : json_loads(text, 0, NULL);
    if (!status) {
        snprintf(error, error_size, "the store %s holds no status: no agent has finished starting",
                 store);
        return r < 0 ? r : -EBADMSG;
    }
    json_object_set_new(status, "running", json_false());
    json_object_set_new(status, "ready", json_false());
    *ret = status;
    return 0;
}
