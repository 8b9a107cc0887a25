/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for keys, which are names of files; nothing uses them yet. */
#include "rpc/table.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const struct rpc_param params_add_key[] = {
    TEXT("name", "of the key", REQUIRED, LIMITS(1, 255)),
    TEXT("path", "of the file that it is in, absolute, and its owner's alone", REQUIRED, LIMITS(1, 4000)),
    END,
};

static void add_key(struct rpc_call *c)
{
    struct stat st;
    struct plx_error err;
    const char *name = rpc_str(c, "name"), *path = rpc_str(c, "path");
    int ret = 0;
    if (json_object_get(c->rpc->keys, name))
        ret = plx_fail(&err, -EEXIST, "there is a key named %.100s already", name);
    else if (path[0] != '/')
        ret = plx_fail(&err, -EINVAL, "path %.100s is not absolute", path);
    else if (stat(path, &st) < 0)
        ret = plx_fail(&err, -errno, "%.200s", path);
    else if (!S_ISREG(st.st_mode) || st.st_mode & 077)
        ret = plx_fail(&err, -EPERM, "%.200s is to be a file that its owner alone can read: chmod 600", path);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    json_object_set(c->rpc->keys, name, rpc_param(c, "path"));
    rpc_ok(c, NULL);
}

static const struct rpc_param params_key[] = {
    TEXT("name", "of the key", REQUIRED),
    END,
};

static void remove_key(struct rpc_call *c)
{
    struct plx_error err;
    if (json_object_del(c->rpc->keys, rpc_str(c, "name")) == 0) {
        rpc_ok(c, NULL);
        return;
    }
    plx_fail(&err, -ENOKEY, "there is no key named %.100s", rpc_str(c, "name"));
    rpc_fail_errno(c, -ENOKEY, &err);
}

static void get_keys(struct rpc_call *c)
{
    const char *name;
    json_t *path, *out = json_array();
    json_object_foreach(c->rpc->keys, name, path)
    {
        json_array_append_new(out, json_pack("{s:s, s:s, s:O, s:b, s:i, s:b}", "name", name, "module", "keyring_file",
                                             "path", path, "removed", false, "refcnt", 1, "probed", false));
    }
    rpc_ok(c, out);
}

const struct rpc_method rpc_methods_keyring[] = {
    {"keyring_file_add_key", NULL, "Gives a key in a file a name.", params_add_key, RPC_CHANGES, .startup = true,
     .group = "keyring", .run = add_key},
    {"keyring_file_remove_key", NULL, "Forgets a key.", params_key, RPC_CHANGES, .startup = true, .run = remove_key},
    {"keyring_get_keys", NULL, "Lists keys.", NULL, RPC_READS, .startup = true, .run = get_keys},
    {.name = NULL},
};
